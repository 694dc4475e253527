// The tensors of a model: which there are, what each is for, and where the checkpoint keeps it.
//
// A model tensor is a matrix [rows, columns] (a vector is one row). It may be put together from several checkpoint
// tensors: the experts of a projection are one matrix whether the checkpoint stores them fused, [E, 2 I, H] and
// [E, H, I], or one by one; gate rows stand before up rows in every expert.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "quant/rate_table.h"
#include "worker/checkpoint.h"
#include "worker/model_spec.h"

namespace hproc::worker {

// Which part of the sharded model a rank holds. Every decision about shards goes through this and worker/sharding.h.
struct Shard {
  int rank = 0;
  int world_size = 1;

  bool operator==(const Shard&) const = default;
};

enum class TensorRole {
  kEmbedding,
  kFinalNorm,
  kHead,
  kMixerNorm,        // before the mixer
  kFeedForwardNorm,  // before the feed-forward block
  kQuery,
  kKey,
  kValue,
  kOutput,  // of attention
  kQueryBias,
  kKeyBias,
  kValueBias,
  kOutputBias,
  kQueryNorm,
  kKeyNorm,
  kDeltaQkv,
  kDeltaZ,
  kDeltaA,
  kDeltaB,
  kDeltaConv,
  kDeltaALog,
  kDeltaDtBias,
  kDeltaNorm,
  kDeltaOut,
  kRouter,
  kExpertsGateUp,
  kExpertsDown,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kSharedExpertGate,
};

// Rows [first_row, first_row + rows) of a model tensor: rows [source_row, source_row + rows) of one checkpoint tensor.
struct TensorSource {
  const TensorInfo* info = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t source_row = 0;
};

struct ModelTensor {
  TensorRole role{};
  int layer = -1;  // -1: not of a layer
  quant::TensorSpec spec;
  Dtype dtype{};
  std::vector<TensorSource> sources;  // by first_row, without gaps; none: synthetic (worker/synthetic.h)
};

struct TensorTable {
  std::vector<ModelTensor> tensors;  // in the order of loading: embedding, layers, final norm, head
};

// "model-00002-of-00003.safetensors: tensor 'model.norm.weight'", for errors.
std::string TensorLabel(const Checkpoint& checkpoint, const TensorInfo& info);

// Every tensor the model needs, whole whatever the ranks, with its shape checked. Errors name the tensor, and its file where it is in one: missing,
// of another shape, of rows longer than a container takes, of a dtype that is not BF16, F16 or F32, or in the checkpoint
// but not used (vision towers and multi-token prediction heads are left out on purpose: model.visual.*, mtp.*).
Result<TensorTable> BuildTensorTable(const ModelSpec& spec, const Checkpoint& checkpoint);

// The same tensors without a checkpoint, as a model of synthetic weights has them: bfloat16, no sources.
TensorTable TensorTableOf(const ModelSpec& spec);

// Rows [first_row, first_row + rows) as float32, values [rows, columns]. An error names the tensor that cannot be read or
// holds a value that is not finite. Thread-safe.
Result<void> ReadRows(const Checkpoint& checkpoint, const ModelTensor& tensor, int64_t first_row, int64_t rows,
                      std::span<float> values);

// Likewise as stored; `bytes` holds rows * columns values of the dtype. Does not look at the values.
Result<void> ReadStoredRows(const Checkpoint& checkpoint, const ModelTensor& tensor, int64_t first_row, int64_t rows,
                            std::span<std::byte> bytes);

}  // namespace hproc::worker
