// Where an engine's activations stand in their one arena. Private to engine.cc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/device_memory.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/sampling.h"
#include "worker/engine.h"
#include "worker/sharding.h"

namespace hproc::worker {

// Hands out offsets of one arena. Regions that are never alive together start at the same mark.
class ArenaPlan {
 public:
  int64_t Take(int64_t bytes) {
    const int64_t at = end_;
    end_ += kernels::DeviceMemory::Rounded(bytes);
    most_ = std::max(most_, end_);
    return at;
  }
  int64_t mark() const { return end_; }
  void BackTo(int64_t mark) { end_ = mark; }
  int64_t most() const { return most_; }

 private:
  int64_t end_ = 0;
  int64_t most_ = 0;
};

// Offsets of an activation in the arena.
struct ActivationPlace {
  int64_t values = 0;
  int64_t quantized = 0;
  int64_t scales = 0;
};

ActivationPlace TakeActivations(ArenaPlan& plan, int64_t padding, int64_t rows, int64_t columns) {
  ActivationPlace place;
  place.values = plan.Take(rows * columns * 4);
  place.quantized = plan.Take(rows * ((columns + padding - 1) / padding * padding) * 2);
  place.scales = plan.Take(rows * 4);
  return place;
}

// Null where the layer turns nothing.
inline const std::vector<float>* FrequenciesOf(const LayerSpec& layer) {
  const auto* attention = std::get_if<AttentionSpec>(&layer.mixer);
  return attention == nullptr ? nullptr : attention->inverse_frequencies.get();
}

struct AttentionPlaces {
  int64_t query = 0, key = 0, value = 0, workspace = 0, sums = 0;
  ActivationPlace attended;
};
struct DeltaPlaces {
  int64_t qkv = 0, z = 0, a = 0, b = 0, sums = 0;
  ActivationPlace core;
};
struct MoePlaces {
  int64_t logits = 0, chosen = 0, weights = 0, list_tokens = 0, list_rows = 0;
  int64_t gate_up = 0, routed = 0, shared_gate = 0, shared_up = 0, shared_out = 0, gate = 0;
  ActivationPlace hidden, shared_hidden;
};

// Where everything is, as offsets first and as pointers once the arena is there.
struct Engine::Buffers {
  int64_t workspace = 0;
  // What a pass is told, from one upload: draws, runs, tokens, rows whose logits are wanted.
  int64_t told = 0;
  std::vector<int64_t> frequencies;              // by layer; layers that turn alike share them
  int64_t residual = 0;
  int64_t other_residual = 0;  // see Engine::Pending
  int64_t cosines = 0;
  int64_t sines = 0;
  int64_t mixed = 0;  // a block's output before it is added
  ActivationPlace normed;
  ActivationPlace last;  // rows whose logits are asked for
  int64_t logits = 0;
  int64_t choices = 0;
  std::vector<AttentionPlaces> attention;  // by layer
  std::vector<DeltaPlaces> delta;
  std::vector<MoePlaces> moe;
  int64_t bytes = 0;
  std::byte* base = nullptr;
  const int32_t* tokens = nullptr;  // of this pass
  const int32_t* logit_rows = nullptr;
  std::vector<std::byte> told_bytes;
  std::vector<kernels::MatmulCall> calls;
  std::vector<int32_t> expert_begin;
  std::vector<float> largest;  // magnitudes of the tokens of RoundParts

