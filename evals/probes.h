// The few prompts that a freshly loaded model is asked first, to see whether it talks sense at all.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "evals/answer.h"
#include "evals/generator.h"
#include "evals/gsm8k.h"

namespace hproc::evals {

enum class ProbeKind {
  kGeneral,     // a sentence to go on with; anything fluent will do
  kArithmetic,  // a one-line sum in the layout of the task
  kTask,        // a question of the task, with its shots
};
inline constexpr int kProbeKindCount = 3;
std::string_view ProbeKindName(ProbeKind kind);  // "general", "arithmetic", "task"

struct Probe {
  ProbeKind kind{};
  std::string prompt;
  std::string answer;  // gold, as in a task file; empty for kGeneral
};

inline constexpr int kProbeTaskItems = 12;
inline constexpr int kProbeMaxNewTokens = 256;  // general, arithmetic; task items: the protocol's

// Six general prompts, four sums, and the first `task_items` questions of `order`
// (question_order.h): those answers are the ones the smoke test asks for anyway.
std::vector<Probe> MakeProbes(const Gsm8kTask& task, std::span<const int> order,
                              int task_items = kProbeTaskItems);

struct ProbeResult {
  Probe probe;
  Completion completion;  // its id is the index of the probe
};

// Asks all probes, greedily, and returns them in the order of `probes`. Errors: those of the
// generator; a probe unanswered, cancelled or answered twice.
Result<std::vector<ProbeResult>> RunProbes(std::span<const Probe> probes, int task_max_new_tokens,
                                           Generator& generator);

// As it is stored: stage "probe", the index of the probe as its question.
Answer ProbeAnswer(const ProbeResult& result);

}  // namespace hproc::evals
