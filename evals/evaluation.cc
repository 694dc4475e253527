#include "evals/evaluation.h"

#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/sha256.h"
#include "evals/scoring.h"

namespace hproc::evals {
namespace {

// Puts answers back into the order of the questions. Everything known but not yet handed over waits
// in `waiting_`.
class InOrder {
 public:
  InOrder(std::span<const int> questions, FunctionRef<bool(const Answer&, bool)> on_answer)
      : questions_(questions), on_answer_(on_answer) {}

  void Put(Answer answer, bool is_new) {
    const int question = answer.question;
    waiting_.emplace(question, Waiting{std::move(answer), is_new});
  }

  // Hands over all that is due; false once the callback wants no more.
  bool Deliver() {
    while (!stopped_ && next_ < questions_.size()) {
      const auto it = waiting_.find(questions_[next_]);
      if (it == waiting_.end()) break;
      const Waiting due = std::move(it->second);
      waiting_.erase(it);
      ++next_;
      counter_.Add(due.answer);
      stopped_ = !on_answer_(due.answer, due.is_new);
    }
    return !stopped_;
  }

  bool all_delivered() const { return next_ == questions_.size(); }
  bool stopped() const { return stopped_; }
  AccuracyTally tally() const {
    AccuracyTally tally = counter_.tally();
    tally.all_questions = all_delivered();
    return tally;
  }

 private:
  struct Waiting {
    Answer answer;
    bool is_new = false;
  };

  std::span<const int> questions_;
  FunctionRef<bool(const Answer&, bool)> on_answer_;
  std::map<int, Waiting> waiting_;
  size_t next_ = 0;
  bool stopped_ = false;
  AccuracyCounter counter_;
};

}  // namespace

GenerationRequest MakeRequest(const Gsm8kTask& task, int question, const EvaluationSpec& spec) {
  GenerationRequest request{.id = question,
                            .prompt = task.Prompt(question),
                            .max_new_tokens = spec.protocol.max_new_tokens,
                            .stop = {},
                            .sampling = SamplingFor(spec.protocol, spec.seed, question)};
  if (spec.think_end_token.empty()) request.stop.assign(kGsm8kStops.begin(), kGsm8kStops.end());
  return request;
}

Answer MakeAnswer(const Gsm8kTask& task, const Completion& completion, const EvaluationSpec& spec) {
  const int question = static_cast<int>(completion.id);
  std::string_view said = completion.text;
  if (!spec.think_end_token.empty())
    said = CutAtStop(AfterThinking(said, spec.think_end_token), kGsm8kStops);
  AnswerScore score = ScoreAnswer(task.item(question).answer, said);
  return {.stage = spec.stage,
          .question = question,
          .seed = spec.seed,
          .prompt_sha256 = Sha256Hex(task.Prompt(question)),
          .text = completion.text,
          .strict = std::move(score.strict),
          .flexible = std::move(score.flexible),
          .strict_correct = score.strict_correct,
          .flexible_correct = score.flexible_correct,
          .finish = completion.finish,
          .prompt_tokens = completion.prompt_tokens,
          .generated_tokens = static_cast<int>(completion.token_ids.size())};
}

Result<EvaluationResult> Evaluate(const Gsm8kTask& task, std::span<const int> questions,
                                  std::span<const Answer> answered, const EvaluationSpec& spec,
                                  Generator& generator,
                                  FunctionRef<bool(const Answer& answer, bool is_new)> on_answer) {
  std::set<int64_t> open(questions.begin(), questions.end());
  HPROC_CHECK(open.size() == questions.size(), "a question is asked twice");
  InOrder in_order(questions, on_answer);
  for (const Answer& answer : answered) {
    if (answer.seed != spec.seed || open.erase(answer.question) == 0) continue;
    if (answer.prompt_sha256 != Sha256Hex(task.Prompt(answer.question))) {
      return Error{"the stored answer to question " + std::to_string(answer.question) +
                   " is to another prompt"};
    }
    in_order.Put(answer, /*is_new=*/false);
  }
  if (!in_order.Deliver()) return EvaluationResult{in_order.tally(), EvaluationEnd::kStopped};

  std::vector<GenerationRequest> requests;
  for (const int question : questions) {
    if (open.contains(question)) requests.push_back(MakeRequest(task, question, spec));
  }
  if (requests.empty()) return EvaluationResult{in_order.tally(), EvaluationEnd::kAllAnswered};

  bool cancelled = false;
  std::optional<Error> fault;
  const Result<void> generated = generator.Generate(requests, [&](const Completion& completion) {
    if (completion.finish == FinishReason::kCancelled) {
      cancelled = true;
      return true;
    }
    if (open.erase(completion.id) == 0) {
      fault =
          Error{"a completion of request " + std::to_string(completion.id) + ", which is not open"};
      return false;
    }
    in_order.Put(MakeAnswer(task, completion, spec), /*is_new=*/true);
    return in_order.Deliver();
  });
  if (fault) return *fault;
  if (!generated.ok()) return generated.error();
  if (in_order.stopped()) return EvaluationResult{in_order.tally(), EvaluationEnd::kStopped};
  if (in_order.all_delivered())
    return EvaluationResult{in_order.tally(), EvaluationEnd::kAllAnswered};
  if (cancelled) return EvaluationResult{in_order.tally(), EvaluationEnd::kCancelled};
  return Error{"the generator returned with " + std::to_string(open.size()) +
               " requests unanswered"};
}

}  // namespace hproc::evals
