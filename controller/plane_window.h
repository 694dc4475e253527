// The part of the floor plane that is worth showing.
#pragma once

#include <vector>

#include "controller/plan_space.h"
#include "controller/study.h"

namespace hproc::controller {

struct PlaneWindow {
  FloorPair lowest;
  FloorPair highest;
};

// From the lower bounds to a little above the highest floors of either kind that are predicted to fit or were tried; what
// lies beyond does not fit. Within the study's bounds.
PlaneWindow WindowOf(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials);

}  // namespace hproc::controller
