#include "quant/float_sort.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quant/half.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

void ExpectSorted(const std::vector<float>& values) {
  std::vector<uint32_t> expected(values.size());
  std::iota(expected.begin(), expected.end(), 0u);
  std::stable_sort(expected.begin(), expected.end(), [&](uint32_t a, uint32_t b) { return values[a] < values[b]; });
  FloatSorter sorter;
  std::vector<float> sorted;
  std::vector<uint32_t> order;
  sorter.Sort(values, sorted, order);
  EXPECT_EQ(order, expected);
  ASSERT_EQ(sorted.size(), values.size());
  for (size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], values[order[i]]);
}

TEST(FloatSorter, OrdersAnyFiniteValues) {
  for (int64_t size : {1, 2, 7, 128, 1000}) ExpectSorted(RandomRows(1, size, static_cast<uint32_t>(size)));
  constexpr float kLargest = std::numeric_limits<float>::max();
  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  ExpectSorted({1, -1, kLargest, -kLargest, kSmallest, -kSmallest, 0, 0.5f, -0.5f});
}

TEST(FloatSorter, KeepsEqualValuesInTheOrderOfTheirColumns) {
  ExpectSorted({3, 1, 3, 1, 2, 2, 3, 1});
  ExpectSorted({0.0f, -0.0f, 1, 0.0f, -0.0f, -1});
  std::vector<float> few = RandomRows(1, 500, 3);
  for (float& v : few) v = Bfloat16ToFloat(static_cast<uint16_t>(FloatToBfloat16(v) & 0xFFF0u));
  ExpectSorted(few);
}

TEST(FloatSorter, GivesNegativeZeroBackAsZero) {
  FloatSorter sorter;
  std::vector<float> sorted;
  std::vector<uint32_t> order;
  sorter.Sort(std::vector<float>{-0.0f}, sorted, order);
  EXPECT_FALSE(std::signbit(sorted[0]));
}

TEST(FloatSorter, SortsNothing) {
  FloatSorter sorter;
  std::vector<float> sorted{1};
  std::vector<uint32_t> order{1};
  sorter.Sort({}, sorted, order);
  EXPECT_TRUE(sorted.empty());
  EXPECT_TRUE(order.empty());
}

}  // namespace
}  // namespace hproc::quant
