#include "worker/tensor_table.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/check.h"
#include "base/printable.h"
#include "worker/synthetic.h"
#include "worker/tensor_convert.h"

namespace hproc::worker {
namespace {

using quant::Family;

// What a file may hold that a text model does not use.
constexpr std::string_view kIgnoredPrefixes[] = {"mtp.", "model.mtp.", "model.visual.", "visual."};
constexpr std::string_view kIgnoredSuffixes[] = {".rotary_emb.inv_freq"};

bool IsIgnored(std::string_view name) {
  return std::ranges::any_of(kIgnoredPrefixes, [&](std::string_view p) { return name.starts_with(p); }) ||
         std::ranges::any_of(kIgnoredSuffixes, [&](std::string_view s) { return name.ends_with(s); });
}

class Builder {
 public:
  // `checkpoint` may be null: the tensors then have no sources.
  Builder(const ModelSpec& spec, const Checkpoint* checkpoint) : spec_(spec), checkpoint_(checkpoint) {
    // Text models stand at "model.", those inside a vision-language model one level down.
    prefix_ = InCheckpoint("model.language_model.embed_tokens.weight") ? "model.language_model." : "model.";
  }

  Result<TensorTable> Build() {
    Add(TensorRole::kEmbedding, -1, prefix_ + "embed_tokens.weight", Family::kKept, spec_.vocabulary, spec_.hidden);
    // Nothing is added once something is wrong: a config alone can ask for hundreds of millions of experts.
    for (size_t i = 0; i < spec_.layers.size() && error_.empty(); ++i) AddLayer(static_cast<int>(i));
    AddVector(TensorRole::kFinalNorm, -1, prefix_ + "norm.weight", spec_.hidden);
    if (!spec_.tied_head) Add(TensorRole::kHead, -1, "lm_head.weight", Family::kHead, spec_.vocabulary, spec_.hidden);
    if (!error_.empty()) return Error{error_};
    if (checkpoint_ == nullptr) return std::move(table_);
    for (const TensorInfo& info : checkpoint_->tensors()) {
      if (used_.contains(info.name) || IsIgnored(info.name)) continue;
      if (spec_.tied_head && info.name == "lm_head.weight") continue;  // some writers store the tied copy too
      return Error{TensorLabel(*checkpoint_, info) + " is not one of a " + spec_.architecture + " model"};
    }
    return std::move(table_);
  }

 private:
  void AddLayer(int layer) {
    const LayerSpec& spec = spec_.layers[static_cast<size_t>(layer)];
    const std::string at = prefix_ + "layers." + std::to_string(layer) + ".";
    AddVector(TensorRole::kMixerNorm, layer, at + "input_layernorm.weight", spec_.hidden);
    if (const auto* attention = std::get_if<AttentionSpec>(&spec.mixer)) {
      AddAttention(layer, at + "self_attn.", *attention);
    } else {
      AddGatedDelta(layer, at + "linear_attn.", std::get<GatedDeltaSpec>(spec.mixer));
    }
    AddVector(TensorRole::kFeedForwardNorm, layer, at + "post_attention_layernorm.weight", spec_.hidden);
    AddMoe(layer, at + "mlp.", spec.feed_forward);
  }

  void AddAttention(int layer, const std::string& at, const AttentionSpec& spec) {
    const int64_t attended = spec.heads * spec.head_dim;
    Add(TensorRole::kQuery, layer, at + "q_proj.weight", Family::kStrict, spec.query_columns(), spec_.hidden);
    Add(TensorRole::kKey, layer, at + "k_proj.weight", Family::kStrict, spec.kv_columns(), spec_.hidden);
    Add(TensorRole::kValue, layer, at + "v_proj.weight", Family::kStrict, spec.kv_columns(), spec_.hidden);
    Add(TensorRole::kOutput, layer, at + "o_proj.weight", Family::kStrict, spec_.hidden, attended);
    if (spec.bias) {
      AddVector(TensorRole::kQueryBias, layer, at + "q_proj.bias", spec.query_columns());
      AddVector(TensorRole::kKeyBias, layer, at + "k_proj.bias", spec.kv_columns());
      AddVector(TensorRole::kValueBias, layer, at + "v_proj.bias", spec.kv_columns());
      AddVector(TensorRole::kOutputBias, layer, at + "o_proj.bias", spec_.hidden);
    }
    if (spec.qk_norm) {
      AddVector(TensorRole::kQueryNorm, layer, at + "q_norm.weight", spec.head_dim);
      AddVector(TensorRole::kKeyNorm, layer, at + "k_norm.weight", spec.head_dim);
    }
  }

