#include "kernels/gated_delta.h"

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/gated_delta_backends.h"

namespace hproc::kernels {

void CausalConvSilu(const Context& context, const CausalConvCall& call) {
  HPROC_CHECK(call.kernel >= 1 && call.weight->rows * call.weight->columns == call.channels * call.kernel,
              "weight of a convolution");
  if (context.device != nullptr) return context.device->CausalConvSilu(call);
  context.backend == Backend::kReference ? reference::CausalConvSilu(call) : cpu::CausalConvSilu(context, call);
}

void GatedDeltaRule(const Context& context, const DeltaRuleCall& call) {
  HPROC_CHECK(call.value_heads % call.key_heads == 0, "value heads share key heads evenly");
  if (context.device != nullptr) return context.device->GatedDeltaRule(call);
  context.backend == Backend::kReference ? reference::GatedDeltaRule(call) : cpu::GatedDeltaRule(context, call);
}

void GatedDeltaNet(const Context& context, const GatedDeltaCall& call) {
  HPROC_CHECK(call.projections.size() == 4 || call.projections.size() == 2, "projections of a gated delta net");
  if (context.device != nullptr) return context.device->GatedDeltaNet(call);
  Matmul(context, call.projections);
  CausalConvSilu(context, call.convolution);
  GatedDeltaRule(context, call.rule);
  GatedRmsNorm(context, call.norm);
}

}  // namespace hproc::kernels
