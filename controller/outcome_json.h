// What a study comes to, as the JSON that `tune --json` prints and the store keeps.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "controller/comparison.h"
#include "controller/search.h"
#include "controller/study.h"

namespace hproc::controller {

struct StudyOutcome {
  SearchDone done;
  std::vector<Comparison> baselines;  // empty without a recommendation
  int64_t int4_weight_bytes = 0;      // PlanSpace::Int4WeightBytes
  int64_t int4_total_bytes = 0;       // with what is held beside the weights
};

// One object: recommended {…} or null, bound, why, fault, alarms [text], loads, trials, study, baselines [{…}], int4_g128 {…}. A figure
// that was not measured is null.
std::string OutcomeJson(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome);

// The recommended trial's number, where the study's outcome names one that is there.
std::optional<int> RecommendedOf(const Study& study, const std::vector<Trial>& trials);

}  // namespace hproc::controller
