#include <algorithm>

#include "kernels/cuda/best_logit.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// Several blocks a row, of `each` logits; the last of them to be done decides. `bests`: of each block; `counters`: of each row.
__global__ void __launch_bounds__(kThreads) PickGreedyKernel(GreedyCall call, int each, Best* bests, unsigned* counters) {
  __shared__ Best of_warps[kWarps];
  StartBehindKernelInFront();
  const int lane = threadIdx.x % 32;
  const float* logits = call.logits + blockIdx.y * call.columns;
  const int begin = static_cast<int>(blockIdx.x) * each;
  const int end = min(begin + each, static_cast<int>(call.columns));
  Best best;
  if (call.columns % 4 == 0) {
#pragma unroll 4
    for (int c = begin + static_cast<int>(threadIdx.x) * 4; c < end; c += kThreads * 4) {
      const float4 four = *reinterpret_cast<const float4*>(logits + c);
      best.Take(four.x, c), best.Take(four.y, c + 1), best.Take(four.z, c + 2), best.Take(four.w, c + 3);
    }
  } else {
    for (int c = begin + static_cast<int>(threadIdx.x); c < end; c += kThreads) best.Take(logits[c], c);
  }
  best.OverLanes();
  if (lane == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = lane < kWarps ? of_warps[lane] : Best{};
  best.OverLanes();
  const unsigned blocks = gridDim.x;
  if (blocks > 1) {
    Best* const of_row = bests + blockIdx.y * blocks;
    bool is_last = false;
    if (lane == 0) {
      of_row[blockIdx.x] = best;
      is_last = CountIn(counters + blockIdx.y) == blocks - 1;
      if (is_last) counters[blockIdx.y] = 0;
    }
    if (!__shfl_sync(kAllLanes, static_cast<int>(is_last), 0)) return;
    best = Best{};
    for (unsigned b = lane; b < blocks; b += 32) {
      const Best other{__ldcg(&of_row[b].logit), __ldcg(&of_row[b].token), __ldcg(&of_row[b].nonfinite)};
      best.Keep(other.logit, other.token);
      best.nonfinite += other.nonfinite;
    }
    best.OverLanes();
  }
  if (lane == 0) call.choices[blockIdx.y] = best.Choice();
}

}  // namespace

int64_t PickGreedyBytes() { return kMostPickBlocks * static_cast<int64_t>(sizeof(Best)); }

void LaunchPickGreedy(const GreedyCall& call, std::byte* workspace, std::span<unsigned> counters, cudaStream_t stream) {
  // As many blocks as have counters and room, a few loads a thread.
  int64_t blocks = 1;
  if (call.rows <= static_cast<int64_t>(counters.size())) {
    blocks = std::clamp<int64_t>(kMostPickBlocks / call.rows, 1, (call.columns + 4 * kThreads - 1) / (4 * kThreads));
  }
  const int64_t each = (call.columns + 4 * blocks - 1) / (4 * blocks) * 4;
  LaunchOverlapped("PickGreedyKernel", PickGreedyKernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(call.rows)), kThreads,
                   stream, call, static_cast<int>(each), reinterpret_cast<Best*>(workspace), counters.data());
}

}  // namespace hproc::kernels::cuda
