#include "controller/plane_window.h"

#include <algorithm>

#include "controller/tuner.h"

namespace hproc::controller {

PlaneWindow WindowOf(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials) {
  const SearchSpec spec = SearchSpecOf(study.spec, space);
  FloorPair top = spec.lowest;
  const auto include = [&top](FloorPair at) { top = {std::max(top.strict, at.strict), std::max(top.lazy, at.lazy)}; };
  for (const FloorPair corner : PredictedFrontier(spec, space, spec.budget_bytes)) include(corner);
  for (const Trial& trial : trials) {
    if (trial.plan.kind == TrialKind::kPoint) include(space.PairOf(trial.plan.floors));
  }
  const auto beyond = [](int lowest, int highest, int most) { return std::min(most, highest + 1 + (highest - lowest) / 8); };
  return {.lowest = spec.lowest,
          .highest = {.strict = beyond(spec.lowest.strict, top.strict, spec.highest.strict),
                      .lazy = beyond(spec.lowest.lazy, top.lazy, spec.highest.lazy)}};
}

}  // namespace hproc::controller
