// A model that exists as a rate table alone, with a truth about memory, sense and accuracy that the search has to find.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "controller/plan_space.h"
#include "controller/search.h"

namespace hproc::controller {

struct SimulatedShape {
  int64_t strict_weights = 1 << 20;
  int64_t lazy_weights = 3 << 20;  // 0: a dense model
  int64_t kept_weights = 1 << 16;
  int64_t others = 1 << 19;     // bytes held beside the weights
  int64_t workspace = 1 << 18;  // needed while loading, given back before the others come
};

// Bytes rise with every few rungs, as those of a real tensor: each K begins without outliers, takes more and more of them,
// and gives way to the next K.
std::unique_ptr<PlanSpace> MakeSimulatedSpace(const SimulatedShape& shape);

struct SimulatedTruth {
  int64_t budget = 0;
  int64_t overhead = 0;  // what a run takes beyond the prediction; negative: it takes less
  std::function<bool(FloorPair)> garbage = [](FloorPair) { return false; };
  std::function<int(FloorPair)> correct = [](FloorPair) { return 500; };  // of kQuestions
  std::function<TrialState(int, FloorPair)> accident = {};  // by trial number; kWaiting or none: no accident
  std::function<bool(int)> refused_by_mistake = [](int) { return false; };  // by trial number

  static constexpr int kQuestions = 1000;
};

// What a worker would have reported.
TrialFact Simulate(const PlanSpace& space, const SimulatedTruth& truth, const RunTrial& run, int number);

struct SimulatedStudy {
  std::vector<TrialFact> facts;
  std::vector<Purpose> purposes;  // of the facts
  SearchDone done;
  bool ended = false;  // false: still searching after a thousand trials, or waiting for nothing
  int most_in_flight = 0;
};
// With `parallel` trials in flight wherever the search has a question for one more; they end in an order drawn from `seed`.
SimulatedStudy RunSimulatedStudy(const SearchSpec& spec, const PlanSpace& space, const SimulatedTruth& truth,
                                 int parallel = 1, unsigned seed = 0);

// The whole ladder under a budget.
SearchSpec WholePlane(const PlanSpace& space, int64_t budget);

}  // namespace hproc::controller
