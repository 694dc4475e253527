#include "kernels/moe.h"

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/moe_backends.h"
#include "kernels/norm.h"

namespace hproc::kernels {

void Route(const Context& context, const RouteCall& call) {
  HPROC_CHECK(call.top >= 1 && call.top <= call.experts, "experts per token");
  if (context.device != nullptr) return context.device->Route(call);
  context.backend == Backend::kReference ? reference::Route(call) : cpu::Route(context, call);
}

void SwiGlu(const Context& context, const SwiGluCall& call) {
  if (context.device != nullptr) return context.device->SwiGlu(call);
  context.backend == Backend::kReference ? reference::SwiGlu(call) : cpu::SwiGlu(context, call);
}

void SigmoidGate(const Context& context, const SigmoidGateCall& call) {
  if (context.device != nullptr) return context.device->SigmoidGate(call);
  context.backend == Backend::kReference ? reference::SigmoidGate(call) : cpu::SigmoidGate(context, call);
}

void Combine(const Context& context, const CombineCall& call) {
  if (context.device != nullptr) return context.device->Combine(call);
  context.backend == Backend::kReference ? reference::Combine(call) : cpu::Combine(context, call);
}

void CombineAndNorm(const Context& context, const CombineCall& combine, const RmsNormCall& norm) {
  HPROC_CHECK(norm.input == combine.residual && norm.input_rows == nullptr && norm.input_stride == combine.columns &&
                  norm.rows == combine.rows && norm.columns == combine.columns, "the norm of a residual");
  if (context.device != nullptr) return context.device->CombineAndNorm(combine, norm);
  Combine(context, combine);
  RmsNorm(context, norm);
}

}  // namespace hproc::kernels
