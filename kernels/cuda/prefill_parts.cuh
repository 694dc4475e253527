// What the kernels of prefill share.
#pragma once

#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/prefill_params.h"

namespace hproc::kernels::cuda {

// The products of row `row` of a row tile with its outliers, of tokens first + lane + 32 n for n in [0, kTokens / 32), as far as
// they are below `count`. The whole warp.
template <int kTokens>
__device__ __forceinline__ void OutlierProducts(const OutlierSections& p, const uint8_t* record, int row, int first, int count,
                                                float (&sum)[kTokens / 32]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint8_t* counts = record + kTileRows * 2 + 4;
  const auto count_of = [&](int i) -> int { return p.wide_counts ? reinterpret_cast<const uint16_t*>(counts)[i] : counts[i]; };
  uint32_t at = *reinterpret_cast<const uint32_t*>(record + kTileRows * 2);
  for (int i = 0; i < row; ++i) at += count_of(i);
  const int outliers = count_of(row);
#pragma unroll
  for (int n = 0; n < kTokens / 32; ++n) sum[n] = 0;
  for (int from = 0; from < outliers; from += 32) {
    int column = 0;
    float value = 0;
    if (from + lane < outliers) {
      const uint32_t i = at + from + lane;
      column = static_cast<int>(p.wide_columns ? __ldg(reinterpret_cast<const uint32_t*>(p.columns) + i)
                                               : __ldg(reinterpret_cast<const uint16_t*>(p.columns) + i));
      value = __half2float(__ushort_as_half(__ldg(p.values + i)));
    }
#pragma unroll 4
    for (int i = 0; i < min(32, outliers - from); ++i) {
      const float v = __shfl_sync(0xFFFFFFFFu, value, i);
      const int16_t* x = p.transposed + int64_t{__shfl_sync(0xFFFFFFFFu, column, i)} * p.input_rows + first + lane;
#pragma unroll
      for (int n = 0; n < kTokens / 32; ++n) {
        if (lane + 32 * n < count) sum[n] = fmaf(v, static_cast<float>(x[32 * n]), sum[n]);
      }
    }
  }
}

// A sum of high bytes and one of low ones are one sum.
__device__ __forceinline__ float WholeSum(int32_t high, int32_t low) { return static_cast<float>(high) * 256.0f + static_cast<float>(low); }

}  // namespace hproc::kernels::cuda
