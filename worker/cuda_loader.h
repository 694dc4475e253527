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
  // In decode order, which the fast products read, where they can run the matrix (RunsInDecodeOrder) and it is worth it
  // (quant::ArrangedBytes); containers elsewhere.
  kFastest,
};

// Whether the fast products know the tensor's part in the model; `rank_spec` is what the rank runs.
bool RunsInDecodeOrder(const ModelSpec& rank_spec, const ModelTensor& tensor);

// As LoadModel; what a rank has some columns of is quantized whole, and the rest of it dropped chunk by chunk, or, of containers, cut
// away at its end. Beside the weights there is never more than CudaLoadWorkspaceBytes. `memory` stands on
// kernels::CudaMemory(device). `pool` reads; nobody else uses it meanwhile. Throws kernels::DeviceOutOfMemory and
// kernels::DeviceError.
Result<LoadedModel> LoadModelOnCuda(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                    const quant::Plan& plan, const Shard& shard, const kernels::CudaDevice& device,
                                    kernels::DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress,
                                    PackedLayout layout);

// As MeasureRates.
Result<quant::RateTable> MeasureRatesOnCuda(const Checkpoint& checkpoint, const TensorTable& table,
                                            const quant::RateOptions& options, const kernels::CudaDevice& device,
                                            kernels::DeviceMemory& memory, ThreadPool& pool,
                                            const LoadProgress& progress);

// The workspace that loading under `plan` takes: at most a layer of the checkpoint as stored, at most 1 GiB; and beside it the
// deviates of synthetic weights, and of several ranks the outliers of one tensor's part or a container that is to be cut.
int64_t CudaLoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const quant::Plan& plan, const Shard& shard,
                               PackedLayout layout);
// The most it takes under any plan.
int64_t MostCudaLoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const Shard& shard);

}  // namespace hproc::worker
