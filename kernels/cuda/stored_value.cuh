// Stored values as float32.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/matrix.h"
#include "quant/half.h"

namespace hproc::kernels::cuda {

__device__ inline float StoredValue(const void* data, Storage storage, int64_t index) {
  switch (storage) {
    case Storage::kBfloat16: return quant::Bfloat16ToFloat(static_cast<const uint16_t*>(data)[index]);
    case Storage::kFloat16: return quant::HalfToFloat(static_cast<const uint16_t*>(data)[index]);
    default: return static_cast<const float*>(data)[index];
  }
}

// Four of 16 bits.
__device__ __forceinline__ float4 FourHalves(uint2 bits, Storage storage) {
  if (storage == Storage::kBfloat16) {
    return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xFFFF0000u), __uint_as_float(bits.y << 16),
            __uint_as_float(bits.y & 0xFFFF0000u)};
  }
  const float2 first = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 second = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  return {first.x, first.y, second.x, second.y};
}

}  // namespace hproc::kernels::cuda
