#include "kernels/moe.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/for_rows.h"
#include "kernels/moe_backends.h"

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

void SumExperts(const Context& context, const SumExpertsCall& call) {
  HPROC_CHECK(context.device == nullptr, "a host backend");
  ForRows(context, call.rows, 2 * (call.top + 1) * call.columns, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double* sums = call.sums + r * call.columns;
      if (call.shared != nullptr) {
        const double gate = call.shared_gate != nullptr ? 1 / (1 + std::exp(-static_cast<double>(call.shared_gate[r]))) : 1;
        const double* shared = call.shared + r * call.columns;
        for (int64_t c = 0; c < call.columns; ++c) sums[c] = gate * shared[c];
      } else {
        std::fill_n(sums, call.columns, 0.0);
      }
      for (int64_t k = 0; k < call.top; ++k) {
        const double weight = call.weights[r * call.top + k];
        const double* routed = call.routed + (r * call.top + k) * call.columns;
        for (int64_t c = 0; c < call.columns; ++c) sums[c] += weight * routed[c];
      }
    }
  });
}

void CombineAndNorm(const Context& context, const CombineCall& combine, const RmsNormCall& norm) {
  if (combine.residual == nullptr) return RmsNorm(context, norm);
  HPROC_CHECK(norm.input == combine.into() && norm.input_rows == nullptr && norm.input_stride == combine.columns &&
                  norm.rows == combine.rows && norm.columns == combine.columns, "the norm of a residual");
  if (context.device != nullptr) return context.device->CombineAndNorm(combine, norm);
  Combine(context, combine);
  RmsNorm(context, norm);
}

void NormAndProject(const Context& context, const NormAndProjectCall& call) {
  const RouteCall* route = call.route;
  HPROC_CHECK(!call.products.empty(), "products of a norm");
  HPROC_CHECK(route == nullptr || (route->top >= 1 && route->top <= route->experts && call.products.front().output == route->logits),
              "experts per token");
  if (context.device != nullptr) return context.device->NormAndProject(call);
  CombineAndNorm(context, call.combine, call.norm);
  Matmul(context, call.products);
  if (route != nullptr) Route(context, *route);
}

}  // namespace hproc::kernels
