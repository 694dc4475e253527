// What the kernels of the operations share: sums over lanes, the element functions, and where a row of a pass belongs.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <string>

#include "kernels/attention.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/stored_value.cuh"
#include "kernels/moe.h"
#include "kernels/sequence.h"

namespace hproc::kernels::cuda {

// What every kernel of the operations begins with: the next one may take its place on the device, and nothing is read before the
// one in front is done and its writes are seen. Since each of them waits so, all before it are done too.
__device__ __forceinline__ void StartBehindKernelInFront() {
  AllowNextKernel();
  WaitForKernelInFront();
}

// Launches a kernel that begins with StartBehindKernelInFront, so that its launch overlaps with the kernel in front.
template <typename... Params, typename... Args>
void LaunchOverlapped(const char* name, void (*kernel)(Params...), dim3 grid, dim3 threads, cudaStream_t stream, const Args&... args) {
  const cudaError_t code = Enqueue(kernel, grid, threads, 0, true, stream, args...);
  if (code != cudaSuccess) CheckCuda(code, (std::string("launch of ") + name).c_str(), __FILE__, __LINE__);
}

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

// Adds one to a counter, after all that this thread has written or seen written and before all it does from there on.
__device__ __forceinline__ unsigned CountIn(unsigned* counter) {
  unsigned before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float Silu(float x) { return x / (1.0f + expf(-x)); }
__device__ __forceinline__ float Softplus(float x) { return x > 30.0f ? x : log1pf(expf(x)); }

// Weights of plain storage, as a kernel takes them. Which storage it is is known at run time, and a value that is converted where it
// is read is waited for there: to ask for several at once, their bits come first.
struct PlainWeights {
  const void* data = nullptr;
  Storage storage = Storage::kFloat32;
  __device__ __forceinline__ float operator[](int64_t i) const { return Value(Bits(i)); }

  __device__ __forceinline__ uint32_t Bits(int64_t i) const {
    return storage == Storage::kFloat32 ? __ldg(static_cast<const uint32_t*>(data) + i) : __ldg(static_cast<const uint16_t*>(data) + i);
  }
  __device__ __forceinline__ float Value(uint32_t bits) const {
    switch (storage) {
      case Storage::kBfloat16: return __uint_as_float(bits << 16);
      case Storage::kFloat16: return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
      default: return __uint_as_float(bits);
    }
  }
  // Of four from a multiple of four on.
  __device__ __forceinline__ uint4 FourBits(int64_t i) const {
    if (storage == Storage::kFloat32) return __ldg(reinterpret_cast<const uint4*>(static_cast<const float*>(data) + i));
    const uint2 two = __ldg(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + i));
    return {two.x, two.y, 0, 0};
  }
  __device__ __forceinline__ float4 FourValues(uint4 bits) const {
    if (storage == Storage::kFloat32) {
      return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)};
    }
    return FourHalves({bits.x, bits.y}, storage);
  }
};
inline PlainWeights PlainOf(const Matrix& matrix) { return {matrix.data, matrix.storage}; }

// What a row's residual becomes in column c.
__device__ __forceinline__ float Combined(const CombineCall& call, int64_t row, int c) {
  float sum = call.residual[row * call.columns + c];
  if (call.routed != nullptr) {
    for (int64_t k = row * call.top; k < (row + 1) * call.top; ++k) sum += call.weights[k] * call.routed[k * call.columns + c];
  }
  if (call.shared != nullptr) {
    const float gate = call.shared_gate != nullptr ? Sigmoid(call.shared_gate[row]) : 1.0f;
    sum += gate * call.shared[row * call.columns + c];
  }
  return sum;
}

struct RowPlace {
  int slot;
  int position;
};
// Which run a row is of.
__device__ __forceinline__ int RunOf(const SequenceRun* runs, int run_count, int row) {
  int r = min(row, run_count - 1);  // the run itself where every run is one token
  while (runs[r].first_row > row) --r;
  return r;
}
__device__ __forceinline__ RowPlace PlaceOf(const SequenceRun* runs, int run_count, int row) {
  const SequenceRun run = runs[RunOf(runs, run_count, row)];
  return {run.slot, run.first_position + row - run.first_row};
}

}  // namespace hproc::kernels::cuda
