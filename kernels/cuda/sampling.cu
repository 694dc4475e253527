#include <climits>

#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 1024;

__device__ __forceinline__ void Keep(float value, int column, float& best, int& at) {
  if (value > best || (value == best && column < at)) best = value, at = column;
}

// A block a row.
__global__ void __launch_bounds__(kThreads) PickGreedyKernel(GreedyCall call) {
  StartBehindKernelInFront();
  __shared__ float bests[kThreads / 32];
  __shared__ int places[kThreads / 32];
  __shared__ int counts[kThreads / 32];
  const float* logits = call.logits + blockIdx.x * call.columns;
  float best = -INFINITY;
  int at = INT_MAX;
  int nonfinite = 0;
#pragma unroll 8
  for (int c = threadIdx.x; c < static_cast<int>(call.columns); c += kThreads) {
    const float value = logits[c];
    nonfinite += (__float_as_uint(value) & 0x7F800000u) == 0x7F800000u ? 1 : 0;
    Keep(value, c, best, at);
  }
  const auto reduce = [&] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, step);
      const int other_at = __shfl_xor_sync(kAllLanes, at, step);
      Keep(other, other_at, best, at);
    }
    nonfinite = __reduce_add_sync(kAllLanes, nonfinite);
  };
  reduce();
  const int lane = threadIdx.x % 32;
  if (lane == 0) {
    bests[threadIdx.x / 32] = best;
    places[threadIdx.x / 32] = at;
    counts[threadIdx.x / 32] = nonfinite;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = bests[lane];
  at = places[lane];
  nonfinite = counts[lane];
  reduce();
  if (lane == 0) call.choices[blockIdx.x] = {at == INT_MAX ? 0 : at, nonfinite, at == INT_MAX ? NAN : best};
}

}  // namespace

void LaunchPickGreedy(const GreedyCall& call, cudaStream_t stream) {
  LaunchOverlapped("PickGreedyKernel", PickGreedyKernel, static_cast<unsigned>(call.rows), kThreads, stream, call);
}

}  // namespace hproc::kernels::cuda
