// Models of random weights, without a checkpoint.
#include "worker/synthetic.h"

#include <gtest/gtest.h>

#include "quant/half.h"
#include "tests/worker/small_engine.h"
#include "worker/bench.h"

namespace hproc::worker {
namespace {

std::vector<float> RowsOf(const quant::TensorSpec& spec, int64_t first_row, int64_t rows) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows * spec.columns * 2));
  SyntheticRows(spec, first_row, rows, bytes);
  std::vector<float> values;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    uint16_t stored = 0;
    std::memcpy(&stored, bytes.data() + i, 2);
    values.push_back(quant::Bfloat16ToFloat(stored));
  }
  return values;
}

TEST(Synthetic, RowsAreTheSameHoweverTheyAreCut) {
  const quant::TensorSpec spec{.name = "a", .family = quant::Family::kLazy, .rows = 20, .columns = 300};
  const std::vector<float> whole = RowsOf(spec, 0, 20);
  std::vector<float> parts = RowsOf(spec, 0, 7);
  const std::vector<float> rest = RowsOf(spec, 7, 13);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(parts, whole);
  quant::TensorSpec other = spec;
  other.name = "b";
  EXPECT_NE(RowsOf(other, 0, 20), whole);
}

TEST(Synthetic, RowsHaveTheLengthsAndTailsOfTrainedOnes) {
  const quant::TensorSpec spec{.name = "a", .family = quant::Family::kLazy, .rows = 64, .columns = 4096};
  const std::vector<float> values = RowsOf(spec, 0, 64);
  int64_t far = 0;
  for (size_t row = 0; row < 64; ++row) {
    double square = 0;
    for (size_t c = 0; c < 4096; ++c) square += std::pow(static_cast<double>(values[row * 4096 + c]), 2);
    EXPECT_GT(square, 0.4);  // 0.7^2, less chance
    EXPECT_LT(square, 2.3);  // 1.4^2 and what the outliers add
    const double deviation = std::sqrt(square / 4096);
    for (size_t c = 0; c < 4096; ++c) far += std::abs(values[row * 4096 + c]) > 4.5 * deviation ? 1 : 0;
  }
  // A normal deviate is beyond 4.5 seven times in a million; one in 512 is four times as large.
  EXPECT_GT(far, 64 * 4096 / 4000);
  EXPECT_LT(far, 64 * 4096 / 1000);
}

TEST(Synthetic, BenchTimesAModelThatIsNotThere) {
  const TestFolder folder;
  SmallCheckpoint({.layers = "LF", .hidden = 64}).WriteTo(folder);
  std::filesystem::remove(folder / "model.safetensors");
  BenchOptions options;
  options.model = "synthetic:" + (folder / "config.json").string();
  options.deployment = {.threads = 2, .context = 40, .batch = 2};
  options.levels = {16, 8, 16, 0};
  options.throughput = {.prompt_tokens = 16, .short_decode_tokens = 2, .long_decode_tokens = 8, .batch = 2, .repetitions = 2,
                        .warmups = 0};
  const Result<BenchReport> report = RunBench(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  ASSERT_EQ(report->rows.size(), 3u);
  EXPECT_EQ(report->rows[2].tokens, 2 * 8);
  EXPECT_GT(report->rows[2].mean_tok_per_s, 0);
  EXPECT_LT(report->load.bits_per_weight, 16);
  options.model = "synthetic:" + (folder / "none.json").string();
  EXPECT_FALSE(RunBench(options).ok());
}

}  // namespace
}  // namespace hproc::worker
