#include "quant/matrix_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>

#include "quant/half.h"
#include "quant/round_to_nearest.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

std::vector<float> Sample(const std::vector<float>& values, int64_t columns) {
  std::vector<float> sample;
  for (int64_t r : LibrarySampleRows(static_cast<int64_t>(values.size()) / columns, columns)) {
    sample.insert(sample.end(), values.begin() + r * columns, values.begin() + (r + 1) * columns);
  }
  return sample;
}

RateTable TableOf(const std::vector<float>& values, int64_t columns, const RateOptions& options) {
  TensorSpec spec{.name = "w", .family = Family::kStrict, .rows = static_cast<int64_t>(values.size()) / columns,
                  .columns = columns, .bytes_per_value = 2};
  TensorRateBuilder builder(spec, options, Sample(values, columns));
  std::vector<std::unique_ptr<TensorRateBuilder::Accumulator>> accumulators;
  accumulators.push_back(builder.MakeAccumulator());
  builder.AddRows(values, *accumulators[0]);
  RateTable table;
  table.tensors.push_back(builder.Finish(accumulators));
  return table;
}

struct AlignedBytes {
  explicit AlignedBytes(int64_t bytes)
      : size(static_cast<size_t>(bytes)),
        data(static_cast<std::byte*>(std::aligned_alloc(kSectionAlignment, size)), &std::free) {}
  std::span<std::byte> span() { return {data.get(), size}; }
  size_t size;
  std::unique_ptr<std::byte, decltype(&std::free)> data;
};

void QuantizeAll(MatrixQuantizer& quantizer, const std::vector<float>& values, int64_t columns, int64_t rows_per_block,
                 std::span<std::byte> container) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  MatrixQuantizer::Block block;
  for (int64_t first = 0; first < rows; first += rows_per_block) {
    const int64_t count = std::min(rows_per_block, rows - first);
    quantizer.Encode(std::span(values).subspan(static_cast<size_t>(first * columns), static_cast<size_t>(count * columns)),
                     block);
    const Result<void> stored = quantizer.Store(first, block, container);
    ASSERT_TRUE(stored.ok()) << stored.error().message;
  }
  const Result<void> finished = quantizer.Finish(container);
  ASSERT_TRUE(finished.ok()) << finished.error().message;
}

class EveryFormat : public testing::TestWithParam<std::tuple<int, int64_t, double>> {};

// The promise of the whole project: what the table says is what is stored, and every channel holds its floor.
TEST_P(EveryFormat, StoresThePredictedBytesAndHoldsTheFloorInEveryChannel) {
  const auto [variant, columns, floor] = GetParam();
  RateOptions options{.v2 = variant == 0, .v2a = variant != 0, .group_scales = variant == 2,
                      .centroids = variant == 3 ? Centroids::kHalf : Centroids::kInt8};
  constexpr int64_t kRows = 150;
  std::vector<float> values = RandomRows(kRows, columns, 21, 0.005);
  std::fill(values.begin() + 3 * columns, values.begin() + 4 * columns, 0.0f);  // a dead channel
  const RateTable table = TableOf(values, columns, options);
  const Plan plan = ResolvePlan(table, {.strict = floor, .lazy = 1, .head = 1}, ModePolicy::kAuto);
  const TensorPlan& tensor = plan.tensors[0];
  ASSERT_TRUE(tensor.format.has_value());

  MatrixQuantizer quantizer(tensor, Sample(values, columns));
  ASSERT_EQ(quantizer.container_bytes(), tensor.bytes);
  AlignedBytes container(tensor.bytes);
  QuantizeAll(quantizer, values, columns, 64, container.span());
  EXPECT_NEAR(quantizer.stats().min_cosine, tensor.min_cosine, 1e-7);  // float in the table
  EXPECT_NEAR(1 - quantizer.stats().sum_cosine / kRows, tensor.mean_deficit, 1e-9);

  const XfpMatrix matrix = ViewOf(kRows, columns, *tensor.format, tensor.outliers, container.span());
  std::vector<float> row(static_cast<size_t>(columns));
  double least = 1;
  for (int64_t r = 0; r < kRows; ++r) {
    DecodeRow(matrix, r, row);
    double dot = 0;
    double aa = 0;
    double bb = 0;
    for (int64_t c = 0; c < columns; ++c) {
      const double a = values[static_cast<size_t>(r * columns + c)];
      const double b = row[static_cast<size_t>(c)];
      dot += a * b;
      aa += a * a;
      bb += b * b;
    }
    if (aa == 0) {
      EXPECT_EQ(bb, 0);
      continue;
    }
    EXPECT_GE(dot / std::sqrt(aa * bb), floor - 1e-6) << r;  // the values come back rounded to float
    least = std::min(least, dot / std::sqrt(aa * bb));
    // The error is orthogonal to the channel (quant/gain.h) but for the rounding of one bfloat16 scale.
    if (!tensor.format->group_scales) {
      EXPECT_NEAR(dot / aa, 1, 0x1.01p-8) << r;
    }
  }
  EXPECT_NEAR(least, tensor.min_cosine, 1e-6);

  AlignedBytes other(tensor.bytes);
  MatrixQuantizer again(tensor, Sample(values, columns));
  QuantizeAll(again, values, columns, 37, other.span());
  EXPECT_TRUE(std::equal(container.span().begin(), container.span().end(), other.span().begin()))
      << "the bytes depend on how the rows were cut into blocks";
}

