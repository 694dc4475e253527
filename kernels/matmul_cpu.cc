#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/matmul_backends.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first
#include "hwy/highway.h"
#include "kernels/expand-inl.h"
#include "kernels/outliers-inl.h"

// A tile of weights is kRowTile rows; against it stand up to kTokenTile tokens at once, one accumulator a pair.
#ifndef HPROC_KERNELS_MATMUL_TILES_
#define HPROC_KERNELS_MATMUL_TILES_
namespace hproc::kernels {
inline constexpr int kRowTile = 4;
inline constexpr int kTokenTile = 4;
}  // namespace hproc::kernels
#endif

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL && HWY_COMPILER_GCC_ACTUAL
// Every processor of this target has VNNI, but Highway 1.0.3 does not name it to the compiler.
#pragma GCC push_options
#pragma GCC target("avx512vnni")
#endif
namespace hproc::kernels {
namespace HWY_NAMESPACE {

// sum + pairwise products of 16-bit integers.
HWY_INLINE hn::Vec<TagI32> MultiplyAdd16(hn::Vec<TagI16> a, hn::Vec<TagI16> b, hn::Vec<TagI32> sum) {
#if HWY_TARGET == HWY_AVX3_DL && HWY_COMPILER_GCC_ACTUAL
  return hn::Vec<TagI32>{_mm512_dpwssd_epi32(sum.raw, a.raw, b.raw)};
#else
  const TagI32 d32;
  auto other = hn::Zero(d32);
  sum = hn::ReorderWidenMulAccumulate(d32, a, b, sum, other);
  return sum + other;
#endif
}

// The sum of a vector's 128-bit blocks.
template <class D>
HWY_INLINE auto SumOfBlocks(D, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return SumOfBlocks(half, hn::LowerHalf(half, v) + hn::UpperHalf(half, v));
  } else {
    return v;
  }
}

// [sum of v[0]'s lanes, …, sum of v[3]'s lanes]. Each is added up in the same order, whatever stands beside it.
template <class D>
HWY_INLINE auto SumsOfLanes(D d, const hn::Vec<D> (&v)[4]) {
  const hn::RepartitionToWide<D> wide;
  const auto low = hn::BitCast(wide, hn::InterleaveLower(d, v[0], v[1]) + hn::InterleaveUpper(d, v[0], v[1]));
  const auto high = hn::BitCast(wide, hn::InterleaveLower(d, v[2], v[3]) + hn::InterleaveUpper(d, v[2], v[3]));
  return SumOfBlocks(d, hn::BitCast(d, hn::InterleaveLower(wide, low, high)) +
                            hn::BitCast(d, hn::InterleaveUpper(wide, low, high)));
}

// Adds four whole numbers.
HWY_INLINE void AddWhole(hn::Vec<hn::FixedTag<int32_t, 4>> whole, float* HWY_RESTRICT dots) {
  const TagF32x4 d4;
  hn::Store(hn::Load(d4, dots) + hn::ConvertTo(d4, whole), d4, dots);
}
HWY_INLINE void AddWhole(hn::Vec<hn::FixedTag<int32_t, 4>> whole, double* HWY_RESTRICT dots) {
  alignas(16) int32_t stored[4];
  hn::Store(whole, hn::FixedTag<int32_t, 4>(), stored);
  for (int i = 0; i < 4; ++i) dots[i] += stored[i];
}

// dots[t * kRowTile + r] = sum over columns of rows[r] * tokens[t], for whole numbers; 0 for r >= kRows. In double it is exact.
template <int kRows, int kTokens, typename Sum>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, Sum* HWY_RESTRICT dots) {
  const TagI16 d16;
  const TagI32 d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  std::fill_n(dots, kTokens * kRowTile, Sum{0});
  for (int64_t segment = 0; segment < padded_columns; segment += kIntegerColumns) {
    const int64_t end = HWY_MIN(padded_columns, segment + kIntegerColumns);
    hn::Vec<TagI32> sums[kTokens][kRowTile];
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRowTile; ++r) sums[t][r] = hn::Zero(d32);
    }
    for (int64_t c = segment; c < end; c += lanes) {
      hn::Vec<TagI16> x[kTokens];
      for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d16, tokens[t] + c);
      for (int r = 0; r < kRows; ++r) {
        const auto w = hn::Load(d16, rows + r * row_stride + c);
        for (int t = 0; t < kTokens; ++t) sums[t][r] = MultiplyAdd16(w, x[t], sums[t][r]);
      }
    }
    for (int t = 0; t < kTokens; ++t) AddWhole(SumsOfLanes(d32, sums[t]), dots + t * kRowTile);
  }
}

