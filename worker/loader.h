// Quantize-on-load: a checkpoint and a plan to a model on the device, and the pass that measures what floors cost.
//
// Both stream the checkpoint tensor by tensor in blocks of rows, read and fitted on all threads of the pool; what they
// need beside the weights is a few blocks, counted as workspace.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/device_memory.h"
#include "quant/matrix_quantizer.h"
#include "quant/plan.h"
#include "quant/rate_table.h"
#include "worker/checkpoint.h"
#include "worker/model.h"
#include "worker/protocol.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// Told after every few blocks of rows: bytes of the checkpoint read so far, and in all. Called on the caller's thread.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// What a rank stored of one tensor's rows that count for it (CountedRowsOf), for the report of all ranks.
struct TensorShare {
  int64_t outliers = 0;
  quant::ChannelStats stats;
};

struct LoadedModel {
  Model model;
  std::vector<TensorShare> shares;  // in the table's order
  LoadResult report;                // of one rank: complete; of several: the seconds alone, see MergeLoads
};

// Loads the rank's shard of the model; `spec`, `table` and `plan` are the whole model's. Throws kernels::DeviceOutOfMemory
// where the device is full. An error names the tensor: unreadable, not finite, or another one than the plan was made for.
Result<LoadedModel> LoadModel(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                              const quant::Plan& plan, const Shard& shard, kernels::DeviceMemory& memory, ThreadPool& pool,
                              const LoadProgress& progress);

// The report of all ranks from their shares. Fails where the ranks together did not store what the plan says. All but the
// seconds.
Result<LoadResult> MergeLoads(const quant::Plan& plan, std::span<const std::vector<TensorShare>> ranks);

// The rate table of the checkpoint (quant/rate_table.h).
Result<quant::RateTable> MeasureRates(const Checkpoint& checkpoint, const TensorTable& table,
                                      const quant::RateOptions& options, ThreadPool& pool, const LoadProgress& progress);

// The most workspace that LoadModel takes at a time, on a pool of `threads`.
int64_t LoadWorkspaceBytes(const TensorTable& table, int threads);

// A plan that keeps every tensor as stored; needs no rate table.
quant::Plan KeepEverything(const TensorTable& table);

}  // namespace hproc::worker
