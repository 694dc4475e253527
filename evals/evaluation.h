// Evaluation: asks a generator the questions of a task and hands over the scored answers in the
// order of the questions.
#pragma once

#include <span>
#include <string>

#include "base/function_ref.h"
#include "base/result.h"
#include "evals/answer.h"
#include "evals/eval_protocol.h"
#include "evals/generator.h"
#include "evals/gsm8k.h"

namespace hproc::evals {

struct EvaluationSpec {
  EvalProtocol protocol;        // seeds and max_new_tokens are used
  std::string stage;            // written into the answers
  int seed = 0;                 // run number, 0 … protocol.seeds - 1
  std::string think_end_token;  // "</think>": what stands before its last occurrence is not scored;
                                // empty: none
};

// The request for one question: its id is the question. With a think_end_token the text before it
// may hold a stop text, so the model is stopped by its end token alone and the text is cut
// afterwards.
GenerationRequest MakeRequest(const Gsm8kTask& task, int question, const EvaluationSpec& spec);

// The completion of that request, scored.
Answer MakeAnswer(const Gsm8kTask& task, const Completion& completion, const EvaluationSpec& spec);

enum class EvaluationEnd {
  kAllAnswered,
  kStopped,    // the callback had seen enough
  kCancelled,  // the generator was told to stop by someone else; what is in the tally counts, the
               // rest is open
};

struct EvaluationResult {
  AccuracyTally tally;  // over the answers handed over; all_questions says whether that was every
                        // one of `questions`
  EvaluationEnd end = EvaluationEnd::kAllAnswered;
};

// Asks `questions` (indices in the task file, each once) and calls `on_answer` for one after the
// other in that order. Completions arrive in any order and wait until all before them are there, so
// what the callback sees, and thus where it stops, depends on neither batching nor timing. It
// returns false to end the evaluation; requests still open are then dropped.
//
// `answered` holds answers of an interrupted run; those to one of `questions` under this seed are
// not asked again but handed over in their place with is_new false, so that a test fed by the
// callback comes to the same decision.
//
// Errors: those of the generator; a completion of a request that was not made or is already done; a
// generator that returns with requests unanswered; an old answer whose prompt is not today's.
Result<EvaluationResult> Evaluate(const Gsm8kTask& task, std::span<const int> questions,
                                  std::span<const Answer> answered, const EvaluationSpec& spec,
                                  Generator& generator,
                                  FunctionRef<bool(const Answer& answer, bool is_new)> on_answer);

}  // namespace hproc::evals