  Buffers(const ModelSpec& spec, const EngineShape& shape) {
    ArenaPlan plan;
    const int64_t rows = shape.pass_tokens;
    const int64_t padding = shape.workspace.activation_padding;
    workspace = plan.Take(shape.workspace.bytes);
    told = plan.Take(shape.logit_rows * static_cast<int64_t>(sizeof(kernels::Draw)) +
                     shape.slots * static_cast<int64_t>(sizeof(kernels::SequenceRun)) + rows * 4 + shape.logit_rows * 4);
    frequencies.resize(spec.layers.size());
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      const std::vector<float>* own = FrequenciesOf(spec.layers[i]);
      if (own == nullptr) continue;
      size_t same = 0;
      while (same < i && (FrequenciesOf(spec.layers[same]) == nullptr || *FrequenciesOf(spec.layers[same]) != *own)) ++same;
      frequencies[i] = same < i ? frequencies[same] : plan.Take(std::max<int64_t>(1, static_cast<int64_t>(own->size())) * 4);
    }
    residual = plan.Take(rows * spec.hidden * 4);
    if (!shape.workspace.sums_in_double) other_residual = plan.Take(std::min(rows, kernels::kMostProjectedRows) * spec.hidden * 4);
    normed = TakeActivations(plan, padding, rows, spec.hidden);
    mixed = plan.Take(rows * spec.hidden * 4);
    int64_t pairs = 0;
    for (const LayerSpec& layer : spec.layers) {
      if (const std::vector<float>* own = FrequenciesOf(layer)) pairs = std::max(pairs, static_cast<int64_t>(own->size()));
    }
    cosines = plan.Take(rows * pairs * 4);
    sines = plan.Take(rows * pairs * 4);
    const int64_t sum_bytes = shape.workspace.sums_in_double ? rows * spec.hidden * 8 : 0;
    const int64_t mark = plan.mark();
    for (const LayerSpec& layer : spec.layers) {
      plan.BackTo(mark);
      AttentionPlaces at_attention;
      DeltaPlaces at_delta;
      if (const auto* a = std::get_if<AttentionSpec>(&layer.mixer)) {
        at_attention.attended = TakeActivations(plan, padding, rows, a->heads * a->head_dim);
        const int64_t before_product = plan.mark();
        at_attention.query = plan.Take(rows * a->query_columns() * 4);
        at_attention.key = plan.Take(rows * a->kv_columns() * 4);
        at_attention.value = plan.Take(rows * a->kv_columns() * 4);
        at_attention.workspace = plan.Take(shape.workspace.attention_bytes);
        plan.BackTo(before_product);
        at_attention.sums = plan.Take(sum_bytes);
      } else {
        const auto& d = std::get<GatedDeltaSpec>(layer.mixer);
        at_delta.core = TakeActivations(plan, padding, rows, d.value_columns());
        const int64_t before_product = plan.mark();
        at_delta.qkv = plan.Take(rows * d.conv_channels() * 4);
        at_delta.z = plan.Take(rows * d.value_columns() * 4);
        at_delta.a = plan.Take(rows * d.value_heads * 4);
        at_delta.b = plan.Take(rows * d.value_heads * 4);
        plan.BackTo(before_product);
        at_delta.sums = plan.Take(sum_bytes);
      }
      attention.push_back(at_attention);
      delta.push_back(at_delta);

      plan.BackTo(mark);
      const MoeSpec& m = layer.feed_forward;
      const int64_t routes = rows * m.experts_per_token;
      MoePlaces at_moe;
      at_moe.logits = plan.Take(rows * m.experts * 4);
      at_moe.chosen = plan.Take(routes * 4);
      at_moe.weights = plan.Take(routes * 4);
      at_moe.list_tokens = plan.Take(routes * 4);
      at_moe.list_rows = plan.Take(routes * 4);
      at_moe.hidden = TakeActivations(plan, padding, routes, m.width);
      if (m.shared_width > 0) {
        at_moe.shared_hidden = TakeActivations(plan, padding, rows, m.shared_width);
        at_moe.gate = plan.Take(rows * 4);
      }
      const int64_t value_bytes = shape.workspace.sums_in_double ? 8 : 4;
      const int64_t before_down = plan.mark();
      at_moe.gate_up = plan.Take(routes * 2 * m.width * 4);
      if (m.shared_width > 0) {
        at_moe.shared_gate = plan.Take(rows * m.shared_width * 4);
        at_moe.shared_up = plan.Take(rows * m.shared_width * 4);
      }
      // On a host, gate and up are done with before there is a result of down.
      if (shape.workspace.sums_in_double) plan.BackTo(before_down);
      at_moe.routed = plan.Take(routes * spec.hidden * value_bytes);
      if (m.shared_width > 0 || sum_bytes > 0) at_moe.shared_out = plan.Take(rows * spec.hidden * value_bytes);
      moe.push_back(at_moe);
    }
    plan.BackTo(mark);
    last = TakeActivations(plan, padding, shape.logit_rows, spec.hidden);
    logits = plan.Take(shape.logit_rows * VocabularyOf(spec, shape.shard).count * 4);
    choices = plan.Take(shape.logit_rows * static_cast<int64_t>(sizeof(kernels::TokenChoice)));
    bytes = plan.most();
  }

  float* Floats(int64_t offset) const { return reinterpret_cast<float*>(base + offset); }
  double* Doubles(int64_t offset) const { return reinterpret_cast<double*>(base + offset); }
  int32_t* Ints(int64_t offset) const { return reinterpret_cast<int32_t*>(base + offset); }
  kernels::Activations At(const ActivationPlace& place, int64_t rows, int64_t columns) const {
    return {.tokens = rows, .columns = columns, .values = Floats(place.values),
            .quantized = reinterpret_cast<int16_t*>(base + place.quantized), .scales = Floats(place.scales)};
  }
};

}  // namespace hproc::worker
