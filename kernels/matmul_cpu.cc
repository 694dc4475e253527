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

// Four values at a time, which every target has: four tokens, or the rows of a tile.
using TagF32x4 = hn::FixedTag<float, 4>;
using VecF32x4 = hn::Vec<TagF32x4>;

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
      const auto w = hn::Load(d, rows + r * row_stride + c);
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

template <typename T>
HWY_INLINE void DotRows(int row_count, const T* rows, int64_t row_stride, const T* const* tokens, int token_count,
                        int64_t columns, float* dots) {
  const auto with_tokens = [&]<int kTokens>() HWY_ATTR {
    switch (row_count) {
      case 4: return DotTile<4, kTokens>(rows, row_stride, tokens, columns, dots);
      case 3: return DotTile<3, kTokens>(rows, row_stride, tokens, columns, dots);
      case 2: return DotTile<2, kTokens>(rows, row_stride, tokens, columns, dots);
      default: return DotTile<1, kTokens>(rows, row_stride, tokens, columns, dots);
    }
  };
  switch (token_count) {
    case 4: return with_tokens.template operator()<4>();
    case 3: return with_tokens.template operator()<3>();
    case 2: return with_tokens.template operator()<2>();
    default: return with_tokens.template operator()<1>();
  }
}

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

// The outliers of some rows of one matrix, in units of the rows' scales, and what they are multiplied with.
struct OutlierRows {
  std::vector<int64_t> ends;     // of row i: its outliers are [i > 0 ? ends[i - 1] : 0, ends[i])
  std::vector<int32_t> columns;
  std::vector<float> values;
  std::vector<float> tokens;     // [groups of kTokenTile tokens][columns][kTokenTile]: a column of a group is one load
};

// Of rows [first, last). Whole registers are read and written past the end; the container's sections are padded for it.
void ReadOutliers(const quant::XfpMatrix& matrix, int64_t first, int64_t last, OutlierRows& outliers) {
  const auto count_of = [&](int64_t row) -> int64_t {
    if (quant::OutlierCountBytes(matrix.columns) == 1) return matrix.outlier_counts[row];
    uint16_t count;
    std::memcpy(&count, matrix.outlier_counts + row * 2, 2);
    return count;
  };
  int64_t begin = matrix.outlier_starts[first / quant::kOutlierRowBlock];
  for (int64_t r = first / quant::kOutlierRowBlock * quant::kOutlierRowBlock; r < first; ++r) begin += count_of(r);
  outliers.ends.clear();
  int64_t count = 0;
  for (int64_t r = first; r < last; ++r) outliers.ends.push_back(count += count_of(r));

  const TagF32 d;
  const hn::Rebind<hwy::float16_t, TagF32> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto room = static_cast<size_t>(count + lanes);
  if (outliers.values.size() < room) outliers.values.resize(room);
  if (outliers.columns.size() < room) outliers.columns.resize(room);
  const auto* values = reinterpret_cast<const hwy::float16_t*>(matrix.outlier_values) + begin;
  for (int64_t i = 0; i < count; i += lanes) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, values + i)), d, outliers.values.data() + i);
  }
  if (quant::OutlierColumnBytes(matrix.columns) == 4) {
    std::memcpy(outliers.columns.data(), matrix.outlier_columns + begin * 4, static_cast<size_t>(count) * 4);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t column;
      std::memcpy(&column, matrix.outlier_columns + (begin + i) * 2, 2);
      outliers.columns[static_cast<size_t>(i)] = column;
    }
  }
}

// Fills `interleaved` for the tokens of a call; those missing from the last group are zero.
void InterleaveTokens(std::span<const float* const> tokens, int64_t columns, std::vector<float>& interleaved) {
  const TagF32x4 d;
  const size_t groups = (tokens.size() + kTokenTile - 1) / kTokenTile;
  interleaved.resize(groups * static_cast<size_t>(columns) * kTokenTile);
  float* out = interleaved.data();
  for (size_t g = 0; g < groups; ++g) {
    const std::span<const float* const> group =
        tokens.subspan(g * kTokenTile, std::min<size_t>(kTokenTile, tokens.size() - g * kTokenTile));
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4, out += 4 * kTokenTile) {
      VecF32x4 v[kTokenTile] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      for (size_t t = 0; t < group.size(); ++t) v[t] = hn::LoadU(d, group[t] + c);
      Transpose(v);
      for (int i = 0; i < 4; ++i) hn::StoreU(v[i], d, out + i * kTokenTile);
    }
    for (; c < columns; ++c, out += kTokenTile) {
      for (size_t t = 0; t < kTokenTile; ++t) out[t] = t < group.size() ? group[t][c] : 0.0f;
    }
  }
}

