#include "kernels/norm.h"

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/norm_backends.h"

namespace hproc::kernels {

void RmsNorm(const Context& context, const RmsNormCall& call) {
  HPROC_CHECK(call.weight->rows * call.weight->columns == call.columns && !IsPacked(call.weight->storage),
              "weight of a norm");
  if (context.device != nullptr) return context.device->RmsNorm(call);
  context.backend == Backend::kReference ? reference::RmsNorm(call) : cpu::RmsNorm(context, call);
  if (call.rounded != nullptr) QuantizeActivations(context, *call.rounded);
}

void GatedRmsNorm(const Context& context, const GatedRmsNormCall& call) {
  HPROC_CHECK(call.weight->rows * call.weight->columns == call.columns && !IsPacked(call.weight->storage),
              "weight of a norm");
  if (context.device != nullptr) return context.device->GatedRmsNorm(call);
  context.backend == Backend::kReference ? reference::GatedRmsNorm(call) : cpu::GatedRmsNorm(context, call);
}

}  // namespace hproc::kernels
