#include "quant/rate_table.h"

#include <gtest/gtest.h>

#include "quant/channel_fit.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

constexpr int64_t kRows = 90;
constexpr int64_t kColumns = 384;

TensorRates Rates(const std::vector<float>& values, const std::vector<int64_t>& cuts) {
  const TensorSpec spec{.name = "w", .family = Family::kLazy, .rows = kRows, .columns = kColumns, .bytes_per_value = 2};
  const TensorRateBuilder builder(spec, {}, values);
  std::vector<std::unique_ptr<TensorRateBuilder::Accumulator>> accumulators;
  int64_t first = 0;
  for (int64_t rows : cuts) {
    accumulators.push_back(builder.MakeAccumulator());
    builder.AddRows(std::span(values).subspan(static_cast<size_t>(first * kColumns), static_cast<size_t>(rows * kColumns)),
                    *accumulators.back());
    first += rows;
  }
  EXPECT_EQ(first, kRows);
  return builder.Finish(accumulators);
}

TEST(TensorRateBuilder, CountsTheOutliersThatTheFitsNeed) {
  const std::vector<float> values = RandomRows(kRows, kColumns, 41, 0.01);
  const TensorRates rates = Rates(values, {kRows});
  ChannelFitter fitter;
  for (const Candidate& candidate : rates.candidates) {
    if (candidate.format.mode != Mode::kV2) continue;
    for (double floor : {0.5, 0.9, 0.95, 0.97, 0.99}) {
      const int rung = LadderIndex(floor);
      int64_t outliers = 0;
      double least = 1;
      bool reached = true;
      for (int64_t r = 0; r < kRows && reached; ++r) {
        fitter.Reset(std::span(values).subspan(static_cast<size_t>(r * kColumns), kColumns));
        reached = fitter.FitToFloor(candidate.format.levels, Centroids::kInt8, floor);
        outliers += fitter.code().outliers;
        least = std::min(least, fitter.code().cosine);
      }
      EXPECT_EQ(reached, rung <= candidate.highest) << candidate.format.levels << " at " << floor;
      if (!reached || rung > candidate.highest) continue;
      EXPECT_EQ(candidate.StepAt(rung).outliers, outliers) << candidate.format.levels << " at " << floor;
      EXPECT_FLOAT_EQ(candidate.StepAt(rung).min_cosine, static_cast<float>(least));
    }
  }
}

TEST(TensorRateBuilder, DoesNotDependOnHowRowsAreSplitOverThreads) {
  const std::vector<float> values = RandomRows(kRows, kColumns, 42, 0.01);
  RateTable whole{.fingerprint = "x", .tensors = {Rates(values, {kRows})}};
  RateTable parts{.fingerprint = "x", .tensors = {Rates(values, {1, 40, 49})}};
  EXPECT_EQ(EncodeRateTable(whole), EncodeRateTable(parts));
}

TEST(TensorRateBuilder, BytesNeverFallAsTheFloorRises) {
  const TensorRates rates = Rates(RandomRows(kRows, kColumns, 43, 0.02), {kRows});
  for (const Candidate& candidate : rates.candidates) {
    for (size_t s = 1; s < candidate.steps.size(); ++s) {
      EXPECT_GE(candidate.steps[s].outliers, candidate.steps[s - 1].outliers);
      EXPECT_GE(candidate.steps[s].min_cosine, LadderFloor(candidate.steps[s].ladder_index) - 6e-8);  // a float
    }
  }
}

TEST(RateTableFile, ComesBackWhole) {
  RateTable table{.fingerprint = "abc", .tensors = {Rates(RandomRows(kRows, kColumns, 44), {kRows})}};
  table.tensors.push_back({.spec = {.name = "norm", .family = Family::kKept, .rows = 1, .columns = 384, .bytes_per_value = 4},
                           .candidates = {}});
  const std::string bytes = EncodeRateTable(table);
  const Result<RateTable> read = DecodeRateTable(bytes);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->fingerprint, "abc");
  ASSERT_EQ(read->tensors.size(), 2u);
  EXPECT_EQ(read->tensors[1].spec, table.tensors[1].spec);
  EXPECT_EQ(EncodeRateTable(*read), bytes);
}

// With a digest that fits: by another writer, or on purpose. A plan made of it would end the process.
TEST(RateTableFile, RefusesCandidatesThatNoMatrixHas) {
  const auto decodes = [](const XfpFormat& format, int64_t outliers) {
    RateTable table{.fingerprint = "abc", .tensors = {}};
    TensorRates& tensor = table.tensors.emplace_back();
    tensor.spec = {.name = "n", .family = Family::kStrict, .rows = 3, .columns = 128, .bytes_per_value = 2};
    tensor.candidates.push_back({.format = format, .highest = 1, .steps = {{.ladder_index = 0, .outliers = outliers}}});
    return DecodeRateTable(EncodeRateTable(table)).ok();
  };
  EXPECT_TRUE(decodes({.mode = Mode::kV2, .levels = 4, .group_scales = false}, 384));
  EXPECT_TRUE(decodes({.mode = Mode::kV2a, .levels = 4, .group_scales = true}, 384));
  EXPECT_FALSE(decodes({.mode = Mode::kV2, .levels = 4, .group_scales = true}, 0));
  EXPECT_FALSE(decodes({.mode = Mode::kV2, .levels = 4, .group_scales = false}, 385));
  EXPECT_FALSE(decodes({.mode = Mode::kV2, .levels = 5, .group_scales = false}, 0));
}

TEST(RateTableFile, RefusesEveryTruncationAndEveryFlippedByte) {
  RateTable table{.fingerprint = "abc", .tensors = {}};
  table.tensors.push_back({.spec = {.name = "n", .family = Family::kKept, .rows = 1, .columns = 8, .bytes_per_value = 4},
                           .candidates = {}});
  const std::string bytes = EncodeRateTable(table);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(DecodeRateTable(bytes.substr(0, size)).ok()) << size;
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    EXPECT_FALSE(DecodeRateTable(damaged).ok()) << at;
  }
}

}  // namespace
}  // namespace hproc::quant
