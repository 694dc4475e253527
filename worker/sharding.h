// Sharding: which part of the model a rank of tensor parallelism holds. Defined here alone, for every backend, loader and
// prediction.
//
//   what               split                                       then
//   attention          q, k, v by rows, whole heads                o_proj by the columns of those heads
//   gated delta net    q, k, v, z, a, b, conv, … by value heads    out_proj by the columns of those heads
//   routed, shared     gate and up by rows, a part of the width    down by the columns of that part
//   head               by rows: a part of the vocabulary
//   the rest           on every rank: norms, router, shared expert's gate, embedding
//
// So a layer's products by columns give partial sums over the ranks, which are added up twice a layer: after the mixer, and
// after the experts, routed and shared together. The embedding is on every rank because a row a token is all that is read of
// it: split, it would take a third kind of sum before the first layer. A tied head multiplies with its rows of it.
//
// Heads stay with their KV head (value heads with their key head). Where there are at least as many KV heads as ranks, ranks
// take whole KV heads; where there are fewer, each KV head is on several ranks, which share its query heads out. Parts may
// differ by one: 6 heads of 2 KV heads are 1, 2, 1 and 2 on four ranks. So plans do not depend on the ranks, every channel is
// quantized as a whole: a rank's rows are the unsharded tensor's rows, and its columns are cut out of whole quantized rows
// (quant/shard_store.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "worker/model_spec.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// [first, first + count).
struct Range {
  int64_t first = 0;
  int64_t count = 0;

  int64_t end() const { return first + count; }
  bool operator==(const Range&) const = default;
};

// What a rank holds of one model tensor: these rows of these columns, in order. Ranges ascend and do not touch.
struct TensorShard {
  std::vector<Range> rows;
  std::vector<Range> columns;  // one, but for vectors kept as one row

  int64_t row_count() const;
  int64_t column_count() const;
  bool operator==(const TensorShard&) const = default;
};

// Fails where the model has too little of something for each rank to have a part: one line that names it.
Result<void> CheckSharding(const ModelSpec& spec, int world_size);

// Both of a model that CheckSharding lets through.
// The blocks that a rank runs: its heads and widths; hidden size, experts and vocabulary are the whole model's.
ModelSpec ShardSpec(const ModelSpec& spec, const Shard& shard);
// `spec` is the whole model's, and `tensor` of its table.
TensorShard ShardOf(const ModelSpec& spec, const ModelTensor& tensor, const Shard& shard);

// The rank's rows in order, in pieces that count for it or for a lower rank: of what several ranks hold, the lowest reports.
struct CountedRows {
  Range rows;
  bool is_counted = true;

  bool operator==(const CountedRows&) const = default;
};
std::vector<CountedRows> CountedRowsOf(const ModelSpec& spec, const ModelTensor& tensor, const Shard& shard);

// The rank's part of the vocabulary; parts are of any size where it does not divide.
Range VocabularyOf(const ModelSpec& spec, const Shard& shard);

}  // namespace hproc::worker
