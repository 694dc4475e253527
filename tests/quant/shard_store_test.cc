#include "quant/shard_store.h"

#include <gtest/gtest.h>

#include <random>

#include "quant/matrix_quantizer.h"
#include "quant/half.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

struct Aligned {
  explicit Aligned(int64_t bytes) : size(static_cast<size_t>(bytes)), data(static_cast<std::byte*>(std::aligned_alloc(64, (size + 63) / 64 * 64))) {}
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::span<std::byte> span() const { return {data, size}; }
  size_t size;
  std::byte* data;
};

TensorPlan PlanOf(int64_t rows, int64_t columns, const XfpFormat& format, double floor) {
  TensorPlan plan;
  plan.spec = {.name = "w", .family = Family::kStrict, .rows = rows, .columns = columns, .bytes_per_value = 2};
  plan.format = format;
  plan.ladder_index = LadderIndex(floor);
  return plan;
}

// Cut anywhere, every weight is what the whole matrix has there.
TEST(ShardStore, CutsEveryFormatAtAnyColumn) {
  constexpr int64_t kRows = 70;     // more than a block of outlier starts
  constexpr int64_t kColumns = 333;  // three groups, units and a rest
  const std::vector<float> values = RandomRows(kRows, kColumns, 7, 0.02);
  std::vector<XfpFormat> formats;
  for (const int levels : kLevelCounts) {
    formats.push_back({.mode = Mode::kV2, .levels = levels});
    formats.push_back({.mode = Mode::kV2a, .levels = levels});
  }
  formats.push_back({.mode = Mode::kV2, .levels = 16, .centroids = Centroids::kHalf});
  formats.push_back({.mode = Mode::kV2a, .levels = 8, .group_scales = true});
  for (const XfpFormat& format : formats) {
    TensorPlan plan = PlanOf(kRows, kColumns, format, format.levels == 2 ? 0.82 : format.levels < 6 ? 0.9 : 0.96);
    MatrixQuantizer counter(plan, values);
    QuantizedRows rows;
    counter.Encode(values, rows);
    ASSERT_LT(rows.unreachable, 0) << format.levels;
    plan.outliers = static_cast<int64_t>(rows.outlier_columns.size());
    MatrixQuantizer quantizer(plan, values);
    const Aligned whole_bytes(quantizer.container_bytes());
    ASSERT_TRUE(quantizer.Store(0, rows, whole_bytes.span()).ok());
    ASSERT_TRUE(quantizer.Finish(whole_bytes.span()).ok());
    const XfpMatrix whole = ViewOf(kRows, kColumns, format, plan.outliers, whole_bytes.span());

    int64_t outliers = 0;
    for (const auto& [first, end] : {std::pair<int64_t, int64_t>{0, 64}, {64, 128}, {128, 129}, {129, 300}, {300, 333}}) {
      const ColumnCut cut{.first = first, .whole = kColumns};
      ShardStore store(format, end - first, cut);
      store.Add(rows);
      const Aligned part_bytes(store.container_bytes());
      const XfpMatrix part = store.Write(quantizer.LibraryBytes(), part_bytes.span());
      outliers += store.outliers();
      std::vector<float> expected(static_cast<size_t>(kColumns));
      std::vector<float> found(static_cast<size_t>(end - first));
      for (int64_t r = 0; r < kRows; ++r) {
        DecodeRow(whole, r, expected);
        DecodeRow(part, r, found);
        for (int64_t c = first; c < end; ++c) {
          ASSERT_EQ(found[static_cast<size_t>(c - first)], expected[static_cast<size_t>(c)])
              << ModeName(format.mode) << " " << format.levels << ", row " << r << ", column " << c;
        }
      }
    }
    EXPECT_EQ(outliers, plan.outliers);
  }
}

// What a cut row holds at most is what the whole row may hold: all its outliers may stand in one part.
TEST(ShardStore, CountsOutliersAsTheWholeRowWould) {
  constexpr int64_t kWhole = 8192;
  constexpr int64_t kPart = 512;
  QuantizedRows rows;
  const XfpFormat format{.mode = Mode::kV2, .levels = 2};
  rows.codes.resize(static_cast<size_t>(CodeBytesPerRow(kWhole, 2)));
  rows.codebooks = {0, 1};
  rows.scales = {FloatToBfloat16(1)};
  rows.outlier_counts = {kPart};
  for (uint32_t c = 0; c < kPart; ++c) {
    rows.outlier_columns.push_back(c);
    rows.outlier_values.push_back(FloatToHalf(static_cast<float>(c)));
  }
  ShardStore store(format, kPart, {.first = 0, .whole = kWhole});
  store.Add(rows);
  const Aligned bytes(store.container_bytes());
  const XfpMatrix part = store.Write({}, bytes.span());
  std::vector<float> values(kPart);
  DecodeRow(part, 0, values);
  for (size_t c = 0; c < kPart; ++c) EXPECT_EQ(values[c], static_cast<float>(c));
}

// Rows alone are the rows of the whole.
TEST(ShardStore, KeepsSomeRows) {
  const std::vector<float> values = RandomRows(40, 200, 3, 0.01);
  const XfpFormat format{.mode = Mode::kV2, .levels = 6};
  const MatrixQuantizer quantizer(PlanOf(40, 200, format, 0.97), {});
  ShardStore store(format, 200, {});
  QuantizedRows rows;
  std::vector<float> expected;
  for (const auto& [first, end] : {std::pair<size_t, size_t>{3, 9}, {20, 39}}) {
    quantizer.Encode(std::span(values).subspan(first * 200, (end - first) * 200), rows);
    store.Add(rows);
  }
  EXPECT_EQ(store.rows(), 25);
  const Aligned bytes(store.container_bytes());
  const XfpMatrix part = store.Write({}, bytes.span());
  quantizer.Encode(std::span(values).subspan(25 * 200, 200), rows);  // the eleventh of the part
  ShardStore alone(format, 200, {});
  alone.Add(rows);
  const Aligned alone_bytes(alone.container_bytes());
  const XfpMatrix one = alone.Write({}, alone_bytes.span());
  std::vector<float> a(200);
  std::vector<float> b(200);
  DecodeRow(part, 11, a);
  DecodeRow(one, 0, b);
  EXPECT_EQ(a, b);
}

}  // namespace
}  // namespace hproc::quant
