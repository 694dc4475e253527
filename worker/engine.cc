#include "worker/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/embedding.h"
#include "kernels/gated_delta.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "worker/engine_buffers.h"
#include "worker/sharding.h"

namespace hproc::worker {
namespace {

using kernels::Activations;
using kernels::CombineCall;
using kernels::DeviceMemory;
using kernels::MatmulCall;
using kernels::Matrix;
using kernels::MemoryUse;
using kernels::SequenceRun;
using kernels::WholeProduct;

// Keys or values of one attention layer.
int64_t KvBytes(const AttentionSpec& spec, const EngineShape& shape) {
  return shape.slots * spec.kv_heads * shape.context * kernels::KvRowBytes(shape.kv_storage, spec.head_dim);
}
int64_t ConvStateBytes(const GatedDeltaSpec& spec, const EngineShape& shape) {
  return shape.slots * spec.conv_channels() * (spec.conv_kernel - 1) * 4;
}
int64_t DeltaStateBytes(const GatedDeltaSpec& spec, const EngineShape& shape) {
  return shape.slots * spec.value_heads * spec.key_dim * spec.value_dim * 4;
}
int64_t Allocated(int64_t bytes) { return std::max(DeviceMemory::Rounded(bytes), DeviceMemory::kGranularity); }

}  // namespace

EngineBytes EngineBytesOf(const ModelSpec& spec, const EngineShape& shape) {
  EngineBytes bytes;
  for (const LayerSpec& layer : spec.layers) {
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      bytes.kv_cache += 2 * Allocated(KvBytes(*attention, shape));
    } else {
      const auto& delta = std::get<GatedDeltaSpec>(layer.mixer);
      bytes.state += Allocated(ConvStateBytes(delta, shape)) + Allocated(DeltaStateBytes(delta, shape));
    }
  }
  bytes.activations = Allocated(Engine::BufferBytes(spec, shape));
  return bytes;
}

int64_t Engine::BufferBytes(const ModelSpec& spec, const EngineShape& shape) { return Buffers(spec, shape).bytes; }

Engine::Engine(const Model& model, const kernels::Context& context, DeviceMemory& memory, const EngineShape& shape,
               Communicator* ranks)
    : model_(model), context_(context), memory_(memory), shape_(shape), ranks_(ranks) {
  shape_.shard = model.shard();
  HPROC_CHECK((ranks == nullptr && model.shard().world_size == 1) ||
                  (ranks != nullptr && model.shard() == Shard{.rank = ranks->rank(), .world_size = ranks->world_size()}),
              "the ranks of the model");
  HPROC_CHECK(shape.slots >= 1 && shape.context >= 1 && shape.pass_tokens >= shape.slots, "shape of an engine");
}

Engine::~Engine() = default;

void Engine::AllocateCache() {
  const size_t layers = spec().layers.size();
  keys_.resize(layers);
  values_.resize(layers);
  conv_states_.resize(layers);
  delta_states_.resize(layers);
  const auto zeroed = [&](int64_t bytes, MemoryUse use, const std::string& name) {
    kernels::DeviceBuffer buffer = memory_.Allocate(bytes, use, name);
    kernels::Zero(context_, buffer.data(), buffer.bytes());
    return buffer;
  };
  for (size_t i = 0; i < layers; ++i) {
    const std::string of_layer = " of layer " + std::to_string(i);
    if (const auto* attention = std::get_if<AttentionSpec>(&spec().layers[i].mixer)) {
      keys_[i] = zeroed(KvBytes(*attention, shape_), MemoryUse::kKvCache, "keys" + of_layer);
      values_[i] = zeroed(KvBytes(*attention, shape_), MemoryUse::kKvCache, "values" + of_layer);
    } else {
      const auto& delta = std::get<GatedDeltaSpec>(spec().layers[i].mixer);
      conv_states_[i] = zeroed(ConvStateBytes(delta, shape_), MemoryUse::kState, "convolution state" + of_layer);
      delta_states_[i] = zeroed(DeltaStateBytes(delta, shape_), MemoryUse::kState, "delta state" + of_layer);
    }
  }
}

