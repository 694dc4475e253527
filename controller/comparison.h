// Comparison: two trials, a baseline and the recommended point above all, on the same questions.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "controller/store.h"
#include "controller/study.h"

namespace hproc::controller {

// Two trials on the questions that both of them answered, probes left out. The answers to one question under several seeds
// are not independent of each other, so that a question counts once: for who got it right under more seeds, else as a tie.
struct PairedOutcome {
  int both_right = 0;         // a tie, and right at least once
  int only_first_right = 0;   // or under more seeds
  int only_second_right = 0;
  int neither_right = 0;
  double p = 1;  // McNemar's, mid-p, two-sided: of a difference at least as large if there were none

  // Each answer in which the two differ: by question, then seed.
  struct Difference {
    int question = 0;
    int seed = 0;
    bool first_right = false;
  };
  std::vector<Difference> differences;

  int questions() const { return both_right + only_first_right + only_second_right + neither_right; }
};
PairedOutcome CompareAnswers(std::span<const Answer> first, std::span<const Answer> second);

struct Comparison {
  int baseline = 0;  // trial number
  TrialKind kind = TrialKind::kBaseline16Bit;
  bool fits = false;            // within the study's cap less the headroom asked for
  int only_baseline_right = 0;  // questions that only one of the two got right, or got right under more seeds
  int only_point_right = 0;
  double p = 1;  // McNemar's, mid-p, two-sided: of a difference at least as large if there were none
};

// Each baseline that answered all questions, against trial `recommended`. Errors are the store's.
Result<std::vector<Comparison>> CompareWithBaselines(Store& store, const StudySpec& spec,
                                                     const std::vector<Trial>& trials, int recommended);

}  // namespace hproc::controller
