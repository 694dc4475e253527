#include <algorithm>
#include <cmath>
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

// dots[r * kTokens + t] = sum over columns of rows[r] * tokens[t], for whole numbers.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const int16_t* HWY_RESTRICT rows, int64_t row_stride, const int16_t* const* tokens,
                        int64_t padded_columns, float* HWY_RESTRICT dots) {
  const TagI16 d16;
  const TagI32 d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d16));
  for (int i = 0; i < kRows * kTokens; ++i) dots[i] = 0;
  for (int64_t segment = 0; segment < padded_columns; segment += kIntegerColumns) {
    const int64_t end = HWY_MIN(padded_columns, segment + kIntegerColumns);
    hn::Vec<TagI32> sums[kRows][kTokens];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) sums[r][t] = hn::Zero(d32);
    }
    for (int64_t c = segment; c < end; c += lanes) {
      hn::Vec<TagI16> x[kTokens];
      for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d16, tokens[t] + c);
      for (int r = 0; r < kRows; ++r) {
        const auto w = hn::Load(d16, rows + r * row_stride + c);
        for (int t = 0; t < kTokens; ++t) sums[r][t] = MultiplyAdd16(w, x[t], sums[r][t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) {
        dots[r * kTokens + t] += static_cast<float>(hn::GetLane(hn::SumOfLanes(d32, sums[r][t])));
      }
    }
  }
}