// The scales of a tile's rows, one a group of kGroupColumns columns: those of row r begin at scales[r * groups]. The first group
// lacks `offset` columns.
struct GroupScales {
  const float* scales = nullptr;
  int64_t groups = 0;
  int64_t offset = 0;

  int64_t begin(int64_t group) const { return std::max<int64_t>(0, group * quant::kGroupColumns - offset); }
  int64_t end(int64_t group, int64_t padded_columns) const {
    return std::min(padded_columns, (group + 1) * quant::kGroupColumns - offset);
  }
};

// whole[t][r] = lane sums of columns [begin, end).
template <int kRows, int kTokens>
HWY_INLINE void WholeOfGroup(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens, int64_t begin,
                             int64_t end, hn::Vec<TagI32> (&whole)[kTokens][kRowTile]) {
  const TagI16 d16;
  const TagI32 d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) whole[t][r] = hn::Zero(d32);
  }
  int64_t c = begin;
  for (; c + lanes <= end; c += lanes) {
    hn::Vec<TagI16> x[kTokens];
    for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d16, tokens[t] + c);
    for (int r = 0; r < kRows; ++r) {
      const auto w = hn::LoadU(d16, rows + r * row_stride + c);
      for (int t = 0; t < kTokens; ++t) whole[t][r] = MultiplyAdd16(w, x[t], whole[t][r]);
    }
  }
  if (c == end) return;
  for (int t = 0; t < kTokens; ++t) {  // of rows that were cut inside a group
    for (int r = 0; r < kRows; ++r) {
      int32_t rest = 0;
      for (int64_t tail = c; tail < end; ++tail) rest += int32_t{rows[r * row_stride + tail]} * int32_t{tokens[t][tail]};
      whole[t][r] = whole[t][r] + hn::IfThenElseZero(hn::FirstN(d32, 1), hn::Set(d32, rest));
    }
  }
}

// As above with group scales. Groups are summed as whole numbers, lane by lane, and added up in float32 …
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, float* HWY_RESTRICT dots, const GroupScales& groups) {
  const TagF32 d;
  hn::Vec<TagF32> sums[kTokens][kRowTile];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) sums[t][r] = hn::Zero(d);
  }
  for (int64_t g = 0; g < groups.groups; ++g) {
    hn::Vec<TagI32> whole[kTokens][kRowTile];
    WholeOfGroup<kRows, kTokens>(rows, row_stride, tokens, groups.begin(g), groups.end(g, padded_columns), whole);
    for (int r = 0; r < kRows; ++r) {
      const auto scale = hn::Set(d, groups.scales[r * groups.groups + g]);
      for (int t = 0; t < kTokens; ++t) sums[t][r] = hn::MulAdd(hn::ConvertTo(d, whole[t][r]), scale, sums[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t) hn::Store(SumsOfLanes(d, sums[t]), TagF32x4(), dots + t * kRowTile);
}

// … or in double.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, double* HWY_RESTRICT dots, const GroupScales& groups) {
  std::fill_n(dots, kTokens * kRowTile, 0.0);
  for (int64_t g = 0; g < groups.groups; ++g) {
    hn::Vec<TagI32> whole[kTokens][kRowTile];
    WholeOfGroup<kRows, kTokens>(rows, row_stride, tokens, groups.begin(g), groups.end(g, padded_columns), whole);
    for (int t = 0; t < kTokens; ++t) {
      double of_group[kRowTile] = {};
      AddWhole(SumsOfLanes(TagI32(), whole[t]), of_group);
      for (int r = 0; r < kRows; ++r) {
        dots[t * kRowTile + r] += of_group[r] * static_cast<double>(groups.scales[r * groups.groups + g]);
      }
    }
  }
}

// The same for floats. The tail of a row that does not fill a register is added value by value.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, int64_t row_stride, const float* const* tokens, int64_t columns,
                        float* HWY_RESTRICT dots) {
  const TagF32 d;
  const TagF32x4 d4;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<TagF32> sums[kTokens][kRowTile];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) sums[t][r] = hn::Zero(d);
  }
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) {
    hn::Vec<TagF32> x[kTokens];
    for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d, tokens[t] + c);
    for (int r = 0; r < kRows; ++r) {
      const auto w = hn::LoadU(d, rows + r * row_stride + c);
      for (int t = 0; t < kTokens; ++t) sums[t][r] = hn::MulAdd(w, x[t], sums[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float* out = dots + t * kRowTile;
    hn::Store(SumsOfLanes(d, sums[t]), d4, out);
    // In registers of one value: left to itself the compiler fuses product and sum in one kRows and not in another.
    const hn::CappedTag<float, 1> d1;
    for (int r = 0; c < columns && r < kRows; ++r) {
      auto sum = hn::LoadU(d1, out + r);
      for (int64_t tail = c; tail < columns; ++tail) {
        sum = hn::MulAdd(hn::LoadU(d1, rows + r * row_stride + tail), hn::LoadU(d1, tokens[t] + tail), sum);
      }
      hn::StoreU(sum, d1, out + r);
    }
  }
}

// In double, where a product of two floats is exact.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, int64_t row_stride, const float* const* tokens, int64_t columns,
                        double* HWY_RESTRICT dots) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      auto sum = hn::Zero(d);
      int64_t c = 0;
      for (; c + lanes <= columns; c += lanes) {
        sum = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(half, rows + r * row_stride + c)),
                         hn::PromoteTo(d, hn::LoadU(half, tokens[t] + c)), sum);
      }
      double dot = hn::GetLane(hn::SumOfLanes(d, sum));
      for (; c < columns; ++c) dot += static_cast<double>(rows[r * row_stride + c]) * static_cast<double>(tokens[t][c]);
      dots[t * kRowTile + r] = dot;
    }
  }
}

