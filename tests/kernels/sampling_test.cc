// Draws on the host: against the definition in kernels/sampling.h, worked out in the plainest way.
#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/sampling_parts.h"
#include "tests/kernels/draw_cases.h"

namespace hproc::kernels {
namespace {

// Salmon et al.'s known answers (Random123, kat_vectors), of counters and keys whose upper words are zero.
TEST(PhiloxBits, GivesTheKnownAnswers) {
  EXPECT_EQ(PhiloxBits(0, 0), 0xe169c58d6627e8d5u);
}

TEST(PhiloxBits, DiffersWithEveryBitOfKeyAndCounter) {
  std::vector<uint64_t> all = {PhiloxBits(0, 0)};
  for (int bit = 0; bit < 64; ++bit) {
    all.push_back(PhiloxBits(uint64_t{1} << bit, 0));
    all.push_back(PhiloxBits(0, uint64_t{1} << bit));
  }
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
}

TEST(WeightOfDistance, IsThePowerOfTwoToEightDigitsAndNeverGrows) {
  uint64_t before = kWeightOne;
  for (uint64_t distance = 0; distance < uint64_t{41} << 32; distance += 98765432) {
    const uint64_t weight = WeightOfDistance(distance);
    const double exact = std::exp2(40 - static_cast<double>(distance) / 4294967296.0);
    EXPECT_NEAR(static_cast<double>(weight), exact, exact * 0x1p-26 + 1) << distance;
    EXPECT_LE(weight, before) << distance;
    before = weight;
  }
  EXPECT_EQ(WeightOfDistance(0), kWeightOne);
  EXPECT_EQ(WeightOfDistance(uint64_t{1} << 32), kWeightOne / 2);
  EXPECT_EQ(WeightOfDistance(uint64_t{40} << 32), 1u);
  EXPECT_EQ(WeightOfDistance(uint64_t{41} << 32), 0u);
  EXPECT_EQ(WeightOfDistance(std::numeric_limits<uint64_t>::max()), 0u);
}

TEST(MultiplyHigh, IsTheUpperHalfOfTheProduct) {
  __extension__ using Product = unsigned __int128;
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  for (const uint64_t a : {uint64_t{0}, uint64_t{1}, uint64_t{0xFFFFFFFF}, uint64_t{1} << 32, uint64_t{0x123456789ABCDEF0}, kMost}) {
    for (const uint64_t b : {uint64_t{0}, uint64_t{1}, uint64_t{0xFFFFFFFF}, uint64_t{1} << 63, uint64_t{0xFEDCBA9876543210}, kMost}) {
      EXPECT_EQ(MultiplyHigh(a, b), static_cast<uint64_t>(static_cast<Product>(a) * b >> 64)) << a << " " << b;
    }
  }
}

// The definition, by a sort.
int32_t DrawByDefinition(const std::vector<float>& logits, const Draw& draw) {
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto logit = [&](int32_t i) { return logits[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  const float highest = logit(order.front());
  if (draw.scale <= 0) return order.front();
  const auto weight = [&](int32_t i) { return WeightOf(logit(i), highest, draw.scale); };
  if (draw.top_k > 0 && static_cast<size_t>(draw.top_k) < order.size()) order.resize(static_cast<size_t>(draw.top_k));
  uint64_t total = 0;
  for (const int32_t i : order) total += weight(i);
  if (draw.top_p < 1) {
    const uint64_t wanted = WeightShare(draw.top_p, total);
    size_t count = 0;
    for (total = 0; total < wanted; ++count) total += weight(order[count]);
    order.resize(count);
  }
  std::sort(order.begin(), order.end());
  uint64_t left = MultiplyHigh(draw.random, total);
  for (const int32_t i : order) {
    if (left < weight(i)) return i;
    left -= weight(i);
  }
  return -1;
}

TEST(DrawTokens, DrawsByTheDefinition) {
  for (const DrawCase& each : DrawCases()) {
    for (const Draw& draw : DrawsOf(each)) {
      TokenChoice choice;
      DrawTokensOnHost({.logits = each.logits.data(), .rows = 1, .columns = static_cast<int64_t>(each.logits.size()), .draws = &draw,
                        .choices = &choice});
      if (each.nonfinite > 0) {
        EXPECT_EQ(choice.nonfinite, each.nonfinite) << each.name;
        continue;
      }
      ASSERT_EQ(choice.token, DrawByDefinition(each.logits, draw)) << each.name << " top_k " << draw.top_k << " top_p " << draw.top_p;
      EXPECT_EQ(choice.logit, each.logits[static_cast<size_t>(choice.token)]) << each.name;
      EXPECT_EQ(choice.nonfinite, 0) << each.name;
    }
  }
}

TEST(WeightShare, IsTheLeastThatHoldsTheShare) {
  EXPECT_EQ(WeightShare(0.5, 100), 50u);
  EXPECT_EQ(WeightShare(0.501, 100), 51u);
  EXPECT_EQ(WeightShare(0, 100), 1u);
  EXPECT_EQ(WeightShare(1e-30, 100), 1u);
  EXPECT_EQ(WeightShare(1, 100), 100u);
  EXPECT_EQ(WeightShare(0.75, uint64_t{1} << 62), uint64_t{3} << 60);
}

}  // namespace
}  // namespace hproc::kernels
