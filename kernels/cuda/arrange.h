// From the containers of quantize-on-load to decode order, on the device.
#pragma once

#include <span>

#include "kernels/cuda/device.h"
#include "kernels/decode_order.h"

namespace hproc::kernels {

// As WriteDecodeOrder (kernels/decode_order.h), to the bit: `matrix` and `bytes` are memory of `device`. Waits for work given to
// the device before, and until it is done. Throws DeviceError.
DecodeMatrix ArrangeForDecode(const quant::XfpMatrix& matrix, const CudaDevice& device, std::span<std::byte> bytes);

}  // namespace hproc::kernels
