// The backends behind kernels/norm.h.
#pragma once

#include "kernels/norm.h"

namespace hproc::kernels {

namespace reference {
void RmsNorm(const RmsNormCall& call);
void GatedRmsNorm(const GatedRmsNormCall& call);
}  // namespace reference

namespace cpu {
void RmsNorm(const Context& context, const RmsNormCall& call);
void GatedRmsNorm(const Context& context, const GatedRmsNormCall& call);
}  // namespace cpu

}  // namespace hproc::kernels
