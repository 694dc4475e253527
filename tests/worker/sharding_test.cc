#include "worker/sharding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/worker/small_engine.h"

namespace hproc::worker {
namespace {

using testing::HasSubstr;

std::vector<SmallShape> Shapes() {
  return {{.layers = "LF", .heads = 8, .kv_heads = 2, .key_heads = 4, .value_heads = 8, .width = 16, .shared_width = 24, .bias = true},
          // More ranks than KV and key heads, and nothing that divides.
          {.layers = "FL", .heads = 6, .kv_heads = 2, .key_heads = 2, .value_heads = 6, .width = 9, .shared_width = 11},
          {.layers = "LF", .heads = 7, .kv_heads = 7, .key_heads = 5, .value_heads = 5, .width = 8, .shared_width = 8, .tied = true}};
}

struct Opened {
  ModelSpec spec;
  TensorTable table;
};

Opened Open(const SmallShape& shape) {
  const TestFolder folder;
  SmallCheckpoint(shape).WriteTo(folder);
  OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  return {std::move(opened.spec), std::move(opened.table)};
}

// How many ranks hold each element of a tensor.
std::vector<int> Holders(const Opened& opened, const ModelTensor& tensor, int world_size) {
  std::vector<int> holders(static_cast<size_t>(tensor.spec.rows * tensor.spec.columns));
  for (int rank = 0; rank < world_size; ++rank) {
    const TensorShard part = ShardOf(opened.spec, tensor, {.rank = rank, .world_size = world_size});
    for (const Range& rows : part.rows) {
      for (int64_t r = rows.first; r < rows.end(); ++r) {
        for (const Range& columns : part.columns) {
          for (int64_t c = columns.first; c < columns.end(); ++c) ++holders.at(static_cast<size_t>(r * tensor.spec.columns + c));
        }
      }
    }
  }
  return holders;
}

bool IsOnEveryRank(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
    case TensorRole::kFinalNorm:
    case TensorRole::kMixerNorm:
    case TensorRole::kFeedForwardNorm:
    case TensorRole::kOutputBias:
    case TensorRole::kQueryNorm:
    case TensorRole::kKeyNorm:
    case TensorRole::kDeltaNorm:
    case TensorRole::kRouter:
    case TensorRole::kSharedExpertGate: return true;
    default: return false;
  }
}

bool IsOfDelta(TensorRole role) { return role == TensorRole::kDeltaQkv || role == TensorRole::kDeltaConv; }

// What ranks share where there are more of them than KV or key heads.
bool FollowsSharedHeads(TensorRole role) {
  switch (role) {
    case TensorRole::kKey:
    case TensorRole::kValue:
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias:
    case TensorRole::kDeltaQkv:
    case TensorRole::kDeltaConv: return true;
    default: return false;
  }
}

TEST(Sharding, PutsEveryElementOnOneRankOrByRuleOnAll) {
  for (const SmallShape& shape : Shapes()) {
    const Opened opened = Open(shape);
    for (const int world_size : {1, 2, 4}) {
      ASSERT_TRUE(CheckSharding(opened.spec, world_size).ok()) << world_size;
      for (const ModelTensor& tensor : opened.table.tensors) {
        const std::vector<int> holders = Holders(opened, tensor, world_size);
        const auto [least, most] = std::ranges::minmax(holders);
        SCOPED_TRACE(tensor.spec.name + " on " + std::to_string(world_size));
        if (IsOnEveryRank(tensor.role)) {
          EXPECT_EQ(least, world_size);
          EXPECT_EQ(most, world_size);
          continue;
        }
        const int64_t shared = IsOfDelta(tensor.role) ? shape.key_heads : shape.kv_heads;
        EXPECT_EQ(most, FollowsSharedHeads(tensor.role) && world_size > shared ? world_size / shared : 1);
        // The joint projection of the gated delta net has the values of each value head beside shared queries and keys.
        EXPECT_EQ(least, IsOfDelta(tensor.role) ? 1 : most);
      }
    }
  }
}

TEST(Sharding, CountsEveryRowOnce) {
  for (const SmallShape& shape : Shapes()) {
    const Opened opened = Open(shape);
    for (const ModelTensor& tensor : opened.table.tensors) {
      std::vector<int> counts(static_cast<size_t>(tensor.spec.rows));
      for (int rank = 0; rank < 4; ++rank) {
        const Shard shard{.rank = rank, .world_size = 4};
        int64_t rows = 0;
        for (const CountedRows& piece : CountedRowsOf(opened.spec, tensor, shard)) {
          rows += piece.rows.count;
          for (int64_t r = piece.rows.first; r < piece.rows.end(); ++r) counts.at(static_cast<size_t>(r)) += piece.is_counted ? 1 : 0;
        }
        EXPECT_EQ(rows, ShardOf(opened.spec, tensor, shard).row_count());
      }
      EXPECT_EQ(counts, std::vector<int>(counts.size(), 1)) << tensor.spec.name;
    }
  }
}

TEST(Sharding, KeepsHeadsWithTheirSharedHeads) {
  // 6 heads of 2 KV heads on 4 ranks: 1 + 2 of the first, 1 + 2 of the second.
  const Opened opened = Open(Shapes()[1]);
  const std::vector<int64_t> heads = {1, 2, 1, 2};
  for (int rank = 0; rank < 4; ++rank) {
    const Shard shard{.rank = rank, .world_size = 4};
    const ModelSpec part = ShardSpec(opened.spec, shard);
    const auto& attention = std::get<AttentionSpec>(part.layers[0].mixer);
    EXPECT_EQ(attention.heads, heads[static_cast<size_t>(rank)]);
    EXPECT_EQ(attention.kv_heads, 1);
    for (const ModelTensor& tensor : opened.table.tensors) {
      if (tensor.role != TensorRole::kKey) continue;
      EXPECT_EQ(ShardOf(opened.spec, tensor, shard).rows, (std::vector<Range>{{.first = rank / 2 * 12, .count = 12}}));
    }
  }
}

// The rank's blocks and the rank's tensors are of one size.
TEST(Sharding, GivesTheBlocksTheSizesOfTheirTensors) {
  for (const SmallShape& shape : Shapes()) {
    const Opened opened = Open(shape);
    for (int rank = 0; rank < 4; ++rank) {
      const Shard shard{.rank = rank, .world_size = 4};
      const ModelSpec part = ShardSpec(opened.spec, shard);
      for (const ModelTensor& tensor : opened.table.tensors) {
        if (tensor.layer < 0) continue;
        const TensorShard of_rank = ShardOf(opened.spec, tensor, shard);
        const LayerSpec& layer = part.layers[static_cast<size_t>(tensor.layer)];
        const MoeSpec& moe = layer.feed_forward;
        SCOPED_TRACE(tensor.spec.name);
        switch (tensor.role) {
          case TensorRole::kQuery: EXPECT_EQ(of_rank.row_count(), std::get<AttentionSpec>(layer.mixer).query_columns()); break;
          case TensorRole::kKey: EXPECT_EQ(of_rank.row_count(), std::get<AttentionSpec>(layer.mixer).kv_columns()); break;
          case TensorRole::kOutput:
            EXPECT_EQ(of_rank.column_count(), std::get<AttentionSpec>(layer.mixer).heads * shape.head_dim);
            break;
          case TensorRole::kDeltaQkv: EXPECT_EQ(of_rank.row_count(), std::get<GatedDeltaSpec>(layer.mixer).conv_channels()); break;
          case TensorRole::kDeltaConv:
            EXPECT_EQ(of_rank.column_count(), std::get<GatedDeltaSpec>(layer.mixer).conv_channels() * shape.conv_kernel);
            break;
          case TensorRole::kDeltaOut: EXPECT_EQ(of_rank.column_count(), std::get<GatedDeltaSpec>(layer.mixer).value_columns()); break;
          case TensorRole::kExpertsGateUp: EXPECT_EQ(of_rank.row_count(), moe.experts * 2 * moe.width); break;
          case TensorRole::kExpertsDown: EXPECT_EQ(of_rank.column_count(), moe.width); break;
          case TensorRole::kSharedDown: EXPECT_EQ(of_rank.column_count(), moe.shared_width); break;
          default: break;
        }
      }
    }
  }
}

TEST(Sharding, RefusesWhatDoesNotDivideInOneLine) {
  const auto refusal = [](const SmallShape& shape, int world_size) {
    const Result<void> divides = CheckSharding(Open(shape).spec, world_size);
    return divides.ok() ? "divides" : divides.error().message;
  };
  EXPECT_EQ(refusal({.layers = "F", .heads = 6, .kv_heads = 2, .width = 16, .shared_width = 16}, 3),
            "layer 0: 6 attention heads with 2 KV heads do not divide among 3 ranks: beyond 2 they must be a multiple of it");
  EXPECT_EQ(refusal({.layers = "F", .heads = 2, .kv_heads = 1, .width = 16, .shared_width = 16}, 4),
            "layer 0: 2 attention heads with 1 KV heads do not divide among 4 ranks: there are more ranks than heads");
  EXPECT_THAT(refusal({.layers = "L", .key_heads = 3, .value_heads = 6, .width = 16, .shared_width = 16}, 4),
              HasSubstr("layer 0: 6 value heads with 3 key heads do not divide among 4 ranks"));
  EXPECT_EQ(refusal({.layers = "F", .heads = 8, .kv_heads = 8, .width = 6, .shared_width = 16}, 8),
            "layer 0: a routed expert's width of 6 does not divide among 8 ranks");
  EXPECT_EQ(refusal({.layers = "F", .heads = 8, .kv_heads = 8, .width = 16, .shared_width = 7}, 8),
            "layer 0: the shared expert's width of 7 does not divide among 8 ranks");
  EXPECT_EQ(refusal({.layers = "F", .vocabulary = 20, .heads = 64, .kv_heads = 64, .width = 64, .shared_width = 64}, 32),
            "a vocabulary of 20 does not divide among 32 ranks");
}

}  // namespace
}  // namespace hproc::worker
