#include "controller/screening.h"

#include <algorithm>
#include <cmath>

namespace hproc::controller {
namespace {

// The floor an operator sets is tested against a rate clearly below it: a tenth, as in GSM8K practice.
constexpr double kAccuracyMargin = 0.10;
constexpr double kLeastRate = 0.01;  // of the rate below; the test needs one above 0

}  // namespace

Screening::Screening(std::span<const Answer> incumbent, int questions, double min_accuracy)
    : questions_(questions), paired_(*evals::PairedSprt::Create()) {
  for (const Answer& answer : incumbent) {
    if (answer.stage != "probe") incumbent_[{answer.question, answer.seed}] = answer.strict_correct;
  }
  const evals::SprtSpec test{.p0 = std::max(kLeastRate, min_accuracy - kAccuracyMargin), .p1 = min_accuracy};
  if (min_accuracy < 1 && test.p0 < test.p1) floor_.emplace(*evals::Sprt::Create(test));
}

bool Screening::Add(const Answer& answer) {
  if (!why_.empty()) return true;
  ++asked_;
  const std::string after = " after " + std::to_string(asked_) + " questions";
  if (const auto theirs = incumbent_.find({answer.question, answer.seed}); theirs != incumbent_.end()) {
    won_ += answer.strict_correct && !theirs->second ? 1 : 0;
    lost_ += !answer.strict_correct && theirs->second ? 1 : 0;
    if (paired_.Add(answer.strict_correct, theirs->second) == evals::PairedDecision::kWorse) {
      why_ = "stopped: clearly worse than the best so far" + after;
    } else if (asked_ == kScreenQuestions && asked_ < questions_ && won_ <= lost_) {
      why_ = "stopped: no better than the best so far" + after + " (" + std::to_string(won_) + " won, " +
             std::to_string(lost_) + " lost)";
    }
  }
  if (floor_ && floor_->Add(answer.strict_correct) == evals::SprtDecision::kAcceptH0) {
    why_ = "stopped: clearly below the accuracy asked for" + after;
  }
  return !why_.empty();
}

std::optional<SenseTest> SenseTest::Create(const evals::GarbageCalibration& reference) {
  if (reference.right_rate < evals::kReferenceRightRate) return std::nullopt;
  const evals::SprtSpec test{.p0 = reference.right_rate / 8, .p1 = reference.right_rate / 2};
  return SenseTest(*evals::Sprt::Create(test), reference.right_rate);
}

SenseTest::Finding SenseTest::Add(const Answer& answer) {
  if (test_.decision() == evals::SprtDecision::kContinue) {
    ++asked_;
    right_ += answer.flexible_correct ? 1 : 0;
    test_.Add(answer.flexible_correct);
  }
  switch (test_.decision()) {
    case evals::SprtDecision::kContinue: return Finding::kUndecided;
    case evals::SprtDecision::kAcceptH0: return Finding::kGarbage;
    case evals::SprtDecision::kAcceptH1: return Finding::kSense;
  }
  return Finding::kUndecided;
}

std::string SenseTest::Describe() const {
  return std::to_string(right_) + " of " + std::to_string(asked_) + " questions right, " +
         std::to_string(std::lround(100 * reference_rate_)) + " % of the reference's probes are";
}

}  // namespace hproc::controller
