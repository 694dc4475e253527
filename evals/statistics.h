// What counts of right and wrong answers say: intervals, paired comparisons, and when to stop
// asking. Pure functions and plain values; thread-compatible.
#pragma once

#include "base/result.h"

namespace hproc::evals {

struct Interval {
  double low = 0;
  double high = 1;
};

// Two-sided 95 % point of the normal distribution.
inline constexpr double kZ95 = 1.959963984540054;

// The natural logarithm of how many ways there are to choose k of n, 0 <= k <= n; where the number itself is beyond a double.
double LogChoose(int n, int k);

// Score interval of a proportion (Wilson 1927). Unlike the normal interval it stays inside [0, 1]
// and has a width at 0 and at 1. 0 <= correct <= total; for total 0 it is [0, 1].
Interval WilsonInterval(int correct, int total, double z = kZ95);

// The same of a rate that `n` independent answers would have, n > 0 and not necessarily whole.
Interval WilsonIntervalOfRate(double rate, double n, double z = kZ95);

// Standard error of the mean of 0/1 scores as lm-evaluation-harness gives it: the square
// root of p (1 - p) / (n - 1). 0 at p = 0 and p = 1, which says nothing there: show the Wilson
// interval too. 0 for n < 2.
double StandardError(int correct, int total);

// Two answerers of the same questions, compared on those where only one of them was right (McNemar
// 1947): under the hypothesis of equal skill each such question is a fair coin. Both p-values are
// two-sided and never above 1. The mid-p version counts half of the observed outcome, which
// corrects the conservatism of the exact test (Fagerland, Lydersen and Laake 2013). Without
// discordant questions both are 1.
struct McNemarTest {
  double exact_p = 1;
  double mid_p = 1;
};
McNemarTest McNemar(int only_first_correct, int only_second_correct);

// Wald's sequential probability ratio test of a proportion (Wald, Sequential Analysis, 1947,
// chapter 5).
struct SprtSpec {
  double p0 = 0.50;     // H0: the proportion is at most this
  double p1 = 0.65;     // H1: it is at least this
  double alpha = 0.05;  // chance of accepting H1 at p0
  double beta = 0.05;   // chance of accepting H0 at p1

  bool operator==(const SprtSpec&) const = default;
};

enum class SprtDecision { kContinue, kAcceptH0, kAcceptH1 };

//                    log-likelihood ratio
//      ln(beta / (1 - alpha))      0       ln((1 - beta) / alpha)
//   ◀── accept H0 ──┤          continue           ├── accept H1 ──▶
//
// The ratio is computed from the two counts, not summed up, so the state is a function of the
// counts alone and a resumed test decides what the uninterrupted one did. A decision is final:
// later observations change nothing. The rate among the observations of a test that stopped is
// biased; it decides and is never shown as an accuracy.
class Sprt {
 public:
  // An error unless 0 < p0 < p1 < 1, alpha and beta lie in (0, 1) and add up to less than 1.
  static Result<Sprt> Create(const SprtSpec& spec);

  SprtDecision Add(bool success);  // the decision after this observation

  SprtDecision decision() const { return decision_; }
  int observations() const { return successes_ + failures_; }  // up to the decision
  double log_likelihood_ratio() const;
  double lower_bound() const { return lower_bound_; }
  double upper_bound() const { return upper_bound_; }

 private:
  explicit Sprt(const SprtSpec& spec);

  double success_weight_;
  double failure_weight_;
  double lower_bound_;
  double upper_bound_;
  int successes_ = 0;
  int failures_ = 0;
  SprtDecision decision_ = SprtDecision::kContinue;
};

// Candidate against incumbent on the same questions, one after the other: Wald's test on the
// discordant ones (Wald 1947, chapter 6, "double dichotomies"). A question that both or neither got
// right says nothing about which is better. Of the others a candidate as good as the incumbent wins
// one half; one that wins a third (two lost for each won) is worse for good. With alpha = beta =
// 0.05 a candidate that only loses is worse after 11 discordant questions, one that only wins is
// not worse after 8. Where the questions end first the answer is kContinue: they do not tell these
// apart.
struct PairedSprtSpec {
  // Chance that a discordant question is the candidate's, if it is worse (H0) and if it is as good
  // (H1).
  double worse = 1.0 / 3;
  double equal = 1.0 / 2;
  double alpha = 0.05;  // chance of keeping a worse candidate
  double beta = 0.05;   // chance of dropping an equal one

  bool operator==(const PairedSprtSpec&) const = default;
};

enum class PairedDecision { kContinue, kWorse, kNotWorse };

class PairedSprt {
 public:
  static Result<PairedSprt> Create(const PairedSprtSpec& spec = {});

  PairedDecision Add(bool candidate_correct, bool incumbent_correct);

  PairedDecision decision() const;
  int pairs() const { return pairs_; }                     // added up to the decision
  int discordant() const { return test_.observations(); }  // those among them that count

 private:
  explicit PairedSprt(const Sprt& test) : test_(test) {}

  Sprt test_;
  int pairs_ = 0;
};

}  // namespace hproc::evals
