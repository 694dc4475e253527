#include "base/check.h"
#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kMostThreads = 1024;

struct NormParams {
  int64_t rows;
  const float* input;
  const int32_t* input_rows;
  int64_t input_stride;
  float* output;
  int64_t output_stride;
  int columns;
  bool wide;  // whether all rows can be read and written four values at a time
  PlainWeights weight;
  float weight_offset;
  float epsilon;
  const float* gate;    // rows of `columns`; or null
  CombineCall combine;  // where it has a residual, that is the input, and takes this in first
  int8_t* rounded;      // or null: [rows][2 * padded], as decode_params.h says
  float* scales;
  int padded;
};

// Four values of a row, of which those behind its end are zero.
__device__ __forceinline__ float4 Load(const float* row, int column, int columns, bool wide) {
  float4 x{0, 0, 0, 0};
  if (wide) return column < columns ? *reinterpret_cast<const float4*>(row + column) : x;
  if (column < columns) x.x = row[column];
  if (column + 1 < columns) x.y = row[column + 1];
  if (column + 2 < columns) x.z = row[column + 2];
  if (column + 3 < columns) x.w = row[column + 3];
  return x;
}
__device__ __forceinline__ void Store(float* row, int column, int columns, bool wide, float4 x) {
  if (wide) {
    if (column < columns) *reinterpret_cast<float4*>(row + column) = x;
    return;
  }
  if (column < columns) row[column] = x.x;
  if (column + 1 < columns) row[column + 1] = x.y;
  if (column + 2 < columns) row[column + 2] = x.z;
  if (column + 3 < columns) row[column + 3] = x.w;
}
__device__ __forceinline__ float4 Times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ __forceinline__ float4 Times(float4 a, float b) { return {a.x * b, a.y * b, a.z * b, a.w * b}; }
__device__ __forceinline__ void Add(float4& a, float factor, float4 b) {
  a = {fmaf(factor, b.x, a.x), fmaf(factor, b.y, a.y), fmaf(factor, b.z, a.z), fmaf(factor, b.w, a.w)};
}

// A block a row, or several where a warp is enough for one: a warp or two for a head, more for a hidden state. A thread keeps its kFours times four columns, so that all it
// reads is asked for at once, the weights even before the kernel in front is done. Where the row is rounded too, the largest
// product is looked for before the root is known, so that one barrier serves both.
template <int kFours>
__global__ void __launch_bounds__(kMostThreads) NormKernel(const __grid_constant__ NormParams p) {
  __shared__ float sums[kMostThreads / 32];
  __shared__ uint32_t most[kMostThreads / 32];
  const int threads = static_cast<int>(blockDim.x);
  const int lane = threadIdx.x % 32;
  const auto column = [&](int n) { return (static_cast<int>(threadIdx.x) + n * threads) * 4; };
  uint4 weight_bits[kFours];
  AllowNextKernel();
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    const int c = column(n);
    weight_bits[n] = uint4{0, 0, 0, 0};
    if (c + 3 < p.columns && p.columns % 4 == 0) {
      weight_bits[n] = p.weight.FourBits(c);
    } else if (c < p.columns) {
      const auto bits = [&](int i) { return c + i < p.columns ? p.weight.Bits(c + i) : 0u; };
      weight_bits[n] = uint4{bits(0), bits(1), bits(2), bits(3)};
      if (p.weight.storage != Storage::kFloat32) {
        weight_bits[n] = uint4{weight_bits[n].x | weight_bits[n].y << 16, weight_bits[n].z | weight_bits[n].w << 16, 0, 0};
      }
    }
  }
  WaitForKernelInFront();
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;  // whole warps: rows share a block only where they are a warp each
  const CombineCall& combine = p.combine;
  const float* in = combine.residual != nullptr ? combine.residual + row * p.columns
                                                : p.input + (p.input_rows != nullptr ? p.input_rows[row] : row) * p.input_stride;
  float4 values[kFours];
#pragma unroll
  for (int n = 0; n < kFours; ++n) values[n] = Load(in, column(n), p.columns, p.wide);
  if (combine.residual != nullptr) {
    const float factor = combine.shared_gate != nullptr ? Sigmoid(combine.shared_gate[row]) : 1.0f;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      if (combine.routed != nullptr) {
        for (int64_t k = row * combine.top; k < (row + 1) * combine.top; ++k) {
          Add(values[n], combine.weights[k], Load(combine.routed + k * p.columns, column(n), p.columns, p.wide));
        }
      }
      if (combine.shared != nullptr) {
        Add(values[n], factor, Load(combine.shared + row * p.columns, column(n), p.columns, p.wide));
      }
    }
