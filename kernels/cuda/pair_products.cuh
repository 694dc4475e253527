// Tensor core products (mma.sync, m16n8k16) of values in pairs of 16-bit parts, x = high + low, for sums as of float32: operands from
// shared memory, and the three products of parts that matter.
//
// Lane 4 g + q has of a 16 x 8 sum rows g and g + 8, columns 2 q and 2 q + 1: elements 0, 1 and 2, 3.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace hproc::kernels::cuda {

// Of two values, the first in the lower half.
struct Pair {
  uint32_t high, low;
};
__device__ __forceinline__ uint32_t PackedBfloat16(float a, float b) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ __forceinline__ Pair Bfloat16Pair(float a, float b) {
  const uint32_t high = PackedBfloat16(a, b);
  return {high, PackedBfloat16(a - __uint_as_float(high << 16), b - __uint_as_float(high & 0xFFFF0000u))};
}
__device__ __forceinline__ uint32_t PackedHalf(float a, float b) {
  const __half2 both = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&both);
}
__device__ __forceinline__ Pair HalfPair(float a, float b) {
  const __half2 high = __floats2half2_rn(a, b);
  const float2 back = __half22float2(high);
  return {*reinterpret_cast<const uint32_t*>(&high), PackedHalf(a - back.x, b - back.y)};
}

// Four 8 x 8 matrices of 16 bits, as they stand or transposed; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void LoadMatrices(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void LoadTransposed(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ uint32_t Transposed(uint32_t m) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(m));
  return result;
}

// sum[16 x 8] += A[16 x 16] B[16 x 8].
__device__ __forceinline__ void MultiplyBfloat16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void MultiplyHalf(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct PairsA {  // an operand A
  uint32_t high[4], low[4];
};

}  // namespace hproc::kernels::cuda
