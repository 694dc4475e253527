#include <cfloat>
#include <climits>

#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

// A warp a row; a lane holds experts lane, lane + 32, …. Logits that are not numbers give weights that are none, of experts
// that exist.
template <int kEach>
__global__ void RouteKernel(RouteCall call) {
  StartBehindKernelInFront();
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x;
  const auto experts = static_cast<int>(call.experts);
  float logits[kEach];
  float largest = -FLT_MAX;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    logits[i] = e < experts ? call.logits[row * experts + e] : -INFINITY;
    largest = fmaxf(largest, logits[i]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (lane + 32 * i < experts) sum += expf(logits[i] - largest);
  }
  sum = WarpSum(sum);

  float chosen_sum = 0;
  for (int k = 0; k < call.top; ++k) {
    float best = -INFINITY;
    int best_expert = INT_MAX;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (logits[i] > best) best = logits[i], best_expert = lane + 32 * i;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, step);
      const int other_expert = __shfl_xor_sync(kAllLanes, best_expert, step);
      if (other > best || (other == best && other_expert < best_expert)) best = other, best_expert = other_expert;
    }
    if (best_expert >= experts) best_expert = k;  // none left that compares
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (lane + 32 * i == best_expert) logits[i] = -INFINITY;
    }
    const float weight = expf(best - largest) / sum;
    chosen_sum += weight;
    if (lane == 0) {
      call.chosen[row * call.top + k] = best_expert;
      call.weights[row * call.top + k] = weight;
    }
  }
  if (!call.normalize) return;
  __syncwarp();
  for (int k = lane; k < call.top; k += 32) call.weights[row * call.top + k] /= chosen_sum;
}

}  // namespace

void LaunchRoute(const RouteCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.experts <= kMostExperts, "experts of a layer on a CUDA device");
  const auto rows = static_cast<unsigned>(call.rows);
  if (call.experts <= 128) {
    LaunchOverlapped("RouteKernel", RouteKernel<4>, rows, 32, stream, call);
  } else if (call.experts <= 256) {
    LaunchOverlapped("RouteKernel", RouteKernel<8>, rows, 32, stream, call);
  } else if (call.experts <= 512) {
    LaunchOverlapped("RouteKernel", RouteKernel<16>, rows, 32, stream, call);
  } else {
    LaunchOverlapped("RouteKernel", RouteKernel<32>, rows, 32, stream, call);
  }
}

}  // namespace hproc::kernels::cuda
