#include "kernels/decode_order.h"

#include <gtest/gtest.h>

#include "tests/kernels/random_container.h"
#include "tests/kernels/stored_matrix.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

using quant::Mode;

void ExpectSameRows(const quant::XfpMatrix& container, const DecodeMatrix& ordered) {
  const auto columns = static_cast<size_t>(container.columns);
  std::vector<float> expected(columns), got(columns);
  for (int64_t r = 0; r < container.rows; ++r) {
    quant::DecodeRow(container, r, expected);
    DecodeOrderedRow(ordered, r, got);
    for (size_t c = 0; c < columns; ++c) ASSERT_EQ(got[c], expected[c]) << "row " << r << " column " << c;
  }
}

TEST(DecodeOrder, GivesBackTheContainerAtEveryLevelCountAndTail) {
  for (const Mode mode : {Mode::kV2, Mode::kV2a}) {
    for (const int levels : quant::kLevelCounts) {
      for (const int64_t columns : {1, 127, 128, 129, 256, 300, 896}) {
        for (const int64_t rows : {1, 8, 21}) {
          SCOPED_TRACE(testing::Message() << quant::ModeName(mode) << " K " << levels << " [" << rows << ", " << columns
                                          << "]");
          const RandomContainer container(rows, columns, {.mode = mode, .levels = levels}, columns >= 128 ? 3 : 0, 11);
          std::vector<std::byte> bytes(static_cast<size_t>(
              DecodeOrderOf(rows, columns, container.view.format, container.view.outliers).total_bytes));
          ExpectSameRows(container.view, WriteDecodeOrder(container.view, bytes));
        }
      }
    }
  }
}

TEST(DecodeOrder, GivesBackAQuantizedMatrixWithOutliers) {
  for (const Mode mode : {Mode::kV2, Mode::kV2a}) {
    const quant::XfpFormat format{.mode = mode, .levels = 6};
    const StoredMatrix stored = StoreXfp(quant::RandomRows(40, 500, 3), 500, format, ReachableFloor(6));
    ASSERT_GT(stored.matrix.xfp.outliers, 0);
    std::vector<std::byte> bytes(
        static_cast<size_t>(DecodeOrderOf(40, 500, format, stored.matrix.xfp.outliers).total_bytes));
    ExpectSameRows(stored.matrix.xfp, WriteDecodeOrder(stored.matrix.xfp, bytes));
  }
}

TEST(DecodeOrder, TakesTheContainersBytesWhereRowsAreWholeTiles) {
  // The order adds what rounds codebooks to powers of two (K = 3: a byte a row), outlier starts every 8 rows instead of 64
  // with their padding, and the padding of sections.
  for (const Mode mode : {Mode::kV2, Mode::kV2a}) {
    for (const int levels : quant::kLevelCounts) {
      const quant::XfpFormat format{.mode = mode, .levels = levels};
      const auto container = static_cast<double>(quant::LayoutOf(3072, 3072, format, 30000).total_bytes);
      const auto ordered = static_cast<double>(DecodeOrderOf(3072, 3072, format, 30000).total_bytes);
      EXPECT_NEAR(ordered / container, 1, 0.005) << quant::ModeName(mode) << " K " << levels;
    }
  }
}

TEST(DecodeOrder, SpreadsWordsOverChunksOfFourTwoAndOne) {
  EXPECT_EQ(TileWords(8, 2), 6);
  EXPECT_EQ(TileWordOffset(6, 3, 1), 28);
  EXPECT_EQ(TileWordOffset(6, 4, 1), 512 + 8);
  EXPECT_EQ(TileWordOffset(6, 5, 31), 512 + 252);
  EXPECT_EQ(TileWordOffset(3, 2, 2), 256 + 8);
  EXPECT_EQ(TileBytes(3, 2), 416);  // 1.625 bits
  EXPECT_EQ(TileBytes(16, 1), 512);
}

TEST(DecodeOrder, RefusesWhatByteTablesCannotHold) {
  EXPECT_TRUE(HasDecodeOrder({.mode = Mode::kV2a, .levels = 64}));
  EXPECT_FALSE(HasDecodeOrder({.mode = Mode::kV2, .levels = 16, .centroids = quant::Centroids::kHalf}));
  EXPECT_FALSE(HasDecodeOrder({.mode = Mode::kV2a, .levels = 16, .group_scales = true}));
}

}  // namespace
}  // namespace hproc::kernels
