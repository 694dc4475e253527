#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
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

// dots[t * kRowTile + r] = sum over columns of rows[r] * tokens[t], for whole numbers; 0 for r >= kRows.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, float* HWY_RESTRICT dots) {
  const TagI16 d16;
  const TagI32 d32;
  const TagF32x4 d4;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  for (int t = 0; t < kTokens; ++t) hn::Store(hn::Zero(d4), d4, dots + t * kRowTile);
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
    for (int t = 0; t < kTokens; ++t) {
      const auto dot = hn::ConvertTo(d4, SumsOfLanes(d32, sums[t]));
      hn::Store(hn::Load(d4, dots + t * kRowTile) + dot, d4, dots + t * kRowTile);
    }
  }
}

// As above with a scale for each group of kGroupColumns columns: those of row r begin at group_scales[r * groups]. Groups
// are summed as whole numbers, lane by lane, and added up in float32.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, float* HWY_RESTRICT dots, const float* group_scales) {
  const TagI16 d16;
  const TagI32 d32;
  const TagF32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  const int64_t groups = quant::GroupsPerRow(padded_columns);
  hn::Vec<TagF32> sums[kTokens][kRowTile];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) sums[t][r] = hn::Zero(d);
  }
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t end = HWY_MIN(padded_columns, (g + 1) * quant::kGroupColumns);
    hn::Vec<TagI32> whole[kTokens][kRowTile];
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRows; ++r) whole[t][r] = hn::Zero(d32);
    }
    for (int64_t c = g * quant::kGroupColumns; c < end; c += lanes) {
      hn::Vec<TagI16> x[kTokens];
      for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d16, tokens[t] + c);
      for (int r = 0; r < kRows; ++r) {
        const auto w = hn::Load(d16, rows + r * row_stride + c);
        for (int t = 0; t < kTokens; ++t) whole[t][r] = MultiplyAdd16(w, x[t], whole[t][r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const auto scale = hn::Set(d, group_scales[r * groups + g]);
      for (int t = 0; t < kTokens; ++t) sums[t][r] = hn::MulAdd(hn::ConvertTo(d, whole[t][r]), scale, sums[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t) hn::Store(SumsOfLanes(d, sums[t]), TagF32x4(), dots + t * kRowTile);
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
    for (int64_t tail = c; tail < columns; ++tail) {
      for (int r = 0; r < kRows; ++r) out[r] += rows[r * row_stride + tail] * tokens[t][tail];
    }
  }
}

template <typename T, typename... Scales>
HWY_INLINE void DotRows(int row_count, const T* rows, int64_t row_stride, const T* const* tokens, int token_count,
                        int64_t columns, float* dots, const Scales*... scales) {
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

void IntegerRows(const MatmulCall& call, int64_t begin, int64_t end, Scratch& scratch) {
  const quant::XfpMatrix& matrix = call.weight->xfp;
  const int64_t padded = PaddedColumns(matrix.columns);
  const ExpandRowIntFunction expand = ExpandRowIntOf(matrix.format.levels);
  auto* rows = reinterpret_cast<int16_t*>(hwy::RoundUpTo(reinterpret_cast<uintptr_t>(scratch.whole_rows.data()), 64));
  OutlierRows& outliers = scratch.outliers;
  const bool has_outliers = matrix.outliers > 0;
  const size_t sums_stride = hwy::RoundUpTo(scratch.values.size(), hn::Lanes(TagOutliers()));
  if (has_outliers) {
    ReadOutliers(matrix, call.first_row + begin, call.first_row + end, outliers);
    if (call.tokens > 1) InterleaveTokens(scratch.values, matrix.columns, outliers.tokens);
    outliers.sums.resize(kRowTile * sums_stride);
  }
  const bool group_scales = matrix.format.group_scales;
  const int64_t groups = group_scales ? quant::GroupsPerRow(matrix.columns) : 0;
  scratch.group_scales.resize(static_cast<size_t>(kRowTile * groups));
  const TagF32x4 d;
  alignas(16) float row_scales[kRowTile] = {1, 1, 1, 1};
  alignas(16) float dots[kTokenTile * kRowTile];
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
    if (has_outliers) SumOutliers(scratch.values, matrix.columns, r - begin, row_count, outliers);
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      const int16_t* const* quantized = scratch.quantized.data() + t;
      if (group_scales) {
        DotRows(row_count, rows, padded, quantized, token_count, padded, dots, scratch.group_scales.data());
      } else {
        DotRows(row_count, rows, padded, quantized, token_count, padded, dots);
      }
      VecF32x4 outlier_sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      if (has_outliers) {
        for (size_t i = 0; i < kRowTile; ++i) {
          outlier_sums[i] = hn::LoadU(d, outliers.sums.data() + i * sums_stride + static_cast<size_t>(t));
        }
        Transpose(outlier_sums);
      }
      for (int k = 0; k < token_count; ++k) {
        const auto sum = hn::Set(d, scratch.scales[static_cast<size_t>(t + k)]) * hn::Load(d, dots + k * kRowTile) + outlier_sums[k];
        StoreTile(hn::Load(d, row_scales) * sum, row_count, scratch.outputs[static_cast<size_t>(t + k)] + r);
      }
    }
  }
}

void FloatRows(const MatmulCall& call, int64_t begin, int64_t end, Scratch& scratch) {
  const int64_t columns = call.weight->columns;
  const int64_t padded = PaddedColumns(columns);
  auto* rows = reinterpret_cast<float*>(hwy::RoundUpTo(reinterpret_cast<uintptr_t>(scratch.float_rows.data()), 64));
  for (int64_t r = begin; r < end; r += kRowTile) {
    const int row_count = static_cast<int>(std::min<int64_t>(kRowTile, end - r));
    for (int i = 0; i < row_count; ++i) ExpandRowFloat(*call.weight, call.first_row + r + i, padded, rows + i * padded);
    alignas(16) float dots[kTokenTile * kRowTile];
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      DotRows(row_count, rows, padded, scratch.values.data() + t, token_count, columns, dots);
      for (int k = 0; k < token_count; ++k) {
        StoreTile(hn::Load(TagF32x4(), dots + k * kRowTile), row_count, scratch.outputs[static_cast<size_t>(t + k)] + r);
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
  scratch.outputs.resize(tokens);
  for (size_t i = 0; i < tokens; ++i) {
    scratch.values[i] = call.input->values + input_of(i) * columns;
    const int64_t out = call.output_rows != nullptr ? call.output_rows[i] : static_cast<int64_t>(i);
    scratch.outputs[i] = call.output + out * call.output_stride;
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
    IntegerRows(call, begin, end, scratch);
  } else {
    if (scratch.float_rows.size() < tile) scratch.float_rows.resize(tile);
    FloatRows(call, begin, end, scratch);
  }
}

void QuantizeToken(const float* values, int64_t columns, int16_t* quantized, float* scale) {
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
  const int64_t padded = PaddedColumns(columns);
  // Below some 4.8e-35 the factor would be infinite, and zero times it NaN: what is so small counts as zero.
  const float inverse = static_cast<float>(kQuantizedActivationMax) / most;
  if (!finite || !std::isfinite(inverse)) {
    std::fill_n(quantized, padded, int16_t{0});
    *scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *scale = most / static_cast<float>(kQuantizedActivationMax);
  const hn::Rebind<int16_t, TagF32> d16;
  const auto factor = hn::Set(d, inverse);
  for (c = 0; c + lanes <= columns; c += lanes) {
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
HWY_EXPORT(QuantizeToken);
HWY_EXPORT(Name);

namespace cpu {

const char* TargetName() { return HWY_DYNAMIC_DISPATCH(Name)(); }

void QuantizeActivations(const Context& context, const Activations& activations) {
  const int64_t padded = PaddedColumns(activations.columns);
  const auto one = [&](int64_t t, int) {
    HWY_DYNAMIC_DISPATCH(QuantizeToken)
    (activations.values + t * activations.columns, activations.columns, activations.quantized + t * padded,
     activations.scales + t);
  };
  if (activations.tokens < 8) {
    for (int64_t t = 0; t < activations.tokens; ++t) one(t, 0);
  } else {
    context.pool->ParallelFor(activations.tokens, one);
  }
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
