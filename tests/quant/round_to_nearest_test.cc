#include "quant/round_to_nearest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quant/half.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

using testing::Each;
using testing::ElementsAre;

float Level(const RoundedRow& rounded, size_t column) {
  return static_cast<float>(static_cast<int>(rounded.codes[column]) + kInt4Lowest);
}
float ScaleOf(const RoundedRow& rounded, size_t column) { return Bfloat16ToFloat(rounded.scales[column / kGroupColumns]); }

TEST(RoundToNearest, TakesTheExtremeOfAGroupToTheLowestLevel) {
  RoundedRow rounded;
  RoundToNearest(std::vector<float>{16, 4, -3, 2, 0, -14, -15.5f}, rounded);
  EXPECT_THAT(rounded.scales, ElementsAre(FloatToBfloat16(-2)));
  // 16 is level -8; -3 / -2 = 1.5 and -15.5 / -2 = 7.75, beyond the last level.
  EXPECT_THAT(rounded.codes, ElementsAre(0, 6, 10, 7, 8, 15, 15));
  RoundToNearest(std::vector<float>{-16, 4, -3, 2, 0, 14, 15.5f}, rounded);
  EXPECT_THAT(rounded.scales, ElementsAre(FloatToBfloat16(2)));
  EXPECT_THAT(rounded.codes, ElementsAre(0, 10, 6, 9, 8, 15, 15));
}

// The bound of the header. w / scale is at most 8 / (1 - 2^-8) in magnitude: bfloat16 has 8 bits.
TEST(RoundToNearest, GivesEveryWeightBackWithinHalfAStepOfItsGroup) {
  for (const double outliers : {0.0, 0.02}) {
    for (const int64_t columns : {1, 127, 128, 129, 300, 640}) {
      const std::vector<float> values = RandomRows(40, columns, 5, outliers);
      RoundedRow rounded;
      for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(columns)) {
        const std::span<const float> row = std::span(values).subspan(begin, static_cast<size_t>(columns));
        RoundToNearest(row, rounded);
        ASSERT_EQ(rounded.codes.size(), row.size());
        ASSERT_EQ(static_cast<int64_t>(rounded.scales.size()), GroupsPerRow(columns));
        for (size_t c = 0; c < row.size(); ++c) {
          const double steps = static_cast<double>(row[c]) / static_cast<double>(ScaleOf(rounded, c));
          const double error = std::abs(steps - static_cast<double>(Level(rounded, c)));
          ASSERT_LE(std::abs(steps), 8 / (1 - 0x1p-8)) << c;
          ASSERT_LE(error, steps > 7.5 ? 1 + 0x1p-4 : 0.5 + (steps < -7.5 ? 0.0 : 1e-12)) << c;
        }
      }
    }
  }
}

TEST(RoundToNearest, GivesGroupsOfZerosBackExactly) {
  std::vector<float> row(300, 0.0f);
  row[200] = 3;
  RoundedRow rounded;
  RoundToNearest(row, rounded);
  EXPECT_THAT(rounded.scales, ElementsAre(0, FloatToBfloat16(-0.375f), 0));
  for (size_t c = 0; c < row.size(); ++c) EXPECT_EQ(Level(rounded, c) * ScaleOf(rounded, c), row[c]) << c;
  EXPECT_EQ(rounded.cosine, 1);
  EXPECT_EQ(rounded.norm_ratio, 1);

  RoundToNearest(std::vector<float>(130, 0.0f), rounded);
  EXPECT_THAT(rounded.codes, Each(8));
  EXPECT_EQ(rounded.cosine, 1) << "a dead channel comes back whole";
}

TEST(RoundToNearest, SurvivesTheSmallestAndTheLargestFloats) {
  RoundedRow rounded;
  for (const float extreme : {1e-45f, 1e-40f, 3e38f, -3.3e38f}) {
    RoundToNearest(std::vector<float>{extreme, extreme / 2, 0}, rounded);
    const float back = Level(rounded, 0) * ScaleOf(rounded, 0);
    EXPECT_TRUE(std::isfinite(back)) << extreme;
    // A bfloat16 below 2^-126 is a multiple of 2^-133; an eighth of the extreme is off by half of that at most.
    EXPECT_NEAR(back, extreme, std::max(std::abs(extreme) * 0x1p-8f, 8 * 0x1p-134f)) << extreme;
  }
}

// A step is an eighth of the group's extreme and the error uniform within it: with an extreme of four deviations, which one
// Gaussian group of 128 in a hundred has, 1 - cosine is half of 0.5^2 / 12.
TEST(RoundToNearest, ReportsTheCosineOfWhatItGivesBack) {
  const std::vector<float> row = RandomRows(1, 640, 9);
  RoundedRow rounded;
  RoundToNearest(row, rounded);
  double dot = 0;
  double square = 0;
  double back_square = 0;
  for (size_t c = 0; c < row.size(); ++c) {
    const auto back = static_cast<double>(Level(rounded, c) * ScaleOf(rounded, c));  // exact: 8 bits times 4
    dot += back * static_cast<double>(row[c]);
    square += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    back_square += back * back;
  }
  EXPECT_NEAR(rounded.cosine, dot / std::sqrt(square * back_square), 1e-12);
  EXPECT_NEAR(rounded.norm_ratio, std::sqrt(back_square / square), 1e-12);
  EXPECT_GT(rounded.cosine, 1 - 0.5 * 0.25 / 12);
}

TEST(Int4Library, HasOneBookOfTheSixteenLevels) {
  const Library library = Int4Library();
  for (int k = 0; k < kInt4Levels; ++k) EXPECT_EQ(library.codebooks[0][static_cast<size_t>(k)], static_cast<float>(k - 8));
  EXPECT_THAT(library.codebooks[31], Each(0.0f));
}

}  // namespace
}  // namespace hproc::quant
