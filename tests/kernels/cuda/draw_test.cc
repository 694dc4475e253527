// Draws on a device: the tokens of the host, whatever the rows beside them.
#include <gtest/gtest.h>

#include "kernels/cuda/backend.h"
#include "kernels/sampling.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/kernels/draw_cases.h"

namespace hproc::kernels {
namespace {

class DrawGpu : public GpuTest {
 protected:
  // What the device makes of rows of the same length, twice in a row.
  static std::vector<TokenChoice> OnDevice(const std::vector<float>& logits, const std::vector<Draw>& draws) {
    const CudaDevice& device = Device();
    DeviceMemory memory("cuda", 0, CudaMemory(device));
    CudaBackend backend(device);
    const int64_t workspace_bytes = CudaWorkspaceBytes({.rows = 1, .logit_rows = static_cast<int64_t>(draws.size())});
    const auto allocate = [&](size_t bytes) { return memory.Allocate(static_cast<int64_t>(bytes), MemoryUse::kWorkspace, "draws"); };
    const DeviceBuffer workspace = allocate(static_cast<size_t>(workspace_bytes));
    const DeviceBuffer there_logits = allocate(logits.size() * 4);
    const DeviceBuffer there_draws = allocate(draws.size() * sizeof(Draw));
    const DeviceBuffer there_choices = allocate(draws.size() * sizeof(TokenChoice));
    backend.UseWorkspace(workspace.span().first(static_cast<size_t>(workspace_bytes)));
    backend.Upload(there_logits.data(), std::as_bytes(std::span(logits)));
    backend.Upload(there_draws.data(), std::as_bytes(std::span(draws)));
    const auto rows = static_cast<int64_t>(draws.size());
    const DrawCall call{.logits = there_logits.as<float>(), .rows = rows, .columns = static_cast<int64_t>(logits.size()) / rows,
                        .draws = there_draws.as<Draw>(), .choices = there_choices.as<TokenChoice>()};
    std::vector<TokenChoice> choices(draws.size());
    for (int time = 0; time < 2; ++time) {
      backend.Zero(there_choices.data(), static_cast<int64_t>(draws.size() * sizeof(TokenChoice)));
      backend.DrawTokens(call);
      backend.Download(std::as_writable_bytes(std::span(choices)), there_choices.data());
    }
    return choices;
  }
  static std::vector<TokenChoice> OnHost(const std::vector<float>& logits, const std::vector<Draw>& draws) {
    std::vector<TokenChoice> choices(draws.size());
    const auto rows = static_cast<int64_t>(draws.size());
    DrawTokensOnHost({.logits = logits.data(), .rows = rows, .columns = static_cast<int64_t>(logits.size()) / rows, .draws = draws.data(),
                      .choices = choices.data()});
    return choices;
  }
  static void ExpectSame(const std::vector<TokenChoice>& ours, const std::vector<TokenChoice>& theirs, const std::vector<Draw>& draws,
                         const std::string& name) {
    for (size_t i = 0; i < draws.size(); ++i) {
      EXPECT_EQ(ours[i].token, theirs[i].token) << name << ", row " << i << ": scale " << draws[i].scale << " top_k " << draws[i].top_k
                                                << " top_p " << draws[i].top_p;
      EXPECT_EQ(ours[i].nonfinite, theirs[i].nonfinite) << name << ", row " << i;
      if (theirs[i].nonfinite > 0) continue;
      EXPECT_EQ(ours[i].logit, theirs[i].logit) << name << ", row " << i;
    }
  }
};

TEST_F(DrawGpu, DrawsTheTokensOfTheHost) {
  for (const DrawCase& each : DrawCases()) {
    const std::vector<Draw> draws = DrawsOf(each);
    std::vector<float> logits;
    for (size_t i = 0; i < draws.size(); ++i) logits.insert(logits.end(), each.logits.begin(), each.logits.end());
    ExpectSame(OnDevice(logits, draws), OnHost(logits, draws), draws, each.name);
  }
}

// One row of a whole vocabulary, for which all blocks of the device work together.
TEST_F(DrawGpu, DrawsTheTokensOfTheHostFromAWholeVocabulary) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 2.5);
  std::vector<float> logits(248320);
  for (float& l : logits) l = normal(random);
  for (uint64_t seed = 0; seed < 12; ++seed) {
    for (const auto& [temperature, top_k, top_p] : {std::tuple(1.0, 0, 1.0), {0.6, 20, 0.95}, {1.0, 0, 0.95}, {2.0, 50, 1.0}, {0.0, 0, 1.0}}) {
      const std::vector<Draw> draws = {DrawOf(temperature, top_k, top_p, seed, seed)};
      ExpectSame(OnDevice(logits, draws), OnHost(logits, draws), draws, "vocabulary");
    }
  }
}

// Rows by the dozen leave a row few blocks, which have tens of thousands of near equal weights each to add up.
TEST_F(DrawGpu, DrawsTheTokensOfTheHostFromManyFlatVocabularies) {
  constexpr int64_t kColumns = 248320;
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> logits(16 * kColumns);
  for (float& l : logits) l = normal(random);
  for (const double temperature : {1.0, 1e9}) {
    std::vector<Draw> draws;
    for (uint64_t row = 0; row < 16; ++row) draws.push_back(DrawOf(temperature, 0, 0.95, row, row));
    ExpectSame(OnDevice(logits, draws), OnHost(logits, draws), draws, "flat vocabularies");
  }
}

TEST_F(DrawGpu, ARowDoesNotDependOnThoseBesideIt) {
  const DrawCase wide = DrawCases()[6];
  const std::vector<Draw> all = DrawsOf(wide);
  const std::vector<Draw> draws(all.begin() + 100, all.begin() + 105);
  const std::vector<TokenChoice> alone = OnDevice(wide.logits, {draws[2]});
  std::vector<float> logits;
  for (size_t i = 0; i < draws.size(); ++i) {
    for (const float l : wide.logits) logits.push_back(i == 2 ? l : -l);
  }
  EXPECT_EQ(OnDevice(logits, draws)[2].token, alone[0].token);
}

}  // namespace
}  // namespace hproc::kernels