template <typename T, typename Sum, typename... Scales>
HWY_INLINE void DotRows(int row_count, const T* rows, int64_t row_stride, const T* const* tokens, int token_count,
                        int64_t columns, Sum* dots, const Scales&... scales) {
  const auto with_tokens = [&]<int kTokens>() HWY_ATTR {
    switch (row_count) {
      case 4: return DotTile<4, kTokens>(rows, row_stride, tokens, columns, dots, scales...);
      case 3: return DotTile<3, kTokens>(rows, row_stride, tokens, columns, dots, scales...);
      case 2: return DotTile<2, kTokens>(rows, row_stride, tokens, columns, dots, scales...);
      default: return DotTile<1, kTokens>(rows, row_stride, tokens, columns, dots, scales...);
    }
  };
  switch (token_count) {
    case 4: return with_tokens.template operator()<4>();
    case 3: return with_tokens.template operator()<3>();
    case 2: return with_tokens.template operator()<2>();
    default: return with_tokens.template operator()<1>();
  }
}

// Outliers are in units of their group's scale, which SumOutliers does not know.
bool IsInteger(const Matrix& weight) {
  return weight.storage == Storage::kXfp && weight.xfp.format.centroids == quant::Centroids::kInt8 &&
         !(weight.xfp.format.group_scales && weight.xfp.outliers > 0);
}

// Per thread: the tile of expanded rows, and the tokens of the call.
struct Scratch {
  std::vector<int16_t> whole_rows;
  std::vector<float> float_rows;
  std::vector<const int16_t*> quantized;
  std::vector<const float*> values;
  std::vector<float*> outputs;
  std::vector<double*> sums;
  std::vector<float> scales;
  std::vector<float> group_scales;
  OutlierRows outliers;
};

// A tile's results for one token: kRowTile values, of which `row_count` exist.
HWY_INLINE void StoreTile(VecF32x4 values, int row_count, float* output) {
  const TagF32x4 d;
  if (row_count == kRowTile) return hn::StoreU(values, d, output);
  alignas(16) float stored[kRowTile];
  hn::Store(values, d, stored);
  std::copy_n(stored, row_count, output);
}

// Where the results of a call go.
template <typename Sum>
HWY_INLINE Sum* OutputOf(Scratch& scratch, size_t token) {
  if constexpr (std::is_same_v<Sum, double>) {
    return scratch.sums[token];
  } else {
    return scratch.outputs[token];
  }
}

