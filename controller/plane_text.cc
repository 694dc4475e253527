#include "controller/plane_text.h"

#include <fmt/core.h>

#include <algorithm>

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

}  // namespace hproc::controller