void Engine::AllocateActivations() {
  buffers_ = std::make_unique<Buffers>(spec(), shape_);
  arena_ = memory_.Allocate(buffers_->bytes, MemoryUse::kActivations, "activations");
  buffers_->base = arena_.data();
  for (size_t i = 0; i < spec().layers.size(); ++i) {
    const std::vector<float>* own = FrequenciesOf(spec().layers[i]);
    if (own != nullptr) kernels::Upload(context_, buffers_->base + buffers_->frequencies[i], std::as_bytes(std::span(*own)));
  }
  if (context_.device != nullptr) {
    context_.device->UseWorkspace({buffers_->base + buffers_->workspace, static_cast<size_t>(shape_.workspace.bytes)});
  }
  if (context_.device != nullptr || ranks_ != nullptr) {
    host_logits_.resize(static_cast<size_t>(shape_.logit_rows * spec().vocabulary));
  }
}

// ---- ranks ---------------------------------------------------------------------------------------------------------

namespace {

// What rank 0 has the others do. The bytes of a pass follow: runs, tokens, rows whose logits are wanted.
enum Order : int32_t { kRunPass, kResetSlot, kRelease };
struct OrderHead {
  int32_t order = 0;
  int32_t slot = 0;  // of kResetSlot
  int32_t runs = 0;  // of kRunPass
  int32_t tokens = 0;
  int32_t logit_rows = 0;
  int32_t greedy = 0;
};

std::vector<std::byte> OrderBytes(const OrderHead& head, std::span<const std::byte> bytes) {
  std::vector<std::byte> order(sizeof head + bytes.size());
  std::memcpy(order.data(), &head, sizeof head);
  std::ranges::copy(bytes, order.begin() + sizeof head);
  return order;
}

}  // namespace

void Engine::Release() {
  if (!leads()) return;
  std::vector<std::byte> order = OrderBytes({.order = kRelease}, {});
  ranks_->Broadcast(order, ranks_->patience);
}

void Engine::Follow() {
  HPROC_CHECK(ranks_ != nullptr && ranks_->rank() > 0, "a rank that follows");
  std::vector<std::byte> order;
  for (;;) {
    ranks_->Broadcast(order, Communicator::kForever);
    OrderHead head;
    HPROC_CHECK(order.size() >= sizeof head, "an order of rank 0");
    std::memcpy(&head, order.data(), sizeof head);
    if (head.order == kRelease) return;
    if (head.order == kResetSlot) {
      ResetSlot(head.slot);
      continue;
    }
    std::vector<SequenceRun> runs(static_cast<size_t>(head.runs));
    std::vector<int32_t> tokens(static_cast<size_t>(head.tokens));
    std::vector<int32_t> rows(static_cast<size_t>(head.logit_rows));
    const std::byte* at = order.data() + sizeof head;
    const auto take = [&](std::span<std::byte> into) {
      HPROC_CHECK(at + into.size() <= order.data() + order.size(), "an order of rank 0");
      std::memcpy(into.data(), at, into.size());
      at += into.size();
    };
    take(std::as_writable_bytes(std::span(runs)));
    take(std::as_writable_bytes(std::span(tokens)));
    take(std::as_writable_bytes(std::span(rows)));
    head.greedy != 0 ? static_cast<void>(PassGreedy(tokens, runs, rows)) : static_cast<void>(Pass(tokens, runs, rows));
  }
}

void Engine::AddUp(float* values, int64_t count) {
  if (ranks_ == nullptr) return;
  if (context_.device != nullptr) return context_.device->AllReduceSum(values, count);
  ranks_->AllReduceSum(std::span(values, static_cast<size_t>(count)));
}

void Engine::RoundParts(std::span<const Activations> parts) {
  if (!model_.has_packed()) return;
  if (ranks_ == nullptr || context_.backend != kernels::Backend::kCpu) {
    for (const Activations& part : parts) QuantizeActivations(context_, part);
    return;
  }
  std::vector<float>& largest = buffers_->largest;
  largest.clear();
  for (const Activations& part : parts) {
    const size_t at = largest.size();
    largest.resize(at + static_cast<size_t>(part.tokens));
    LargestMagnitudes(context_, part, largest.data() + at);
  }
  ranks_->AllReduceMax(largest);
  const float* of_part = largest.data();
  for (const Activations& part : parts) {
    QuantizeActivations(context_, part, of_part);
    of_part += part.tokens;
  }
}

void Engine::MixedProduct(const Matrix& weight, const Activations& input, double* sums) {
  float* mixed = buffers_->Floats(buffers_->mixed);
  MatmulCall product = WholeProduct(weight, input, mixed);
  if (in_double()) product.sums = sums;
  Matmul(context_, {&product, 1});
  const int64_t count = input.tokens * weight.rows;
  if (!in_double()) return AddUp(mixed, count);
  RoundSums(sums, count);
}

