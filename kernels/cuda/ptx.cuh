// The instructions that CUDA C++ has no words for.
#pragma once

#include <cstdint>

namespace hproc::kernels::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies kBytes from global to shared memory where `wanted`, past the L1 where that is possible. Predicated rather than
// branched around, so that the copies of an item stand together.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, bool wanted) {
  const auto predicate = static_cast<uint32_t>(wanted);
  if constexpr (kBytes == 16) {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %2, 0;\n\t@p cp.async.cg.shared.global [%0], [%1], 16;\n\t}" ::"r"(to),
        "l"(from), "r"(predicate)
        : "memory");
  } else {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %2, 0;\n\t@p cp.async.ca.shared.global [%0], [%1], %3;\n\t}" ::"r"(to),
        "l"(from), "r"(predicate), "n"(kBytes)
        : "memory");
  }
}
// Closes a group of this thread's copies; waits for all groups but the last kPending.
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ float Reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Programmatic dependent launch; both do nothing in a kernel that was launched without it.
__device__ __forceinline__ void AllowNextKernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void WaitForKernelInFront() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// sum[16 x 8] += A[16 x 32] B[32 x 8] in int8: A's rows g and g + 8 in (a0, a2) and (a1, a3), B's column g in (b0, b1).
__device__ __forceinline__ void MultiplyAdd(int32_t (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                            uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace hproc::kernels::cuda
