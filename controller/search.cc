#include "controller/search.h"

#include <algorithm>
#include <cmath>

#include "controller/search_evidence.h"

namespace hproc::controller {

std::string_view StrategyName(Strategy strategy) {
  switch (strategy) {
    case Strategy::kPredict: return "predict";
    case Strategy::kWalk: return "walk";
    case Strategy::kGrid: return "grid";
  }
  return "?";
}

std::optional<Strategy> StrategyFromName(std::string_view name) {
  for (const Strategy strategy : {Strategy::kPredict, Strategy::kWalk, Strategy::kGrid}) {
    if (StrategyName(strategy) == name) return strategy;
  }
  return std::nullopt;
}

Depth DepthOf(Purpose purpose) {
  switch (purpose) {
    case Purpose::kCandidate:
    case Purpose::kWalkStep:
    case Purpose::kGridPoint:
    case Purpose::kLowestFits: return Depth::kEvaluate;
    case Purpose::kGarbageEdge: return Depth::kProbe;
    case Purpose::kOutsideStrict:
    case Purpose::kOutsideLazy: return Depth::kLoad;
  }
  return Depth::kLoad;
}

Depth DepthOf(std::string_view purpose) {
  for (const Purpose known : {Purpose::kCandidate, Purpose::kOutsideStrict, Purpose::kOutsideLazy, Purpose::kGarbageEdge,
                              Purpose::kLowestFits, Purpose::kWalkStep, Purpose::kGridPoint}) {
    if (PurposeName(known) == purpose) return DepthOf(known);
  }
  return Depth::kLoad;
}

std::string_view PurposeName(Purpose purpose) {
  switch (purpose) {
    case Purpose::kCandidate: return "candidate";
    case Purpose::kOutsideStrict: return "outside_strict";
    case Purpose::kOutsideLazy: return "outside_lazy";
    case Purpose::kGarbageEdge: return "garbage_edge";
    case Purpose::kLowestFits: return "lowest_fits";
    case Purpose::kWalkStep: return "walk_step";
    case Purpose::kGridPoint: return "grid_point";
  }
  return "?";
}

std::string_view BoundName(Bound bound) {
  switch (bound) {
    case Bound::kNone: return "none";
    case Bound::kOutOfMemory: return "out_of_memory";
    case Bound::kGarbageOutput: return "garbage_output";
    case Bound::kAccuracy: return "accuracy";
  }
  return "?";
}

std::vector<FloorPair> PredictedFrontier(const SearchSpec& spec, const PlanSpace& space, int64_t budget_bytes) {
  std::vector<FloorPair> corners;
  int lazy = space.has_lazy() ? spec.lowest.lazy : spec.highest.lazy;
  int best_lazy = lazy - 1;
  for (int strict = spec.highest.strict; strict >= spec.lowest.strict; --strict) {
    if (space.NeededBytes({strict, lazy}) > budget_bytes) continue;
    while (lazy < spec.highest.lazy && space.NeededBytes({strict, lazy + 1}) <= budget_bytes) ++lazy;
    if (lazy <= best_lazy) continue;  // a higher strict floor allows as much
    corners.push_back({strict, lazy});
    best_lazy = lazy;
  }
  std::ranges::reverse(corners);
  return corners;
}

bool Better(const TrialFact& a, const TrialFact& b) {
  // Of as many questions; trials of one study have that in common.
  if (a.accuracy.strict_correct != b.accuracy.strict_correct) return a.accuracy.strict_correct > b.accuracy.strict_correct;
  if (a.decode_tok_per_s > 0 && b.decode_tok_per_s > 0) {
    const double difference = a.decode_tok_per_s - b.decode_tok_per_s;
    if (std::abs(difference) > 2 * std::hypot(a.decode_error, b.decode_error)) return difference > 0;
  }
  if (a.measured_bytes != b.measured_bytes) return a.measured_bytes < b.measured_bytes;
  return a.at > b.at;
}

std::vector<int> ParetoFrontier(std::span<const TrialFact> facts) {
  const auto counts = [](const TrialFact& fact) {
    return fact.state == TrialState::kComplete && fact.accuracy.all_questions;
  };
  const auto dominates = [](const TrialFact& a, const TrialFact& b) {
    const bool no_worse = a.accuracy.strict_correct >= b.accuracy.strict_correct &&
                          a.decode_tok_per_s >= b.decode_tok_per_s && a.measured_bytes <= b.measured_bytes;
    const bool better = a.accuracy.strict_correct > b.accuracy.strict_correct ||
                        a.decode_tok_per_s > b.decode_tok_per_s || a.measured_bytes < b.measured_bytes;
    return no_worse && better;
  };
  std::vector<int> frontier;
  for (const TrialFact& fact : facts) {
    if (!counts(fact)) continue;
    const bool dominated =
        std::ranges::any_of(facts, [&](const TrialFact& other) { return counts(other) && dominates(other, fact); });
    if (!dominated) frontier.push_back(fact.number);
  }
  return frontier;
}

static SearchStep NextStepOf(Strategy strategy, const Evidence& evidence) {
  switch (strategy) {
    case Strategy::kPredict: return NextPredictStep(evidence);
    case Strategy::kWalk: return NextWalkStep(evidence);
    case Strategy::kGrid: return NextGridStep(evidence);
  }
  return evidence.Conclude();
}

SearchStep NextStep(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts) {
  const Evidence evidence(spec, space, facts);
  if (std::optional<std::string> fault = evidence.Fault()) return evidence.Faulty(std::move(*fault));
  SearchStep step = NextStepOf(spec.strategy, evidence);
  if (std::holds_alternative<SearchDone>(step) && std::ranges::any_of(facts, IsInFlight)) return SearchWait{};
  return step;
}

SearchDone ConcludeNow(const SearchSpec& spec, const PlanSpace& space, std::span<const TrialFact> facts) {
  return Evidence(spec, space, facts).Conclude();
}

}  // namespace hproc::controller
