// One stored value as float32.
#pragma once

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

}  // namespace hproc::kernels::cuda
