// worker/loader.h on a CUDA device: the same model, the same rates, the same errors; the fits run on the device.
//
// Built only with CUDA. The kept tensors' and containers' bytes are the ones the CPU loader makes.
#pragma once

#include "base/thread_pool.h"
#include "kernels/cuda/quantizer.h"
#include "worker/loader.h"

namespace hproc::worker {

// How packed weights are left on the device.
enum class PackedLayout {
  kContainers,  // quant/xfp_matrix.h
  // kernels/decode_order.h, which the fast products read, where it takes no more bytes, or hardly more (0.5 %) and the matrix is
  // wide; containers elsewhere.
  kFastest,
};

// As LoadModel; what a rank has some columns of is quantized whole and cut on the device. `memory` stands on kernels::CudaMemory(device). `pool` reads; nobody else uses it meanwhile. Into decode order the
// containers go one by one once all are there, so that one stands beside its copy. Throws
// kernels::DeviceOutOfMemory and kernels::DeviceError.
Result<LoadedModel> LoadModelOnCuda(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                    const quant::Plan& plan, const Shard& shard, const kernels::CudaDevice& device,
                                    kernels::DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress,
                                    PackedLayout layout);

// As MeasureRates.
Result<quant::RateTable> MeasureRatesOnCuda(const Checkpoint& checkpoint, const TensorTable& table,
                                            const quant::RateOptions& options, const kernels::CudaDevice& device,
                                            kernels::DeviceMemory& memory, ThreadPool& pool,
                                            const LoadProgress& progress);

// The workspace that loading under `plan` takes: at most a layer of the checkpoint as stored, at most 1 GiB.
int64_t CudaLoadWorkspaceBytes(const TensorTable& table, const quant::Plan& plan);
// The most it takes under any plan, the container that stands beside its copy in decode order counted.
int64_t MostCudaLoadWorkspaceBytes(const TensorTable& table, int world_size);

}  // namespace hproc::worker
