#include <algorithm>

#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kMostThreads = 512;

// A block a row: a warp for a head, more for a hidden state.
int ThreadsFor(int64_t columns) {
  return static_cast<int>(std::clamp<int64_t>((columns / 4 + 31) / 32 * 32, 32, kMostThreads));
}

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
  const float* gate;  // rows of `columns`; or null
};

__global__ void __launch_bounds__(kMostThreads) NormKernel(NormParams p) {
  __shared__ float shared[kMostThreads / 32];
  const int64_t row = blockIdx.x;
  const float* in = p.input + (p.input_rows != nullptr ? p.input_rows[row] : row) * p.input_stride;
  float square = 0;
  for (int c = threadIdx.x; c < p.columns; c += blockDim.x) square = fmaf(in[c], in[c], square);
  square = BlockSum(square, shared);
  const float inverse = 1.0f / sqrtf(square / static_cast<float>(p.columns) + p.epsilon);
  float* out = p.output + row * p.output_stride;
  for (int c = threadIdx.x; c < p.columns; c += blockDim.x) {  // each thread its own columns: `out` may be `in`
    float value = in[c] * inverse * (p.weight[c] + p.weight_offset);
    if (p.gate != nullptr) value *= Silu(p.gate[row * p.columns + c]);
    out[c] = value;
  }
}

void Launch(const NormParams& params, int64_t rows, cudaStream_t stream) {
  NormKernel<<<static_cast<unsigned>(rows), ThreadsFor(params.columns), 0, stream>>>(params);
  HPROC_CUDA_LAUNCHED("NormKernel");
}

}  // namespace

void LaunchRmsNorm(const RmsNormCall& call, cudaStream_t stream) {
  Launch({.input = call.input, .input_rows = call.input_rows, .input_stride = call.input_stride, .output = call.output,
          .output_stride = call.output_stride, .columns = static_cast<int>(call.columns), .weight = PlainOf(*call.weight),
          .weight_offset = call.weight_offset, .epsilon = call.epsilon, .gate = nullptr},
         call.rows, stream);
}

void LaunchGatedRmsNorm(const GatedRmsNormCall& call, cudaStream_t stream) {
  Launch({.input = call.values, .input_rows = nullptr, .input_stride = call.columns, .output = call.values,
          .output_stride = call.columns, .columns = static_cast<int>(call.columns), .weight = PlainOf(*call.weight),
          .weight_offset = 0, .epsilon = call.epsilon, .gate = call.gate},
         call.rows, stream);
}

}  // namespace hproc::kernels::cuda
