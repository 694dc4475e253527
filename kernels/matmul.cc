#include "kernels/matmul.h"

#include <vector>

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/matmul_backends.h"

namespace hproc::kernels {

MatmulCall WholeProduct(const Matrix& weight, const Activations& input, float* output) {
  MatmulCall call;
  call.weight = &weight;
  call.rows = weight.rows;
  call.input = &input;
  call.tokens = input.tokens;
  call.output = output;
  call.output_stride = weight.rows;
  return call;
}

void QuantizeActivations(const Context& context, const Activations& activations) {
  HPROC_CHECK(activations.quantized != nullptr && activations.scales != nullptr, "room for rounded activations");
  if (context.backend == Backend::kCpu) cpu::QuantizeActivations(context, activations);
}

void LargestMagnitudes(const Context& context, const Activations& activations, float* largest) {
  HPROC_CHECK(context.backend == Backend::kCpu, "a host backend that rounds");
  cpu::LargestMagnitudes(context, activations, largest);
}

void QuantizeActivations(const Context& context, const Activations& activations, const float* largest) {
  HPROC_CHECK(activations.quantized != nullptr && activations.scales != nullptr, "room for rounded activations");
  HPROC_CHECK(context.backend == Backend::kCpu, "a host backend that rounds");
  cpu::QuantizeActivations(context, activations, largest);
}

void AddBias(const Context& context, const BiasCall& call) {
  if (context.device != nullptr) return context.device->AddBias(call);
  const int64_t columns = call.bias->columns;
  std::vector<float> decoded(static_cast<size_t>(columns));
  DecodeMatrixRow(*call.bias, 0, decoded.data());
  for (int64_t r = 0; r < call.rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) call.values[r * columns + c] += decoded[static_cast<size_t>(c)];
  }
}

void Matmul(const Context& context, std::span<const MatmulCall> calls) {
  for (const MatmulCall& call : calls) {
    HPROC_CHECK(call.weight->columns == call.input->columns, "columns of weight and input");
    HPROC_CHECK(call.first_row >= 0 && call.first_row + call.rows <= call.weight->rows, "rows of the weight");
    HPROC_CHECK(call.output_stride >= call.rows, "output stride");
    HPROC_CHECK(call.sums == nullptr || context.device == nullptr, "sums in double on a host backend");
  }
  if (context.matmul != nullptr) return context.matmul(context, calls);
  switch (context.backend) {
    case Backend::kReference: reference::Matmul(calls); return;
    case Backend::kCpu: cpu::Matmul(context, calls); return;
    case Backend::kDevice: context.device->Matmul(calls); return;
  }
}

}  // namespace hproc::kernels
