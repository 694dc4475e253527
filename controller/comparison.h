// Comparison: a baseline against the recommended point, on the same questions.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "controller/store.h"
#include "controller/study.h"

namespace hproc::controller {

struct Comparison {
  int baseline = 0;  // trial number
  TrialKind kind = TrialKind::kBaseline16Bit;
  bool fits = false;            // within the study's cap less the headroom asked for
  int only_baseline_right = 0;  // questions that only one of the two got right
  int only_point_right = 0;
  double p = 1;  // McNemar's, mid-p, two-sided: of a difference at least as large if there were none
};

// Each baseline that answered all questions, against trial `recommended`. Errors are the store's.
Result<std::vector<Comparison>> CompareWithBaselines(Store& store, const StudySpec& spec,
                                                     const std::vector<Trial>& trials, int recommended);

}  // namespace hproc::controller
