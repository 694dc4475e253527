#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kMostThreads = 1024;

struct NormParams {
  const float* input;
  const int32_t* input_rows;
  int64_t input_stride;
  float* output;
  int64_t output_stride;
  int columns;
  PlainWeights weight;
  float weight_offset;
  float epsilon;
  const float* gate;    // rows of `columns`; or null
  CombineCall combine;  // where it has a residual, that is the input, and takes this in first
};

// A block a row: a warp for a head, more for a hidden state. A thread keeps its up to kEach columns, so that all it reads is
// asked for at once, the weights even before the kernel in front is done.
template <int kEach>
__global__ void __launch_bounds__(kMostThreads) NormKernel(NormParams p) {
  __shared__ float shared[kMostThreads / 32];
  const int threads = static_cast<int>(blockDim.x);
  const auto column = [&](int i) { return static_cast<int>(threadIdx.x) + i * threads; };
  float weights[kEach];
  AllowNextKernel();
#pragma unroll
  for (int i = 0; i < kEach; ++i) weights[i] = column(i) < p.columns ? p.weight[column(i)] + p.weight_offset : 0.0f;
  WaitForKernelInFront();
  const int64_t row = blockIdx.x;
  const float* in = p.input + (p.input_rows != nullptr ? p.input_rows[row] : row) * p.input_stride;
  float values[kEach];
  float square = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = column(i);
    values[i] = c >= p.columns ? 0.0f : p.combine.residual != nullptr ? Combined(p.combine, row, c) : in[c];
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = column(i);
    if (p.combine.residual != nullptr && c < p.columns) p.combine.residual[row * p.columns + c] = values[i];
    if (p.gate != nullptr && c < p.columns) weights[i] *= Silu(p.gate[row * p.columns + c]);
    square = fmaf(values[i], values[i], square);
  }
  square = BlockSum(square, shared);
  const float inverse = 1.0f / sqrtf(square / static_cast<float>(p.columns) + p.epsilon);
  float* out = p.output + row * p.output_stride;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (column(i) < p.columns) out[column(i)] = values[i] * inverse * weights[i];
  }
}

template <int kEach>
void LaunchOf(const NormParams& params, int64_t rows, cudaStream_t stream) {
  const int threads = (params.columns + kEach * 32 - 1) / (kEach * 32) * 32;
  LaunchOverlapped("NormKernel", NormKernel<kEach>, static_cast<unsigned>(rows), threads, stream, params);
}

void Launch(const NormParams& params, int64_t rows, cudaStream_t stream) {
  HPROC_CHECK(params.columns <= kMostNormColumns, "columns of a norm on a CUDA device");
  if (params.columns <= 4 * kMostThreads) return LaunchOf<4>(params, rows, stream);
  LaunchOf<16>(params, rows, stream);
}

}  // namespace

void LaunchRmsNorm(const RmsNormCall& call, const CombineCall& combine, cudaStream_t stream) {
  Launch({.input = call.input,
          .input_rows = call.input_rows,
          .input_stride = call.input_stride,
          .output = call.output,
          .output_stride = call.output_stride,
          .columns = static_cast<int>(call.columns),
          .weight = PlainOf(*call.weight),
          .weight_offset = call.weight_offset,
          .epsilon = call.epsilon,
          .gate = nullptr,
          .combine = combine},
         call.rows, stream);
}

void LaunchGatedRmsNorm(const GatedRmsNormCall& call, cudaStream_t stream) {
  Launch({.input = call.values,
          .input_rows = nullptr,
          .input_stride = call.columns,
          .output = call.values,
          .output_stride = call.columns,
          .columns = static_cast<int>(call.columns),
          .weight = PlainOf(*call.weight),
          .weight_offset = 0,
          .epsilon = call.epsilon,
          .gate = call.gate,
          .combine = {}},
         call.rows, stream);
}

}  // namespace hproc::kernels::cuda