  void AddGatedDelta(int layer, const std::string& at, const GatedDeltaSpec& spec) {
    Add(TensorRole::kDeltaQkv, layer, at + "in_proj_qkv.weight", Family::kStrict, spec.conv_channels(), spec_.hidden);
    Add(TensorRole::kDeltaZ, layer, at + "in_proj_z.weight", Family::kStrict, spec.value_columns(), spec_.hidden);
    // A row a head that sets its decay and its learning rate: gate rows, kept like the router's.
    Add(TensorRole::kDeltaA, layer, at + "in_proj_a.weight", Family::kKept, spec.value_heads, spec_.hidden);
    Add(TensorRole::kDeltaB, layer, at + "in_proj_b.weight", Family::kKept, spec.value_heads, spec_.hidden);
    AddShaped(TensorRole::kDeltaConv, layer, at + "conv1d.weight", {spec.conv_channels(), 1, spec.conv_kernel});
    AddVector(TensorRole::kDeltaALog, layer, at + "A_log", spec.value_heads);
    AddVector(TensorRole::kDeltaDtBias, layer, at + "dt_bias", spec.value_heads);
    AddVector(TensorRole::kDeltaNorm, layer, at + "norm.weight", spec.value_dim);
    Add(TensorRole::kDeltaOut, layer, at + "out_proj.weight", Family::kStrict, spec_.hidden, spec.value_columns());
  }

  void AddMoe(int layer, const std::string& at, const MoeSpec& spec) {
    Add(TensorRole::kRouter, layer, at + "gate.weight", Family::kKept, spec.experts, spec_.hidden);
    table_.tensors.back().spec.experts = spec.experts;
    AddExperts(layer, at + "experts.", spec);
    if (spec.shared_width > 0) {
      const std::string shared = at + "shared_expert.";
      Add(TensorRole::kSharedGate, layer, shared + "gate_proj.weight", Family::kStrict, spec.shared_width, spec_.hidden);
      Add(TensorRole::kSharedUp, layer, shared + "up_proj.weight", Family::kStrict, spec.shared_width, spec_.hidden);
      Add(TensorRole::kSharedDown, layer, shared + "down_proj.weight", Family::kStrict, spec_.hidden, spec.shared_width);
    }
    if (spec.shared_gate) {
      Add(TensorRole::kSharedExpertGate, layer, at + "shared_expert_gate.weight", Family::kKept, 1, spec_.hidden);
    }
  }

  void AddExperts(int layer, const std::string& at, const MoeSpec& spec) {
    // Fused tensors carry no ".weight".
    const std::string gate_up = at + "gate_up_proj";
    const std::string down = at + "down_proj";
    ModelTensor first = MakeTensor(TensorRole::kExpertsGateUp, layer, gate_up, Family::kLazy,
                                   spec.experts * 2 * spec.width, spec_.hidden);
    ModelTensor second =
        MakeTensor(TensorRole::kExpertsDown, layer, down, Family::kLazy, spec.experts * spec_.hidden, spec.width);
    first.spec.experts = second.spec.experts = spec.experts;
    if (checkpoint_ == nullptr || InCheckpoint(gate_up)) {
      AddSource(first, gate_up, {spec.experts, 2 * spec.width, spec_.hidden}, first.spec.rows);
      AddSource(second, down, {spec.experts, spec_.hidden, spec.width}, second.spec.rows);
    } else {
      for (int64_t e = 0; e < spec.experts && error_.empty(); ++e) {
        const std::string expert = at + std::to_string(e) + ".";
        AddSource(first, expert + "gate_proj.weight", {spec.width, spec_.hidden}, spec.width);
        AddSource(first, expert + "up_proj.weight", {spec.width, spec_.hidden}, spec.width);
        AddSource(second, expert + "down_proj.weight", {spec_.hidden, spec.width}, spec_.hidden);
      }
    }
    table_.tensors.push_back(std::move(first));
    table_.tensors.push_back(std::move(second));
  }

