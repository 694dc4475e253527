// The fit of one codebook to one sorted channel: the steps behind ChannelFitter (quant/channel_fit.h, which says what is
// fitted and why), written once for the host and for CUDA threads. Both give the same bits, because both run these lines:
// double arithmetic in one order, no fused multiply-add (the CUDA sources are built with -fmad=false).
//
// Nothing here allocates. A fit is some 1.6 KB of state; on a GPU it lies in a thread's local memory.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "base/host_device.h"
#include "quant/half.h"
#include "quant/levels.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

inline constexpr int kFirstSteps = 40;  // Lloyd steps of the first fit; it stops when no border moves
inline constexpr int kNextSteps = 4;    // passes of exchanges after a split
// … and of the fits seeded by a neighbour. What one pass leaves unsettled the next count's goes on with: 4 passes a count
// gave the same bytes within 0.13 % (0.03 % on average) for four times the serial work.
inline constexpr int kFollowSteps = 1;
inline constexpr double kLargestInt8 = 127;

// The outlier count tried after `count`: every count to 8, then four an octave.
HPROC_HOST_DEVICE constexpr int64_t NextOutlierCount(int64_t count) {
  if (count < 8) return count + 1;
  int64_t step = 1;
  while (count / step >= 8) step *= 2;
  return count + step;
}
HPROC_HOST_DEVICE constexpr int64_t MostOutliers(int64_t columns) { return columns / 16; }

// What must be added to `center`, in units of `scale`, to give back `value`: fp16, held at its largest finite value.
HPROC_HOST_DEVICE inline uint16_t OutlierResidual(double value, double scale, double center) {
  constexpr double kLargestHalf = 65504;
  const double residual = value / scale - center;
  // std::clamp, spelled so that it takes no addresses on a GPU.
  const double held = residual < -kLargestHalf ? -kLargestHalf : (kLargestHalf < residual ? kLargestHalf : residual);
  return FloatToHalf(static_cast<float>(held));
}

// A centroid as stored: a whole number held to int8's range, or an fp16 value.
HPROC_HOST_DEVICE inline float RoundCentroid(double in_units, Centroids centroids) {
  if (centroids == Centroids::kHalf) return HalfToFloat(FloatToHalf(static_cast<float>(in_units)));
  const double whole = std::round(in_units);
  return static_cast<float>(whole < -kLargestInt8 ? -kLargestInt8 : (kLargestInt8 < whole ? kLargestInt8 : whole));
}

// The border between two neighbouring centroids under a scale: the first value that belongs to the upper one.
HPROC_HOST_DEVICE inline float CodeThreshold(double scale, float lower, float upper) {
  return static_cast<float>(scale * 0.5 * (static_cast<double>(lower) + static_cast<double>(upper)));
}

// Where the centroids of a codebook start, in standard deviations: [levels] ascending; levels from kLevelCounts.
const std::array<double, kMaxLevels>& StartOf(int levels);

// First index in [low, high) of the ascending `channel` with Value(i) >= threshold, looked for around `near`.
template <typename Channel>
HPROC_HOST_DEVICE int LowerBoundNear(const Channel& channel, int low, int high, int near, float threshold) {
  near = near < low ? low : (near > high ? high : near);
  int step = 1;
  int left = low;
  int right = high;
  if (near < high && channel.Value(near) < threshold) {
    left = near + 1;
    while (left + step < high && channel.Value(left + step - 1) < threshold) {
      left += step;
      step *= 2;
    }
    right = left + step < high ? left + step : high;
  } else {
    right = near;
    while (right - step > low && !(channel.Value(right - step) < threshold)) {
      right -= step;
      step *= 2;
    }
    left = right - step > low ? right - step : low;
  }
  while (left < right) {
    const int middle = left + (right - left) / 2;
    if (channel.Value(middle) < threshold) {
      left = middle + 1;
    } else {
      right = middle;
    }
  }
  return left;
}

// What is known of a channel before any fit.
struct ChannelMoments {
  double sum = 0;     // of the values, added up in ascending order
  double square = 0;  // of their squares, likewise

  HPROC_HOST_DEVICE double Mean(int columns) const { return sum / columns; }
  HPROC_HOST_DEVICE double Deviation(int columns) const {
    const double mean = sum / columns;
    const double variance = square / columns - mean * mean;
    return std::sqrt(variance > 0 ? variance : 0.0);
  }
};

// Of the outliers of a channel, taken one by one from its two ends, the farther from the mean first: whether the next one,
// with `low` and `high` taken before, comes from the low end.
template <typename Channel>
HPROC_HOST_DEVICE bool NextOutlierIsLow(const Channel& channel, double mean, int low, int high) {
  const double below = mean - static_cast<double>(channel.Value(low));
  const double above = static_cast<double>(channel.Value(channel.columns() - 1 - high)) - mean;
  return below >= above;
}

