#include "evals/token_loops.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace hproc::evals {
namespace {

constexpr bool kCutOff = true;
constexpr bool kEnded = false;

std::vector<int32_t> Distinct(int count, int32_t first = 1000) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(first + i);
  return ids;
}

// `copies` times the sequence 1, 2, … period.
std::vector<int32_t> Copies(int period, int copies) {
  std::vector<int32_t> ids;
  for (int i = 0; i < period * copies; ++i) ids.push_back(1 + i % period);
  return ids;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(TokenLoop, IsFourCopiesOverSixtyFourTokensAtACutOffEnd) {
  EXPECT_EQ(FindTokenLoop(Distinct(50) + Copies(1, 63), kCutOff).period, 0);
  EXPECT_EQ(FindTokenLoop(Distinct(50) + Copies(1, 64), kCutOff).period, 1);
  EXPECT_EQ(FindTokenLoop(Copies(16, 4), kCutOff).period, 16);
  EXPECT_EQ(FindTokenLoop(Copies(32, 3), kCutOff).period, 0);
  EXPECT_EQ(FindTokenLoop(Copies(32, 4), kCutOff).period, 32);
  EXPECT_EQ(FindTokenLoop(Copies(128, 4), kCutOff).period, 128);
  EXPECT_EQ(FindTokenLoop(Copies(129, 8), kCutOff).period, 0);
}

TEST(TokenLoop, NeedsTwiceAsManyTokensWhereTheModelFoundItsWayOut) {
  EXPECT_EQ(FindTokenLoop(Copies(2, 40) + Distinct(50), kCutOff).period, 0);
  EXPECT_EQ(FindTokenLoop(Copies(2, 64) + Distinct(50), kCutOff).period, 2);
  EXPECT_EQ(FindTokenLoop(Copies(2, 40), kEnded).period, 0);
  EXPECT_EQ(FindTokenLoop(Copies(2, 64), kEnded).period, 2);
}

TEST(TokenLoop, NamesTheSmallestPeriodWhereItStartsAndHowFarItReaches) {
  const TokenLoop loop =
      FindTokenLoop(Distinct(10) + Copies(3, 30) + std::vector<int32_t>{1}, kCutOff);
  EXPECT_EQ(loop.period, 3);
  EXPECT_EQ(loop.start, 10);
  EXPECT_EQ(loop.tokens, 91);  // the thirty-first copy has begun
  EXPECT_EQ(loop.copies(), 30);
}

TEST(TokenLoop, OfNoTokensIsNone) {
  EXPECT_EQ(FindTokenLoop({}, kCutOff).period, 0);
  EXPECT_EQ(FindTokenLoop(std::vector<int32_t>{7}, kCutOff).period, 0);
}

TEST(TokenLoop, IsBrokenByOneOtherToken) {
  std::vector<int32_t> ids = Copies(4, 30);
  ids[60] = 99;
  EXPECT_EQ(FindTokenLoop(ids, kEnded).period, 0);  // 60 and 59 tokens on both sides
  EXPECT_EQ(FindTokenLoop(Copies(4, 60), kEnded).period, 4);
}

TEST(PhraseRepeats, CountsFourTokensWithinTheWindow) {
  EXPECT_EQ(MaxPhraseRepeats(Distinct(3)), 0);
  EXPECT_EQ(MaxPhraseRepeats(Distinct(4)), 1);
  std::vector<int32_t> ids;
  for (int i = 0; i < 9; ++i) ids = ids + Copies(4, 1) + Distinct(20, 100 + 20 * i);
  EXPECT_EQ(MaxPhraseRepeats(ids), 9);
  EXPECT_EQ(MaxPhraseRepeats(Copies(3, 4)), 3);  // overlapping ones count
}

TEST(PhraseRepeats, PassOverLinesDrawnWithOneOrTwoCharacters) {
  EXPECT_EQ(MaxPhraseRepeats(Copies(1, 100)), 0);
  EXPECT_EQ(MaxPhraseRepeats(Copies(2, 100)), 0);
  EXPECT_EQ(MaxPhraseRepeats(Copies(3, 100)), 85);
}

TEST(PhraseRepeats, ForgetsWhatLeftTheWindow) {
  // The phrase at 0 and at 252 are both within 256 tokens; one token further apart they are not.
  EXPECT_EQ(MaxPhraseRepeats(Copies(4, 1) + Distinct(248) + Copies(4, 1)), 2);
  EXPECT_EQ(MaxPhraseRepeats(Copies(4, 1) + Distinct(249) + Copies(4, 1)), 1);
}

TEST(DistinctRatio, IsTheSmallestOverAnyTwoHundredTokens) {
  EXPECT_EQ(MinDistinctRatio(Copies(1, 199)), 1);
  EXPECT_DOUBLE_EQ(MinDistinctRatio(Copies(1, 200)), 1.0 / 200);
  EXPECT_DOUBLE_EQ(MinDistinctRatio(Copies(20, 10)), 0.1);
  EXPECT_DOUBLE_EQ(MinDistinctRatio(Distinct(300) + Copies(5, 40) + Distinct(300)), 5.0 / 200);
  EXPECT_DOUBLE_EQ(MinDistinctRatio(Distinct(300)), 1);
}

}  // namespace
}  // namespace hproc::evals
