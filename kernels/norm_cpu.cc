#include <cmath>
#include <vector>

#include "kernels/for_rows.h"
#include "kernels/norm_backends.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first
#include "hwy/highway.h"
#include "kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

// output = input * factor * weight
void ScaleRow(const float* HWY_RESTRICT input, float factor, const float* HWY_RESTRICT weight, int64_t columns,
              float* output) {
  const TagF d;
  const auto factors = hn::Set(d, factor);
  OverRow(
      columns,
      [&](int64_t i) HWY_ATTR {
        hn::StoreU(hn::LoadU(d, input + i) * factors * hn::LoadU(d, weight + i), d, output + i);
      },
      [&](int64_t i) { output[i] = input[i] * factor * weight[i]; });
}

void RmsNormRows(const RmsNormCall& call, const float* weight, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* in = call.input + (call.input_rows != nullptr ? call.input_rows[r] : r) * call.input_stride;
    const float mean = SumOfSquares(in, call.columns) / static_cast<float>(call.columns);
    ScaleRow(in, 1.0f / std::sqrt(mean + call.epsilon), weight, call.columns, call.output + r * call.output_stride);
  }
}

void GatedRmsNormRows(const GatedRmsNormCall& call, const float* weight, int64_t begin, int64_t end) {
  const TagF d;
  for (int64_t r = begin; r < end; ++r) {
    float* values = call.values + r * call.columns;
    const float* gate = call.gate + r * call.columns;
    const float mean = SumOfSquares(values, call.columns) / static_cast<float>(call.columns);
    const float factor = 1.0f / std::sqrt(mean + call.epsilon);
    const auto factors = hn::Set(d, factor);
    OverRow(
        call.columns,
        [&](int64_t i) HWY_ATTR {
          const auto normed = hn::LoadU(d, values + i) * factors * hn::LoadU(d, weight + i);
          hn::StoreU(normed * Silu(hn::LoadU(d, gate + i)), d, values + i);
        },
        [&](int64_t i) { values[i] = values[i] * factor * weight[i] * (gate[i] * ScalarSigmoid(gate[i])); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hproc::kernels {
HWY_EXPORT(RmsNormRows);
HWY_EXPORT(GatedRmsNormRows);

namespace cpu {
namespace {

// The weight vector as floats plus `offset`; a buffer of the calling thread.
const float* WeightOf(const Matrix& weight, int64_t columns, float offset) {
  thread_local std::vector<float> values;
  values.resize(static_cast<size_t>(columns));
  DecodeMatrixRow(weight, 0, values.data());
  for (float& v : values) v += offset;
  return values.data();
}

}  // namespace

void RmsNorm(const Context& context, const RmsNormCall& call) {
  const float* weight = WeightOf(*call.weight, call.columns, call.weight_offset);
  ForRows(context, call.rows, call.columns, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RmsNormRows)(call, weight, begin, end);
  });
}

void GatedRmsNorm(const Context& context, const GatedRmsNormCall& call) {
  const float* weight = WeightOf(*call.weight, call.columns, 0);
  ForRows(context, call.rows, 4 * call.columns, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(GatedRmsNormRows)(call, weight, begin, end);
  });
}

}  // namespace cpu
}  // namespace hproc::kernels
#endif  // HWY_ONCE