// Whether moving the value x from a cluster of `from` values to one of `to` lowers the squared error: leaving a cluster of n
// with mean m saves n / (n - 1) (x - m)^2, joining one costs n / (n + 1) (x - m)^2.
HPROC_HOST_DEVICE inline bool ExchangePays(double x, double from, double from_sum, double to, double to_sum) {
  if (from <= 1) return false;
  if (to > 0) {
    // Both sides times their denominators. Where x is not within 1e-4 of a mean, rounding is below 1e-11 on this way and on the
    // one below, so that both come to the same answer unless the two sides are within 1e-10.
    const double to_apart = x * to - to_sum;
    const double from_apart = x * from - from_sum;
    if (std::abs(to_apart) > 1e-4 * std::abs(to_sum) && std::abs(from_apart) > 1e-4 * std::abs(from_sum)) {
      const double cost = to_apart * to_apart * (from * (from - 1));
      const double gain = from_apart * from_apart * (to * (to + 1)) * (1 - 1e-9);
      if (cost < gain * (1 - 1e-10)) return true;
      if (cost > gain * (1 + 1e-10)) return false;
    }
  }
  const double from_apart = x - from_sum / from;
  const double to_apart = to > 0 ? x - to_sum / to : 0;
  return to / (to + 1) * to_apart * to_apart < from / (from - 1) * from_apart * from_apart * (1 - 1e-9);
}

// `Channel` is a sorted channel: columns(), Value(i) ascending, and Sum(i) of the values before i, added up one by one in
// order. Copied; cheap. At most kMost levels. Thread-compatible.
template <typename Channel, int kMost = kMaxLevels>
class CodebookFit {
 public:
  // Puts the centers at their starts: `start` = StartOf(levels).
  HPROC_HOST_DEVICE void Begin(const Channel& channel, const ChannelMoments& moments, int levels, Centroids centroids,
                               const double* start) {
    channel_ = channel;
    levels_ = levels;
    centroids_format_ = centroids;
    square_ = moments.square;
    const int columns = channel_.columns();
    const double mean = moments.Mean(columns);
    const double deviation = moments.Deviation(columns);
    const double lowest = channel_.Value(0) + 0.0;  // -0 becomes 0: not all sorts keep it
    const double highest = channel_.Value(columns - 1) + 0.0;
    for (int k = 0; k < levels; ++k) {
      const double center = mean + deviation * start[k];
      centers_[k] = center < lowest ? lowest : (highest < center ? highest : center);
      borders_[k] = static_cast<int>(static_cast<int64_t>(columns) * k / levels);
    }
    borders_[levels] = 0;
  }

  // Goes on where another fit of this channel to that codebook stood: its centers and borders, the sums before them, and the
  // borders it left unsettled.
  template <typename State>
  HPROC_HOST_DEVICE void Resume(const Channel& channel, const ChannelMoments& moments, int levels, Centroids centroids,
                                const State& state) {
    channel_ = channel;
    levels_ = levels;
    centroids_format_ = centroids;
    square_ = moments.square;
    unsettled_ = state.Unsettled();
    for (int k = 0; k < levels; ++k) centers_[k] = state.Center(k);
    for (int k = 0; k <= levels; ++k) {
      borders_[k] = state.Border(k);
      sums_[k] = channel_.Sum(borders_[k]);
    }
  }

  // Fits to the channel without its `low` smallest and `high` largest values: from scratch, or seeded by the fit before.
  HPROC_HOST_DEVICE void FitFirst(int low, int high) {
    Lloyd(low, high, kFirstSteps);
    unsettled_ = ~uint64_t{0};
    ShiftBorders(kFirstSteps);
    SplitAndMerge();
  }
  HPROC_HOST_DEVICE void FitNext(int low, int high) {
    const int last = channel_.columns() - high;
    for (int k = 0; k <= levels_; ++k) {
      int border = borders_[k];
      if (border < low || k == 0) border = low;
      if (border > last || k == levels_) border = last;
      if (border == borders_[k]) continue;
      borders_[k] = border;
      sums_[k] = channel_.Sum(border);
    }
    Unsettle(1);
    Unsettle(levels_ - 1);
    ShiftBorders(kFollowSteps);
  }