void Engine::RoundSums(double* sums, int64_t count) {
  if (ranks_ != nullptr) ranks_->AllReduceSum(std::span(sums, static_cast<size_t>(count)));
  float* mixed = buffers_->Floats(buffers_->mixed);
  for (int64_t i = 0; i < count; ++i) mixed[i] = static_cast<float>(sums[i]);
}

void Engine::ResetSlot(int slot) {
  HPROC_CHECK(slot >= 0 && slot < shape_.slots, "slot of the cache");
  if (leads()) {
    std::vector<std::byte> order = OrderBytes({.order = kResetSlot, .slot = slot}, {});
    ranks_->Broadcast(order, ranks_->patience);
  }
  // Keys and values are read up to the sequence's own length only; state is carried on and must go.
  for (size_t i = 0; i < spec().layers.size(); ++i) {
    for (kernels::DeviceBuffer* buffer : {&conv_states_[i], &delta_states_[i]}) {
      if (buffer->bytes() == 0) continue;
      const auto& delta = std::get<GatedDeltaSpec>(spec().layers[i].mixer);
      const int64_t per_slot = (buffer == &conv_states_[i] ? ConvStateBytes(delta, shape_) : DeltaStateBytes(delta, shape_)) / shape_.slots;
      kernels::Zero(context_, buffer->data() + slot * per_slot, per_slot);
    }
  }
}

Activations Engine::Normed(int64_t rows) const {
  Activations normed = buffers_->At(buffers_->normed, rows, spec().hidden);
  normed.rounded = model_.has_packed();
  return normed;
}

// On a device, a few rows go to and fro between two places; else they stay in theirs.
CombineCall Engine::Pending(int64_t rows) const {
  CombineCall pending{.residual = residual_, .shared = buffers_->Floats(buffers_->mixed), .rows = rows, .columns = spec().hidden};
  if (context_.device != nullptr && rows <= kernels::kMostProjectedRows) {
    float* const first = buffers_->Floats(buffers_->residual);
    pending.sum = residual_ == first ? buffers_->Floats(buffers_->other_residual) : first;
  }
  return pending;
}

void Engine::Norm(TensorRole role, int layer, int64_t rows, std::span<const MatmulCall> products, const kernels::RouteCall* route) {
  const Activations normed = Normed(rows);
  if (pending_.residual != nullptr) residual_ = pending_.into();
  const kernels::RmsNormCall norm{.input = residual_,
                                  .input_stride = spec().hidden,
                                  .output = normed.values,
                                  .output_stride = spec().hidden,
                                  .rows = rows,
                                  .columns = spec().hidden,
                                  .weight = &W(role, layer),
                                  .weight_offset = spec().norm_offset,
                                  .epsilon = spec().norm_epsilon,
                                  .rounded = model_.has_packed() ? &normed : nullptr};
  if (products.empty()) {
    CombineAndNorm(context_, pending_, norm);
  } else {
    NormAndProject(context_, {.combine = pending_, .norm = norm, .products = products, .route = route});
  }
  pending_ = {};
}

void Engine::Round(const Activations& activations) {
  if (model_.has_packed()) QuantizeActivations(context_, activations);
}

void Engine::AddBias(TensorRole role, int layer, float* values, int64_t rows) {
  const Matrix* bias = model_.Find(role, layer);
  if (bias != nullptr) kernels::AddBias(context_, {.bias = bias, .values = values, .rows = rows});
}

