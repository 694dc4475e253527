#include "controller/comparison.h"

#include <map>
#include <utility>

#include "evals/statistics.h"

namespace hproc::controller {
namespace {

using Outcomes = std::map<std::pair<int, int>, bool>;  // question, seed: right?

Result<Outcomes> OutcomesOf(Store& store, const Trial& trial) {
  Result<std::vector<Answer>> answers = store.ListAnswers(trial.id);
  if (!answers.ok()) return answers.error();
  Outcomes outcomes;
  for (const Answer& answer : *answers) {
    if (answer.stage != "probe") outcomes[{answer.question, answer.seed}] = answer.strict_correct;
  }
  return outcomes;
}

}  // namespace

Result<std::vector<Comparison>> CompareWithBaselines(Store& store, const StudySpec& spec,
                                                     const std::vector<Trial>& trials, int recommended) {
  std::vector<Comparison> comparisons;
  Result<Outcomes> point = Outcomes{};
  for (const Trial& trial : trials) {
    if (trial.plan.kind == TrialKind::kPoint || trial.state != TrialState::kComplete) continue;
    if (!trial.measured.accuracy.all_questions) continue;
    if (point->empty()) {
      point = OutcomesOf(store, trials[static_cast<size_t>(recommended)]);
      if (!point.ok()) return point.error();
    }
    Result<Outcomes> baseline = OutcomesOf(store, trial);
    if (!baseline.ok()) return baseline.error();
    Comparison comparison;
    comparison.baseline = trial.number;
    comparison.kind = trial.plan.kind;
    comparison.fits = trial.measured.memory && trial.measured.memory->live_bytes <= spec.budget_bytes();
    for (const auto& [question, right] : *baseline) {
      const auto ours = point->find(question);
      if (ours == point->end()) continue;
      comparison.only_baseline_right += right && !ours->second ? 1 : 0;
      comparison.only_point_right += !right && ours->second ? 1 : 0;
    }
    comparison.p = evals::McNemar(comparison.only_baseline_right, comparison.only_point_right).mid_p;
    comparisons.push_back(comparison);
  }
  return comparisons;
}

}  // namespace hproc::controller
