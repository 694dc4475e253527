#include "controller/cli/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/bytes.h"
#include "base/printable.h"
#include "controller/describe.h"
#include "controller/plane_window.h"
#include "controller/tuner.h"

namespace hproc::controller {
namespace {

constexpr int kPlaneColumns = 61;
constexpr int kPlaneRows = 21;
constexpr double kTicks[] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999, 1.0};

// One of the plane's axes: rungs to cells.
struct Axis {
  int lowest;
  int highest;
  int cells;

  int CellOf(int rung) const {
    if (highest == lowest) return 0;
    const int clamped = std::clamp(rung, lowest, highest);
    return (clamped - lowest) * (cells - 1) / (highest - lowest);
  }
  int RungOf(int cell) const { return cells == 1 ? lowest : lowest + (highest - lowest) * cell / (cells - 1); }
};

char GlyphOf(const Trial& trial, std::optional<int> recommended) {
  if (recommended == trial.number) return '*';
  switch (trial.state) {
    case TrialState::kComplete:
      if (DepthOf(trial.plan.purpose) == Depth::kEvaluate) {
        return trial.measured.accuracy.all_questions ? 'O' : 'o';
      }
      return 's';
    case TrialState::kInfeasible: return trial.verdict.reason == Reason::kOutOfMemory ? 'x' : 'g';
    case TrialState::kFailed: return '!';
    default: return '?';
  }
}

}  // namespace

std::string PlaneText(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials,
                      std::optional<int> recommended) {
  const SearchSpec spec = SearchSpecOf(study.spec, space);
  if (!space.has_lazy()) return "This model has no routed experts: the lazy floor decides nothing.\n";
  const PlaneWindow window = WindowOf(study, space, trials);
  const Axis x{window.lowest.lazy, window.highest.lazy, kPlaneColumns};
  const Axis y{window.lowest.strict, window.highest.strict, kPlaneRows};
  std::vector<std::string> rows(kPlaneRows, std::string(kPlaneColumns, ' '));
  const std::vector<TrialFact> facts = FactsOf(trials, space);
  for (int r = 0; r < kPlaneRows; ++r) {
    for (int c = 0; c < kPlaneColumns; ++c) {
      const FloorPair at{y.RungOf(r), x.RungOf(c)};
      const bool garbage = std::ranges::any_of(facts, [&](const TrialFact& fact) {
        return fact.reason == Reason::kGarbageOutput && at.strict <= fact.at.strict && at.lazy <= fact.at.lazy;
      });
      char& cell = rows[static_cast<size_t>(r)][static_cast<size_t>(c)];
      if (space.NeededBytes(at) <= spec.budget_bytes) cell = garbage ? ':' : '.';
    }
  }
  // Those that matter most last, so that they are on top.
  std::vector<const Trial*> order;
  for (const Trial& trial : trials) order.push_back(&trial);
  std::stable_sort(order.begin(), order.end(), [&](const Trial* a, const Trial* b) {
    const auto weight = [&](const Trial* t) {
      return recommended == t->number ? 2 : DepthOf(t->plan.purpose) == Depth::kEvaluate ? 1 : 0;
    };
    return weight(a) < weight(b);
  });
  for (const Trial* trial : order) {
    if (trial->plan.kind != TrialKind::kPoint) continue;
    const FloorPair at = space.PairOf(trial->plan.floors);
    rows[static_cast<size_t>(y.CellOf(at.strict))][static_cast<size_t>(x.CellOf(at.lazy))] = GlyphOf(*trial, recommended);
  }

  std::string text = "strict\n";
  for (int r = kPlaneRows - 1; r >= 0; --r) {
    std::string label;
    for (double tick : kTicks) {
      const int rung = quant::LadderIndex(tick);
      if (rung >= y.lowest && rung <= y.highest && y.CellOf(rung) == r) label = fmt::format("{:.4g}", tick);
    }
    text += fmt::format("{:>6} |{}\n", label, rows[static_cast<size_t>(r)]);
  }
  text += fmt::format("{:>6} +{}\n", "", std::string(kPlaneColumns, '-'));
  std::string labels(kPlaneColumns + 8, ' ');
  for (double tick : kTicks) {
    const int rung = quant::LadderIndex(tick);
    if (rung < x.lowest || rung > x.highest) continue;
    const std::string label = fmt::format("{:.4g}", tick);
    const auto at = static_cast<size_t>(x.CellOf(rung));
    if (at > 0 && labels[at - 1] != ' ') continue;
    labels.replace(at, label.size(), label);
  }
  labels.erase(labels.find_last_not_of(' ') + 1);
  text += fmt::format("{:>8}{}   lazy\n", "", labels);
  text +=
      "        . fits by the plan   : garbage by what was seen   blank: does not fit\n"
      "        * recommended  O all questions  o stopped early  s sensible  x out of memory  g garbage  ! failed\n";
  return text;
}

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
  text += fmt::format("  accuracy   {}\n", AccuracyText(measured.accuracy));
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
