// The backends behind kernels/matmul.h.
#pragma once

#include "kernels/matmul.h"

namespace hproc::kernels {

namespace reference {
void Matmul(std::span<const MatmulCall> calls);
}  // namespace reference

namespace cpu {
void QuantizeActivations(const Context& context, const Activations& activations);
void LargestMagnitudes(const Context& context, const Activations& activations, float* largest);
void QuantizeActivations(const Context& context, const Activations& activations, const float* largest);
void Matmul(const Context& context, std::span<const MatmulCall> calls);
// The instruction set in use, for reports: "AVX3_DL".
const char* TargetName();
}  // namespace cpu

}  // namespace hproc::kernels
