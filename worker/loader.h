// Quantize-on-load: a checkpoint and a plan to a model on the device, and the pass that measures what floors cost.
//
// Both stream the checkpoint tensor by tensor in blocks of rows, read and fitted on all threads of the pool; what they
// need beside the weights is a few blocks, counted as workspace.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/device_memory.h"
#include "quant/plan.h"
#include "quant/rate_table.h"
#include "worker/checkpoint.h"
#include "worker/model.h"
#include "worker/protocol.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// Told after every few blocks of rows: bytes of the checkpoint read so far, and in all. Called on the caller's thread.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

struct LoadedModel {
  Model model;
  LoadResult report;
};

// Throws kernels::DeviceOutOfMemory where the device is full. An error names the tensor: unreadable, not finite, or
// another one than the plan was made for.
Result<LoadedModel> LoadModel(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                              const quant::Plan& plan, kernels::DeviceMemory& memory, ThreadPool& pool,
                              const LoadProgress& progress);

// The rate table of the checkpoint (quant/rate_table.h).
Result<quant::RateTable> MeasureRates(const Checkpoint& checkpoint, const TensorTable& table,
                                      const quant::RateOptions& options, ThreadPool& pool, const LoadProgress& progress);

// The most workspace that LoadModel takes at a time, on a pool of `threads`.
int64_t LoadWorkspaceBytes(const TensorTable& table, int threads);

// A plan that keeps every tensor as stored; needs no rate table.
quant::Plan KeepEverything(const TensorTable& table);

}  // namespace hproc::worker
