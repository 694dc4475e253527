#include "quant/channel_fit.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::quant {
namespace {

// Inverse of the normal distribution function: Acklam's rational approximation, relative error below 1.2e-9.
double NormalQuantile(double p) {
  constexpr double kA[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                           1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double kB[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                           6.680131188771972e+01, -1.328068155288572e+01};
  constexpr double kC[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                           -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double kD[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00};
  const auto tail = [&](double q) {
    return (((((kC[0] * q + kC[1]) * q + kC[2]) * q + kC[3]) * q + kC[4]) * q + kC[5]) /
           ((((kD[0] * q + kD[1]) * q + kD[2]) * q + kD[3]) * q + 1);
  };
  if (p < 0.02425) return tail(std::sqrt(-2 * std::log(p)));
  if (p > 1 - 0.02425) return -tail(std::sqrt(-2 * std::log(1 - p)));
  const double q = p - 0.5;
  const double r = q * q;
  return (((((kA[0] * r + kA[1]) * r + kA[2]) * r + kA[3]) * r + kA[4]) * r + kA[5]) * q /
         (((((kB[0] * r + kB[1]) * r + kB[2]) * r + kB[3]) * r + kB[4]) * r + 1);
}

// Where K centroids start, in standard deviations: the quantizer that is optimal for many levels puts its points with
// density p^(1/3) (Panter and Dite 1951), which for a normal p is a normal of sqrt(3) times the width.
struct StartTable {
  std::array<std::array<double, kMaxLevels>, kMaxLevels + 1> at{};
  StartTable() {
    for (int levels : kLevelCounts) {
      for (int k = 0; k < levels; ++k) {
        at[static_cast<size_t>(levels)][static_cast<size_t>(k)] =
            std::sqrt(3.0) * NormalQuantile((k + 0.5) / levels);
      }
    }
  }
};

}  // namespace

const std::array<double, kMaxLevels>& StartOf(int levels) {
  static const StartTable table;
  return table.at[static_cast<size_t>(levels)];
}

std::vector<int> OutlierCounts(int64_t columns) {
  std::vector<int> counts;
  for (int64_t n = 0; n <= MostOutliers(columns); n = NextOutlierCount(n)) counts.push_back(static_cast<int>(n));
  return counts;
}

void ChannelFitter::Reset(std::span<const float> channel) {
  HPROC_CHECK(!channel.empty() && channel.size() < (size_t{1} << 31), "columns of a channel");
  channel_ = channel;
  const auto columns = static_cast<int>(channel.size());
  if (counts_columns_ != columns) {
    counts_ = OutlierCounts(columns);
    counts_columns_ = columns;
  }
  sorter_.Sort(channel, sorted_, order_);
  sum_.resize(static_cast<size_t>(columns) + 1);
  sum_[0] = moments_.square = 0;
  for (size_t i = 0; i < sorted_.size(); ++i) {
    const auto w = static_cast<double>(sorted_[i]);
    sum_[i + 1] = sum_[i] + w;
    moments_.square += w * w;
  }
  moments_.sum = sum_.back();

  const SortedChannel sorted{sorted_.data(), sum_.data(), columns};
  const double mean = moments_.Mean(columns);
  low_of_count_.resize(static_cast<size_t>(counts_.back()) + 1);
  low_of_count_[0] = 0;
  int low = 0;
  for (int n = 1; n <= counts_.back(); ++n) {
    if (NextOutlierIsLow(sorted, mean, low, n - 1 - low)) ++low;
    low_of_count_[static_cast<size_t>(n)] = low;
  }
}

void ChannelFitter::Begin(int levels, Centroids centroids) {
  HPROC_CHECK(IsLevelCount(levels), "levels of a codebook");
  code_ = ChannelCode{};
  code_.levels = levels;
  next_count_ = 0;
  fit_.Begin({sorted_.data(), sum_.data(), static_cast<int>(sorted_.size())}, moments_, levels, centroids,
             StartOf(levels).data());
}

bool ChannelFitter::Next() {
  if (next_count_ >= counts_.size()) return false;
  const int count = counts_[next_count_];
  const int low = low_of_count_[static_cast<size_t>(count)];
  if (next_count_ == 0) {
    fit_.FitFirst(low, count - low);
  } else {
    fit_.FitNext(low, count - low);
  }
  fit_.RoundAndMeasure(low, count - low);
  std::copy_n(fit_.centroids(), code_.levels, code_.centroids.begin());
  code_.scale = fit_.scale();
  code_.outliers = count;
  code_.low_outliers = low;
  code_.cosine = fit_.cosine();
  code_.norm_ratio = fit_.norm_ratio();
  ++next_count_;
  return true;
}

bool ChannelFitter::FitToFloor(int levels, Centroids centroids, double floor) {
  Begin(levels, centroids);
  while (Next()) {
    if (code_.cosine >= floor) return true;
  }
  return false;
}

void ChannelFitter::Encode(EncodedChannel& encoded) const {
  const int levels = code_.levels;
  encoded.codes.resize(channel_.size());
  encoded.outlier_columns.clear();
  encoded.outlier_values.clear();
  int at = 0;
  for (int k = 0; k < levels; ++k) {
    const int end = fit_.CodeEnd(k, at);
    for (; at < end; ++at) encoded.codes[order_[static_cast<size_t>(at)]] = static_cast<uint8_t>(k);
  }
  if (code_.outliers == 0) return;

  const auto low_end = order_.begin() + code_.low_outliers;
  const auto high_begin = order_.end() - (code_.outliers - code_.low_outliers);
  encoded.outlier_columns.assign(order_.begin(), low_end);
  encoded.outlier_columns.insert(encoded.outlier_columns.end(), high_begin, order_.end());
  std::sort(encoded.outlier_columns.begin(), encoded.outlier_columns.end());
  const double scale = Bfloat16ToFloat(code_.scale);
  for (uint32_t column : encoded.outlier_columns) {
    const auto center = static_cast<double>(code_.centroids[encoded.codes[column]]);
    encoded.outlier_values.push_back(OutlierResidual(static_cast<double>(channel_[column]), scale, center));
  }
}

}  // namespace hproc::quant