void Engine::Attention(int layer, const AttentionSpec& spec, std::span<const SequenceRun> runs, int64_t rows) {
  const AttentionPlaces& at = buffers_->attention[static_cast<size_t>(layer)];
  Norm(TensorRole::kMixerNorm, layer, rows);
  const Activations normed = Normed(rows);
  float* query = buffers_->Floats(at.query);
  float* key = buffers_->Floats(at.key);
  float* value = buffers_->Floats(at.value);
  const MatmulCall projections[] = {WholeProduct(W(TensorRole::kQuery, layer), normed, query),
                                    WholeProduct(W(TensorRole::kKey, layer), normed, key),
                                    WholeProduct(W(TensorRole::kValue, layer), normed, value)};
  Matmul(context_, projections);
  AddBias(TensorRole::kQueryBias, layer, query, rows);
  AddBias(TensorRole::kKeyBias, layer, key, rows);
  AddBias(TensorRole::kValueBias, layer, value, rows);

  const int64_t head_stride = spec.head_dim * (spec.output_gate ? 2 : 1);  // [query, gate] a head
  kernels::KvCache cache{.storage = shape_.kv_storage,
                         .keys = keys_[static_cast<size_t>(layer)].data(),
                         .values = values_[static_cast<size_t>(layer)].data(),
                         .context = shape_.context,
                         .kv_heads = spec.kv_heads,
                         .head_dim = spec.head_dim};
  if (cache.storage == kernels::Storage::kInt8) {  // the scales stand behind the values
    const int64_t bytes = shape_.slots * cache.values_per_slot();
    cache.key_scales = reinterpret_cast<uint16_t*>(static_cast<std::byte*>(cache.keys) + bytes);
    cache.value_scales = reinterpret_cast<uint16_t*>(static_cast<std::byte*>(cache.values) + bytes);
  }
  PrepareHeads(context_, {.runs = runs, .rows = rows, .queries = query, .query_stride = spec.query_columns(),
                          .query_head_stride = head_stride, .heads = spec.heads, .keys = key, .values = value,
                          .query_norm = spec.qk_norm ? &W(TensorRole::kQueryNorm, layer) : nullptr,
                          .key_norm = spec.qk_norm ? &W(TensorRole::kKeyNorm, layer) : nullptr,
                          .norm_offset = model_.spec().norm_offset, .epsilon = model_.spec().norm_epsilon,
                          .pairs = static_cast<int64_t>(spec.inverse_frequencies->size()),
                          .cosines = buffers_->Floats(buffers_->cosines), .sines = buffers_->Floats(buffers_->sines),
                          .cache = cache});
  const Activations attended = buffers_->At(at.attended, rows, spec.heads * spec.head_dim);
  Attend(context_, {.runs = runs, .rows = rows, .queries = query, .query_stride = spec.query_columns(),
                    .query_head_stride = head_stride, .heads = spec.heads,
                    .scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim)), .cache = cache,
                    .gate = spec.output_gate ? query + spec.head_dim : nullptr, .output = attended.values,
                    .workspace = buffers_->Floats(at.workspace)});
  RoundParts({&attended, 1});
  MixedProduct(W(TensorRole::kOutput, layer), attended, buffers_->Doubles(at.sums));
  AddBias(TensorRole::kOutputBias, layer, buffers_->Floats(buffers_->mixed), rows);
}

void Engine::GatedDelta(int layer, const GatedDeltaSpec& spec, std::span<const SequenceRun> runs, int64_t rows) {
  const DeltaPlaces& at = buffers_->delta[static_cast<size_t>(layer)];
  const Activations normed = Normed(rows);
  float* qkv = buffers_->Floats(at.qkv);
  float* z = buffers_->Floats(at.z);
  float* a = buffers_->Floats(at.a);
  float* b = buffers_->Floats(at.b);
  const MatmulCall projections[] = {WholeProduct(W(TensorRole::kDeltaQkv, layer), normed, qkv),
                                    WholeProduct(W(TensorRole::kDeltaZ, layer), normed, z),
                                    WholeProduct(W(TensorRole::kDeltaA, layer), normed, a),
                                    WholeProduct(W(TensorRole::kDeltaB, layer), normed, b)};
  // A device has a and b, which are few, from the norm's launch; a host shares all four out over its threads at once.
  const size_t later = context_.device != nullptr ? 2 : 4;
  Norm(TensorRole::kMixerNorm, layer, rows, std::span(projections).subspan(later));
  const Activations core = buffers_->At(at.core, rows, spec.value_columns());
  GatedDeltaNet(context_, {.projections = std::span(projections).first(later),
                           .convolution = {.runs = runs, .rows = rows, .values = qkv, .channels = spec.conv_channels(),
                                           .kernel = spec.conv_kernel, .weight = &W(TensorRole::kDeltaConv, layer),
                                           .state = conv_states_[static_cast<size_t>(layer)].as<float>()},
                           .rule = {.runs = runs, .rows = rows, .qkv = qkv, .a = a, .b = b,
                                    .a_log = &W(TensorRole::kDeltaALog, layer), .dt_bias = &W(TensorRole::kDeltaDtBias, layer),
                                    .key_heads = spec.key_heads, .value_heads = spec.value_heads, .key_dim = spec.key_dim,
                                    .value_dim = spec.value_dim,
                                    .state = delta_states_[static_cast<size_t>(layer)].as<float>(), .output = core.values},
                           .norm = {.values = core.values, .gate = z, .rows = rows * spec.value_heads, .columns = spec.value_dim,
                                    .weight = &W(TensorRole::kDeltaNorm, layer), .epsilon = model_.spec().norm_epsilon}});
  RoundParts({&core, 1});
  MixedProduct(W(TensorRole::kDeltaOut, layer), core, buffers_->Doubles(at.sums));
}