// sums[t * kRowTile + r]: the outliers of row `first` + r times token t. `token` where the call has only one, else
// `group` of OutlierRows::tokens. Both add the same products in the same order.
HWY_INLINE void SumOutliers(const OutlierRows& outliers, int64_t first, int row_count, const float* token,
                            const float* group, float* HWY_RESTRICT sums) {
  const TagF32x4 d;
  const hn::FixedTag<float, 1> d1;
  VecF32x4 of_rows[kRowTile] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = first > 0 ? outliers.ends[static_cast<size_t>(first) - 1] : 0;
  const float* values = outliers.values.data();
  const int32_t* columns = outliers.columns.data();
  for (int r = 0; r < row_count; ++r) {
    const int64_t end = outliers.ends[static_cast<size_t>(first + r)];
    if (token != nullptr) {
      auto sum = hn::Zero(d1);
      for (; i < end; ++i) sum = hn::MulAdd(hn::Set(d1, values[i]), hn::LoadU(d1, token + columns[i]), sum);
      sums[r] = hn::GetLane(sum);
    } else {
      auto sum = hn::Zero(d);
      for (; i < end; ++i) sum = hn::MulAdd(hn::Set(d, values[i]), hn::LoadU(d, group + kTokenTile * columns[i]), sum);
      of_rows[r] = sum;
    }
  }
  if (token != nullptr) return;
  Transpose(of_rows);
  for (int t = 0; t < kTokenTile; ++t) hn::Store(of_rows[t], d, sums + t * kRowTile);
}

bool IsInteger(const Matrix& weight) {
  return weight.storage == Storage::kXfp && weight.xfp.format.centroids == quant::Centroids::kInt8 &&
         !weight.xfp.format.group_scales;
}

// Per thread: the tile of expanded rows, and the tokens of the call.
struct Scratch {
  std::vector<int16_t> whole_rows;
  std::vector<float> float_rows;
  std::vector<const int16_t*> quantized;
  std::vector<const float*> values;
  std::vector<float*> outputs;
  std::vector<float> scales;
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
  const bool one_token = call.tokens == 1;
  if (has_outliers) {
    ReadOutliers(matrix, call.first_row + begin, call.first_row + end, outliers);
    if (!one_token) InterleaveTokens(scratch.values, matrix.columns, outliers.tokens);
  }
  const TagF32x4 d;
  alignas(16) float row_scales[kRowTile] = {};
  alignas(16) float dots[kTokenTile * kRowTile];
  alignas(16) float outlier_sums[kTokenTile * kRowTile] = {};
  for (int64_t r = begin; r < end; r += kRowTile) {
    const int row_count = static_cast<int>(std::min<int64_t>(kRowTile, end - r));
    for (int i = 0; i < row_count; ++i) {
      expand(matrix, call.first_row + r + i, rows + i * padded);
      row_scales[i] = quant::Bfloat16ToFloat(matrix.scales[call.first_row + r + i]);
    }
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      DotRows(row_count, rows, padded, scratch.quantized.data() + t, token_count, padded, dots);
      if (has_outliers) {
        SumOutliers(outliers, r - begin, row_count, one_token ? scratch.values[0] : nullptr,
                    one_token ? nullptr : outliers.tokens.data() + t * matrix.columns, outlier_sums);
      }
      for (int k = 0; k < token_count; ++k) {
        const auto sum = hn::Set(d, scratch.scales[static_cast<size_t>(t + k)]) * hn::Load(d, dots + k * kRowTile) +
                         hn::Load(d, outlier_sums + k * kRowTile);
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
  if (!finite || most == 0) {
    std::fill_n(quantized, padded, int16_t{0});
    *scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *scale = most / static_cast<float>(kQuantizedActivationMax);
  const float inverse = static_cast<float>(kQuantizedActivationMax) / most;
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