#pragma unroll
    for (int n = 0; n < kFours; ++n) Store(combine.into() + row * p.columns, column(n), p.columns, p.wide, values[n]);
  }
  float square = 0;
  uint32_t largest = 0;
  float4 weights[kFours];
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    const float4 weight = p.weight.FourValues(weight_bits[n]);  // where there are no columns, values are zero
    weights[n] = {weight.x + p.weight_offset, weight.y + p.weight_offset, weight.z + p.weight_offset, weight.w + p.weight_offset};
    if (p.gate != nullptr) {
      const float4 gate = Load(p.gate + row * p.columns, column(n), p.columns, p.wide);
      weights[n] = Times(weights[n], float4{Silu(gate.x), Silu(gate.y), Silu(gate.z), Silu(gate.w)});
    }
    const float4 x = values[n];
    square = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, square))));
    values[n] = Times(x, weights[n]);
    largest = max(largest, LargestBits(values[n]));
  }
  square = WarpSum(square);
  largest = __reduce_max_sync(kAllLanes, largest);
  if (threads > 32) {
    if (lane == 0) sums[threadIdx.x / 32] = square, most[threadIdx.x / 32] = largest;
    __syncthreads();
    square = WarpSum(lane < threads / 32 ? sums[lane] : 0.0f);
    largest = __reduce_max_sync(kAllLanes, lane < threads / 32 ? most[lane] : 0u);
  }
  const float inverse = 1.0f / sqrtf(square / static_cast<float>(p.columns) + p.epsilon);
  largest = __float_as_uint(__uint_as_float(largest) * inverse);
  const float whole = InverseScale(largest);
  int8_t* rounded = p.rounded + row * 2 * p.padded;
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    const int c = column(n);
    const float4 x = Times(values[n], inverse);
    Store(p.output + row * p.output_stride, c, p.columns, p.wide, x);
    if (p.rounded != nullptr && c < p.padded) {
      uint32_t high, low;
      RoundFour(x, whole, high, low);
      *reinterpret_cast<uint32_t*>(rounded + RoundedOffset(c)) = high;
      *reinterpret_cast<uint32_t*>(rounded + RoundedOffset(c) + kLowOffset) = low;
    }
  }
  if (p.rounded != nullptr && threadIdx.x == 0) p.scales[row] = ScaleOf(largest);
}

template <int kFours>
void LaunchOf(const NormParams& params, cudaStream_t stream) {
  const int columns = params.rounded != nullptr ? params.padded : params.columns;
  const auto threads = static_cast<unsigned>((columns + kFours * 128 - 1) / (kFours * 128) * 32);
  const unsigned block_rows = threads == 32 && params.rows > 1024 ? 8 : 1;
  LaunchOverlapped("NormKernel", NormKernel<kFours>, Blocks(params.rows, block_rows), dim3(threads, block_rows), stream, params);
}

void Launch(const NormParams& params, cudaStream_t stream) {
  HPROC_CHECK(params.columns <= kMostNormColumns, "columns of a norm on a CUDA device");
  if (params.columns <= 4 * kMostThreads) return LaunchOf<1>(params, stream);
  LaunchOf<4>(params, stream);
}

}  // namespace

void LaunchRmsNorm(const RmsNormCall& call, const CombineCall& combine, cudaStream_t stream) {
  NormParams params{.rows = call.rows,
                    .input = call.input,
                    .input_rows = call.input_rows,
                    .input_stride = call.input_stride,
                    .output = call.output,
                    .output_stride = call.output_stride,
                    .columns = static_cast<int>(call.columns),
                    .wide = call.columns % 4 == 0 && call.input_stride % 4 == 0 && call.output_stride % 4 == 0,
                    .weight = PlainOf(*call.weight),
                    .weight_offset = call.weight_offset,
                    .epsilon = call.epsilon,
                    .gate = nullptr,
                    .combine = combine,
                    .rounded = nullptr,
                    .scales = nullptr,
                    .padded = 0};
  if (call.rounded != nullptr) {
    params.rounded = reinterpret_cast<int8_t*>(call.rounded->quantized);
    params.scales = call.rounded->scales;
    params.padded = static_cast<int>(RoundedRowBytes(call.columns) / 2);
  }
  Launch(params, stream);
}

void LaunchGatedRmsNorm(const GatedRmsNormCall& call, cudaStream_t stream) {
  Launch({.rows = call.rows,
          .input = call.values,
          .input_rows = nullptr,
          .input_stride = call.columns,
          .output = call.values,
          .output_stride = call.columns,
          .columns = static_cast<int>(call.columns),
          .wide = call.columns % 4 == 0,
          .weight = PlainOf(*call.weight),
          .weight_offset = 0,
          .epsilon = call.epsilon,
          .gate = call.gate,
          .combine = {},
          .rounded = nullptr,
          .scales = nullptr,
          .padded = 0},
         stream);
}

}  // namespace hproc::kernels::cuda
