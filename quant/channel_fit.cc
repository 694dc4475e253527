#include "quant/channel_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::quant {
namespace {

constexpr int kFirstSteps = 40;  // Lloyd steps of the first fit; it stops when no border moves
constexpr int kNextSteps = 4;    // of the fits seeded by a neighbour
constexpr double kLargestInt8 = 127;

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

const std::array<double, kMaxLevels>& StartOf(int levels) {
  static const StartTable table;
  return table.at[static_cast<size_t>(levels)];
}

// First index in [low, high) of `values` (ascending) with values[i] >= threshold, looked for around `near`.
int LowerBoundNear(const float* values, int low, int high, int near, float threshold) {
  near = std::clamp(near, low, high);
  int step = 1;
  int left = low;
  int right = high;
  if (near < high && values[near] < threshold) {
    left = near + 1;
    while (left + step < high && values[left + step - 1] < threshold) {
      left += step;
      step *= 2;
    }
    right = std::min(high, left + step);
  } else {
    right = near;
    while (right - step > low && !(values[right - step] < threshold)) {
      right -= step;
      step *= 2;
    }
    left = std::max(low, right - step);
  }
  return static_cast<int>(std::lower_bound(values + left, values + right, threshold) - values);
}

}  // namespace

uint16_t OutlierResidual(double value, double scale, double center) {
  constexpr double kLargestHalf = 65504;
  return FloatToHalf(static_cast<float>(std::clamp(value / scale - center, -kLargestHalf, kLargestHalf)));
}

std::vector<int> OutlierCounts(int64_t columns) {
  std::vector<int> counts;
  const int64_t most = columns / 16;
  for (int64_t n = 0; n <= most; n += n < 8 ? 1 : (int64_t{1} << (std::bit_width(static_cast<uint64_t>(n)) - 3))) {
    counts.push_back(static_cast<int>(n));
  }
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
  square_sum_.resize(static_cast<size_t>(columns) + 1);
  sum_[0] = square_sum_[0] = 0;
  for (size_t i = 0; i < sorted_.size(); ++i) {
    const auto w = static_cast<double>(sorted_[i]);
    sum_[i + 1] = sum_[i] + w;
    square_sum_[i + 1] = square_sum_[i] + w * w;
  }
  mean_ = sum_.back() / columns;
  deviation_ = std::sqrt(std::max(0.0, square_sum_.back() / columns - mean_ * mean_));

  low_of_count_.resize(static_cast<size_t>(counts_.back()) + 1);
  low_of_count_[0] = 0;
  int low = 0;
  for (int n = 1; n <= counts_.back(); ++n) {
    const int high = n - 1 - low;
    const double below = mean_ - static_cast<double>(sorted_[static_cast<size_t>(low)]);
    const double above = static_cast<double>(sorted_[static_cast<size_t>(columns - 1 - high)]) - mean_;
    if (below >= above) ++low;
    low_of_count_[static_cast<size_t>(n)] = low;
  }
}

void ChannelFitter::Begin(int levels, Centroids centroids) {
  HPROC_CHECK(IsLevelCount(levels), "levels of a codebook");
  code_ = ChannelCode{};
  code_.levels = levels;
  centroids_ = centroids;
  next_count_ = 0;
  const std::array<double, kMaxLevels>& start = StartOf(levels);
  const auto lowest = static_cast<double>(sorted_.front());
  const auto highest = static_cast<double>(sorted_.back());
  for (int k = 0; k < levels; ++k) {
    const auto i = static_cast<size_t>(k);
    centers_[i] = std::clamp(mean_ + deviation_ * start[i], lowest, highest);
    borders_[i] = static_cast<int>(static_cast<int64_t>(sorted_.size()) * k / levels);
  }
}

