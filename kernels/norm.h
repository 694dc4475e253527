// Root-mean-square normalization of rows, plain and gated.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "kernels/matmul.h"
#include "kernels/matrix.h"

namespace hproc::kernels {

// output[i] = x[i] / sqrt(mean(x[i]^2) + epsilon) * (weight + weight_offset), for `rows` rows of `columns`.
// weight_offset is 1 where the checkpoint stores weights centred on zero (Qwen3.5), else 0. In place is allowed.
struct RmsNormCall {
  const float* input = nullptr;  // [rows, columns], rows `input_stride` floats apart
  const int32_t* input_rows = nullptr;  // [rows]: which row of `input` each is; null: in order
  int64_t input_stride = 0;
  float* output = nullptr;
  int64_t output_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  const Matrix* weight = nullptr;  // [1, columns], plain storage
  float weight_offset = 0;
  float epsilon = 1e-6f;
  const Activations* rounded = nullptr;  // whose values are `output`, as long as its rows: QuantizeActivations of them, too
};
void RmsNorm(const Context& context, const RmsNormCall& call);

// The gated delta net's output norm: x = x / sqrt(mean(x^2) + epsilon) * weight * silu(gate), in place, over rows of one
// value head.
struct GatedRmsNormCall {
  float* values = nullptr;      // [rows, columns]
  const float* gate = nullptr;  // [rows, columns]
  int64_t rows = 0;
  int64_t columns = 0;
  const Matrix* weight = nullptr;  // [1, columns]
  float epsilon = 1e-6f;
};
void GatedRmsNorm(const Context& context, const GatedRmsNormCall& call);

}  // namespace hproc::kernels
