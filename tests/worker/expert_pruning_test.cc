#include "worker/expert_pruning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/small_engine.h"

namespace hproc::worker {
namespace {

using testing::HasSubstr;

constexpr int64_t kExperts = 5;
const std::vector<int64_t> kLarge{0, 2, 4};  // the experts whose weights are not made small

// The blocks of `kept` of a tensor that has one an expert.
StoredTensor Blocks(const StoredTensor& tensor, const std::vector<int64_t>& kept) {
  StoredTensor left{tensor.dtype, tensor.shape, {}};
  left.shape[0] = static_cast<int64_t>(kept.size());
  const size_t size = tensor.bytes.size() / kExperts;
  for (int64_t expert : kept) left.bytes += tensor.bytes.substr(static_cast<size_t>(expert) * size, size);
  return left;
}

bool IsOfExperts(const std::string& name) {
  return name.ends_with("mlp.gate.weight") || name.find("mlp.experts.") != std::string::npos;
}

class PruningTest : public testing::TestWithParam<bool> {
 protected:
  // Fused or expert by expert, and in float32, so that scaling rounds nothing.
  static SmallShape Shape(bool fused) { return {.experts = kExperts, .top = 4, .fused = fused, .dtype = "F32"}; }

  // A checkpoint in which experts 1 and 3 have a down projection that adds little.
  static SmallCheckpoint Lopsided(bool fused) {
    SmallCheckpoint small(Shape(fused));
    for (auto& [name, tensor] : small.tensors) {
      const bool fused_down = name.ends_with("experts.down_proj");
      const bool own_down = name.ends_with("experts.1.down_proj.weight") || name.ends_with("experts.3.down_proj.weight");
      if (!fused_down && !own_down) continue;
      std::vector<float> values(tensor.bytes.size() / sizeof(float));
      std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
      const size_t block = values.size() / kExperts;
      for (size_t i = 0; i < values.size(); ++i) {
        if (own_down || i / block == 1 || i / block == 3) values[i] /= 64;
      }
      std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    }
    return small;
  }

  static quant::Plan PlanWith(const TensorTable& table, int64_t experts) {
    quant::RateTable rates;
    for (const ModelTensor& tensor : table.tensors) rates.tensors.push_back({.spec = tensor.spec, .candidates = {}});
    return quant::Int4PrunedPlan(rates, experts);
  }

  ThreadPool pool_{2};
};

// The rule: what is left is the model whose checkpoint never had the others.
TEST_P(PruningTest, LeavesTheModelOfACheckpointWithoutTheExpertsThatAddLeast) {
  const TestFolder folder;
  Lopsided(GetParam()).WriteTo(folder);
  OpenedCheckpoint pruned = OpenedCheckpoint::At(folder.path());
  const quant::Plan plan = PlanWith(pruned.table, 3);
  ASSERT_TRUE(PruneExperts(pruned.checkpoint, plan, pruned.spec, pruned.table, pool_, {}).ok());

  const TestFolder other_folder;
  SmallCheckpoint other = Lopsided(true);
  other.text_config["num_experts"] = 3;
  other.text_config["num_experts_per_tok"] = 3;
  for (auto& [name, tensor] : other.tensors) {
    if (IsOfExperts(name)) tensor = Blocks(tensor, kLarge);
  }
  other.WriteTo(other_folder);
  const OpenedCheckpoint expected = OpenedCheckpoint::At(other_folder.path());

  ASSERT_EQ(pruned.table.tensors.size(), expected.table.tensors.size());
  for (size_t t = 0; t < expected.table.tensors.size(); ++t) {
    const ModelTensor& a = pruned.table.tensors[t];
    const ModelTensor& b = expected.table.tensors[t];
    ASSERT_EQ(a.spec, b.spec) << b.spec.name;
    EXPECT_EQ(a.spec, plan.tensors[t].spec) << b.spec.name;
    std::vector<float> ours(static_cast<size_t>(a.spec.weights()));
    std::vector<float> theirs(ours.size());
    ASSERT_TRUE(ReadRows(pruned.checkpoint, a, 0, a.spec.rows, ours).ok());
    ASSERT_TRUE(ReadRows(expected.checkpoint, b, 0, b.spec.rows, theirs).ok());
    EXPECT_EQ(ours, theirs) << b.spec.name;
  }
  for (size_t l = 0; l < expected.spec.layers.size(); ++l) {
    EXPECT_EQ(pruned.spec.layers[l].feed_forward.experts, 3);
    EXPECT_EQ(pruned.spec.layers[l].feed_forward.experts_per_token, 3) << "no more than there are";
  }
}

TEST_P(PruningTest, LeavesAModelAsItIsWhereThePlanHasAllExperts) {
  const TestFolder folder;
  Lopsided(GetParam()).WriteTo(folder);
  OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  const auto never = [](int64_t, int64_t) { FAIL() << "something was read"; };
  ASSERT_TRUE(PruneExperts(opened.checkpoint, PlanWith(opened.table, kExperts), opened.spec, opened.table, pool_, never).ok());
  EXPECT_EQ(opened.spec.layers[0].feed_forward.experts, kExperts);
  EXPECT_EQ(opened.spec.layers[0].feed_forward.experts_per_token, 4);
}

TEST_P(PruningTest, NamesATensorThatIsNotFinite) {
  const TestFolder folder;
  SmallCheckpoint small = Lopsided(GetParam());
  const std::string name = small.prefix() + (GetParam() ? "layers.1.mlp.experts.down_proj" : "layers.1.mlp.experts.2.down_proj.weight");
  small.tensors.at(name).Put(3, std::numeric_limits<float>::quiet_NaN());
  small.WriteTo(folder);
  OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  const Result<void> pruned =
      PruneExperts(opened.checkpoint, PlanWith(opened.table, 3), opened.spec, opened.table, pool_, {});
  ASSERT_FALSE(pruned.ok());
  EXPECT_THAT(pruned.error().message, HasSubstr(name));
}

TEST_P(PruningTest, ThePrunedModelLoadsInTheBytesOfItsPlanAndRuns) {
  const TestFolder folder;
  Lopsided(GetParam()).WriteTo(folder);
  OpenedCheckpoint pruned = OpenedCheckpoint::At(folder.path());
  const quant::Plan plan = PlanWith(pruned.table, 2);
  ASSERT_TRUE(PruneExperts(pruned.checkpoint, plan, pruned.spec, pruned.table, pool_, {}).ok());
  kernels::DeviceMemory memory("cpu", 0);
  const Result<LoadedModel> loaded = LoadModel(pruned.spec, pruned.checkpoint, pruned.table, plan, {}, memory, pool_, {});
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->report.plan_digest, plan.Digest());
  Engine engine(loaded->model, {kernels::Backend::kCpu, &pool_}, memory, {.context = 8, .pass_tokens = 4});
  engine.AllocateCache();
  engine.AllocateActivations();
  const kernels::SequenceRun run{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 3};
  const int32_t tokens[] = {5, 6, 7};
  const int32_t row = 2;
  const float* logits = engine.Pass(tokens, {&run, 1}, {&row, 1});
  for (int64_t v = 0; v < pruned.spec.vocabulary; ++v) EXPECT_TRUE(std::isfinite(logits[v]));
}

INSTANTIATE_TEST_SUITE_P(Experts, PruningTest, testing::Bool(),
                         [](const auto& fused) { return fused.param ? "Fused" : "OneByOne"; });

}  // namespace
}  // namespace hproc::worker
