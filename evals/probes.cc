#include "evals/probes.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/sha256.h"
#include "evals/scoring.h"

namespace hproc::evals {
namespace {

// Plain English that any language model goes on with, none of it famous enough to be recited for
// pages.
constexpr std::array<std::string_view, 6> kGeneralPrompts{
    "The capital of France is", "Once upon a time there was a little girl who",
    "Water boils when",         "The days of the week are Monday, Tuesday,",
    "Three colours are red,",   "My name is Anna and I work as a",
};

struct Sum {
  std::string_view question;
  std::string_view answer;
};
constexpr std::array<Sum, 4> kSums{{
    {"What is 7 + 5?", "12"},
    {"What is 9 * 6?", "54"},
    {"What is 40 - 13?", "27"},
    {"What is 84 / 4?", "21"},
}};

}  // namespace

std::string_view ProbeKindName(ProbeKind kind) {
  switch (kind) {
    case ProbeKind::kGeneral:
      return "general";
    case ProbeKind::kArithmetic:
      return "arithmetic";
    case ProbeKind::kTask:
      return "task";
  }
  return "?";
}

std::vector<Probe> MakeProbes(const Gsm8kTask& task, std::span<const int> order, int task_items) {
  std::vector<Probe> probes;
  for (const std::string_view prompt : kGeneralPrompts) {
    probes.push_back({.kind = ProbeKind::kGeneral, .prompt = std::string(prompt), .answer = {}});
  }
  for (const Sum& sum : kSums) {
    probes.push_back({.kind = ProbeKind::kArithmetic,
                      .prompt = Gsm8kQuestion(sum.question),
                      .answer = std::string(sum.answer)});
  }
  for (const int question :
       order.first(std::min(order.size(), static_cast<size_t>(std::max(task_items, 0))))) {
    probes.push_back({.kind = ProbeKind::kTask,
                      .prompt = task.Prompt(question),
                      .answer = task.item(question).answer});
  }
  return probes;
}

Result<std::vector<ProbeResult>> RunProbes(std::span<const Probe> probes, int task_max_new_tokens,
                                           Generator& generator) {
  std::vector<GenerationRequest> requests;
  std::vector<ProbeResult> results;
  requests.reserve(probes.size());
  results.reserve(probes.size());
  for (const Probe& probe : probes) {
    const int max_new_tokens =
        probe.kind == ProbeKind::kTask ? task_max_new_tokens : kProbeMaxNewTokens;
    requests.push_back({.id = std::ssize(results),
                        .prompt = probe.prompt,
                        .max_new_tokens = max_new_tokens,
                        .stop = {kGsm8kStops.begin(), kGsm8kStops.end()},
                        .sampling = {}});
    results.push_back({.probe = probe, .completion = {}});
  }
  std::vector<bool> done(results.size(), false);
  bool in_order = true;
  bool cancelled = false;
  const Result<void> generated = generator.Generate(requests, [&](Completion completion) {
    const auto index = static_cast<size_t>(completion.id);
    in_order = completion.id >= 0 && index < done.size() && !done[index];
    if (!in_order) return false;
    done[index] = true;
    cancelled = cancelled || completion.finish == FinishReason::kCancelled;
    results[index].completion = std::move(completion);
    return true;
  });
  if (!generated.ok()) return generated.error();
  if (!in_order) return Error{"the generator answered a probe twice, or one that was not asked"};
  if (cancelled) return Error{"the probes were cancelled"};  // half an answer is not to be judged
  const auto missing = std::count(done.begin(), done.end(), false);
  if (missing > 0)
    return Error{"the generator left " + std::to_string(missing) + " probes unanswered"};
  return results;
}

Answer ProbeAnswer(const ProbeResult& result) {
  const Completion& completion = result.completion;
  AnswerScore score = ScoreAnswer(result.probe.answer, completion.text);
  const bool has_gold = !result.probe.answer.empty();
  return {.stage = "probe",
          .question = static_cast<int>(completion.id),
          .seed = 0,
          .prompt_sha256 = Sha256Hex(result.probe.prompt),
          .text = completion.text,
          .strict = std::move(score.strict),
          .flexible = std::move(score.flexible),
          .strict_correct = has_gold && score.strict_correct,
          .flexible_correct = has_gold && score.flexible_correct,
          .finish = completion.finish,
          .prompt_tokens = completion.prompt_tokens,
          .generated_tokens = static_cast<int>(completion.token_ids.size())};
}

}  // namespace hproc::evals
