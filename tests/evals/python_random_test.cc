// Every expectation was printed by CPython 3.11.
#include "evals/python_random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/sha256.h"
#include "evals/question_order.h"

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// sha256 of the numbers, joined by commas.
std::string Digest(const std::vector<int>& values) {
  std::string text;
  for (const int value : values) text += (text.empty() ? "" : ",") + std::to_string(value);
  return Sha256Hex(text);
}

TEST(PythonRandom, DrawsAsCPythonForSeedsOfOneAndTwoWords) {
  struct Case {
    uint64_t seed;
    uint32_t draws[3];
  };
  for (const Case& c :
       {Case{0, {3626764237, 1654615998, 3255389356}}, Case{1, {577090037, 2444712010, 3639700191}},
        Case{1234, {4150886329, 3342196574, 1892932127}},
        Case{4294967296, {485306839, 1508871100, 1794561286}},
        Case{9223372036854775813u, {1478493593, 736485321, 1981690036}},
        Case{18446744073709551615u, {93740670, 1068495656, 1452108352}}}) {
    PythonRandom random(c.seed);
    for (const uint32_t draw : c.draws) EXPECT_EQ(random.Below(0xFFFFFFFF), draw) << c.seed;
  }
}

TEST(PythonRandom, BelowOneIsZeroAndStillDraws) {
  PythonRandom random(5);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(random.Below(1), 0u);
  EXPECT_EQ(random.Below(10), 7u);
}

TEST(PythonRandom, SamplesSmallPopulationsFromAPoolAndLargeOnesByRejection) {
  PythonRandom random(7);
  EXPECT_THAT(random.Sample(10, 10), ElementsAre(5, 2, 6, 9, 0, 7, 4, 1, 3, 8));
  EXPECT_THAT(random.Sample(21, 5), ElementsAre(1, 2, 13, 18, 19));  // pool
  EXPECT_THAT(random.Sample(22, 5), ElementsAre(7, 2, 17, 13, 1));   // rejection
  EXPECT_THAT(random.Sample(85, 6), ElementsAre(72, 15, 28, 80, 81, 74));
  EXPECT_THAT(random.Sample(86, 6), ElementsAre(7, 73, 74, 50, 6, 28));
  EXPECT_THAT(random.Sample(5, 0), IsEmpty());
  EXPECT_THAT(random.Sample(1, 1), ElementsAre(0));
}

TEST(PythonRandom, SamplesManyAsCPythonOnBothSidesOfItsThreshold) {
  EXPECT_EQ(Digest(PythonRandom(3).Sample(100000, 20000)),
            "777c5874f8b112ffc8dcd1343294296c5537f9ae89c16ad85f4e6c80a4380409");
  EXPECT_EQ(Digest(PythonRandom(3).Sample(60000, 20000)),
            "ea4acc68e66f5b8b61e11c1e0fbefed810769129c39894c5265a9005fb85b0e0");
}

TEST(PythonRandom, DrawsTheShotsOfGsm8k) {
  PythonRandom random(1234);
  EXPECT_THAT(random.Sample(7473, 5), ElementsAre(6374, 3610, 957, 61, 742));
  EXPECT_THAT(random.Sample(7473, 5), ElementsAre(7462, 6610, 4769, 286, 5501));
  for (int document = 2; document < 1318; ++document) random.Sample(7473, 5);
  EXPECT_THAT(random.Sample(7473, 5), ElementsAre(220, 4179, 6064, 5599, 5541));
}

TEST(QuestionOrder, IsPythonsShuffleOfTheIndices) {
  EXPECT_THAT(QuestionOrder(10, 1234), ElementsAre(2, 8, 3, 5, 6, 4, 9, 0, 1, 7));
  EXPECT_THAT(QuestionOrder(10, (uint64_t{1} << 40) + 1),
              ElementsAre(7, 5, 6, 3, 9, 4, 1, 8, 0, 2));
  EXPECT_EQ(Digest(QuestionOrder(1319, 1234)),
            "6e23de6fd52f4073683e02a62a40bcc3e3cfb2fc043a3c49d5f12175fdfa161f");
}

TEST(QuestionOrder, OfNoneAndOfOneIsTrivial) {
  EXPECT_THAT(QuestionOrder(0, 1), IsEmpty());
  EXPECT_THAT(QuestionOrder(1, 1), ElementsAre(0));
}

}  // namespace
}  // namespace hproc::evals
