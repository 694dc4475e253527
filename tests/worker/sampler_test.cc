#include "worker/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace hproc::worker {
namespace {

using evals::SamplingParams;

constexpr int kDraws = 40000;

std::map<int32_t, int> Draw(const SamplingParams& params, const std::vector<float>& logits) {
  Sampler sampler(params);
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Next(logits)];
  return counts;
}

// Every count is within five standard deviations of its binomial (by chance one in 1.7 million is not), and a token of
// probability 0 never comes.
void ExpectDistribution(const SamplingParams& params, const std::vector<float>& logits, const std::vector<double>& expected) {
  const std::map<int32_t, int> counts = Draw(params, logits);
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto it = counts.find(static_cast<int32_t>(i));
    const double count = it == counts.end() ? 0 : it->second;
    EXPECT_NEAR(count, kDraws * expected[i], 5 * std::sqrt(kDraws * expected[i] * (1 - expected[i]))) << "token " << i;
  }
}

std::vector<float> Logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3);
  return logits;
}

TEST(Sampler, TakesTheHighestLogitAtTemperatureNought) {
  Sampler sampler(SamplingParams{});
  EXPECT_EQ(sampler.Next(std::vector<float>{1, 3, 2}), 1);
  EXPECT_EQ(sampler.Next(std::vector<float>{-5, -3, -4}), 1);
  EXPECT_EQ(sampler.Next(std::vector<float>{7}), 0);
}

TEST(Sampler, TakesTheLowerIdOnATie) {
  EXPECT_EQ(Sampler(SamplingParams{}).Next(std::vector<float>{1, 3, 3, 3}), 1);
  EXPECT_EQ(Sampler({.temperature = 1, .top_k = 1}).Next(std::vector<float>{1, 3, 3, 3}), 1);
  EXPECT_EQ(Sampler({.temperature = 1, .top_p = 1e-9}).Next(std::vector<float>{1, 3, 3, 3}), 1);
}

TEST(Sampler, DrawsFromTheSoftmax) {
  const std::vector<double> p = {0.05, 0.4, 0.15, 0.3, 0.1};
  ExpectDistribution({.temperature = 1, .seed = 1}, Logs(p), p);
}

TEST(Sampler, DividesLogitsByTheTemperature) {
  // Squares and square roots of 1 : 4 : 9, made to sum to 1.
  const std::vector<float> logits = Logs({1, 4, 9});
  ExpectDistribution({.temperature = 0.5, .seed = 2}, logits, {1.0 / 98, 16.0 / 98, 81.0 / 98});
  ExpectDistribution({.temperature = 2, .seed = 3}, logits, {1.0 / 6, 2.0 / 6, 3.0 / 6});
}

TEST(Sampler, GoesToGreedyAndToEvenOddsAtTheEndsOfTemperature) {
  const std::vector<float> logits = {1, 1.001f, 0.5f, 1.0005f};
  for (double cold : {1e-6, 1e-12, 1e-300, std::numeric_limits<double>::denorm_min()}) {
    EXPECT_EQ(Draw({.temperature = cold, .seed = 4}, logits).begin()->first, 1) << cold;
    EXPECT_EQ(Draw({.temperature = cold, .seed = 4}, logits).size(), 1u) << cold;
  }
  ExpectDistribution({.temperature = 1e9, .seed = 5}, logits, {0.25, 0.25, 0.25, 0.25});
}

TEST(Sampler, TopKKeepsTheLikeliestAndTheirOdds) {
  const std::vector<float> logits = Logs({0.05, 0.4, 0.15, 0.3, 0.1});
  ExpectDistribution({.temperature = 1, .top_k = 2, .seed = 6}, logits, {0, 4.0 / 7, 0, 3.0 / 7, 0});
  ExpectDistribution({.temperature = 1, .top_k = 1, .seed = 7}, logits, {0, 1, 0, 0, 0});
  for (int off : {0, 5, 6, 1000}) {
    ExpectDistribution({.temperature = 1, .top_k = off, .seed = 8}, logits, {0.05, 0.4, 0.15, 0.3, 0.1});
  }
}

TEST(Sampler, TopPKeepsTheFewestThatHoldItsShare) {
  const std::vector<float> logits = Logs({0.05, 0.4, 0.15, 0.3, 0.1});
  ExpectDistribution({.temperature = 1, .top_p = 0.65, .seed = 9}, logits, {0, 4.0 / 7, 0, 3.0 / 7, 0});
  ExpectDistribution({.temperature = 1, .top_p = 0.75, .seed = 10}, logits, {0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0});
  ExpectDistribution({.temperature = 1, .top_p = 0.39, .seed = 11}, logits, {0, 1, 0, 0, 0});
  ExpectDistribution({.temperature = 1, .top_p = 0, .seed = 12}, logits, {0, 1, 0, 0, 0});
  ExpectDistribution({.temperature = 1, .top_p = 1, .seed = 13}, logits, {0.05, 0.4, 0.15, 0.3, 0.1});
  // Exactly half is half: equal logits, whose exponentials are 1.
  ExpectDistribution({.temperature = 1, .top_p = 0.5, .seed = 14}, {2, 2}, {1, 0});
}

TEST(Sampler, TopPCountsWhatTopKLeft) {
  // Of 0.4, 0.3, 0.15 the first two hold 0.82.
  const std::vector<float> logits = Logs({0.05, 0.4, 0.15, 0.3, 0.1});
  ExpectDistribution({.temperature = 1, .top_k = 3, .top_p = 0.8, .seed = 15}, logits, {0, 4.0 / 7, 0, 3.0 / 7, 0});
}

TEST(Sampler, DrawsTheSameFromASeedAndOtherwiseFromAnother) {
  const std::vector<float> logits(50, 0.0f);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<int32_t> tokens;
    for (int i = 0; i < 40; ++i) tokens.push_back(sampler.Next(logits));
    return tokens;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
  EXPECT_NE(sequence(0), sequence(uint64_t{1} << 63));
}

// By whole numbers from bits that are counted: the first draw of seed 5489 is PhiloxBits(5489, 0), of 100 equal logits.
TEST(Sampler, TurnsTheGeneratorsBitsIntoATokenTheSameOnEveryMachine) {
  Sampler sampler({.temperature = 1, .seed = 5489});
  const std::vector<float> logits(100, 0.0f);
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(sampler.Next(logits), static_cast<int32_t>((kernels::PhiloxBits(5489, i) >> 32) * 100 >> 32)) << i;
  }
}

TEST(Sampler, TakesExtremeLogits) {
  const float most = std::numeric_limits<float>::max();
  for (double temperature : {0.0, 0.7, 100.0}) {
    Sampler sampler({.temperature = temperature, .seed = 16});
    for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.Next(std::vector<float>{-most, most, 0}), 1);
  }
}

}  // namespace
}  // namespace hproc::worker
