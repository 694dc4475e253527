// The backends behind kernels/attention.h.
#pragma once

#include "kernels/attention.h"

namespace hproc::kernels {

namespace reference {
void Rotate(const RotateCall& call);
void StoreKeysValues(const StoreKvCall& call);
void Attend(const AttendCall& call);
}  // namespace reference

namespace cpu {
void Rotate(const Context& context, const RotateCall& call);
void StoreKeysValues(const Context& context, const StoreKvCall& call);
void Attend(const Context& context, const AttendCall& call);
}  // namespace cpu

}  // namespace hproc::kernels