  void Add(TensorRole role, int layer, const std::string& name, Family family, int64_t rows, int64_t columns) {
    ModelTensor tensor = MakeTensor(role, layer, name, family, rows, columns);
    AddSource(tensor, name, {rows, columns}, rows);
    table_.tensors.push_back(std::move(tensor));
  }

  void AddVector(TensorRole role, int layer, const std::string& name, int64_t size) {
    AddShaped(role, layer, name, {size});
  }

  // Kept as one row whatever its shape.
  void AddShaped(TensorRole role, int layer, const std::string& name, const std::vector<int64_t>& shape) {
    int64_t size = 1;
    for (int64_t extent : shape) size *= extent;
    ModelTensor tensor = MakeTensor(role, layer, name, Family::kKept, 1, size);
    AddSource(tensor, name, shape, 1);
    table_.tensors.push_back(std::move(tensor));
  }

  bool InCheckpoint(const std::string& name) const { return checkpoint_ != nullptr && checkpoint_->Find(name) != nullptr; }

  static ModelTensor MakeTensor(TensorRole role, int layer, const std::string& name, Family family, int64_t rows,
                                int64_t columns) {
    ModelTensor tensor;
    tensor.role = role;
    tensor.layer = layer;
    tensor.spec.name = name;
    tensor.spec.family = family;
    tensor.spec.rows = rows;
    tensor.spec.columns = columns;
    return tensor;
  }

  // Appends the checkpoint tensor `name` of `shape` as the next `rows` rows. Only the first error is kept.
  void AddSource(ModelTensor& tensor, const std::string& name, const std::vector<int64_t>& shape, int64_t rows) {
    if (checkpoint_ == nullptr) {
      tensor.dtype = Dtype::kBF16;
      return;
    }
    if (!error_.empty()) return;
    const TensorInfo* info = checkpoint_->Find(name);
    if (info == nullptr) {
      error_ = "tensor '" + Printable(name) + "' is missing";
      return;
    }
    used_.insert(name);
    if (info->shape != shape) {
      error_ = TensorLabel(*checkpoint_, *info) + " has shape " + ShapeText(info->shape) + ", not " + ShapeText(shape);
      return;
    }
    if (info->dtype != Dtype::kBF16 && info->dtype != Dtype::kF16 && info->dtype != Dtype::kF32) {
      error_ = TensorLabel(*checkpoint_, *info) + " is " + std::string(DtypeName(info->dtype)) + ", not BF16, F16 or F32";
      return;
    }
    if (tensor.spec.family != Family::kKept && tensor.spec.columns > quant::kMostColumns) {
      error_ = TensorLabel(*checkpoint_, *info) + " has rows of " + std::to_string(tensor.spec.columns) +
               " values, more than the " + std::to_string(quant::kMostColumns) + " that a quantized matrix can have";
      return;
    }
    if (tensor.sources.empty()) {
      tensor.dtype = info->dtype;
      tensor.spec.bytes_per_value = DtypeBits(info->dtype) / 8;
    } else if (tensor.dtype != info->dtype) {
      error_ = TensorLabel(*checkpoint_, *info) + " is " + std::string(DtypeName(info->dtype)) + ", other experts of its layer " +
               std::string(DtypeName(tensor.dtype));
      return;
    }
    const int64_t first = tensor.sources.empty() ? 0 : tensor.sources.back().first_row + tensor.sources.back().rows;
    tensor.sources.push_back({.info = info, .first_row = first, .rows = rows});
  }