void Engine::MixtureOfExperts(int layer, const MoeSpec& spec, int64_t rows) {
  const MoePlaces& at = buffers_->moe[static_cast<size_t>(layer)];
  const int64_t hidden = model_.spec().hidden;
  const int64_t top = spec.experts_per_token;
  const int64_t routes = rows * top;
  const Activations normed = Normed(rows);
  int32_t* chosen = buffers_->Ints(at.chosen);
  float* weights = buffers_->Floats(at.weights);
  float* gate = spec.shared_gate ? buffers_->Floats(at.gate) : nullptr;

  MatmulCall first[2] = {WholeProduct(W(TensorRole::kRouter, layer), normed, buffers_->Floats(at.logits))};
  if (spec.shared_gate) first[1] = WholeProduct(W(TensorRole::kSharedExpertGate, layer), normed, gate);
  const kernels::RouteCall route{.logits = buffers_->Floats(at.logits), .rows = rows, .experts = spec.experts, .top = top,
                                 .normalize = spec.normalize, .chosen = chosen, .weights = weights};
  Norm(TensorRole::kFeedForwardNorm, layer, rows, {first, spec.shared_gate ? size_t{2} : size_t{1}}, &route);

  const Activations expert_hidden = buffers_->At(at.hidden, routes, spec.width);
  Activations shared_hidden;
  if (spec.shared_width > 0) shared_hidden = buffers_->At(at.shared_hidden, rows, spec.shared_width);
  float* shared_gate = buffers_->Floats(at.shared_gate);
  float* shared_up = buffers_->Floats(at.shared_up);
  float* shared_out = spec.shared_width > 0 ? buffers_->Floats(at.shared_out) : nullptr;
  const auto add_shared = [&](std::vector<MatmulCall>& calls) {
    if (spec.shared_width == 0) return;
    calls.push_back(WholeProduct(W(TensorRole::kSharedGate, layer), normed, shared_gate));
    calls.push_back(WholeProduct(W(TensorRole::kSharedUp, layer), normed, shared_up));
  };
  const auto activate_shared = [&] {
    if (spec.shared_width == 0) return;
    SwiGlu(context_, {.gate = shared_gate, .up = shared_up, .input_stride = spec.shared_width,
                      .output = shared_hidden.values, .rows = rows, .columns = spec.shared_width});
  };
  const auto add_shared_down = [&](std::vector<MatmulCall>& calls) {
    if (spec.shared_width > 0) calls.push_back(WholeProduct(W(TensorRole::kSharedDown, layer), shared_hidden, shared_out));
  };
  std::vector<MatmulCall>& calls = buffers_->calls;
  float* mixed = buffers_->Floats(buffers_->mixed);  // what the residual takes in after the ranks' parts are added up
  pending_ = Pending(rows);

  if (context_.device != nullptr) {  // it looks for its experts itself
    kernels::ExpertsCall call{.gate_up = &W(TensorRole::kExpertsGateUp, layer), .down = &W(TensorRole::kExpertsDown, layer),
                              .experts = spec.experts, .width = spec.width, .input = &normed, .columns = hidden, .rows = rows,
                              .top = top, .chosen = chosen, .weights = weights, .shared = {}, .output = mixed,
                              .hidden = expert_hidden, .routed = buffers_->Floats(at.routed),
                              .list_tokens = buffers_->Ints(at.list_tokens), .list_rows = buffers_->Ints(at.list_rows)};
    if (spec.shared_width > 0) {
      call.shared = {.width = spec.shared_width, .gate = &W(TensorRole::kSharedGate, layer),
                     .up = &W(TensorRole::kSharedUp, layer), .down = &W(TensorRole::kSharedDown, layer), .weight = gate,
                     .gate_output = shared_gate, .up_output = shared_up, .hidden = shared_hidden, .output = shared_out};
    }
    context_.device->Experts(call);
    if (ranks_ != nullptr) AddUp(mixed, rows * hidden);
    return;
  }

  // The routes of each expert, in order of token: which input row, and which route they fill.
  std::vector<int32_t>& begin = buffers_->expert_begin;
  begin.assign(static_cast<size_t>(spec.experts) + 1, 0);
  for (int64_t i = 0; i < routes; ++i) ++begin[static_cast<size_t>(chosen[i]) + 1];
  for (size_t e = 0; e < static_cast<size_t>(spec.experts); ++e) begin[e + 1] += begin[e];
  int32_t* list_tokens = buffers_->Ints(at.list_tokens);
  int32_t* list_rows = buffers_->Ints(at.list_rows);
  for (int64_t i = 0; i < routes; ++i) {
    const auto place = static_cast<int64_t>(begin[static_cast<size_t>(chosen[i])]++);
    list_tokens[place] = static_cast<int32_t>(i / top);
    list_rows[place] = static_cast<int32_t>(i);
  }
  for (size_t e = static_cast<size_t>(spec.experts); e > 0; --e) begin[e] = begin[e - 1];  // the filling moved each on
  begin[0] = 0;

  // Every expert with its tokens: rows [e * rows_per_expert, …) of `weight`.
  const auto expert_calls = [&](const Matrix& weight, int64_t rows_per_expert, const Activations& input,
                                const int32_t* input_rows, float* output) {
    for (int64_t e = 0; e < spec.experts; ++e) {
      const int32_t from = begin[static_cast<size_t>(e)];
      const int32_t count = begin[static_cast<size_t>(e) + 1] - from;
      if (count == 0) continue;
      calls.push_back({.weight = &weight, .first_row = e * rows_per_expert, .rows = rows_per_expert, .input = &input,
                       .tokens = count, .input_tokens = input_rows + from, .output_rows = list_rows + from,
                       .output = output, .output_stride = rows_per_expert});
    }
  };
  calls.clear();
  float* gate_up = buffers_->Floats(at.gate_up);
  expert_calls(W(TensorRole::kExpertsGateUp, layer), 2 * spec.width, normed, list_tokens, gate_up);
  add_shared(calls);
  Matmul(context_, calls);

  SwiGlu(context_, {.gate = gate_up, .up = gate_up + spec.width, .input_stride = 2 * spec.width,
                    .output = expert_hidden.values, .rows = routes, .columns = spec.width});
  activate_shared();
  const Activations parts[] = {expert_hidden, shared_hidden};
  RoundParts(std::span(parts).first(spec.shared_width > 0 ? 2 : 1));

  calls.clear();
  float* routed = buffers_->Floats(at.routed);
  expert_calls(W(TensorRole::kExpertsDown, layer), hidden, expert_hidden, list_rows, routed);
  add_shared_down(calls);
  if (in_double()) {
    double* routed_sums = buffers_->Doubles(at.routed);
    double* sums = buffers_->Doubles(at.shared_out);
    for (MatmulCall& call : calls) call.sums = call.output == routed ? routed_sums : sums;
    Matmul(context_, calls);
    SumExperts(context_, {.sums = sums, .routed = routed_sums, .weights = weights, .top = top,
                          .shared = spec.shared_width > 0 ? sums : nullptr, .shared_gate = gate, .rows = rows,
                          .columns = hidden});
    return RoundSums(sums, rows * hidden);
  }
  Matmul(context_, calls);
  if (ranks_ != nullptr) {
    kernels::Zero(context_, mixed, rows * hidden * 4);
    Combine(context_, {.residual = mixed, .routed = routed, .weights = weights, .top = top, .shared = shared_out,
                       .shared_gate = gate, .rows = rows, .columns = hidden});
    return AddUp(mixed, rows * hidden);
  }
  pending_ = {.residual = residual_, .routed = routed, .weights = weights, .top = top, .shared = shared_out, .shared_gate = gate,
              .rows = rows, .columns = hidden};
}

