#include "controller/cli/text.h"

#include <fmt/core.h>

#include "base/bytes.h"
#include "base/printable.h"
#include "controller/describe.h"

namespace hproc::controller {
std::string TrialsText(const std::vector<Trial>& trials, std::optional<int> recommended) {
  std::string text = fmt::format("{:>5}  {:<22}{:<16}{:>6}  {:>11}  {:>11}  {}\n", "trial", "floors", "purpose", "bits",
                                 "predicted", "measured", "verdict");
  for (const Trial& trial : trials) {
    const std::string measured = trial.measured.memory && trial.state == TrialState::kComplete
                                     ? FormatBytes(trial.measured.memory->live_bytes)
                                     : "-";
    text += fmt::format("{:>4}{}  {:<22}{:<16}{:>6.3f}  {:>11}  {:>11}  {}\n", trial.number,
                        recommended == trial.number ? "*" : " ", FloorsText(trial), PrintableLine(trial.plan.purpose),
                        trial.plan.bits_per_weight, FormatBytes(trial.plan.predicted_bytes), measured, VerdictText(trial));
  }
  return text;
}

std::string OutcomeText(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome, bool has_lazy) {
  const SearchDone& done = outcome.done;
  std::string alarms;
  for (const std::string& alarm : done.alarms) alarms += fmt::format("Alarm: {}\n", alarm);
  if (!done.recommended) {
    if (done.fault) return alarms + fmt::format("No recommendation: {}\n", done.why);
    return alarms + fmt::format("No feasible point: {} ({})\n", done.why, BoundName(done.bound));
  }
  const Trial& trial = trials[static_cast<size_t>(*done.recommended)];
  const TrialMeasurements& measured = trial.measured;
  const int64_t live = measured.memory->live_bytes;
  const double off = 100.0 * (static_cast<double>(live) / static_cast<double>(trial.plan.predicted_bytes) - 1);
  std::string text = alarms + fmt::format("Recommended: trial {}, floors {}, {:.3f} bits per weight\n", trial.number,
                                 FloorsText(trial.plan.floors, has_lazy), trial.plan.bits_per_weight);
  text += fmt::format("  accuracy   {}\n", study.spec.judges() ? AccuracyText(measured.accuracy) : std::string(kNoQuestions));
  text += fmt::format("  memory     {} measured, {} predicted ({:+.2f} %); weights {}\n", FormatBytes(live),
                      FormatBytes(trial.plan.predicted_bytes), off, FormatBytes(measured.load->weight_bytes));
  text += fmt::format("  headroom   {} of {} at context {}, batch {}\n", FormatBytes(study.spec.memory_cap_bytes - live),
                      FormatBytes(study.spec.memory_cap_bytes), study.spec.deployment.context, study.spec.deployment.batch);
  text += fmt::format("  decode     {} long, {} short\n", RateText(measured.throughput, evals::ThroughputKind::kLongDecode),
                      RateText(measured.throughput, evals::ThroughputKind::kShortDecode));
  text += fmt::format("  prefill    {}\n", RateText(measured.throughput, evals::ThroughputKind::kPrefill));
  text += fmt::format("  bound      {}: {}\n", BoundName(done.bound), done.why);
  for (const Trial& other : trials) {
    if (other.state != TrialState::kInfeasible || other.verdict.reason != Reason::kOutOfMemory) continue;
    text += fmt::format("             {} {}\n", FloorsText(other, has_lazy), VerdictText(other));
  }
  const int64_t budget = study.spec.budget_bytes();
  text += fmt::format("  INT4 size  {} weights, {} in all, were it packed by itself: {}\n", FormatBytes(outcome.int4_weight_bytes),
                      FormatBytes(outcome.int4_total_bytes),
                      outcome.int4_total_bytes <= budget ? "fits too" : "does not fit");
  for (const Comparison& comparison : outcome.baselines) {
    const Trial& baseline = trials[static_cast<size_t>(comparison.baseline)];
    text += fmt::format("  {:<10} {}; {} in all: {}\n", BaselineName(comparison.kind), AccuracyText(baseline.measured.accuracy),
                        FormatBytes(baseline.measured.memory->live_bytes), comparison.fits ? "fits too" : "does not fit");
    text += fmt::format("             right there alone {}, here alone {}: a difference with p = {:.3g} (McNemar, mid-p)\n",
                        comparison.only_baseline_right, comparison.only_point_right, comparison.p);
  }
  return text;
}

}  // namespace hproc::controller
