// Model: the weights of one model, or of one rank's shard of it, on one device.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device_memory.h"
#include "kernels/matrix.h"
#include "worker/model_spec.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

struct LoadedTensor {
  TensorRole role{};
  int layer = -1;
  kernels::Matrix matrix;  // of the bytes below
  kernels::DeviceBuffer storage;
  kernels::DeviceBuffer outliers;  // where they stand apart (kernels::DecodeMatrix::outlier_bytes)
};

// Immutable once loaded; safe to read from any thread. Must not outlive the DeviceMemory it was loaded into.
class Model {
 public:
  // `spec`: the whole model's; `tensors`: the rank's shards.
  Model(const ModelSpec& spec, const Shard& shard, std::vector<LoadedTensor> tensors);

  const ModelSpec& spec() const { return spec_; }  // what this rank runs: worker/sharding.h
  const Shard& shard() const { return shard_; }
  bool has_packed() const { return has_packed_; }  // whether any weight is an XFP matrix
  // nullptr where the model has no such tensor.
  const kernels::Matrix* Find(TensorRole role, int layer) const;
  // Of a tensor that must be there.
  const kernels::Matrix& Get(TensorRole role, int layer) const;
  // The rank's rows of lm_head, or of the embedding where they are tied: VocabularyOf.
  const kernels::Matrix& Head() const { return head_; }

 private:
  ModelSpec spec_;
  Shard shard_;
  std::vector<LoadedTensor> tensors_;
  kernels::Matrix head_;
  bool has_packed_ = false;
  std::vector<std::vector<int>> index_;  // [layer + 1][role]: place in tensors_, or -1
};

}  // namespace hproc::worker