const float* Engine::Pass(std::span<const int32_t> tokens, std::span<const SequenceRun> runs,
                          std::span<const int32_t> logit_rows) {
  RunPass(tokens, runs, logit_rows, Choose::kNothing);
  if (logit_rows.empty()) return nullptr;
  float* logits = buffers_->Floats(buffers_->logits);
  if (context_.device == nullptr && ranks_ == nullptr) return logits;
  const size_t rows = logit_rows.size();
  const auto part = static_cast<size_t>(VocabularyOf(spec(), shape_.shard).count);
  const std::span<float> own = std::span(host_logits_).first(rows * part);
  kernels::Download(context_, std::as_writable_bytes(own), logits);
  if (ranks_ == nullptr) return own.data();
  const std::vector<std::vector<std::byte>> parts = ranks_->Gather(std::as_bytes(own), ranks_->patience);
  if (!leads()) return nullptr;
  const auto vocabulary = static_cast<size_t>(spec().vocabulary);
  for (int rank = 0; rank < ranks_->world_size(); ++rank) {
    const Range range = VocabularyOf(spec(), {.rank = rank, .world_size = ranks_->world_size()});
    const size_t row_bytes = static_cast<size_t>(range.count) * 4;
    const std::vector<std::byte>& from = parts[static_cast<size_t>(rank)];
    HPROC_CHECK(from.size() == rows * row_bytes, "a rank's logits");
    for (size_t row = 0; row < rows; ++row) {
      std::memcpy(host_logits_.data() + row * vocabulary + range.first, from.data() + row * row_bytes, row_bytes);
    }
  }
  return host_logits_.data();
}

