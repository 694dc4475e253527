#include "evals/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace hproc::evals {
namespace {

// Probability of exactly k heads in n tosses of a fair coin, by logarithms: 2^-n alone is 0 in a
// double from n = 1075.
double FairBinomial(int k, int n) {
  return std::exp(LogChoose(n, k) - n * std::log(2.0));
}

// Trials are judged beside each other, and lgamma leaves the sign of gamma in a variable that all threads share.
double LogGamma(double x) {
  int sign = 0;
  return ::lgamma_r(x, &sign);
}

}  // namespace

double LogChoose(int n, int k) {
  HPROC_CHECK(0 <= k && k <= n, "more chosen than there are");
  return LogGamma(n + 1.0) - LogGamma(k + 1.0) - LogGamma(n - k + 1.0);
}

Interval WilsonInterval(int correct, int total, double z) {
  HPROC_CHECK(correct >= 0 && correct <= total, "more correct than there are");
  if (total == 0) return {};
  return WilsonIntervalOfRate(static_cast<double>(correct) / total, total, z);
}

Interval WilsonIntervalOfRate(double p, double n, double z) {
  HPROC_CHECK(p >= 0 && p <= 1 && n > 0, "a rate and a number of answers");
  const double z2 = z * z;
  const double center = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = z / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  // Rounding leaves some 1e-17 at the ends, where the interval reaches 0 and 1 exactly.
  return {.low = p == 0 ? 0 : std::max(0.0, center - half), .high = p == 1 ? 1 : std::min(1.0, center + half)};
}

double StandardError(int correct, int total) {
  HPROC_CHECK(correct >= 0 && correct <= total, "more correct than there are");
  if (total < 2) return 0;
  const double p = static_cast<double>(correct) / total;
  return std::sqrt(p * (1 - p) / (total - 1));
}

McNemarTest McNemar(int only_first_correct, int only_second_correct) {
  HPROC_CHECK(only_first_correct >= 0 && only_second_correct >= 0, "counts");
  const int n = only_first_correct + only_second_correct;
  const int fewer = std::min(only_first_correct, only_second_correct);
  double tail = 0;
  for (int k = 0; k <= fewer; ++k) tail += FairBinomial(k, n);
  return {.exact_p = std::min(1.0, 2 * tail),
          .mid_p = std::min(1.0, 2 * tail - FairBinomial(fewer, n))};
}

Result<Sprt> Sprt::Create(const SprtSpec& spec) {
  if (!(spec.p0 > 0 && spec.p0 < spec.p1 && spec.p1 < 1))
    return Error{"a sequential test needs 0 < p0 < p1 < 1"};
  if (!(spec.alpha > 0 && spec.beta > 0 && spec.alpha + spec.beta < 1)) {
    return Error{"a sequential test needs alpha > 0, beta > 0 and alpha + beta < 1"};
  }
  return Sprt(spec);
}

Sprt::Sprt(const SprtSpec& spec)
    : success_weight_(std::log(spec.p1 / spec.p0)),
      failure_weight_(std::log((1 - spec.p1) / (1 - spec.p0))),
      lower_bound_(std::log(spec.beta / (1 - spec.alpha))),
      upper_bound_(std::log((1 - spec.beta) / spec.alpha)) {}

double Sprt::log_likelihood_ratio() const {
  return successes_ * success_weight_ + failures_ * failure_weight_;
}

SprtDecision Sprt::Add(bool success) {
  if (decision_ != SprtDecision::kContinue) return decision_;
  (success ? successes_ : failures_) += 1;
  const double ratio = log_likelihood_ratio();
  if (ratio >= upper_bound_) decision_ = SprtDecision::kAcceptH1;
  if (ratio <= lower_bound_) decision_ = SprtDecision::kAcceptH0;
  return decision_;
}

Result<PairedSprt> PairedSprt::Create(const PairedSprtSpec& spec) {
  const Result<Sprt> test =
      Sprt::Create({.p0 = spec.worse, .p1 = spec.equal, .alpha = spec.alpha, .beta = spec.beta});
  if (!test.ok()) return test.error();
  return PairedSprt(*test);
}

PairedDecision PairedSprt::Add(bool candidate_correct, bool incumbent_correct) {
  if (decision() != PairedDecision::kContinue) return decision();
  ++pairs_;
  if (candidate_correct != incumbent_correct) test_.Add(candidate_correct);
  return decision();
}

PairedDecision PairedSprt::decision() const {
  switch (test_.decision()) {
    case SprtDecision::kAcceptH0:
      return PairedDecision::kWorse;
    case SprtDecision::kAcceptH1:
      return PairedDecision::kNotWorse;
    case SprtDecision::kContinue:
      break;
  }
  return PairedDecision::kContinue;
}

}  // namespace hproc::evals
