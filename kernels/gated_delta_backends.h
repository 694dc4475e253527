// The backends behind kernels/gated_delta.h.
#pragma once

#include "kernels/gated_delta.h"

namespace hproc::kernels {

namespace reference {
void CausalConvSilu(const CausalConvCall& call);
void GatedDeltaRule(const DeltaRuleCall& call);
}  // namespace reference

namespace cpu {
void CausalConvSilu(const Context& context, const CausalConvCall& call);
void GatedDeltaRule(const Context& context, const DeltaRuleCall& call);
}  // namespace cpu

}  // namespace hproc::kernels