std::span<const kernels::TokenChoice> Engine::PassGreedy(std::span<const int32_t> tokens, std::span<const SequenceRun> runs,
                                                          std::span<const int32_t> logit_rows) {
  RunPass(tokens, runs, logit_rows, Choose::kGreedy);
  choices_.resize(logit_rows.size());
  kernels::Download(context_, std::as_writable_bytes(std::span(choices_)), buffers_->base + buffers_->choices);
  if (ranks_ == nullptr || logit_rows.empty()) return choices_;
  const std::vector<std::vector<std::byte>> parts = ranks_->Gather(std::as_bytes(std::span(choices_)), ranks_->patience);
  for (size_t rank = 1; rank < parts.size(); ++rank) {  // of rank 0 alone; lower ids win ties
    const auto first = static_cast<int32_t>(
        VocabularyOf(spec(), {.rank = static_cast<int>(rank), .world_size = ranks_->world_size()}).first);
    std::vector<kernels::TokenChoice> of_rank(choices_.size());
    HPROC_CHECK(parts[rank].size() == of_rank.size() * sizeof of_rank.front(), "a rank's choices");
    std::memcpy(of_rank.data(), parts[rank].data(), parts[rank].size());
    for (size_t i = 0; i < choices_.size(); ++i) {
      kernels::TokenChoice& choice = choices_[i];
      choice.nonfinite += of_rank[i].nonfinite;
      if (std::isnan(of_rank[i].logit) || !(std::isnan(choice.logit) || of_rank[i].logit > choice.logit)) continue;
      choice.token = first + of_rank[i].token;
      choice.logit = of_rank[i].logit;
    }
  }
  return choices_;
}

std::span<const kernels::TokenChoice> Engine::PassDrawn(std::span<const int32_t> tokens, std::span<const SequenceRun> runs,
                                                        std::span<const int32_t> logit_rows, std::span<const kernels::Draw> draws) {
  HPROC_CHECK(draws.size() == logit_rows.size(), "a draw for every row");
  choices_.resize(logit_rows.size());
  if (ranks_ != nullptr) {  // which have some of the vocabulary each
    const float* logits = Pass(tokens, runs, logit_rows);
    if (logits == nullptr) return {};
    kernels::DrawTokensOnHost({.logits = logits, .rows = static_cast<int64_t>(draws.size()), .columns = spec().vocabulary,
                               .draws = draws.data(), .choices = choices_.data()});
    return choices_;
  }
  RunPass(tokens, runs, logit_rows, Choose::kDraws, draws);
  kernels::Download(context_, std::as_writable_bytes(std::span(choices_)), buffers_->base + buffers_->choices);
  return choices_;
}