  // Rounds the codebook and measures what it gives back with those outliers put right.
  HPROC_HOST_DEVICE void RoundAndMeasure(int low, int high) {
    const int columns = channel_.columns();
    const double largest = Largest(std::abs(centers_[0]), std::abs(centers_[levels_ - 1]));
    if (square_ == 0) {  // an exact zero channel
      scale_ = 0;
      for (int k = 0; k < levels_; ++k) centroids_[k] = 0;
      cosine_ = norm_ratio_ = 1;
      return;
    }
    // Rounded up, so that the largest centroid stays within 127.
    const auto exact = static_cast<float>(largest / kLargestInt8);
    scale_ = FloatToBfloat16(exact);
    if (Bfloat16ToFloat(scale_) < exact) ++scale_;
    const double scale = Bfloat16ToFloat(scale_);
    for (int k = 0; k < levels_; ++k) {
      centroids_[k] = RoundCentroid(scale > 0 ? centers_[k] / scale : 0, centroids_format_);
    }

    // Segments of the rounded codebook, over the whole channel; then the outliers are put right one by one.
    double dot = 0;
    double code_square = 0;
    int begin = 0;
    double before = 0;
    for (int k = 0; k < levels_; ++k) {
      const int end = CodeEnd(k, begin);
      const double center = scale * static_cast<double>(centroids_[k]);
      const double sum = channel_.Sum(end);
      dot += center * (sum - before);
      code_square += center * center * (end - begin);
      begin = end;
      before = sum;
    }
    for (int i = 0; i < low; ++i) Correct(channel_.Value(i), 0, scale, dot, code_square);
    for (int i = columns - high; i < columns; ++i) Correct(channel_.Value(i), levels_ - 1, scale, dot, code_square);
    norm_ratio_ = std::sqrt(code_square / square_);
    const double cosine = code_square > 0 ? dot / std::sqrt(code_square * square_) : 0;
    cosine_ = cosine < 1.0 ? cosine : 1.0;
  }

  HPROC_HOST_DEVICE float Threshold(int k) const {  // between centroids k - 1 and k
    return CodeThreshold(Bfloat16ToFloat(scale_), centroids_[k - 1], centroids_[k]);
  }
  // Where the sorted values that the rounded codebook gives code k end; `begin`: where those of code k - 1 do.
  HPROC_HOST_DEVICE int CodeEnd(int k, int begin) const {
    const int columns = channel_.columns();
    if (k + 1 == levels_) return columns;
    return LowerBoundNear(channel_, begin, columns, borders_[k + 1], Threshold(k + 1));
  }
  HPROC_HOST_DEVICE int levels() const { return levels_; }
  HPROC_HOST_DEVICE const double* centers() const { return centers_; }      // before rounding, [levels]
  HPROC_HOST_DEVICE const float* centroids() const { return centroids_; }  // as stored: whole numbers or fp16 values
  HPROC_HOST_DEVICE uint16_t scale() const { return scale_; }              // bfloat16
  HPROC_HOST_DEVICE double cosine() const { return cosine_; }
  HPROC_HOST_DEVICE double norm_ratio() const { return norm_ratio_; }

 private:
  HPROC_HOST_DEVICE static double Largest(double a, double b) { return a < b ? b : a; }

  HPROC_HOST_DEVICE void Unsettle(int k) {
    if (k < kMaxLevels) unsettled_ |= uint64_t{1} << k;  // the last border is never asked for
  }

  HPROC_HOST_DEVICE void SumAll() {
    for (int k = 0; k <= levels_; ++k) sums_[k] = channel_.Sum(borders_[k]);
  }
  HPROC_HOST_DEVICE void CenterAll() {
    for (int k = 0; k < levels_; ++k) {
      const int values = borders_[k + 1] - borders_[k];
      if (values > 0) centers_[k] = (sums_[k + 1] - sums_[k]) / static_cast<double>(values);
    }
  }

  HPROC_HOST_DEVICE void Lloyd(int low, int high, int max_steps) {
    const int first = low;
    const int last = channel_.columns() - high;  // one past the values to fit
    for (int step = 0; step < max_steps; ++step) {
      bool moved = borders_[0] != first || borders_[levels_] != last;
      borders_[0] = first;
      borders_[levels_] = last;
      for (int k = 1; k < levels_; ++k) {
        const auto threshold = static_cast<float>(0.5 * (centers_[k - 1] + centers_[k]));
        const int border = LowerBoundNear(channel_, borders_[k - 1], last, borders_[k], threshold);
        moved = moved || border != borders_[k];
        borders_[k] = border;
      }
      if (!moved) break;
      SumAll();
      CenterAll();
    }
  }

