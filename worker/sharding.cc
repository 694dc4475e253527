#include "worker/sharding.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace hproc::worker {
namespace {

// Part `part` of `parts` of [0, total).
Range PartOf(int64_t total, int64_t part, int64_t parts) {
  const int64_t first = total * part / parts;
  return {.first = first, .count = total * (part + 1) / parts - first};
}

Range Times(const Range& range, int64_t factor) { return {.first = range.first * factor, .count = range.count * factor}; }
Range From(int64_t offset, const Range& range) { return {.first = offset + range.first, .count = range.count}; }

// Heads of a kind that share heads of another: query heads and their KV heads, value heads and their key heads.
struct HeadParts {
  Range shared;  // KV or key heads
  Range heads;
};

HeadParts HeadsOf(int64_t heads, int64_t shared_heads, const Shard& shard) {
  const int64_t of_each = heads / shared_heads;
  if (shared_heads >= shard.world_size) {
    const Range shared = PartOf(shared_heads, shard.rank, shard.world_size);
    return {.shared = shared, .heads = Times(shared, of_each)};
  }
  const int64_t ranks_of_each = shard.world_size / shared_heads;
  const int64_t one = shard.rank / ranks_of_each;
  const Range within = PartOf(of_each, shard.rank % ranks_of_each, ranks_of_each);
  return {.shared = {.first = one, .count = 1}, .heads = From(one * of_each, within)};
}

HeadParts HeadsOf(const AttentionSpec& spec, const Shard& shard) { return HeadsOf(spec.heads, spec.kv_heads, shard); }
HeadParts HeadsOf(const GatedDeltaSpec& spec, const Shard& shard) { return HeadsOf(spec.value_heads, spec.key_heads, shard); }

Result<void> CheckHeads(const std::string& layer, const char* what, int64_t heads, const char* shared_what, int64_t shared_heads,
                        int world_size) {
  if (shared_heads >= world_size) return Ok();
  const std::string found = layer + ": " + std::to_string(heads) + " " + what + " with " + std::to_string(shared_heads) + " " +
                            shared_what + " do not divide among " + std::to_string(world_size) + " ranks";
  if (world_size % shared_heads != 0) {
    return Error{found + ": beyond " + std::to_string(shared_heads) + " they must be a multiple of it"};
  }
  if (heads / shared_heads < world_size / shared_heads) return Error{found + ": there are more ranks than heads"};
  return Ok();
}

// Ranges in ascending order, those that touch joined.
class Ranges {
 public:
  void Add(const Range& range) {
    if (!ranges_.empty() && ranges_.back().end() == range.first) {
      ranges_.back().count += range.count;
    } else {
      ranges_.push_back(range);
    }
  }
  std::vector<Range> Take() { return std::move(ranges_); }

 private:
  std::vector<Range> ranges_;
};

// Channels of q, k and v in the gated delta net's joint projection, each channel `times` values long.
std::vector<Range> DeltaChannels(const GatedDeltaSpec& spec, const HeadParts& parts, int64_t times) {
  const int64_t keys = spec.key_heads * spec.key_dim;
  Ranges ranges;
  for (const int64_t at : {int64_t{0}, keys}) ranges.Add(Times(From(at, Times(parts.shared, spec.key_dim)), times));
  ranges.Add(Times(From(2 * keys, Times(parts.heads, spec.value_dim)), times));
  return ranges.Take();
}

}  // namespace

int64_t TensorShard::row_count() const {
  int64_t count = 0;
  for (const Range& range : rows) count += range.count;
  return count;
}

int64_t TensorShard::column_count() const {
  int64_t count = 0;
  for (const Range& range : columns) count += range.count;
  return count;
}

Result<void> CheckSharding(const ModelSpec& spec, int world_size) {
  if (world_size == 1) return Ok();
  const auto enough = [&](const std::string& what, int64_t count) -> Result<void> {
    if (count >= world_size) return Ok();
    return Error{what + " of " + std::to_string(count) + " does not divide among " + std::to_string(world_size) + " ranks"};
  };
  if (Result<void> fits = enough("a vocabulary", spec.vocabulary); !fits.ok()) return fits;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const std::string name = "layer " + std::to_string(i);
    Result<void> fits = Ok();
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      fits = CheckHeads(name, "attention heads", attention->heads, "KV heads", attention->kv_heads, world_size);
    } else {
      const auto& delta = std::get<GatedDeltaSpec>(layer.mixer);
      fits = CheckHeads(name, "value heads", delta.value_heads, "key heads", delta.key_heads, world_size);
    }
    if (fits.ok()) fits = enough(name + ": a routed expert's width", layer.feed_forward.width);
    if (fits.ok() && layer.feed_forward.shared_width > 0) {
      fits = enough(name + ": the shared expert's width", layer.feed_forward.shared_width);
    }
    if (!fits.ok()) return fits;
  }
  return Ok();
}

ModelSpec ShardSpec(const ModelSpec& spec, const Shard& shard) {
  ModelSpec part = spec;
  if (shard.world_size == 1) return part;
  for (LayerSpec& layer : part.layers) {
    if (auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      const HeadParts parts = HeadsOf(*attention, shard);
      attention->heads = parts.heads.count;
      attention->kv_heads = parts.shared.count;
    } else {
      auto& delta = std::get<GatedDeltaSpec>(layer.mixer);
      const HeadParts parts = HeadsOf(delta, shard);
      delta.value_heads = parts.heads.count;
      delta.key_heads = parts.shared.count;
    }
    MoeSpec& moe = layer.feed_forward;
    moe.width = PartOf(moe.width, shard.rank, shard.world_size).count;
    moe.shared_width = PartOf(moe.shared_width, shard.rank, shard.world_size).count;
  }
  return part;
}

