// The codebook of one channel (XFP's V2): Lloyd's algorithm on the sorted channel, and the fewest outliers that lift
// the channel to its floor.
//
// A channel w [columns] is given back as
//
//     w'[j] = scale * (centroid[code[j]] + outlier[j])
//
// with int8 (or fp16) centroids, one bfloat16 scale and, for a few columns, an fp16 outlier residual. The scale's eight
// bits of precision cost nothing, because the centroids are rounded against the rounded scale, and its exponent covers
// every row of every checkpoint, which fp16's does not (rows of dead neurons shrink below 1e-8). The residual is in
// units of the scale for the same reason.
//
// The channel is sorted once. With prefix sums of w and w^2 the mean, the squared error and the cosine of any partition
// into intervals follow from its borders, so one Lloyd step costs K short searches and no pass over the data (the idea
// of flash1dkmeans, used by Any-Precision LLM). Outliers are taken from the two ends of the sorted channel, the farthest
// from the mean first, and the codebook is fitted to what remains: what an outlier carries exactly must not bend it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/codebook_fit.h"
#include "quant/float_sort.h"
#include "quant/levels.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

// The outlier counts tried for a channel, ascending from 0: every count to 8, then four an octave, up to columns / 16
// (two bits a weight: beyond that more levels are always cheaper).
std::vector<int> OutlierCounts(int64_t columns);

struct ChannelCode {
  int levels = 0;
  std::array<float, kMaxLevels> centroids{};  // as stored: whole numbers, or fp16 values; ascending, [0, levels)
  uint16_t scale = 0;                         // bfloat16
  int outliers = 0;
  int low_outliers = 0;   // of those, the ones among the smallest values; the others are the largest
  double cosine = 1;      // of w and w', exactly as they will be stored
  double norm_ratio = 1;  // ||w'|| / ||w||
};

// What encoding a channel yields. codes has one entry a column; outliers are sorted by column.
struct EncodedChannel {
  std::vector<uint8_t> codes;
  std::vector<uint32_t> outlier_columns;
  std::vector<uint16_t> outlier_values;  // fp16, in units of the scale
};

// Thread-compatible; keeps its buffers from channel to channel.
class ChannelFitter {
 public:
  // Sorts. The values must be finite; the span must stay valid until the next Reset.
  void Reset(std::span<const float> channel);

  // Starts over for codebooks of `levels`; then each Next() fits with the next of OutlierCounts(columns), seeded by the
  // fit before. The result depends only on the channel, `levels` and how many Next() came before.
  void Begin(int levels, Centroids centroids);
  bool Next();  // false when there are no further counts; code() then keeps the last fit

  const ChannelCode& code() const { return code_; }
  // The centroids of the last fit before rounding, ascending [levels], and the sorted channel.
  std::span<const double> centers() const { return {fit_.centers(), static_cast<size_t>(code_.levels)}; }
  std::span<const float> sorted() const { return sorted_; }
  // The columns of the sorted values, and the sums of the first i of them, [columns + 1].
  std::span<const uint32_t> order() const { return order_; }
  std::span<const double> sums() const { return sum_; }
  const ChannelMoments& moments() const { return moments_; }

  // Next() until the cosine reaches `floor`; false when no count gets there.
  bool FitToFloor(int levels, Centroids centroids, double floor);

  // Codes and outliers of the channel under code(). Ties between equal values go to the lower column first.
  void Encode(EncodedChannel& encoded) const;

 private:
  // sorted_ and sum_ as CodebookFit asks for them.
  struct SortedChannel {
    const float* values = nullptr;
    const double* sums = nullptr;
    int count = 0;
    int columns() const { return count; }
    float Value(int i) const { return values[i]; }
    double Sum(int i) const { return sums[i]; }
  };

  std::span<const float> channel_;
  std::vector<int> counts_;
  int64_t counts_columns_ = -1;
  FloatSorter sorter_;
  std::vector<float> sorted_;
  std::vector<uint32_t> order_;    // columns of sorted_, equal values by column
  std::vector<double> sum_;        // sum_[i] of sorted_[0, i)
  std::vector<int> low_of_count_;  // how many of the first n outliers are at the low end
  ChannelMoments moments_;
  size_t next_count_ = 0;
  CodebookFit<SortedChannel> fit_;
  ChannelCode code_;
};

}  // namespace hproc::quant