bool ChannelFitter::Next() {
  if (next_count_ >= counts_.size()) return false;
  const int count = counts_[next_count_];
  const int low = low_of_count_[static_cast<size_t>(count)];
  if (next_count_ == 0) {
    Fit(low, count - low, kFirstSteps);
    unsettled_.fill(true);
    ShiftBorders(kFirstSteps);
    SplitAndMerge();
  } else {
    borders_[0] = low;
    borders_[static_cast<size_t>(code_.levels)] = static_cast<int>(sorted_.size()) - (count - low);
    for (int k = 1; k < code_.levels; ++k) {
      const auto i = static_cast<size_t>(k);
      borders_[i] = std::clamp(borders_[i], borders_[0], borders_[static_cast<size_t>(code_.levels)]);
    }
    unsettled_[1] = unsettled_[static_cast<size_t>(code_.levels) - 1] = true;
    ShiftBorders(kNextSteps);
  }
  RoundAndMeasure(low, count - low);
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

void ChannelFitter::Fit(int low, int high, int max_steps) {
  const int first = low;
  const int last = static_cast<int>(sorted_.size()) - high;  // one past the values to fit
  const int levels = code_.levels;
  for (int step = 0; step < max_steps; ++step) {
    bool moved = borders_[0] != first || borders_[static_cast<size_t>(levels)] != last;
    borders_[0] = first;
    borders_[static_cast<size_t>(levels)] = last;
    for (int k = 1; k < levels; ++k) {
      const auto i = static_cast<size_t>(k);
      const auto threshold = static_cast<float>(0.5 * (centers_[i - 1] + centers_[i]));
      const int border = LowerBoundNear(sorted_.data(), borders_[i - 1], last, borders_[i], threshold);
      moved = moved || border != borders_[i];
      borders_[i] = border;
    }
    if (!moved) break;
    CenterAll();
  }
}

void ChannelFitter::ShiftBorders(int max_passes) {
  for (int pass = 0; pass < max_passes; ++pass) {
    bool moved = false;
    for (int k = 1; k < code_.levels; ++k) {
      const auto i = static_cast<size_t>(k);
      if (!unsettled_[i]) continue;
      unsettled_[i] = false;
      const int begin = borders_[i - 1];
      const int end = borders_[i + 1];
      int border = borders_[i];
      double left = border - begin;
      double right = end - border;
      double left_sum = sum_[static_cast<size_t>(border)] - sum_[static_cast<size_t>(begin)];
      double right_sum = sum_[static_cast<size_t>(end)] - sum_[static_cast<size_t>(border)];
      // Leaving a cluster of n with mean m saves n / (n - 1) (x - m)^2, joining one costs n / (n + 1) (x - m)^2.
      const auto pays = [](double x, double from, double from_sum, double to, double to_sum) {
        if (from <= 1) return false;
        const double from_apart = x - from_sum / from;
        const double to_apart = to > 0 ? x - to_sum / to : 0;
        return to / (to + 1) * to_apart * to_apart < from / (from - 1) * from_apart * from_apart * (1 - 1e-9);
      };
      while (right > 1 && pays(sorted_[static_cast<size_t>(border)], right, right_sum, left, left_sum)) {
        const double x = sorted_[static_cast<size_t>(border)];
        ++border, ++left, --right, left_sum += x, right_sum -= x;
      }
      while (border <= borders_[i] && left > 1 &&
             pays(sorted_[static_cast<size_t>(border) - 1], left, left_sum, right, right_sum)) {
        const double x = sorted_[static_cast<size_t>(border) - 1];
        --border, --left, ++right, left_sum -= x, right_sum += x;
      }
      if (border != borders_[i]) {
        borders_[i] = border;
        unsettled_[i - 1] = unsettled_[i + 1] = moved = true;
      }
    }
    if (!moved) break;
  }
  CenterAll();
}

void ChannelFitter::SplitAndMerge() {
  const int levels = code_.levels;
  for (int round = 0; round < levels; ++round) {
    // What cutting an interval at its mean would save, and what joining it with the next one would cost.
    double best_gain = 0;
    int split = -1;
    int split_at = 0;
    for (int k = 0; k < levels; ++k) {
      const auto i = static_cast<size_t>(k);
      const int begin = borders_[i];
      const int end = borders_[i + 1];
      if (end - begin < 2) continue;
      const int middle = LowerBoundNear(sorted_.data(), begin, end, (begin + end) / 2, static_cast<float>(centers_[i]));
      if (middle == begin || middle == end) continue;
      const double gain = JoinCost(begin, middle, end);
      if (gain > best_gain) {
        best_gain = gain;
        split = k;
        split_at = middle;
      }
    }
    if (split < 0) return;
    double best_cost = std::numeric_limits<double>::infinity();
    int merge = -1;
    for (int k = 0; k + 1 < levels; ++k) {
      if (k == split || k + 1 == split) continue;
      const auto i = static_cast<size_t>(k);
      const double cost = JoinCost(borders_[i], borders_[i + 1], borders_[i + 2]);
      if (cost < best_cost) {
        best_cost = cost;
        merge = k;
      }
    }
    if (merge < 0 || best_cost >= best_gain) return;

    // The border between merge and merge + 1 goes, one at split_at comes; those between move up or down by one.
    if (merge < split) {
      for (int k = merge + 1; k < split; ++k) borders_[static_cast<size_t>(k)] = borders_[static_cast<size_t>(k) + 1];
      borders_[static_cast<size_t>(split)] = split_at;
    } else {
      for (int k = merge + 1; k > split + 1; --k) borders_[static_cast<size_t>(k)] = borders_[static_cast<size_t>(k) - 1];
      borders_[static_cast<size_t>(split) + 1] = split_at;
    }
    for (int k = std::min(merge, split); k <= std::max(merge, split) + 1; ++k) unsettled_[static_cast<size_t>(k)] = true;
    ShiftBorders(kNextSteps);
  }
}

double ChannelFitter::JoinCost(int begin, int middle, int end) const {
  const double left = middle - begin;
  const double right = end - middle;
  if (left == 0 || right == 0) return 0;
  const double left_sum = sum_[static_cast<size_t>(middle)] - sum_[static_cast<size_t>(begin)];
  const double right_sum = sum_[static_cast<size_t>(end)] - sum_[static_cast<size_t>(middle)];
  const double apart = left_sum / left - right_sum / right;
  return left * right / (left + right) * apart * apart;
}

void ChannelFitter::CenterAll() {
  for (int k = 0; k < code_.levels; ++k) {
    const auto i = static_cast<size_t>(k);
    const auto begin = static_cast<size_t>(borders_[i]);
    const auto end = static_cast<size_t>(borders_[i + 1]);
    if (end > begin) centers_[i] = (sum_[end] - sum_[begin]) / static_cast<double>(end - begin);
  }
}

float ChannelFitter::Threshold(int k) const {
  const auto i = static_cast<size_t>(k);
  const double scale = Bfloat16ToFloat(code_.scale);
  return static_cast<float>(scale * 0.5 *
                            (static_cast<double>(code_.centroids[i - 1]) + static_cast<double>(code_.centroids[i])));
}

void ChannelFitter::RoundAndMeasure(int low, int high) {
  const int levels = code_.levels;
  const int columns = static_cast<int>(sorted_.size());
  code_.outliers = low + high;
  code_.low_outliers = low;
  const double square = square_sum_.back();
  const double largest = std::max(std::abs(centers_[0]), std::abs(centers_[static_cast<size_t>(levels) - 1]));
  if (square == 0) {  // an exact zero channel
    code_.scale = 0;
    code_.centroids.fill(0);
    code_.cosine = code_.norm_ratio = 1;
    return;
  }
  // Rounded up, so that the largest centroid stays within 127.
  const auto exact = static_cast<float>(largest / kLargestInt8);
  code_.scale = FloatToBfloat16(exact);
  if (Bfloat16ToFloat(code_.scale) < exact) ++code_.scale;
  const double scale = Bfloat16ToFloat(code_.scale);
  for (int k = 0; k < levels; ++k) {
    const auto i = static_cast<size_t>(k);
    const double in_units = scale > 0 ? centers_[i] / scale : 0;
    code_.centroids[i] = centroids_ == Centroids::kInt8
                             ? static_cast<float>(std::clamp(std::round(in_units), -kLargestInt8, kLargestInt8))
                             : HalfToFloat(FloatToHalf(static_cast<float>(in_units)));
  }

  // Segments of the rounded codebook, over the whole channel; then the outliers are put right one by one.
  double dot = 0;
  double code_square = 0;
  int begin = 0;
  for (int k = 0; k < levels; ++k) {
    const auto i = static_cast<size_t>(k);
    const int end = k + 1 == levels
                        ? columns
                        : LowerBoundNear(sorted_.data(), begin, columns, borders_[i + 1], Threshold(k + 1));
    const double center = scale * static_cast<double>(code_.centroids[i]);
    dot += center * (sum_[static_cast<size_t>(end)] - sum_[static_cast<size_t>(begin)]);
    code_square += center * center * (end - begin);
    begin = end;
  }
  const auto correct = [&](double value, int k) {
    while (k + 1 < levels && value >= static_cast<double>(Threshold(k + 1))) ++k;
    while (k > 0 && value < static_cast<double>(Threshold(k))) --k;
    const auto center = static_cast<double>(code_.centroids[static_cast<size_t>(k)]);
    const double residual = HalfToFloat(OutlierResidual(value, scale, center));
    const double given_back = scale * (center + residual);
    dot += (given_back - scale * center) * value;
    code_square += given_back * given_back - scale * center * scale * center;
  };
  for (int i = 0; i < low; ++i) correct(sorted_[static_cast<size_t>(i)], 0);
  for (int i = columns - high; i < columns; ++i) correct(sorted_[static_cast<size_t>(i)], levels - 1);
  code_.norm_ratio = std::sqrt(code_square / square);
  code_.cosine = code_square > 0 ? std::min(1.0, dot / std::sqrt(code_square * square)) : 0;
}

void ChannelFitter::Encode(EncodedChannel& encoded) const {
  const int levels = code_.levels;
  encoded.codes.resize(channel_.size());
  encoded.outlier_columns.clear();
  encoded.outlier_values.clear();
  const int columns = static_cast<int>(channel_.size());
  int at = 0;
  for (int k = 0; k < levels; ++k) {
    const int end = k + 1 == levels
                        ? columns
                        : LowerBoundNear(sorted_.data(), at, columns, borders_[static_cast<size_t>(k) + 1], Threshold(k + 1));
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
