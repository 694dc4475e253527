#include <cmath>
#include <vector>

#include "kernels/norm_backends.h"

namespace hproc::kernels::reference {
namespace {

// 1 / sqrt(mean of squares + epsilon).
double InverseRms(const float* values, int64_t columns, double epsilon) {
  double square = 0;
  for (int64_t c = 0; c < columns; ++c) square += static_cast<double>(values[c]) * static_cast<double>(values[c]);
  return 1 / std::sqrt(square / static_cast<double>(columns) + epsilon);
}

}  // namespace

void RmsNorm(const RmsNormCall& call) {
  std::vector<float> weight(static_cast<size_t>(call.columns));
  DecodeMatrixRow(*call.weight, 0, weight.data());
  for (int64_t r = 0; r < call.rows; ++r) {
    const float* in = call.input + (call.input_rows != nullptr ? call.input_rows[r] : r) * call.input_stride;
    float* out = call.output + r * call.output_stride;
    const double inverse = InverseRms(in, call.columns, call.epsilon);
    for (int64_t c = 0; c < call.columns; ++c) {
      const double w = static_cast<double>(weight[static_cast<size_t>(c)]) + static_cast<double>(call.weight_offset);
      out[c] = static_cast<float>(in[c] * inverse * w);
    }
  }
}

void GatedRmsNorm(const GatedRmsNormCall& call) {
  std::vector<float> weight(static_cast<size_t>(call.columns));
  DecodeMatrixRow(*call.weight, 0, weight.data());
  for (int64_t r = 0; r < call.rows; ++r) {
    float* values = call.values + r * call.columns;
    const float* gate = call.gate + r * call.columns;
    const double inverse = InverseRms(values, call.columns, call.epsilon);
    for (int64_t c = 0; c < call.columns; ++c) {
      const double z = gate[c];
      values[c] = static_cast<float>(values[c] * inverse * weight[static_cast<size_t>(c)] * (z / (1 + std::exp(-z))));
    }
  }
}

}  // namespace hproc::kernels::reference
