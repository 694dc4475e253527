// The outliers of a tile of rows, times the tokens of a product; included once per target by kernels/matmul_cpu.cc.
#if defined(HPROC_KERNELS_OUTLIERS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HPROC_KERNELS_OUTLIERS_INL_H_
#undef HPROC_KERNELS_OUTLIERS_INL_H_
#else
#define HPROC_KERNELS_OUTLIERS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "hwy/highway.h"
#include "quant/xfp_matrix.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Four values at a time, which every target has: four tokens, or the rows of a tile.
using TagF32x4 = hn::FixedTag<float, 4>;
using VecF32x4 = hn::Vec<TagF32x4>;

// Column i of the result holds lane i of each argument.
HWY_INLINE void Transpose(VecF32x4 (&v)[4]) {
  const TagF32x4 d;
  const hn::RepartitionToWide<TagF32x4> wide;
  const auto a = hn::BitCast(wide, hn::InterleaveLower(d, v[0], v[1]));
  const auto b = hn::BitCast(wide, hn::InterleaveUpper(d, v[0], v[1]));
  const auto c = hn::BitCast(wide, hn::InterleaveLower(d, v[2], v[3]));
  const auto e = hn::BitCast(wide, hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(wide, a, c));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(wide, a, c));
  v[2] = hn::BitCast(d, hn::InterleaveLower(wide, b, e));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(wide, b, e));
}

// Tokens whose outliers are summed at once.
using TagOutliers = hn::CappedTag<float, 8>;

// A row's outliers are handled in steps of this many, the last step padded with zeros: rows have a few outliers each, and
// a loop that runs a different number of times in every row costs more than the products in it.
constexpr int64_t kOutlierStep = 4;

// The outliers of some rows of one matrix, in units of the rows' scales, and what they are multiplied with.
struct OutlierRows {
  std::vector<int64_t> ends;     // of row i: its outliers are [i > 0 ? ends[i - 1] : 0, ends[i]), whole steps
  std::vector<int32_t> columns;
  std::vector<float> values;
  std::vector<float> tokens;     // [chunks of tokens][columns][lanes of TagOutliers]: a column of a chunk is one load
  std::vector<float> sums;       // [rows of a tile][whole chunks of tokens]
  std::vector<double> exact_sums;  // [rows of a tile][tokens], where sums are asked for in double
};

// Of rows [first, last). Steps are read past the end; the container's sections are padded for it.
void ReadOutliers(const quant::XfpMatrix& matrix, int64_t first, int64_t last, OutlierRows& outliers) {
  const auto count_of = [&](int64_t row) -> int64_t {
    if (matrix.count_bytes() == 1) return matrix.outlier_counts[row];
    uint16_t count;
    std::memcpy(&count, matrix.outlier_counts + row * 2, 2);
    return count;
  };
  int64_t at = matrix.outlier_starts[first / quant::kOutlierRowBlock];
  for (int64_t r = first / quant::kOutlierRowBlock * quant::kOutlierRowBlock; r < first; ++r) at += count_of(r);
  outliers.ends.resize(static_cast<size_t>(last - first));
  int64_t end = 0;
  for (int64_t r = first; r < last; ++r) {
    end += (count_of(r) + kOutlierStep - 1) / kOutlierStep * kOutlierStep;
    outliers.ends[static_cast<size_t>(r - first)] = end;
  }
  if (outliers.values.size() < static_cast<size_t>(end)) {
    outliers.values.resize(static_cast<size_t>(end));
    outliers.columns.resize(static_cast<size_t>(end));
  }

  const TagF32x4 d;
  const hn::FixedTag<int32_t, kOutlierStep> d32;
  const hn::FixedTag<uint32_t, kOutlierStep> du32;
  const hn::FixedTag<uint16_t, kOutlierStep> du16;
  const hn::FixedTag<hwy::float16_t, kOutlierStep> d16;
  const auto last_column = hn::Set(du32, static_cast<uint32_t>(matrix.columns - 1));
  const auto* values = reinterpret_cast<const hwy::float16_t*>(matrix.outlier_values);
  const bool wide = quant::OutlierColumnBytes(matrix.columns) == 4;
  int64_t to = 0;
  for (int64_t r = first; r < last; ++r) {
    const auto count = static_cast<int32_t>(count_of(r));
    for (int32_t i = 0; i < count; i += kOutlierStep, to += kOutlierStep) {
      const auto there = hn::Iota(d32, i) < hn::Set(d32, count);
      const uint8_t* stored = matrix.outlier_columns + (at + i) * (wide ? 4 : 2);
      // What is read past the row's end may be any number; as a column it must exist, as a value it must be zero.
      const auto columns = wide ? hn::LoadU(du32, reinterpret_cast<const uint32_t*>(stored))
                                : hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(stored)));
      hn::StoreU(hn::BitCast(d32, hn::Min(columns, last_column)), d32, outliers.columns.data() + to);
      hn::StoreU(hn::IfThenElseZero(hn::RebindMask(d, there), hn::PromoteTo(d, hn::LoadU(d16, values + at + i))), d,
                 outliers.values.data() + to);
    }
    at += count;
  }
}