std::string FormatCaseName(const testing::TestParamInfo<std::tuple<int, int64_t, double>>& info) {
  const char* const names[] = {"V2", "V2a", "V2aGroupScales", "V2aHalf"};
  return std::string(names[std::get<0>(info.param)]) + "_" + std::to_string(std::get<1>(info.param)) + "_" +
         std::to_string(static_cast<int>(std::get<2>(info.param) * 1000));
}
INSTANTIATE_TEST_SUITE_P(MatrixQuantizer, EveryFormat,
                         testing::Combine(testing::Values(0, 1, 2, 3), testing::Values<int64_t>(64, 200, 384),
                                          testing::Values(0.8, 0.93, 0.985, 0.999)),
                         FormatCaseName);

// INT4: the container gives back what the rounding says, in the bytes of the plan, without a sample.
TEST(MatrixQuantizer, RoundsToNearestUnderUniformCodebooks) {
  for (const int64_t columns : {64, 200, 384}) {
    constexpr int64_t kRows = 70;
    std::vector<float> values = RandomRows(kRows, columns, 23, 0.005);
    std::fill(values.begin() + 3 * columns, values.begin() + 4 * columns, 0.0f);
    RateTable table;
    table.tensors.push_back({.spec = {.name = "w", .family = Family::kStrict, .rows = kRows, .columns = columns,
                                      .bytes_per_value = 2},
                             .candidates = {}});
    const TensorPlan plan = Int4Plan(table).tensors[0];
    ASSERT_FALSE(MatrixQuantizer::NeedsSample(plan));
    MatrixQuantizer quantizer(plan, {});
    ASSERT_EQ(quantizer.container_bytes(), plan.bytes);
    AlignedBytes container(plan.bytes);
    QuantizeAll(quantizer, values, columns, 32, container.span());

    const XfpMatrix matrix = ViewOf(kRows, columns, *plan.format, 0, container.span());
    std::vector<float> decoded(static_cast<size_t>(columns));
    RoundedRow rounded;
    double least = 1;
    for (int64_t r = 0; r < kRows; ++r) {
      DecodeRow(matrix, r, decoded);
      RoundToNearest(std::span(values).subspan(static_cast<size_t>(r * columns), decoded.size()), rounded);
      least = std::min(least, rounded.cosine);
      for (size_t c = 0; c < decoded.size(); ++c) {
        const int level = static_cast<int>(rounded.codes[c]) + kInt4Lowest;
        ASSERT_EQ(decoded[c], Bfloat16ToFloat(rounded.scales[c / kGroupColumns]) * static_cast<float>(level)) << r << ", " << c;
      }
    }
    EXPECT_EQ(quantizer.stats().channels, kRows);
    EXPECT_EQ(quantizer.stats().min_cosine, least);
  }
}

TEST(MatrixQuantizer, RefusesAPlanOfAnotherCheckpoint) {
  const std::vector<float> values = RandomRows(64, 384, 31, 0.01);
  const RateTable table = TableOf(values, 384, {});
  const Plan plan = ResolvePlan(table, {.strict = 0.97, .lazy = 1, .head = 1}, ModePolicy::kV2);
  ASSERT_GT(plan.tensors[0].outliers, 0);
  const std::vector<float> other = RandomRows(64, 384, 32, 0.03);
  MatrixQuantizer quantizer(plan.tensors[0], Sample(other, 384));
  AlignedBytes container(plan.tensors[0].bytes);
  MatrixQuantizer::Block block;
  quantizer.Encode(other, block);
  Result<void> outcome = quantizer.Store(0, block, container.span());
  if (outcome.ok()) outcome = quantizer.Finish(container.span());  // too few outliers show only at the end
  ASSERT_FALSE(outcome.ok());
  EXPECT_NE(outcome.error().message.find("another checkpoint"), std::string::npos) << outcome.error().message;
}

TEST(Layout, KeepsSectionsApartAndAligned) {
  const XfpFormat format{.mode = Mode::kV2, .levels = 3, .centroids = Centroids::kInt8, .group_scales = false};
  const XfpLayout layout = LayoutOf(10, 100, format, 7);
  EXPECT_EQ(layout.codes, 0);
  EXPECT_EQ(layout.codebooks, 320);        // 10 rows of 2 units of 13 bytes = 260, to the next 64
  EXPECT_EQ(layout.scales, 384);           // 30 bytes of codebooks
  EXPECT_EQ(layout.outlier_starts, 448);   // 20 bytes of scales
  EXPECT_EQ(layout.outlier_counts, 512);
  EXPECT_EQ(layout.outlier_columns, 576);
  EXPECT_EQ(layout.outlier_values, 640);
  EXPECT_EQ(layout.total_bytes, 768);      // 654 + 64 of padding, to the next 64
  EXPECT_EQ(layout.code_bytes + layout.codebook_bytes + layout.outlier_bytes, layout.total_bytes);
  EXPECT_EQ(LayoutOf(10, 100, format, 0).outlier_starts, -1);
}

}  // namespace
}  // namespace hproc::quant