template <typename Sum>
void IntegerRows(const MatmulCall& call, int64_t begin, int64_t end, Scratch& scratch) {
  constexpr bool kExact = std::is_same_v<Sum, double>;
  const quant::XfpMatrix& matrix = call.weight->xfp;
  const int64_t padded = PaddedColumns(matrix.columns);
  const ExpandRowIntFunction expand = ExpandRowIntOf(matrix.format.levels);
  auto* rows = reinterpret_cast<int16_t*>(hwy::RoundUpTo(reinterpret_cast<uintptr_t>(scratch.whole_rows.data()), 64));
  OutlierRows& outliers = scratch.outliers;
  const bool has_outliers = matrix.outliers > 0;
  const size_t sums_stride = hwy::RoundUpTo(scratch.values.size(), hn::Lanes(TagOutliers()));
  if (has_outliers) {
    ReadOutliers(matrix, call.first_row + begin, call.first_row + end, outliers);
    if (kExact) {
      outliers.exact_sums.resize(kRowTile * scratch.values.size());
    } else {
      if (call.tokens > 1) InterleaveTokens(scratch.values, matrix.columns, outliers.tokens);
      outliers.sums.resize(kRowTile * sums_stride);
    }
  }
  const bool group_scales = matrix.format.group_scales;
  const int64_t groups = group_scales ? matrix.groups() : 0;
  scratch.group_scales.resize(static_cast<size_t>(kRowTile * groups));
  const TagF32x4 d;
  alignas(16) float row_scales[kRowTile] = {1, 1, 1, 1};
  alignas(16) Sum dots[kTokenTile * kRowTile];
  for (int64_t r = begin; r < end; r += kRowTile) {
    const int row_count = static_cast<int>(std::min<int64_t>(kRowTile, end - r));
    for (int i = 0; i < row_count; ++i) {
      expand(matrix, call.first_row + r + i, rows + i * padded);
      if (!group_scales) row_scales[i] = quant::Bfloat16ToFloat(matrix.scales[call.first_row + r + i]);
      for (int64_t g = 0; g < groups; ++g) {
        scratch.group_scales[static_cast<size_t>(i * groups + g)] =
            quant::Bfloat16ToFloat(matrix.scales[(call.first_row + r + i) * groups + g]);
      }
    }
    if (has_outliers && kExact) SumOutliersExactly(scratch.values, r - begin, row_count, outliers);
    if (has_outliers && !kExact) SumOutliers(scratch.values, matrix.columns, r - begin, row_count, outliers);
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      const int16_t* const* quantized = scratch.quantized.data() + t;
      if (group_scales) {
        DotRows(row_count, rows, padded, quantized, token_count, padded, dots,
                GroupScales{.scales = scratch.group_scales.data(), .groups = groups, .offset = matrix.cut.group_offset()});
      } else {
        DotRows(row_count, rows, padded, quantized, token_count, padded, dots);
      }
      if constexpr (kExact) {
        for (int k = 0; k < token_count; ++k) {
          const auto token = static_cast<size_t>(t + k);
          double* output = OutputOf<double>(scratch, token) + r;
          for (int i = 0; i < row_count; ++i) {
            double sum = static_cast<double>(scratch.scales[token]) * dots[k * kRowTile + i];
            if (has_outliers) sum += outliers.exact_sums[static_cast<size_t>(i) * scratch.values.size() + token];
            output[i] = static_cast<double>(row_scales[i]) * sum;
          }
        }
      } else {
      VecF32x4 outlier_sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      if (has_outliers) {
        for (size_t i = 0; i < kRowTile; ++i) {
          outlier_sums[i] = hn::LoadU(d, outliers.sums.data() + i * sums_stride + static_cast<size_t>(t));
        }
        Transpose(outlier_sums);
      }
      for (int k = 0; k < token_count; ++k) {
        const auto sum = hn::Set(d, scratch.scales[static_cast<size_t>(t + k)]) * hn::Load(d, dots + k * kRowTile) + outlier_sums[k];
        StoreTile(hn::Load(d, row_scales) * sum, row_count, OutputOf<float>(scratch, static_cast<size_t>(t + k)) + r);
      }
      }
    }
  }
}

