// What the loaders of all devices share: names of things, the sample of a library, and the report.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "kernels/device_memory.h"
#include "kernels/matrix.h"
#include "quant/matrix_quantizer.h"
#include "quant/plan.h"
#include "worker/checkpoint.h"
#include "worker/loader.h"
#include "worker/protocol.h"
#include "worker/sharding.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

kernels::MemoryUse MemoryUseOf(quant::Family family);
kernels::Storage StorageOf(Dtype dtype);
int64_t StoredBytes(const TensorTable& table);

// The rows that a V2a library is trained on, as float32. Thread-safe.
Result<std::vector<float>> ReadLibrarySample(const Checkpoint& checkpoint, const ModelTensor& tensor);

// Whether the plan is one of this table; an error says in what it is not.
Result<void> CheckPlanFits(const quant::Plan& plan, const TensorTable& table);

// Adds up what was stored, tensor by tensor in the table's order.
class LoadLog {
 public:
  explicit LoadLog(const quant::Floors& floors) { stored_.floors = floors; }

  // `outliers`: really stored; `stats`: of a container, empty for kept tensors.
  void Add(const quant::TensorPlan& plan, int64_t outliers, const quant::ChannelStats& stats);
  // All but the seconds.
  LoadResult Report() const;

 private:
  struct FamilyStats {
    int64_t weights = 0;
    int64_t bytes = 0;
    quant::ChannelStats channels;
  };
  quant::Plan stored_;  // what was really stored; its digest must be the plan's
  std::array<FamilyStats, quant::kFamilyCount> families_{};
};

// Moves a container's codebooks and outliers from `use` to lines of their own.
void AssignLedgerLines(kernels::DeviceMemory& memory, kernels::MemoryUse use, const quant::XfpMatrix& matrix);

// Where the columns of a shard stand in the tensor's rows.
quant::ColumnCut CutOf(const ModelTensor& tensor, const TensorShard& part);

// The model of a rank from its tensors, with the report where it is the only one.
Result<LoadedModel> FinishLoad(const ModelSpec& spec, const quant::Plan& plan, const Shard& shard, std::vector<LoadedTensor> tensors,
                               std::vector<TensorShare> shares,
                               std::chrono::steady_clock::time_point start);

}  // namespace hproc::worker
