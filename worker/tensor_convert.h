// Checkpoint values to float32, with an eye on the ones that are not numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "worker/safetensors.h"

namespace hproc::worker {

// BF16, F16, F32 and F64; whether ConvertToFloat takes the type.
bool IsConvertibleToFloat(Dtype dtype);

// `values` is a run of little-endian values of `dtype`, at any alignment; `out` takes one float for
// each, so that values.size() == out.size() * DtypeBits(dtype) / 8. Exact for BF16, F16 and F32,
// rounded to nearest for F64. Returns how many of the floats are NaN or infinite (an F64 beyond the
// range of float32 counts): a tensor that holds one cannot be quantized, and the caller refuses it
// by name. Pure; about the speed of memory, one thread.
int64_t ConvertToFloat(Dtype dtype, std::span<const std::byte> values, std::span<float> out);

}  // namespace hproc::worker
