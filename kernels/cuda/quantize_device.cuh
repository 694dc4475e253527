// What the kernels of quantize-on-load share: stored values to float, and sorted rows as the fits read them.
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/quantize_kernels.h"
#include "kernels/cuda/stored_value.cuh"
#include "quant/half.h"

namespace hproc::kernels::cuda {

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ inline bool IsFinite(float value) { return (__float_as_uint(value) & 0x7F800000u) != 0x7F800000u; }

// A sorted row (quant/codebook_fit.h): the sum of any number of values is the prefix sum kept last before it and at most
// seven additions, in the order in which the CPU adds.
template <bool kBf16>
struct PackedChannel {
  const void* values = nullptr;  // 16-byte aligned
  const double* sums = nullptr;
  int count = 0;

  HPROC_HOST_DEVICE int columns() const { return count; }
  HPROC_HOST_DEVICE float Value(int i) const {
    if constexpr (kBf16) return quant::Bfloat16ToFloat(static_cast<const uint16_t*>(values)[i]);
    return static_cast<const float*>(values)[i];
  }
  HPROC_HOST_DEVICE double Sum(int i) const {
    double sum = sums[i / kValuesPerSum];
    const int rest = i % kValuesPerSum;
    if (rest == 0) return sum;
    float of[kValuesPerSum];
    if constexpr (kBf16) {
      const uint4 eight = static_cast<const uint4*>(values)[i / kValuesPerSum];
      const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        of[2 * w] = quant::Bfloat16ToFloat(static_cast<uint16_t>(words[w] & 0xFFFFu));
        of[2 * w + 1] = quant::Bfloat16ToFloat(static_cast<uint16_t>(words[w] >> 16));
      }
    } else {
      const float4 low = static_cast<const float4*>(values)[i / 4 / 2 * 2];
      const float4 high = static_cast<const float4*>(values)[i / 4 / 2 * 2 + 1];
      of[0] = low.x, of[1] = low.y, of[2] = low.z, of[3] = low.w;
      of[4] = high.x, of[5] = high.y, of[6] = high.z, of[7] = high.w;
    }
#pragma unroll
    for (int j = 0; j < kValuesPerSum - 1; ++j) {
      if (j < rest) sum += static_cast<double>(of[j]);
    }
    return sum;
  }
};

template <bool kBf16>
__device__ PackedChannel<kBf16> ChannelOf(const SortedRows& sorted, int64_t row, int columns) {
  const char* values = static_cast<const char*>(sorted.values) + row * sorted.values_stride * (kBf16 ? 2 : 4);
  return {values, sorted.sums + row * sorted.sums_stride, columns};
}

}  // namespace hproc::kernels::cuda
