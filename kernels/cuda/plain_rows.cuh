// Rows of weights of plain storage, and a thread's share of their products.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {

template <Storage kStorage>
struct Stored;
template <>
struct Stored<Storage::kFloat32> {
  static constexpr int kEach = 4;  // values of a 16-byte load
  __device__ static void Unpack(uint4 from, float* values) {
    values[0] = __uint_as_float(from.x), values[1] = __uint_as_float(from.y);
    values[2] = __uint_as_float(from.z), values[3] = __uint_as_float(from.w);
  }
};
template <>
struct Stored<Storage::kBfloat16> {
  static constexpr int kEach = 8;
  __device__ static void Unpack(uint4 from, float* values) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  }
};
template <>
struct Stored<Storage::kFloat16> {
  static constexpr int kEach = 8;
  __device__ static void Unpack(uint4 from, float* values) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      values[2 * i] = two.x, values[2 * i + 1] = two.y;
    }
  }
};

// A thread's part of a row: columns (or vectors of them) first, first + step, ….
struct Share {
  int first;
  int step;
};

// Rows of plain storage.
template <Storage kStorage>
struct PlainRows {
  static constexpr Storage kStored = kStorage;
  const void* data = nullptr;
  int columns = 0;
  bool wide = false;  // whether rows of weights and of float32 activations can be read in 16 bytes

  PlainRows() = default;
  explicit PlainRows(const Matrix& weight)
      : data(weight.data), columns(static_cast<int>(weight.columns)), wide(weight.columns % Stored<kStorage>::kEach == 0) {}

  // Brings the row near, which may be done before the kernel in front is done.
  __device__ __forceinline__ void Prefetch(Share share, int64_t row) const {
    const int row_bytes = columns * (16 / Stored<kStorage>::kEach);
    const char* from = static_cast<const char*>(data) + row * row_bytes;
    for (int i = share.first * 128; i < row_bytes; i += share.step * 128)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
  }

  // This thread's share of the dot products of row `row` with kTokens rows of `input`, of which `tokens` exist.
  template <int kTokens>
  __device__ __forceinline__ void Dots(Share share, int64_t row, const float* input, int tokens, float (&sums)[kTokens]) const {
    constexpr int kEach = Stored<kStorage>::kEach;
    if (wide) {
      const auto* from = reinterpret_cast<const uint4*>(static_cast<const char*>(data) + row * columns * (16 / kEach));
#pragma unroll kTokens == 1 ? 4 : 2
      for (int c = share.first * kEach; c < columns; c += share.step * kEach) {
        float w[kEach];
        Stored<kStorage>::Unpack(__ldg(from + c / kEach), w);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t >= tokens) break;
          const auto* x = reinterpret_cast<const float4*>(input + int64_t{t} * columns + c);
#pragma unroll
          for (int i = 0; i < kEach / 4; ++i) {
            const float4 four = x[i];
            sums[t] = fmaf(w[4 * i], four.x, sums[t]);
            sums[t] = fmaf(w[4 * i + 1], four.y, sums[t]);
            sums[t] = fmaf(w[4 * i + 2], four.z, sums[t]);
            sums[t] = fmaf(w[4 * i + 3], four.w, sums[t]);
          }
        }
      }
      return;
    }
    for (int c = share.first; c < columns; c += share.step) {
      const float w = StoredValue(data, kStorage, row * columns + c);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t < tokens) sums[t] = fmaf(w, input[int64_t{t} * columns + c], sums[t]);
      }
    }
  }
};

}  // namespace hproc::kernels::cuda