template <typename Sum>
void FloatRows(const MatmulCall& call, int64_t begin, int64_t end, Scratch& scratch) {
  const int64_t columns = call.weight->columns;
  const int64_t padded = PaddedColumns(columns);
  auto* rows = reinterpret_cast<float*>(hwy::RoundUpTo(reinterpret_cast<uintptr_t>(scratch.float_rows.data()), 64));
  for (int64_t r = begin; r < end; r += kRowTile) {
    const int row_count = static_cast<int>(std::min<int64_t>(kRowTile, end - r));
    for (int i = 0; i < row_count; ++i) ExpandRowFloat(*call.weight, call.first_row + r + i, padded, rows + i * padded);
    alignas(16) Sum dots[kTokenTile * kRowTile];
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      const float* const* values = scratch.values.data() + t;  // tokens may be fewer than a tile's
      DotRows(row_count, rows, padded, values, token_count, columns, dots);
      for (int k = 0; k < token_count; ++k) {
        if constexpr (std::is_same_v<Sum, double>) {
          std::copy_n(dots + k * kRowTile, row_count, OutputOf<double>(scratch, static_cast<size_t>(t + k)) + r);
        } else {
        StoreTile(hn::Load(TagF32x4(), dots + k * kRowTile), row_count, OutputOf<float>(scratch, static_cast<size_t>(t + k)) + r);
        }
      }
    }
  }
}

// Rows [begin, end) of one call, on one thread.
void ComputeRows(const MatmulCall& call, int64_t begin, int64_t end) {
  thread_local Scratch scratch;
  const int64_t columns = call.weight->columns;
  const int64_t padded = PaddedColumns(columns);
  const bool integer = IsInteger(*call.weight);
  const auto tokens = static_cast<size_t>(call.tokens);
  const auto input_of = [&](size_t i) { return call.input_tokens != nullptr ? call.input_tokens[i] : static_cast<int64_t>(i); };
  scratch.values.resize(tokens);
  const bool exact = call.sums != nullptr;
  scratch.outputs.resize(tokens);
  scratch.sums.resize(tokens);
  for (size_t i = 0; i < tokens; ++i) {
    scratch.values[i] = call.input->values + input_of(i) * columns;
    const int64_t out = call.output_rows != nullptr ? call.output_rows[i] : static_cast<int64_t>(i);
    if (exact) {
      scratch.sums[i] = call.sums + out * call.output_stride;
    } else {
      scratch.outputs[i] = call.output + out * call.output_stride;
    }
  }
  const auto tile = static_cast<size_t>(kRowTile * padded + 64);
  if (integer) {
    scratch.quantized.resize(tokens);
    scratch.scales.resize(tokens);
    for (size_t i = 0; i < tokens; ++i) {
      scratch.quantized[i] = call.input->quantized + input_of(i) * padded;
      scratch.scales[i] = call.input->scales[input_of(i)];
    }
    if (scratch.whole_rows.size() < tile) scratch.whole_rows.resize(tile);
    exact ? IntegerRows<double>(call, begin, end, scratch) : IntegerRows<float>(call, begin, end, scratch);
  } else {
    if (scratch.float_rows.size() < tile) scratch.float_rows.resize(tile);
    exact ? FloatRows<double>(call, begin, end, scratch) : FloatRows<float>(call, begin, end, scratch);
  }
}

// NaN where a value is not finite.
float LargestMagnitude(const float* values, int64_t columns) {
  const TagF32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  auto rest = hn::Zero(d);  // v - v: not a number where v is not finite, and it stays so
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) {
    const auto v = hn::LoadU(d, values + c);
    largest = hn::Max(largest, hn::Abs(v));
    rest = rest + (v - v);
  }
  float most = hn::GetLane(hn::MaxOfLanes(d, largest));
  bool finite = hn::GetLane(hn::SumOfLanes(d, rest)) == 0;
  for (; c < columns; ++c) {
    most = std::max(most, std::abs(values[c]));
    finite = finite && std::isfinite(values[c]);
  }
  return finite ? most : std::numeric_limits<float>::quiet_NaN();
}

