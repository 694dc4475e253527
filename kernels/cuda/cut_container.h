// The container of a rank of tensor parallelism, on the device: what quant::ShardStore makes on the host, to the bit.
#pragma once

#include <string_view>

#include "kernels/cuda/device.h"
#include "kernels/device_memory.h"
#include "quant/xfp_matrix.h"

namespace hproc::kernels {

// Columns [cut.first, cut.first + columns) of `whole`, all of whose rows the rank holds; where `cut` is the default, the same
// matrix, and `columns` its own. `whole` was laid out for whole.outliers outliers and has `outliers`, the rest of the space is
// given up. Its bytes and `storage`, which is allocated here, are memory of `device`. Waits until it is done. Throws
// DeviceOutOfMemory and DeviceError.
quant::XfpMatrix CutContainer(const quant::XfpMatrix& whole, int64_t outliers, const quant::ColumnCut& cut, int64_t columns,
                              const CudaDevice& device, DeviceMemory& memory, MemoryUse use, std::string_view purpose,
                              DeviceBuffer& storage);

}  // namespace hproc::kernels
