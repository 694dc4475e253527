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
__device__ __forceinline__ void ChooseExperts(const RouteCall& call, int64_t row, RouteShared& shared) {
  const auto experts = static_cast<int>(call.experts);
  const auto top = static_cast<int>(call.top);
  const int threads = static_cast<int>(blockDim.x);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int padded = (experts + 3) / 4 * 4;
  const float* logits = call.logits + row * experts;
  float largest = -FLT_MAX;
  for (int e = threadIdx.x; e < padded; e += threads) {
    const float logit = e < experts ? __ldcg(logits + e) : -INFINITY;
    shared.keys[e] = logit == logit ? logit : -INFINITY;
    largest = fmaxf(largest, logit);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  if (lane == 0) shared.parts[0][warp] = largest;
  __syncthreads();
  for (int w = 0; w < threads / 32; ++w) largest = fmaxf(largest, shared.parts[0][w]);
  float sum = 0;
  for (int e = threadIdx.x; e < experts; e += threads) sum += expf(__ldcg(logits + e) - largest);
  sum = WarpSum(sum);
  if (lane == 0) shared.parts[1][warp] = sum;

  for (int e = threadIdx.x; e < experts; e += threads) {
    const float key = shared.keys[e];
    int place = 0;
    for (int i = 0; i < padded; i += 4) {
      const float4 others = *reinterpret_cast<const float4*>(shared.keys + i);
      place += others.x > key || (others.x == key && i < e) ? 1 : 0;
      place += others.y > key || (others.y == key && i + 1 < e) ? 1 : 0;
      place += others.z > key || (others.z == key && i + 2 < e) ? 1 : 0;
      place += others.w > key || (others.w == key && i + 3 < e) ? 1 : 0;
    }
    if (place >= top) continue;
    call.chosen[row * top + place] = e;
    shared.weights[place] = expf(__ldcg(logits + e) - largest);
  }
  __syncthreads();
  sum = 0;
  for (int w = 0; w < threads / 32; ++w) sum += shared.parts[1][w];
  float chosen = 0;
  for (int k = 0; k < top; ++k) chosen += shared.weights[k] / sum;
  for (int k = threadIdx.x; k < top; k += threads) {
    const float weight = shared.weights[k] / sum;
    call.weights[row * top + k] = call.normalize ? weight / chosen : weight;
  }
}

}  // namespace hproc::kernels::cuda
