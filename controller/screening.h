// Screening: when to stop asking a trial questions; and whether the answers make sense.
//
// Fed with the answers in the study's order, it stops on any of
//
//   clearly worse        than the incumbent, by Wald's test on the questions that only one of the two got right
//   no better            than the incumbent after the first kScreenQuestions: it has not won more of those questions than
//                        it lost. A better point is dropped so now and then, but only one that is better by little: with
//                        a lead of five points in a hundred, about one time in twenty
//   below the floor      that the operator set for accuracy, by Wald's test
//
// Deterministic in the answers; says nothing of the rate of a trial that it stopped.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "controller/study.h"
#include "evals/garbage.h"
#include "evals/statistics.h"

namespace hproc::controller {

inline constexpr int kSmokeQuestions = 20;
inline constexpr int kScreenQuestions = 200;

// Thread-compatible.
class Screening {
 public:
  // `incumbent`: the answers to compare with, those to probes are passed over; empty: nobody. `questions`: how many there
  // are in all, over the seeds. `min_accuracy` 0: no floor.
  Screening(std::span<const Answer> incumbent, int questions, double min_accuracy);

  // Takes the next answer; true once it is enough.
  bool Add(const Answer& answer);

  // Why it is enough, in one line; empty before.
  const std::string& why() const { return why_; }

 private:
  std::map<std::pair<int, int>, bool> incumbent_;  // question, seed: right?
  int questions_;
  int asked_ = 0;
  int won_ = 0;   // only this trial was right
  int lost_ = 0;  // only the incumbent was
  evals::PairedSprt paired_;
  std::optional<evals::Sprt> floor_;
  std::string why_;
};

// Whether a trial whose probes were suspect (evals/garbage.h) talks sense: Wald's test on its answers to the task, in their
// order. Sense is half as many right as of the reference's probes; garbage is an eighth. Between the two either may be
// said, and where the questions end first, nothing is proven against it.
class SenseTest {
 public:
  // None where the reference itself gets less than a quarter right: its task tells nobody apart.
  static std::optional<SenseTest> Create(const evals::GarbageCalibration& reference);

  enum class Finding { kUndecided, kSense, kGarbage };
  Finding Add(const Answer& answer);

  // "3 of 11 questions right, 80 % of the reference's probes are".
  std::string Describe() const;

 private:
  SenseTest(const evals::Sprt& test, double reference_rate) : test_(test), reference_rate_(reference_rate) {}

  evals::Sprt test_;
  double reference_rate_;
  int asked_ = 0;
  int right_ = 0;
};

}  // namespace hproc::controller
