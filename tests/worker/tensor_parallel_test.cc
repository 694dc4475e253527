// What several ranks compute against what one computes.
#include <gtest/gtest.h>

#include "tests/worker/small_ranks.h"

namespace hproc::worker {
namespace {

using kernels::Backend;
using quant::Floors;
using quant::ModePolicy;

constexpr EngineShape kShape{.slots = 2, .context = 40, .pass_tokens = 16, .logit_rows = 16, .kv_storage = kernels::Storage::kFloat16};

// Both sum in float32, in another order.
constexpr double kFloatTolerance = 1e-5;

// Widths that leave codes, groups of 128 columns and registers anywhere a rank may cut them.
std::vector<SmallShape> Shapes() {
  return {// 256, 384 and 512 columns, whole groups and units on two ranks, halves of groups on four.
          {.layers = "LF", .hidden = 64, .heads = 8, .kv_heads = 2, .head_dim = 64, .key_heads = 4, .value_heads = 4, .key_dim = 16,
           .value_dim = 64, .experts = 4, .top = 2, .width = 128, .shared_width = 384, .seed = 3},
          // 6 heads of 64 on four ranks: 1, 2, 1, 2, so that the second begins in the middle of a group.
          {.layers = "FL", .hidden = 48, .heads = 6, .kv_heads = 2, .head_dim = 64, .key_heads = 2, .value_heads = 6, .key_dim = 10,
           .value_dim = 40, .experts = 3, .top = 3, .width = 81, .shared_width = 150, .tied = true, .bias = true, .seed = 4},
          // Nothing divides anything.
          {.layers = "LFL", .hidden = 36, .heads = 5, .kv_heads = 5, .head_dim = 52, .key_heads = 5, .value_heads = 5, .key_dim = 9,
           .value_dim = 37, .width = 67, .shared_width = 133, .fused = false, .seed = 5}};
}

struct Case {
  const char* name;
  std::function<quant::Plan(const OpenedCheckpoint&, ThreadPool&)> plan;
};

quant::Plan Resolved(const OpenedCheckpoint& opened, ThreadPool& pool, const Floors& floors, ModePolicy policy) {
  return quant::ResolvePlan(opened.Rates(pool), floors, policy);
}

TEST(TensorParallel, GivesTheLogitsOfOneRankForWeightsAsStored) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
    const std::vector<int32_t> tokens = RandomTokens(30, shape.vocabulary, 9);
    const quant::Plan plan = KeepEverything(opened.table);
    for (const Backend backend : {Backend::kCpu, Backend::kReference}) {
      const RankedRun one = RunOnRanks(opened, plan, 1, tokens, 7, kShape, backend);
      for (const int world_size : {2, 4}) {
        const RankedRun several = RunOnRanks(opened, plan, world_size, tokens, 7, kShape, backend);
        EXPECT_LT(RelativeError(several.logits, one.logits), kFloatTolerance) << "seed " << shape.seed << ", " << world_size;
        EXPECT_EQ(several.plan_digest, one.plan_digest);
      }
    }
  }
}

// Activations of packed weights are rounded to 14 bits: sums that differ in their last bit would make logits differ by 1e-4.
TEST(TensorParallel, GivesTheSameBitsAsOneRankForPackedWeights) {
  const Case cases[] = {
      {"auto", [](const auto& o, ThreadPool& p) { return Resolved(o, p, {.strict = 0.98, .lazy = 0.95, .head = 0.99}, ModePolicy::kAuto); }},
      {"v2", [](const auto& o, ThreadPool& p) { return Resolved(o, p, {.strict = 0.97, .lazy = 0.9, .head = 0.99}, ModePolicy::kV2); }},
      {"v2a", [](const auto& o, ThreadPool& p) { return Resolved(o, p, {.strict = 0.97, .lazy = 0.9, .head = 0.99}, ModePolicy::kV2a); }}};
  ThreadPool pool(2);
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
    const std::vector<int32_t> tokens = RandomTokens(30, shape.vocabulary, 9);
    for (const Case& c : cases) {
      const quant::Plan plan = c.plan(opened, pool);
      const RankedRun one = RunOnRanks(opened, plan, 1, tokens, 7, kShape);
      for (const int world_size : {2, 4}) {
        SCOPED_TRACE(std::string(c.name) + ", seed " + std::to_string(shape.seed) + ", ranks " + std::to_string(world_size));
        const RankedRun several = RunOnRanks(opened, plan, world_size, tokens, 7, kShape);
        EXPECT_EQ(several.plan_digest, plan.Digest());
        EXPECT_EQ(several.plan_digest, one.plan_digest);
        EXPECT_EQ(RelativeError(several.logits, one.logits), 0);
        ASSERT_EQ(several.choices.size(), tokens.size());
        for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(several.choices[i].token, one.choices[i].token) << i;
      }
    }
  }
}

// INT4's groups have scales of their own.
TEST(TensorParallel, GivesTheSameBitsAsOneRankForInt4) {
  ThreadPool pool(2);
  const SmallShape shape = Shapes()[0];
  const TestFolder folder;
  SmallCheckpoint(shape).WriteTo(folder);
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  const quant::Plan plan = quant::Int4Plan(opened.Rates(pool));
  const std::vector<int32_t> tokens = RandomTokens(30, shape.vocabulary, 9);
  const RankedRun one = RunOnRanks(opened, plan, 1, tokens, 7, kShape);
  for (const int world_size : {2, 4}) {
    const RankedRun several = RunOnRanks(opened, plan, world_size, tokens, 7, kShape);
    EXPECT_EQ(several.plan_digest, one.plan_digest);
    EXPECT_EQ(RelativeError(several.logits, one.logits), 0) << world_size;
  }
}

TEST(TensorParallel, TakesTheModelApart) {
  ThreadPool pool(2);
  const TestFolder folder;
  SmallCheckpoint(Shapes()[0]).WriteTo(folder);
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  const quant::Plan plan = Resolved(opened, pool, {.strict = 0.98, .lazy = 0.95, .head = 0.99}, ModePolicy::kAuto);
  const std::vector<int32_t> tokens = RandomTokens(4, opened.spec.vocabulary, 9);
  const RankedRun one = RunOnRanks(opened, plan, 1, tokens, 4, kShape);
  const RankedRun two = RunOnRanks(opened, plan, 2, tokens, 4, kShape);
  // What is on both: codebooks and scales of what is cut by columns, norms, router and embedding.
  EXPECT_LT(two.weight_bytes[0], one.weight_bytes[0] * 3 / 4);
  EXPECT_GT(two.weight_bytes[0] + two.weight_bytes[1], one.weight_bytes[0]);
}

}  // namespace
}  // namespace hproc::worker
