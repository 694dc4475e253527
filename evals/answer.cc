#include "evals/answer.h"

#include <algorithm>

#include "evals/scoring.h"

namespace hproc::evals {

void AccuracyCounter::Add(const Answer& answer) {
  const bool truncated =
      answer.finish == FinishReason::kLength || answer.finish == FinishReason::kContext;
  ++tally_.total;
  tally_.strict_correct += answer.strict_correct ? 1 : 0;
  tally_.flexible_correct += answer.flexible_correct ? 1 : 0;
  tally_.invalid += answer.strict == kInvalidExtraction ? 1 : 0;
  tally_.truncated += truncated ? 1 : 0;
  if (seeds_.empty() || seeds_.back() != answer.seed) {
    seeds_.push_back(answer.seed);
    tally_.strict_by_seed.push_back(0);
  }
  if (!answer.strict_correct) return;
  ++tally_.strict_by_seed.back();
  int& right = right_[answer.question];
  tally_.strict_squares += 2 * right + 1;  // (n + 1)^2 - n^2
  ++right;
}

Interval AccuracyInterval(const AccuracyTally& tally) {
  const auto seeds = static_cast<double>(tally.strict_by_seed.size());
  if (seeds <= 1 || tally.total == 0) return WilsonInterval(tally.strict_correct, tally.total);
  const double answers = tally.total;
  const double questions = answers / seeds;
  const double p = tally.strict_correct / answers;
  double effective = questions;  // where all answers are alike, nothing says that seeds differ
  if (p > 0 && p < 1 && questions > 1) {
    const double spread = static_cast<double>(tally.strict_squares) / (seeds * seeds) - questions * p * p;
    const double variance = spread / (questions * (questions - 1));
    effective = variance > 0 ? std::clamp(p * (1 - p) / variance, questions, answers) : answers;
  }
  return WilsonIntervalOfRate(p, effective);
}

bool TooManyTruncated(const AccuracyTally& tally) { return tally.truncated * 50 > tally.total; }

}  // namespace hproc::evals