// The same for floats. The tail of a row that does not fill a register is added value by value.
template <int kRows, int kTokens>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, int64_t row_stride, const float* const* tokens, int64_t columns,
                        float* HWY_RESTRICT dots) {
  const TagF32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<TagF32> sums[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sums[r][t] = hn::Zero(d);
  }
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) {
    hn::Vec<TagF32> x[kTokens];
    for (int t = 0; t < kTokens; ++t) x[t] = hn::LoadU(d, tokens[t] + c);
    for (int r = 0; r < kRows; ++r) {
      const auto w = hn::Load(d, rows + r * row_stride + c);
      for (int t = 0; t < kTokens; ++t) sums[r][t] = hn::MulAdd(w, x[t], sums[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      float dot = hn::GetLane(hn::SumOfLanes(d, sums[r][t]));
      for (int64_t tail = c; tail < columns; ++tail) dot += rows[r * row_stride + tail] * tokens[t][tail];
      dots[r * kTokens + t] = dot;
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

// The outliers of consecutive rows of one matrix, in units of the rows' scales.
class OutlierCursor {
 public:
  OutlierCursor(const quant::XfpMatrix& matrix, int64_t first_row) : matrix_(matrix) {
    if (matrix.outliers == 0) return;
    const int64_t block = first_row / quant::kOutlierRowBlock * quant::kOutlierRowBlock;
    next_ = matrix.outlier_starts[first_row / quant::kOutlierRowBlock];
    for (int64_t r = block; r < first_row; ++r) next_ += Count(r);
  }

  // Adds the outliers of `row`, which must follow the last row asked for, to each token's dot product.
  HWY_INLINE void Add(int64_t row, const float* const* tokens, int token_count, float* sums) {
    if (matrix_.outliers == 0) return;
    const int64_t end = next_ + Count(row);
    const bool wide = quant::OutlierColumnBytes(matrix_.columns) == 4;
    for (; next_ < end; ++next_) {
      int64_t column;
      if (wide) {
        uint32_t stored;
        std::memcpy(&stored, matrix_.outlier_columns + next_ * 4, 4);
        column = stored;
      } else {
        uint16_t stored;
        std::memcpy(&stored, matrix_.outlier_columns + next_ * 2, 2);
        column = stored;
      }
      const float value = quant::HalfToFloat(matrix_.outlier_values[next_]);
      for (int t = 0; t < token_count; ++t) sums[t] += value * tokens[t][column];
    }
  }

 private:
  HWY_INLINE int64_t Count(int64_t row) const {
    if (quant::OutlierCountBytes(matrix_.columns) == 1) return matrix_.outlier_counts[row];
    uint16_t count;
    std::memcpy(&count, matrix_.outlier_counts + row * 2, 2);
    return count;
  }

  const quant::XfpMatrix& matrix_;
  int64_t next_ = 0;
};

bool IsInteger(const Matrix& weight) {
  return weight.storage == Storage::kXfp && weight.xfp.format.centroids == quant::Centroids::kInt8 &&
         !weight.xfp.format.group_scales;
}

// Per thread: the tile of expanded rows, the tokens of the call, sums of outliers.
struct Scratch {
  std::vector<int16_t> whole_rows;
  std::vector<float> float_rows;
  std::vector<const int16_t*> quantized;
  std::vector<const float*> values;
  std::vector<float> outliers;
};

void IntegerRows(const MatmulCall& call, int64_t begin, int64_t end, Scratch& scratch) {
  const quant::XfpMatrix& matrix = call.weight->xfp;
  const int64_t padded = PaddedColumns(matrix.columns);
  const ExpandRowIntFunction expand = ExpandRowIntOf(matrix.format.levels);
  auto* rows = reinterpret_cast<int16_t*>(hwy::RoundUpTo(reinterpret_cast<uintptr_t>(scratch.whole_rows.data()), 64));
  OutlierCursor outliers(matrix, call.first_row + begin);
  for (int64_t r = begin; r < end; r += kRowTile) {
    const int row_count = static_cast<int>(std::min<int64_t>(kRowTile, end - r));
    for (int i = 0; i < row_count; ++i) expand(matrix, call.first_row + r + i, rows + i * padded);
    if (matrix.outliers > 0) {
      std::fill_n(scratch.outliers.begin(), row_count * call.tokens, 0.0f);
      for (int i = 0; i < row_count; ++i) {
        outliers.Add(call.first_row + r + i, scratch.values.data(), static_cast<int>(call.tokens),
                     scratch.outliers.data() + i * call.tokens);
      }
    }
    float dots[kRowTile * kTokenTile];
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      DotRows(row_count, rows, padded, scratch.quantized.data() + t, token_count, padded, dots);
      for (int i = 0; i < row_count; ++i) {
        const float row_scale = quant::Bfloat16ToFloat(matrix.scales[call.first_row + r + i]);
        for (int k = 0; k < token_count; ++k) {
          const int64_t token = call.input_tokens != nullptr ? call.input_tokens[t + k] : t + k;
          const int64_t out = call.output_rows != nullptr ? call.output_rows[t + k] : t + k;
          float sum = call.input->scales[token] * dots[i * token_count + k];
          if (matrix.outliers > 0) sum += scratch.outliers[static_cast<size_t>(i * call.tokens + t + k)];
          call.output[out * call.output_stride + r + i] = row_scale * sum;
        }
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
    float dots[kRowTile * kTokenTile];
    for (int64_t t = 0; t < call.tokens; t += kTokenTile) {
      const int token_count = static_cast<int>(std::min<int64_t>(kTokenTile, call.tokens - t));
      DotRows(row_count, rows, padded, scratch.values.data() + t, token_count, columns, dots);
      for (int i = 0; i < row_count; ++i) {
        for (int k = 0; k < token_count; ++k) {
          const int64_t out = call.output_rows != nullptr ? call.output_rows[t + k] : t + k;
          call.output[out * call.output_stride + r + i] = dots[i * token_count + k];
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
  scratch.values.resize(tokens);
  for (size_t i = 0; i < tokens; ++i) {
    const int64_t token = call.input_tokens != nullptr ? call.input_tokens[i] : static_cast<int64_t>(i);
    scratch.values[i] = call.input->values + token * columns;
  }
  if (integer) {
    scratch.quantized.resize(tokens);
    for (size_t i = 0; i < tokens; ++i) {
      const int64_t token = call.input_tokens != nullptr ? call.input_tokens[i] : static_cast<int64_t>(i);
      scratch.quantized[i] = call.input->quantized + token * padded;
    }
    if (scratch.whole_rows.size() < static_cast<size_t>(kRowTile * padded + 64)) {
      scratch.whole_rows.resize(static_cast<size_t>(kRowTile * padded + 64));
    }
    if (scratch.outliers.size() < kRowTile * tokens) scratch.outliers.resize(kRowTile * tokens);
    IntegerRows(call, begin, end, scratch);
  } else {
    if (scratch.float_rows.size() < static_cast<size_t>(kRowTile * padded + 64)) {
      scratch.float_rows.resize(static_cast<size_t>(kRowTile * padded + 64));
    }
    FloatRows(call, begin, end, scratch);
  }
}

void QuantizeToken(const float* values, int64_t columns, int16_t* quantized, float* scale) {
  const TagF32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(d);
  int64_t c = 0;
  for (; c + lanes <= columns; c += lanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(d, values + c)));
  float most = hn::GetLane(hn::MaxOfLanes(d, largest));
  bool finite = true;
  for (; c < columns; ++c) most = std::max(most, std::abs(values[c]));
  for (int64_t i = 0; i < columns; ++i) finite = finite && std::isfinite(values[i]);
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