void QuantizeToken(const float* values, int64_t columns, float most, int16_t* quantized, float* scale) {
  const TagF32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t padded = PaddedColumns(columns);
  // Below some 4.8e-35 the factor would be infinite, and zero times it NaN: what is so small counts as zero.
  const float inverse = static_cast<float>(kQuantizedActivationMax) / most;
  if (!std::isfinite(inverse)) {
    std::fill_n(quantized, padded, int16_t{0});
    *scale = std::isnan(most) ? most : 0.0f;
    return;
  }
  *scale = most / static_cast<float>(kQuantizedActivationMax);
  const hn::Rebind<int16_t, TagF32> d16;
  const auto factor = hn::Set(d, inverse);
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) {
    const auto rounded = hn::NearestInt(hn::LoadU(d, values + c) * factor);
    hn::StoreU(hn::DemoteTo(d16, rounded), d16, quantized + c);
  }
  for (; c < columns; ++c) quantized[c] = static_cast<int16_t>(std::nearbyint(values[c] * inverse));
  std::fill(quantized + columns, quantized + padded, int16_t{0});
}

const char* Name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
#if HWY_TARGET == HWY_AVX3_DL && HWY_COMPILER_GCC_ACTUAL
#pragma GCC pop_options
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hproc::kernels {
HWY_EXPORT(ComputeRows);
HWY_EXPORT(LargestMagnitude);
HWY_EXPORT(QuantizeToken);
HWY_EXPORT(Name);

namespace cpu {

const char* TargetName() { return HWY_DYNAMIC_DISPATCH(Name)(); }

namespace {

// Calls one(token) for all of them, on the pool where they are many.
template <typename One>
void ForTokens(const Context& context, int64_t tokens, One&& one) {
  if (tokens < 8) {
    for (int64_t t = 0; t < tokens; ++t) one(t, 0);
  } else {
    context.pool->ParallelFor(tokens, one);
  }
}

void QuantizeToken(const Activations& activations, int64_t t, float largest) {
  HWY_DYNAMIC_DISPATCH(QuantizeToken)
  (activations.values + t * activations.columns, activations.columns, largest,
   activations.quantized + t * PaddedColumns(activations.columns), activations.scales + t);
}

float LargestOf(const Activations& activations, int64_t t) {
  return HWY_DYNAMIC_DISPATCH(LargestMagnitude)(activations.values + t * activations.columns, activations.columns);
}

}  // namespace

void QuantizeActivations(const Context& context, const Activations& activations) {
  ForTokens(context, activations.tokens, [&](int64_t t, int) { QuantizeToken(activations, t, LargestOf(activations, t)); });
}

void LargestMagnitudes(const Context& context, const Activations& activations, float* largest) {
  ForTokens(context, activations.tokens, [&](int64_t t, int) { largest[t] = LargestOf(activations, t); });
}

void QuantizeActivations(const Context& context, const Activations& activations, const float* largest) {
  ForTokens(context, activations.tokens, [&](int64_t t, int) { QuantizeToken(activations, t, largest[t]); });
}

void Matmul(const Context& context, std::span<const MatmulCall> calls) {
  // Cut every call into blocks of about the same cost: expanding a row costs about as much as two tokens.
  struct Block {
    const MatmulCall* call;
    int64_t begin;
    int64_t end;
  };
  thread_local std::vector<Block> blocks;
  int64_t total_cost = 0;
  for (const MatmulCall& call : calls) total_cost += call.rows * call.weight->columns * (call.tokens + 2);
  constexpr int64_t kLeastCost = 40000;  // some microseconds
  const int64_t block_cost = std::max(kLeastCost, total_cost / (4 * context.pool->size()));
  blocks.clear();
  for (const MatmulCall& call : calls) {
    if (call.tokens == 0) continue;
    const int64_t row_cost = call.weight->columns * (call.tokens + 2);
    const int64_t rows = std::max<int64_t>(kRowTile, block_cost / row_cost / kRowTile * kRowTile);
    for (int64_t begin = 0; begin < call.rows; begin += rows) {
      blocks.push_back({&call, begin, std::min(call.rows, begin + rows)});
    }
  }
  const std::vector<Block>& work = blocks;  // thread_local: the helpers must see this thread's
  context.pool->ParallelFor(static_cast<int64_t>(work.size()), [&work](int64_t i, int) {
    const Block& block = work[static_cast<size_t>(i)];
    HWY_DYNAMIC_DISPATCH(ComputeRows)(*block.call, block.begin, block.end);
  });
}

}  // namespace cpu
}  // namespace hproc::kernels
#endif  // HWY_ONCE