  // Hartigan's exchange: moves single values across borders while that pays.
  HPROC_HOST_DEVICE void ShiftBorders(int max_passes) {
    for (int pass = 0; pass < max_passes; ++pass) {
      bool moved = false;
      for (int k = 1; k < levels_; ++k) {
        if ((unsettled_ >> k & 1) == 0) continue;
        unsettled_ &= ~(uint64_t{1} << k);
        const int begin = borders_[k - 1];
        const int end = borders_[k + 1];
        const int start = borders_[k];
        int border = start;
        double left = border - begin;
        double right = end - border;
        double left_sum = sums_[k] - sums_[k - 1];
        double right_sum = sums_[k + 1] - sums_[k];
        while (right > 1) {
          const double x = channel_.Value(border);
          if (!ExchangePays(x, right, right_sum, left, left_sum)) break;
          ++border, ++left, --right, left_sum += x, right_sum -= x;
        }
        while (border <= start && left > 1) {
          const double x = channel_.Value(border - 1);
          if (!ExchangePays(x, left, left_sum, right, right_sum)) break;
          --border, --left, ++right, left_sum -= x, right_sum += x;
        }
        if (border != start) {
          borders_[k] = border;
          sums_[k] = channel_.Sum(border);
          Unsettle(k - 1);
          Unsettle(k + 1);
          moved = true;
        }
      }
      if (!moved) break;
    }
    CenterAll();
  }

  // Squared error added by one center for both intervals.
  HPROC_HOST_DEVICE static double JoinCost(int begin, int middle, int end, double begin_sum, double middle_sum,
                                           double end_sum) {
    const double left = middle - begin;
    const double right = end - middle;
    if (left == 0 || right == 0) return 0;
    const double left_sum = middle_sum - begin_sum;
    const double right_sum = end_sum - middle_sum;
    const double apart = left_sum / left - right_sum / right;
    return left * right / (left + right) * apart * apart;
  }

  // Leaves poor local optima: cuts the interval that gains most, joins the two that lose least.
  HPROC_HOST_DEVICE void SplitAndMerge() {
    for (int round = 0; round < levels_; ++round) {
      // What cutting an interval at its mean would save, and what joining it with the next one would cost.
      double best_gain = 0;
      int split = -1;
      int split_at = 0;
      for (int k = 0; k < levels_; ++k) {
        const int begin = borders_[k];
        const int end = borders_[k + 1];
        if (end - begin < 2) continue;
        const int middle =
            LowerBoundNear(channel_, begin, end, (begin + end) / 2, static_cast<float>(centers_[k]));
        if (middle == begin || middle == end) continue;
        const double gain = JoinCost(begin, middle, end, sums_[k], channel_.Sum(middle), sums_[k + 1]);
        if (gain > best_gain) {
          best_gain = gain;
          split = k;
          split_at = middle;
        }
      }
      if (split < 0) return;
      double best_cost = std::numeric_limits<double>::infinity();
      int merge = -1;
      for (int k = 0; k + 1 < levels_; ++k) {
        if (k == split || k + 1 == split) continue;
        const double cost = JoinCost(borders_[k], borders_[k + 1], borders_[k + 2], sums_[k], sums_[k + 1], sums_[k + 2]);
        if (cost < best_cost) {
          best_cost = cost;
          merge = k;
        }
      }
      if (merge < 0 || best_cost >= best_gain) return;

      // The border between merge and merge + 1 goes, one at split_at comes; those between move up or down by one.
      if (merge < split) {
        for (int k = merge + 1; k < split; ++k) borders_[k] = borders_[k + 1];
        borders_[split] = split_at;
      } else {
        for (int k = merge + 1; k > split + 1; --k) borders_[k] = borders_[k - 1];
        borders_[split + 1] = split_at;
      }
      SumAll();
      const int first = merge < split ? merge : split;
      const int last = merge < split ? split : merge;
      for (int k = first; k <= last + 1; ++k) Unsettle(k);
      ShiftBorders(kNextSteps);
    }
  }

  HPROC_HOST_DEVICE void Correct(double value, int k, double scale, double& dot, double& code_square) const {
    while (k + 1 < levels_ && value >= static_cast<double>(Threshold(k + 1))) ++k;
    while (k > 0 && value < static_cast<double>(Threshold(k))) --k;
    const auto center = static_cast<double>(centroids_[k]);
    const double residual = HalfToFloat(OutlierResidual(value, scale, center));
    const double given_back = scale * (center + residual);
    dot += (given_back - scale * center) * value;
    code_square += given_back * given_back - scale * center * scale * center;
  }

  Channel channel_{};
  int levels_ = 0;
  Centroids centroids_format_ = Centroids::kInt8;
  double square_ = 0;
  uint64_t unsettled_ = 0;  // bit k: border k lies beside a cluster that has changed
  double centers_[kMost];
  int borders_[kMost + 1];
  double sums_[kMost + 1];  // of the values before each border
  float centroids_[kMost];
  uint16_t scale_ = 0;
  double cosine_ = 1;
  double norm_ratio_ = 1;
};

}  // namespace hproc::quant