Range VocabularyOf(const ModelSpec& spec, const Shard& shard) {
  return PartOf(spec.vocabulary, shard.rank, shard.world_size);
}

TensorShard ShardOf(const ModelSpec& spec, const ModelTensor& tensor, const Shard& shard) {
  const Range all_rows{.first = 0, .count = tensor.spec.rows};
  const Range all_columns{.first = 0, .count = tensor.spec.columns};
  const TensorShard whole{.rows = {all_rows}, .columns = {all_columns}};
  if (shard.world_size == 1) return whole;
  const auto rows = [&](const Range& range) { return TensorShard{.rows = {range}, .columns = {all_columns}}; };
  const auto columns = [&](const Range& range) { return TensorShard{.rows = {all_rows}, .columns = {range}}; };
  const LayerSpec* layer = tensor.layer < 0 ? nullptr : &spec.layers[static_cast<size_t>(tensor.layer)];
  const auto attention = [&]() -> const AttentionSpec& { return std::get<AttentionSpec>(layer->mixer); };
  const auto delta = [&]() -> const GatedDeltaSpec& { return std::get<GatedDeltaSpec>(layer->mixer); };
  const auto query_heads = [&] {
    return Times(HeadsOf(attention(), shard).heads, attention().query_columns() / attention().heads);
  };
  const auto kv_heads = [&] { return Times(HeadsOf(attention(), shard).shared, attention().head_dim); };
  const auto value_heads = [&](int64_t each) { return Times(HeadsOf(delta(), shard).heads, each); };
  const auto part = [&](int64_t width) { return PartOf(width, shard.rank, shard.world_size); };
  switch (tensor.role) {
    case TensorRole::kEmbedding:
    case TensorRole::kFinalNorm:
    case TensorRole::kMixerNorm:
    case TensorRole::kFeedForwardNorm:
    case TensorRole::kOutputBias:  // added once the ranks' parts are
    case TensorRole::kQueryNorm:
    case TensorRole::kKeyNorm:
    case TensorRole::kDeltaNorm:
    case TensorRole::kRouter:
    case TensorRole::kSharedExpertGate:
      return whole;
    case TensorRole::kHead: return rows(VocabularyOf(spec, shard));
    case TensorRole::kQuery: return rows(query_heads());
    case TensorRole::kKey:
    case TensorRole::kValue: return rows(kv_heads());
    case TensorRole::kQueryBias: return columns(query_heads());
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias: return columns(kv_heads());
    case TensorRole::kOutput: return columns(Times(HeadsOf(attention(), shard).heads, attention().head_dim));
    case TensorRole::kDeltaQkv:
      return {.rows = DeltaChannels(delta(), HeadsOf(delta(), shard), 1), .columns = {all_columns}};
    case TensorRole::kDeltaConv:  // kept as one row, channel by channel
      return {.rows = {all_rows}, .columns = DeltaChannels(delta(), HeadsOf(delta(), shard), delta().conv_kernel)};
    case TensorRole::kDeltaZ: return rows(value_heads(delta().value_dim));
    case TensorRole::kDeltaA:
    case TensorRole::kDeltaB: return rows(value_heads(1));
    case TensorRole::kDeltaALog:
    case TensorRole::kDeltaDtBias: return columns(value_heads(1));
    case TensorRole::kDeltaOut: return columns(value_heads(delta().value_dim));
    case TensorRole::kExpertsGateUp: {
      const int64_t width = layer->feed_forward.width;
      Ranges ranges;  // an expert's gate rows, then its up rows
      for (int64_t half = 0; half < 2 * layer->feed_forward.experts; ++half) ranges.Add(From(half * width, part(width)));
      return {.rows = ranges.Take(), .columns = {all_columns}};
    }
    case TensorRole::kSharedGate:
    case TensorRole::kSharedUp: return rows(part(layer->feed_forward.shared_width));
    case TensorRole::kExpertsDown: return columns(part(layer->feed_forward.width));
    case TensorRole::kSharedDown: return columns(part(layer->feed_forward.shared_width));
  }
  HPROC_CHECK(false, "a role of the table");
}

std::vector<CountedRows> CountedRowsOf(const ModelSpec& spec, const ModelTensor& tensor, const Shard& shard) {
  std::vector<CountedRows> pieces;
  for (const Range& rows : ShardOf(spec, tensor, shard).rows) pieces.push_back({.rows = rows});
  for (int lower = 0; lower < shard.rank; ++lower) {
    for (const Range& taken : ShardOf(spec, tensor, {.rank = lower, .world_size = shard.world_size}).rows) {
      std::vector<CountedRows> cut;
      const auto add = [&](int64_t first, int64_t end, bool is_counted) {
        if (first < end) cut.push_back({.rows = {.first = first, .count = end - first}, .is_counted = is_counted});
      };
      for (const CountedRows& piece : pieces) {
        const int64_t begin = std::clamp(taken.first, piece.rows.first, piece.rows.end());
        const int64_t end = std::clamp(taken.end(), begin, piece.rows.end());
        add(piece.rows.first, begin, piece.is_counted);
        add(begin, end, false);
        add(end, piece.rows.end(), piece.is_counted);
      }
      pieces = std::move(cut);
    }
  }
  return pieces;
}

}  // namespace hproc::worker
