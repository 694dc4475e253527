// The backends behind kernels/moe.h.
#pragma once

#include "kernels/moe.h"

namespace hproc::kernels {

namespace reference {
void Route(const RouteCall& call);
void SwiGlu(const SwiGluCall& call);
void SigmoidGate(const SigmoidGateCall& call);
void Combine(const CombineCall& call);
}  // namespace reference

namespace cpu {
void Route(const Context& context, const RouteCall& call);
void SwiGlu(const Context& context, const SwiGluCall& call);
void SigmoidGate(const Context& context, const SigmoidGateCall& call);
void Combine(const Context& context, const CombineCall& call);
}  // namespace cpu

}  // namespace hproc::kernels
