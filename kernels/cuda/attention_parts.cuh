// How blocks share the positions of a row of attention, and where they leave what another kernel joins.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {

// In the workspace: [row][head][part][kPartHeader: largest score, sum of weights; head_dim sums of values].
inline constexpr int kPartHeader = 4;
__device__ __forceinline__ float* PartAt(const AttendCall& call, float* workspace, int64_t row, int64_t head, int parts, int part) {
  return workspace + ((row * call.heads + head) * parts + part) * (call.cache.head_dim + kPartHeader);
}

// Positions of every part but the last: as many as share `positions` out over `parts`, in whole chunks. Parts behind the last
// position have nothing to do.
__host__ __device__ __forceinline__ int PartPositions(int positions, int parts, int chunk) {
  return ((positions + parts - 1) / parts + chunk - 1) / chunk * chunk;
}

// Value i of a head, by the output gate's sigmoid where there is one.
__device__ __forceinline__ float Gated(const AttendCall& call, int64_t row, int64_t head, int i, float value) {
  if (call.gate == nullptr) return value;
  return value * Sigmoid(call.gate[row * call.query_stride + head * call.query_head_stride + i]);
}

// attention_halves.cu: float16 caches whose heads are whole steps of its matrix products.
inline constexpr int kHalvesHeads = 16;  // query heads of a block, of one kv head
inline constexpr int kHalvesChunk = 64;
bool CanAttendHalves(const AttendCall& call);
void LaunchAttendHalves(const AttendCall& call, int parts, cudaStream_t stream);

}  // namespace hproc::kernels::cuda
