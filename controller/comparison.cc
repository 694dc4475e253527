#include "controller/comparison.h"

#include <map>
#include <utility>

#include "evals/statistics.h"

namespace hproc::controller {
namespace {

using Outcomes = std::map<std::pair<int, int>, bool>;  // question, seed: right?

Outcomes OutcomesOf(std::span<const Answer> answers) {
  Outcomes outcomes;
  for (const Answer& answer : answers) {
    if (answer.stage != "probe") outcomes[{answer.question, answer.seed}] = answer.strict_correct;
  }
  return outcomes;
}

}  // namespace

PairedOutcome CompareAnswers(std::span<const Answer> first, std::span<const Answer> second) {
  PairedOutcome paired;
  const Outcomes others = OutcomesOf(second);
  std::map<int, std::pair<int, int>> right_of;  // question: seeds under which either was right
  for (const auto& [key, right] : OutcomesOf(first)) {
    const auto other = others.find(key);
    if (other == others.end()) continue;
    auto& [first_right, second_right] = right_of[key.first];
    first_right += right ? 1 : 0;
    second_right += other->second ? 1 : 0;
    if (right != other->second) paired.differences.push_back({.question = key.first, .seed = key.second, .first_right = right});
  }
  for (const auto& [question, right] : right_of) {
    const auto& [first_right, second_right] = right;
    int& count = first_right > second_right   ? paired.only_first_right
                 : first_right < second_right ? paired.only_second_right
                 : first_right > 0            ? paired.both_right
                                              : paired.neither_right;
    ++count;
  }
  paired.p = evals::McNemar(paired.only_first_right, paired.only_second_right).mid_p;
  return paired;
}

Result<std::vector<Comparison>> CompareWithBaselines(Store& store, const StudySpec& spec,
                                                     const std::vector<Trial>& trials, int recommended) {
  std::vector<Comparison> comparisons;
  std::vector<Answer> point;
  for (const Trial& trial : trials) {
    if (trial.plan.kind == TrialKind::kPoint || trial.state != TrialState::kComplete) continue;
    if (!trial.measured.accuracy.all_questions || !trial.measured.memory) continue;
    if (point.empty()) {
      Result<std::vector<Answer>> answers = store.ListAnswers(trials[static_cast<size_t>(recommended)].id);
      if (!answers.ok()) return answers.error();
      point = *std::move(answers);
    }
    const Result<std::vector<Answer>> baseline = store.ListAnswers(trial.id);
    if (!baseline.ok()) return baseline.error();
    const PairedOutcome paired = CompareAnswers(*baseline, point);
    Comparison comparison;
    comparison.baseline = trial.number;
    comparison.kind = trial.plan.kind;
    comparison.fits = trial.measured.memory->live_bytes <= spec.budget_bytes();
    comparison.only_baseline_right = paired.only_first_right;
    comparison.only_point_right = paired.only_second_right;
    comparison.p = paired.p;
    comparisons.push_back(comparison);
  }
  return comparisons;
}

}  // namespace hproc::controller
