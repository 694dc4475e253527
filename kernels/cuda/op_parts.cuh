// What the kernels of the operations share: sums over lanes, the element functions, and where a row of a pass belongs.
#pragma once

#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/stored_value.cuh"
#include "kernels/sequence.h"

namespace hproc::kernels::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

inline unsigned Blocks(int64_t work, int64_t each) { return static_cast<unsigned>((work + each - 1) / each); }

__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Of all threads of the block, in each; `shared` holds a float a warp. Whole warps.
__device__ __forceinline__ float BlockSum(float value, float* shared) {
  value = WarpSum(value);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (warps == 1) return value;
  const int lane = threadIdx.x % 32;
  __syncthreads();  // the last sum may still be being read
  if (lane == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  return WarpSum(lane < warps ? shared[lane] : 0.0f);
}

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float Silu(float x) { return x / (1.0f + expf(-x)); }
__device__ __forceinline__ float Softplus(float x) { return x > 30.0f ? x : log1pf(expf(x)); }

// Weights of plain storage, as a kernel takes them.
struct PlainWeights {
  const void* data;
  Storage storage;
  __device__ __forceinline__ float operator[](int64_t i) const { return StoredValue(data, storage, i); }
};
inline PlainWeights PlainOf(const Matrix& matrix) { return {matrix.data, matrix.storage}; }

struct RowPlace {
  int slot;
  int position;
};
__device__ __forceinline__ RowPlace PlaceOf(const SequenceRun* runs, int run_count, int row) {
  int r = min(row, run_count - 1);  // the run itself where every run is one token
  while (runs[r].first_row > row) --r;
  return {runs[r].slot, runs[r].first_position + row - runs[r].first_row};
}

}  // namespace hproc::kernels::cuda
