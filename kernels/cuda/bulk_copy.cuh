// Bulk copies to shared memory and the barriers that count their bytes (compute capability 9.0).
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace hproc::kernels::cuda {

// A barrier in shared memory. A phase ends when `arrivals` have arrived and all bytes announced have come; phase n is waited for by
// the parity n % 2.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
// Behind the InitBarriers of a thread, before the block's next __syncthreads.
__device__ __forceinline__ void ShowBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
__device__ __forceinline__ void ArriveExpecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n\tAGAIN:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@!done bra AGAIN;\n\t}" ::"r"(
          SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}
// Addresses and bytes are multiples of 16.
__device__ __forceinline__ void CopyBulk(uint32_t to, const void* from, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
               "r"(SharedAddress(barrier))
               : "memory");
}

}  // namespace hproc::kernels::cuda
