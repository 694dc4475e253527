// The read floor: how fast a kernel that does nothing else reads so many bytes from device memory, cold. Ten kernels,
// the best of which is the floor at that size: plain 16-byte loads with several in flight a thread, in several grids, and
// bulk copies into shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace hproc::kernels {
namespace cuda {

// Barriers in shared memory that count bytes of bulk copies (mbarrier).
__device__ __forceinline__ void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
// Makes the initialization visible to the copy engine.
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
// The one arrival of this phase, with the bytes it must wait for.
__device__ __forceinline__ void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase of this parity.
__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n\t"
      ".reg .pred done;\n\t"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}
// Copies `bytes` (a multiple of 16; both sides aligned to 16) from global to shared memory; weights are read once, so
// that they are the first to leave the L2.
__device__ __forceinline__ void BulkCopy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;  // createpolicy.fractional.L2::evict_first, 1.0
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier)), "l"(kEvictFirst)
      : "memory");
}

}  // namespace cuda

template <int kInFlight>
__global__ void ReadByLoads(const uint4* data, int64_t count, uint32_t* sink) {
  cuda::AllowNextKernel();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  uint32_t sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride * kInFlight) {
    uint4 v[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      v[k] = uint4{0, 0, 0, 0};
      if (i + k * stride < count) {
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[k].x), "=r"(v[k].y), "=r"(v[k].z), "=r"(v[k].w)
                     : "l"(data + i + k * stride));
      }
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  cuda::WaitForKernelInFront();
  if (sum == 0x9E3779B9u) *sink = sum;
}

// Each warp copies its share in pieces into a ring of its own.
template <int kPieceBytes, int kWarps, int kSlots>
__global__ void __launch_bounds__(kWarps * 32) ReadByBulkCopies(const uint4* data, int64_t count, uint32_t* sink) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ uint64_t barriers[kWarps][kSlots];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  uint64_t* full = barriers[warp];
  uint8_t* ring = shared + warp * kSlots * kPieceBytes;
  cuda::AllowNextKernel();
  if (lane == 0) {
    for (int s = 0; s < kSlots; ++s) cuda::BarrierInit(full + s, 1);
    cuda::BarrierInitFence();
  }
  __syncwarp();
  const int64_t bytes = count * 16;
  const int64_t pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
  const int64_t warps = int64_t{gridDim.x} * kWarps, self = int64_t{blockIdx.x} * kWarps + warp;
  const int64_t first = pieces * self / warps, end = pieces * (self + 1) / warps;
  const auto fetch = [&](int64_t piece, int slot) {
    if (piece >= end || lane != 0) return;
    const int64_t at = piece * kPieceBytes;
    const auto size = static_cast<uint32_t>(bytes - at < kPieceBytes ? bytes - at : kPieceBytes);
    cuda::BarrierExpect(full + slot, size);
    cuda::BulkCopy(ring + slot * kPieceBytes, reinterpret_cast<const uint8_t*>(data) + at, size, full + slot);
  };
  for (int s = 0; s < kSlots; ++s) fetch(first + s, s);
  int slot = 0;
  uint32_t phase = 0, sum = 0;
  for (int64_t piece = first; piece < end; ++piece) {
    cuda::BarrierWait(full + slot, phase);
    sum ^= *reinterpret_cast<uint32_t*>(ring + slot * kPieceBytes + lane * 4);
    __syncwarp();
    fetch(piece + kSlots, slot);
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
  }
  cuda::WaitForKernelInFront();
  if (sum == 0x9E3779B9u) *sink = sum;
}

struct ReadKernel {
  const char* name;
  void (*kernel)(const uint4*, int64_t, uint32_t*);
  int threads;
  int blocks_per_sm;  // 0: one thread's loads a thread, in as many blocks as that takes
  int in_flight;
  int shared_bytes;
};

inline constexpr ReadKernel kReadKernels[] = {
    {"loads 1, a grid as large", ReadByLoads<1>, 256, 0, 1, 0},
    {"loads 2, a grid as large", ReadByLoads<2>, 256, 0, 2, 0},
    {"loads 4, a grid as large", ReadByLoads<4>, 256, 0, 4, 0},
    {"loads 4, 512 x 4", ReadByLoads<4>, 512, 4, 4, 0},
    {"loads 4, 1024 x 2", ReadByLoads<4>, 1024, 2, 4, 0},
    {"loads 8, 512 x 2", ReadByLoads<8>, 512, 2, 8, 0},
    {"loads 8, 1024 x 1", ReadByLoads<8>, 1024, 1, 8, 0},
    {"bulk 2 KiB, 16 x 6", ReadByBulkCopies<2048, 16, 6>, 512, 1, 0, 2048 * 16 * 6},
    {"bulk 4 KiB, 8 x 6", ReadByBulkCopies<4096, 8, 6>, 256, 1, 0, 4096 * 8 * 6},
    {"bulk 8 KiB, 4 x 3, two blocks", ReadByBulkCopies<8192, 4, 3>, 128, 2, 0, 8192 * 4 * 3},
};

inline void LaunchRead(const ReadKernel& read, const void* data, int64_t bytes, uint32_t* sink, int multiprocessors,
                       bool overlap, cudaStream_t stream) {
  const int64_t count = bytes / 16;
  const int64_t a_block = int64_t{read.threads} * (read.in_flight > 0 ? read.in_flight : 1);
  const dim3 grid(static_cast<unsigned>(read.blocks_per_sm > 0 ? multiprocessors * read.blocks_per_sm : (count + a_block - 1) / a_block));
  if (read.shared_bytes > 0) {
    HPROC_CUDA_CHECK(cudaFuncSetAttribute(read.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, read.shared_bytes));
  }
  HPROC_CUDA_CHECK(cuda::Enqueue(read.kernel, grid, dim3(static_cast<unsigned>(read.threads)), read.shared_bytes, overlap, stream,
                                 static_cast<const uint4*>(data), count, sink));
}

}  // namespace hproc::kernels