void Engine::RunPass(std::span<const int32_t> tokens, std::span<const SequenceRun> runs, std::span<const int32_t> logit_rows,
                     Choose choose, std::span<const kernels::Draw> draws) {
  const auto rows = static_cast<int64_t>(tokens.size());
  HPROC_CHECK(buffers_ != nullptr && buffers_->base != nullptr && !keys_.empty(), "memory for a pass");
  HPROC_CHECK(rows <= shape_.pass_tokens && static_cast<int>(logit_rows.size()) <= shape_.logit_rows &&
                  static_cast<int>(runs.size()) <= shape_.slots, "size of a pass");
  for (const int32_t token : tokens) HPROC_CHECK(token >= 0 && token < spec().vocabulary, "a token of the vocabulary");
  for (const SequenceRun& run : runs) {
    HPROC_CHECK(run.first_position >= 0 && run.first_position + run.tokens <= shape_.context, "positions of the cache");
  }
  std::vector<std::byte>& told = buffers_->told_bytes;
  told.clear();
  for (const std::span<const std::byte> part :
       {std::as_bytes(draws), std::as_bytes(runs), std::as_bytes(tokens), std::as_bytes(logit_rows)}) {
    told.insert(told.end(), part.begin(), part.end());
  }
  if (leads()) {
    std::vector<std::byte> order = OrderBytes({.order = kRunPass, .runs = static_cast<int32_t>(runs.size()),
                                               .tokens = static_cast<int32_t>(rows),
                                               .logit_rows = static_cast<int32_t>(logit_rows.size()),
                                               .greedy = choose == Choose::kGreedy ? 1 : 0},
                                              told);
    ranks_->Broadcast(order, ranks_->patience);
  }
  std::byte* at = buffers_->base + buffers_->told;
  kernels::Upload(context_, at, told);
  const auto* const placed_draws = reinterpret_cast<const kernels::Draw*>(at);
  at += draws.size_bytes();
  const std::span<const SequenceRun> placed_runs(reinterpret_cast<const SequenceRun*>(at), runs.size());
  buffers_->tokens = reinterpret_cast<const int32_t*>(at + runs.size_bytes());
  buffers_->logit_rows = buffers_->tokens + rows;
  const auto asked = static_cast<int64_t>(logit_rows.size());
  const auto run_blocks = [&] {
    RunBlocks(placed_runs, rows, asked);
    if (choose == Choose::kNothing || asked == 0) return;
    const float* logits = buffers_->Floats(buffers_->logits);
    const int64_t columns = VocabularyOf(spec(), shape_.shard).count;
    auto* const choices = reinterpret_cast<kernels::TokenChoice*>(buffers_->base + buffers_->choices);
    if (choose == Choose::kGreedy) {
      PickGreedy(context_, {.logits = logits, .rows = asked, .columns = columns, .choices = choices});
    } else {
      DrawTokens(context_, {.logits = logits, .rows = asked, .columns = columns, .draws = placed_draws, .choices = choices});
    }
  };
  const bool decodes = rows == static_cast<int64_t>(runs.size());  // one token of each sequence
  if (context_.device == nullptr || !decodes) return run_blocks();
  context_.device->Replay((rows * (int64_t{shape_.logit_rows} + 1) + asked) * 3 + static_cast<int64_t>(choose), run_blocks);
}

// All of a pass but what comes from the host and goes back to it.
void Engine::RunBlocks(std::span<const SequenceRun> runs, int64_t rows, int64_t logit_rows) {
  const int64_t hidden = spec().hidden;
  residual_ = buffers_->Floats(buffers_->residual);
  pending_ = {};
  // Layers with the same frequencies share their angles; the first ones are made where nothing waits for them.
  int64_t angles_of = -1;
  const auto make_angles = [&](size_t layer) {
    const auto* attention = std::get_if<AttentionSpec>(&spec().layers[layer].mixer);
    const int64_t frequencies = buffers_->frequencies[layer];
    if (attention == nullptr || angles_of == frequencies) return;
    RotaryAngles(context_, {.runs = runs, .rows = rows, .inverse_frequencies = buffers_->Floats(frequencies),
                            .pairs = static_cast<int64_t>(attention->inverse_frequencies->size()),
                            .cosines = buffers_->Floats(buffers_->cosines), .sines = buffers_->Floats(buffers_->sines)});
    angles_of = frequencies;
  };
  for (size_t i = 0; i < spec().layers.size() && angles_of < 0; ++i) make_angles(i);
  EmbedTokens(context_, {.weight = &W(TensorRole::kEmbedding, -1), .tokens = buffers_->tokens,
                         .rows = rows, .output = residual_});
  for (int i = 0; i < static_cast<int>(spec().layers.size()); ++i) {
    const LayerSpec& layer = spec().layers[static_cast<size_t>(i)];
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      make_angles(static_cast<size_t>(i));
      Attention(i, *attention, runs, rows);
    } else {
      GatedDelta(i, std::get<GatedDeltaSpec>(layer.mixer), runs, rows);
    }
    pending_ = Pending(rows);
    MixtureOfExperts(i, layer.feed_forward, rows);
  }
  if (logit_rows == 0) return;
  if (pending_.residual != nullptr) Combine(context_, pending_), residual_ = pending_.into();

  // Only the rows asked for go through the last norm and the head.
  Activations last = buffers_->At(buffers_->last, logit_rows, hidden);
  last.rounded = model_.has_packed();
  RmsNorm(context_, {.input = residual_, .input_rows = buffers_->logit_rows, .input_stride = hidden,
                     .output = last.values, .output_stride = hidden, .rows = logit_rows, .columns = hidden,
                     .weight = &W(TensorRole::kFinalNorm, -1), .weight_offset = spec().norm_offset,
                     .epsilon = spec().norm_epsilon, .rounded = last.rounded ? &last : nullptr});
  const MatmulCall head = WholeProduct(model_.Head(), last, buffers_->Floats(buffers_->logits));
  Matmul(context_, {&head, 1});
}

}  // namespace hproc::worker