  const ModelSpec& spec_;
  const Checkpoint* checkpoint_;
  std::string prefix_;
  std::string error_;
  std::set<std::string, std::less<>> used_;
  TensorTable table_;
};

// Calls visit(source, row of its checkpoint tensor, rows) for the pieces of a range of rows.
template <typename Visit>
Result<void> ForEachPiece(const ModelTensor& tensor, int64_t first_row, int64_t rows, Visit&& visit) {
  auto source = std::upper_bound(tensor.sources.begin(), tensor.sources.end(), first_row,
                                 [](int64_t row, const TensorSource& s) { return row < s.first_row; }) -
                1;
  while (rows > 0) {
    const int64_t within = first_row - source->first_row;
    const int64_t count = std::min(rows, source->rows - within);
    if (Result<void> read = visit(*source, source->source_row + within, count); !read.ok()) return read;
    first_row += count;
    rows -= count;
    ++source;
  }
  return Ok();
}

}  // namespace

std::string TensorLabel(const Checkpoint& checkpoint, const TensorInfo& info) {
  return Printable(checkpoint.ShardName(info.shard)) + ": tensor '" + Printable(info.name) + "'";
}

Result<TensorTable> BuildTensorTable(const ModelSpec& spec, const Checkpoint& checkpoint) {
  if (checkpoint.is_synthetic()) return Builder(spec, nullptr).Build();
  return Builder(spec, &checkpoint).Build();
}

TensorTable TensorTableOf(const ModelSpec& spec) { return std::move(*Builder(spec, nullptr).Build()); }

Result<void> ReadStoredRows(const Checkpoint& checkpoint, const ModelTensor& tensor, int64_t first_row, int64_t rows,
                            std::span<std::byte> bytes) {
  const int64_t row_bytes = tensor.spec.columns * tensor.spec.bytes_per_value;
  HPROC_CHECK(static_cast<int64_t>(bytes.size()) == rows * row_bytes, "room for the rows");
  if (tensor.sources.empty()) {
    SyntheticRows(tensor.spec, first_row, rows, bytes);
    return Ok();
  }
  std::byte* out = bytes.data();
  return ForEachPiece(tensor, first_row, rows, [&](const TensorSource& source, int64_t row, int64_t count) {
    const auto size = static_cast<size_t>(count * row_bytes);
    Result<void> read = checkpoint.Read(*source.info, row * row_bytes, {out, size});
    out += size;
    return read;
  });
}

Result<void> ReadRows(const Checkpoint& checkpoint, const ModelTensor& tensor, int64_t first_row, int64_t rows,
                      std::span<float> values) {
  const int64_t columns = tensor.spec.columns;
  HPROC_CHECK(static_cast<int64_t>(values.size()) == rows * columns, "room for the rows");
  thread_local std::vector<std::byte> stored;
  if (tensor.sources.empty()) {
    stored.resize(values.size() * 2);
    SyntheticRows(tensor.spec, first_row, rows, stored);
    ConvertToFloat(tensor.dtype, stored, values);
    return Ok();
  }
  float* out = values.data();
  return ForEachPiece(tensor, first_row, rows, [&](const TensorSource& source, int64_t row, int64_t count) -> Result<void> {
    const int64_t row_bytes = columns * tensor.spec.bytes_per_value;
    stored.resize(static_cast<size_t>(count * row_bytes));
    if (Result<void> read = checkpoint.Read(*source.info, row * row_bytes, stored); !read.ok()) return read;
    const auto size = static_cast<size_t>(count * columns);
    const int64_t bad = ConvertToFloat(tensor.dtype, stored, {out, size});
    if (bad > 0) {
      return Error{TensorLabel(checkpoint, *source.info) + " holds " + std::to_string(bad) +
                   " values that are NaN or infinite"};
    }
    out += size;
    return Ok();
  });
}

}  // namespace hproc::worker
