// Which matrices are worth putting into decode order, and what that takes.
#include "quant/decode_order.h"

#include <gtest/gtest.h>

#include "quant/levels.h"

namespace hproc::quant {
namespace {

XfpFormat V2(int levels) { return {.mode = Mode::kV2, .levels = levels}; }

// 15 bytes a row at most: a codebook to its stride, and a count of outliers of 2 bytes for little more than one.
TEST(ArrangedBytes, PadLargeMatricesByAFewBytesARow) {
  for (const int64_t columns : {512, 1024, 4096}) {
    for (const int levels : kLevelCounts) {
      for (const int64_t outliers : {0, 1, 100000}) {
        const std::optional<int64_t> bytes = ArrangedBytes(8192, columns, V2(levels), outliers);
        ASSERT_TRUE(bytes.has_value()) << columns << ", K " << levels;
        EXPECT_EQ(*bytes, DecodeOrderOf(8192, columns, V2(levels), outliers).total_bytes);
        EXPECT_LE(*bytes - LayoutOf(8192, columns, V2(levels), outliers).total_bytes, 8192 * 15) << columns << ", K " << levels;
      }
    }
  }
}

TEST(ArrangedBytes, AreNoneOfWhatStaysAContainer) {
  EXPECT_FALSE(ArrangedBytes(100, 384, V2(12), 50)) << "small, and padded";
  EXPECT_TRUE(ArrangedBytes(64, 1024, V2(16), 0)) << "small, and not padded";
  EXPECT_FALSE(ArrangedBytes(8192, 1022, V2(16), 0)) << "columns in fours";
  EXPECT_FALSE(ArrangedBytes(8192, kMaxDecodeColumns + 4, V2(16), 0));
  XfpFormat half = V2(16);
  half.centroids = Centroids::kHalf;
  EXPECT_FALSE(ArrangedBytes(8192, 1024, half, 0));
  const XfpFormat library{.mode = Mode::kV2a, .levels = 16};
  EXPECT_TRUE(ArrangedBytes(8192, 1024, library, 0, {.first = 1024, .whole = 2048}));
  EXPECT_FALSE(ArrangedBytes(8192, 1024, library, 0, {.first = 1000, .whole = 2048})) << "begins inside a group";
  EXPECT_FALSE(ArrangedBytes(8192, 1024, V2(16), 9, {.first = 0, .whole = 8192})) << "counts as wide as the whole row's";
}

}  // namespace
}  // namespace hproc::quant
