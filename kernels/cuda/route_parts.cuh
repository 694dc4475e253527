// The choice of a row's experts by a whole block.
#pragma once

#include <cfloat>

#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {

struct RouteShared {
  alignas(16) float keys[kMostExperts];
  float weights[kMostExperts];  // of the chosen
  float parts[2][32];           // of each warp
};

// RouteCall for row `row`, whose logits other blocks may just have written. An expert's place is the number of those that are
// likelier, so that no choice waits for the one before. Logits that are not numbers count as the least, and give weights that are
// none, of experts that exist.
template <int kThreads>
__device__ __forceinline__ void ChooseExperts(const RouteCall& call, int64_t row, RouteShared& shared) {
  constexpr int kEach = static_cast<int>(kMostExperts) / kThreads;
  const auto experts = static_cast<int>(call.experts);
  const auto top = static_cast<int>(call.top);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float logits[kEach];
  float largest = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = threadIdx.x + i * kThreads;
    logits[i] = e < experts ? __ldcg(call.logits + row * experts + e) : -INFINITY;
    largest = fmaxf(largest, logits[i]);
    if (e < (experts + 3) / 4 * 4) shared.keys[e] = logits[i] == logits[i] ? logits[i] : -INFINITY;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  if (lane == 0) shared.parts[0][warp] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) largest = fmaxf(largest, shared.parts[0][w]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = threadIdx.x + i * kThreads;
    if (e >= experts) break;
    const float share = expf(logits[i] - largest);
    sum += share;
    const float key = shared.keys[e];
    int place = 0;
#pragma unroll 8
    for (int j = 0; j < experts; j += 4) {
      const float4 others = *reinterpret_cast<const float4*>(shared.keys + j);
      place += others.x > key || (others.x == key && j < e) ? 1 : 0;
      place += others.y > key || (others.y == key && j + 1 < e) ? 1 : 0;
      place += others.z > key || (others.z == key && j + 2 < e) ? 1 : 0;
      place += others.w > key || (others.w == key && j + 3 < e) ? 1 : 0;
    }
    if (place >= top) continue;
    call.chosen[row * top + place] = e;
    shared.weights[place] = share;
  }
  sum = WarpSum(sum);
  if (lane == 0) shared.parts[1][warp] = sum;
  __syncthreads();
  for (int k = threadIdx.x; k < top; k += kThreads) {
    // What the softmax is divided by falls out where the chosen are, but for a sum that is no number.
    float whole = 0;
    for (int w = 0; w < kThreads / 32; ++w) whole += shared.parts[1][w];
    if (call.normalize) {
      whole *= 0.0f;
      for (int i = 0; i < top; ++i) whole += shared.weights[i];
    }
    call.weights[row * top + k] = shared.weights[k] / whole;
  }
}

}  // namespace hproc::kernels::cuda