// Fills OutlierRows::tokens; tokens missing from the last chunk are zero.
void InterleaveTokens(std::span<const float* const> tokens, int64_t columns, std::vector<float>& interleaved) {
  const TagF32x4 d;
  const size_t chunk = hn::Lanes(TagOutliers());
  interleaved.resize(static_cast<size_t>(columns) * hwy::RoundUpTo(tokens.size(), chunk));
  for (size_t first = 0; first < hwy::RoundUpTo(tokens.size(), chunk); first += 4) {
    float* out = interleaved.data() + first / chunk * chunk * static_cast<size_t>(columns) + first % chunk;
    const size_t count = std::min<size_t>(4, tokens.size() - std::min(first, tokens.size()));
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      VecF32x4 v[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      for (size_t t = 0; t < count; ++t) v[t] = hn::LoadU(d, tokens[first + t] + c);
      Transpose(v);
      for (int i = 0; i < 4; ++i, out += chunk) hn::StoreU(v[i], d, out);
    }
    for (; c < columns; ++c, out += chunk) {
      for (size_t t = 0; t < 4; ++t) out[t] = t < count ? tokens[first + t][c] : 0.0f;
    }
  }
}

// Fills OutlierRows::sums for `row_count` rows from `first` on. A single token is read where it stands; the products and
// their order are the same either way.
void SumOutliers(std::span<const float* const> tokens, int64_t all_columns, int64_t first, int row_count,
                 OutlierRows& outliers) {
  const TagOutliers d;
  const hn::CappedTag<float, 1> d1;
  const size_t chunk = hn::Lanes(d);
  const size_t stride = hwy::RoundUpTo(tokens.size(), chunk);
  const float* HWY_RESTRICT values = outliers.values.data();
  const int32_t* HWY_RESTRICT columns = outliers.columns.data();
  int64_t begin = first > 0 ? outliers.ends[static_cast<size_t>(first) - 1] : 0;
  for (int r = 0; r < row_count; ++r) {
    const int64_t end = outliers.ends[static_cast<size_t>(first + r)];
    float* sums = outliers.sums.data() + static_cast<size_t>(r) * stride;
    if (tokens.size() == 1) {
      auto sum = hn::Zero(d1);
      for (int64_t i = begin; i < end; i += kOutlierStep) {
        for (int64_t k = i; k < i + kOutlierStep; ++k) {
          sum = hn::MulAdd(hn::Set(d1, values[k]), hn::LoadU(d1, tokens[0] + columns[k]), sum);
        }
      }
      hn::StoreU(sum, d1, sums);
    } else {
      for (size_t t = 0; t < stride; t += chunk) {
        const float* of_chunk = outliers.tokens.data() + t * static_cast<size_t>(all_columns);
        auto sum = hn::Zero(d);
        for (int64_t i = begin; i < end; i += kOutlierStep) {
          for (int64_t k = i; k < i + kOutlierStep; ++k) {
            const auto x = hn::LoadU(d, of_chunk + static_cast<size_t>(columns[k]) * chunk);
            sum = hn::MulAdd(hn::Set(d, values[k]), x, sum);
          }
        }
        hn::StoreU(sum, d, sums + t);
      }
    }
    begin = end;
  }
}

// Fills OutlierRows::exact_sums likewise. Tokens are read where they stand.
void SumOutliersExactly(std::span<const float* const> tokens, int64_t first, int row_count, OutlierRows& outliers) {
  const float* HWY_RESTRICT values = outliers.values.data();
  const int32_t* HWY_RESTRICT columns = outliers.columns.data();
  int64_t begin = first > 0 ? outliers.ends[static_cast<size_t>(first) - 1] : 0;
  for (int r = 0; r < row_count; ++r) {
    const int64_t end = outliers.ends[static_cast<size_t>(first + r)];
    for (size_t t = 0; t < tokens.size(); ++t) {
      double sum = 0;
      for (int64_t i = begin; i < end; ++i) {
        sum += static_cast<double>(values[i]) * static_cast<double>(tokens[t][columns[i]]);
      }
      outliers.exact_sums[static_cast<size_t>(r) * tokens.size() + t] = sum;
    }
    begin = end;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard, toggled per target
