// Engine: runs a model over sequences in cache slots. Knows blocks, not architectures; the same code drives every backend.
//
// A pass takes tokens of several sequences at once, a few of one (prefill) or one of many (decode) or both mixed. Every
// sequence's result is the same bits however its tokens were cut into passes and whatever else was in them, but for
// Backend::kReference and kDevice, which promise values only.
//
// Over several ranks of tensor parallelism (worker/sharding.h) each rank has an engine of its own over its shard. Rank 0's is
// driven as any other; the others Follow it, pass by pass. What ranks compute in part is added up after the mixer and after
// the experts. On host backends that is done in double (EngineWorkspace), with one rank too, so that logits do not depend on
// the number of ranks (kernels/matmul.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/context.h"
#include "kernels/device_memory.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/sampling.h"
#include "kernels/sequence.h"
#include "worker/communicator.h"
#include "worker/model.h"

namespace hproc::worker {

// What a device's operations need beside the activations.
struct EngineWorkspace {
  int64_t bytes = 0;            // throughout a pass
  int64_t attention_bytes = 0;  // while an attention layer runs
  bool sums_in_double = false;  // room for partial sums in double
  int64_t activation_padding = kernels::kActivationPadding;  // rows of rounded activations are as long as a multiple of this
};

// What the engine is to hold at once.
struct EngineShape {
  int slots = 1;        // sequences
  int context = 1;      // positions a slot holds
  int pass_tokens = 1;  // tokens of one pass at most; at least `slots`
  int logit_rows = 1;   // rows of one pass whose logits may be asked for
  kernels::Storage kv_storage = kernels::Storage::kFloat16;  // float32, float16 or int8
  EngineWorkspace workspace;
  Shard shard;  // the model's
};

// Bytes the engine will take, by line of the ledger; the allocations are made from the same sums.
struct EngineBytes {
  int64_t kv_cache = 0;
  int64_t state = 0;
  int64_t activations = 0;
};
// `spec` is what the rank runs.
EngineBytes EngineBytesOf(const ModelSpec& spec, const EngineShape& shape);

// Thread-compatible. `model`, `memory`, the communicator and the context's pool and device outlive it.
class Engine {
 public:
  // `ranks`: of a model with more than one; then passes and Follow throw RankLost too.
  Engine(const Model& model, const kernels::Context& context, kernels::DeviceMemory& memory, const EngineShape& shape,
         Communicator* ranks = nullptr);
  ~Engine();

  // Keys, values and linear-attention state, zeroed; then activations and logits. Both throw
  // kernels::DeviceOutOfMemory; both are needed before a pass.
  void AllocateCache();
  void AllocateActivations();

  const EngineShape& shape() const { return shape_; }
  const ModelSpec& spec() const { return model_.spec(); }

  // Forgets the sequence in `slot`.
  void ResetSlot(int slot);

  // Runs `tokens`, whose rows `runs` cover, and returns the logits [logit_rows.size(), vocabulary] of the rows named, at
  // most EngineShape::logit_rows of them; null for none. Valid until the next pass. Tokens are in [0, vocabulary).
  const float* Pass(std::span<const int32_t> tokens, std::span<const kernels::SequenceRun> runs,
                    std::span<const int32_t> logit_rows);
  // Likewise, but returns what greedy decoding makes of those rows; all that comes back from a device.
  std::span<const kernels::TokenChoice> PassGreedy(std::span<const int32_t> tokens,
                                                    std::span<const kernels::SequenceRun> runs,
                                                    std::span<const int32_t> logit_rows);

  // Likewise, by a draw for each of those rows.
  std::span<const kernels::TokenChoice> PassDrawn(std::span<const int32_t> tokens, std::span<const kernels::SequenceRun> runs,
                                                  std::span<const int32_t> logit_rows, std::span<const kernels::Draw> draws);

  // Of ranks but 0: does what rank 0 has its engine do, until rank 0 calls Release. Waits without a limit between passes.
  void Follow();
  // Of rank 0: lets the others go on with something else. Nothing where there are none.
  void Release();

  // Bytes of the activations of an engine of this shape.
  static int64_t BufferBytes(const ModelSpec& spec, const EngineShape& shape);

 private:
  struct Buffers;

  // What becomes of the logits within the pass.
  enum class Choose { kNothing, kGreedy, kDraws };
  void RunPass(std::span<const int32_t> tokens, std::span<const kernels::SequenceRun> runs, std::span<const int32_t> logit_rows,
               Choose choose, std::span<const kernels::Draw> draws = {});
  void RunBlocks(std::span<const kernels::SequenceRun> runs, int64_t rows, int64_t logit_rows);
  void Attention(int layer, const AttentionSpec& spec, std::span<const kernels::SequenceRun> runs, int64_t rows);
  void GatedDelta(int layer, const GatedDeltaSpec& spec, std::span<const kernels::SequenceRun> runs, int64_t rows);
  void MixtureOfExperts(int layer, const MoeSpec& spec, int64_t rows);
  // The norm in front of a block, which takes what is pending into the residual first, and products of what it gives.
  void Norm(TensorRole role, int layer, int64_t rows, std::span<const kernels::MatmulCall> products = {},
            const kernels::RouteCall* route = nullptr);
  // What the residual is to take in: Buffers::mixed, of so many rows.
  kernels::CombineCall Pending(int64_t rows) const;
  void Round(const kernels::Activations& activations);  // where any weight is packed
  // Likewise, of activations whose columns are shared out among the ranks.
  void RoundParts(std::span<const kernels::Activations> parts);
  // Over the ranks; nothing with one.
  void AddUp(float* values, int64_t count);
  bool in_double() const { return shape_.workspace.sums_in_double && context_.matmul == nullptr; }
  // `weight` times `input`, added up over the ranks: into Buffers::mixed.
  void MixedProduct(const kernels::Matrix& weight, const kernels::Activations& input, double* sums);
  bool leads() const { return ranks_ != nullptr && ranks_->rank() == 0; }
  // Sums of the rank, added up over the ranks, as floats into Buffers::mixed.
  void RoundSums(double* sums, int64_t count);
  kernels::Activations Normed(int64_t rows) const;      // what Norm makes
  void AddBias(TensorRole role, int layer, float* values, int64_t rows);
  const kernels::Matrix& W(TensorRole role, int layer) const { return model_.Get(role, layer); }

  const Model& model_;
  kernels::Context context_;
  kernels::DeviceMemory& memory_;
  EngineShape shape_;
  Communicator* ranks_;
  // One allocation per layer and kind; empty where a layer has none.
  std::vector<kernels::DeviceBuffer> keys_;
  std::vector<kernels::DeviceBuffer> values_;
  std::vector<kernels::DeviceBuffer> conv_states_;
  std::vector<kernels::DeviceBuffer> delta_states_;
  kernels::DeviceBuffer arena_;
  std::unique_ptr<Buffers> buffers_;
  float* residual_ = nullptr;      // of the pass under way
  kernels::CombineCall pending_;  // what it has yet to take in; no residual: nothing
  std::vector<float> host_logits_;  // what a device or the ranks gave back
  std::vector<kernels::TokenChoice> choices_;
};

}  // namespace hproc::worker
