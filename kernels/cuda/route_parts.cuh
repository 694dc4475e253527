// The choice of a row's experts by a warp.
#pragma once

#include <cfloat>

#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {

// A logit as a number whose order is the logits': those that are no numbers are the least, and -0 is 0. Above 0 for all.
__device__ __forceinline__ uint32_t RouteKey(float logit) {
  const uint32_t bits = __float_as_uint(logit == logit ? logit + 0.0f : -INFINITY);
  return bits ^ (static_cast<int32_t>(bits) < 0 ? 0xFFFFFFFFu : 0x80000000u);
}
__device__ __forceinline__ float LogitOf(uint32_t key) {
  return __uint_as_float(key ^ (static_cast<int32_t>(key) < 0 ? 0x80000000u : 0xFFFFFFFFu));
}

// RouteCall for row `row`, whose logits other blocks may just have written; by a whole warp, of which a lane holds kEach experts.
// The likeliest of those left is looked for `top` times: eight rounds of some 80 cycles, where counting each expert's betters takes
// 65536 comparisons. Logits that are no numbers count as the least, and give weights that are none, of experts that exist.
template <int kEach>
__device__ __forceinline__ void ChooseAmong(const RouteCall& call, int64_t row) {
  const auto experts = static_cast<int>(call.experts);
  const auto top = static_cast<int>(call.top);
  const int lane = threadIdx.x % 32;
  const int first = lane * kEach;  // so that of equals the lowest lane has the lowest expert
  const float* logits = call.logits + row * experts;
  float values[kEach];
  if (experts % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kEach; i += 4) {
      float4 four{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      if (first + i < experts) four = __ldcg(reinterpret_cast<const float4*>(logits + first + i));
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[i] = first + i < experts ? __ldcg(logits + first + i) : -INFINITY;
  }
  uint32_t keys[kEach];
  float largest = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    keys[i] = first + i < experts ? RouteKey(values[i]) : 0;
    largest = fmaxf(largest, values[i]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  float whole = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) whole += expf(values[i] - largest);
  whole = WarpSum(whole);
  // What the softmax is divided by falls out where the chosen are, but for a sum that is no number.
  if (call.normalize) whole *= 0.0f;
  float own_share = 0;  // of choice `lane`
  for (int k = 0; k < top; ++k) {
    uint32_t best = keys[0];
#pragma unroll
    for (int i = 1; i < kEach; ++i) best = max(best, keys[i]);
    const uint32_t most = __reduce_max_sync(kAllLanes, best);
    const int winner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, best == most))) - 1;
    const float share = expf(LogitOf(most) - largest);
    if (call.normalize) whole += share;
    if (lane == k % 32) own_share = share;
    if (lane == winner) {
      int at = 0;
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) at = keys[i] == most ? i : at;
#pragma unroll
      for (int i = 0; i < kEach; ++i) keys[i] = i == at ? 0 : keys[i];
      call.chosen[row * top + k] = first + at;
    }
    if (top > 32 && lane == k % 32) call.weights[row * top + k] = share;
  }
  if (top <= 32) {
    if (lane < top) call.weights[row * top + lane] = own_share / whole;
    return;
  }
  for (int k = lane; k < top; k += 32) call.weights[row * top + k] /= whole;
}

// Among kMost experts at most.
template <int kMost>
__device__ __forceinline__ void ChooseExperts(const RouteCall& call, int64_t row) {
  if constexpr (kMost > 256) {
    if (call.experts > kMost / 2) return ChooseAmong<kMost / 32>(call, row);
    return ChooseExperts<kMost / 2>(call, row);
  }
  ChooseAmong<kMost / 32>(call, row);
}

}  // namespace hproc::kernels::cuda
