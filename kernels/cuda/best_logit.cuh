// The highest of a row's logits, as threads find it out together.
#pragma once

#include <climits>
#include <cmath>

#include "kernels/cuda/op_parts.cuh"
#include "kernels/sampling.h"

namespace hproc::kernels::cuda {

// The best of some of a row's logits.
struct Best {
  float logit = -INFINITY;
  int token = INT_MAX;
  int nonfinite = 0;

  __device__ __forceinline__ void Keep(float value, int column) {
    if (value > logit || (value == logit && column < token)) logit = value, token = column;
  }
  __device__ __forceinline__ void Take(float value, int column) {
    nonfinite += (__float_as_uint(value) & 0x7F800000u) == 0x7F800000u ? 1 : 0;
    Keep(value, column);
  }
  __device__ __forceinline__ void OverLanes() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, logit, step);
      const int other_token = __shfl_xor_sync(kAllLanes, token, step);
      Keep(other, other_token);
    }
    nonfinite = __reduce_add_sync(kAllLanes, nonfinite);
  }
  __device__ __forceinline__ TokenChoice Choice() const {
    return token == INT_MAX ? TokenChoice{0, nonfinite, NAN} : TokenChoice{token, nonfinite, logit};
  }
};

}  // namespace hproc::kernels::cuda
