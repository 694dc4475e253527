#include "evals/eval_protocol.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <vector>

namespace hproc::evals {
namespace {

EvalProtocol Gsm8kProtocol() {
  return {.task_id = "gsm8k/3.0",
          .tasks_path = "test.jsonl",
          .tasks_sha256 = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
          .shots_sha256 = "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
          .shots = 5,
          .max_new_tokens = 256};
}

EvalProtocol WithSeeds(int seeds) {
  EvalProtocol protocol = Gsm8kProtocol();
  protocol.seeds = seeds;
  return protocol;
}

TEST(ProtocolDigest, StaysTheSameFromVersionToVersion) {
  // Stored studies are compared by it: when this changes, kImplementation must have been raised on
  // purpose.
  EXPECT_EQ(ProtocolDigest(Gsm8kProtocol()),
            "e6ad7d88285ff48faee1e65f8afbaae032fcdcb9833fdee56fdb55030c18fdcf");
}

TEST(ProtocolDigest, DoesNotDependOnWhereTheFileLies) {
  EvalProtocol moved = Gsm8kProtocol();
  moved.tasks_path = "elsewhere.jsonl";
  EXPECT_EQ(ProtocolDigest(moved), ProtocolDigest(Gsm8kProtocol()));
}

TEST(ProtocolDigest, ChangesWithAllThatAScoreDependsOn) {
  const std::vector<std::function<void(EvalProtocol&)>> changes{
      [](EvalProtocol& p) { p.task_id = "x"; },
      [](EvalProtocol& p) { p.tasks_sha256 = "x"; },
      [](EvalProtocol& p) { p.shots_sha256 = "x"; },
      [](EvalProtocol& p) { p.shots = 4; },
      [](EvalProtocol& p) { p.limit = 100; },
      [](EvalProtocol& p) { p.seeds = 3; },
      [](EvalProtocol& p) { p.order_seed = 1; },
      [](EvalProtocol& p) { p.max_new_tokens = 1024; },
  };
  std::set<std::string> digests{ProtocolDigest(Gsm8kProtocol())};
  for (const auto& change : changes) {
    EvalProtocol protocol = Gsm8kProtocol();
    change(protocol);
    digests.insert(ProtocolDigest(protocol));
  }
  EXPECT_EQ(digests.size(), changes.size() + 1);
}

TEST(TaskId, KnowsTheTasksByTheirDigest) {
  EXPECT_EQ(TaskId(Gsm8kProtocol().tasks_sha256), "gsm8k/3.0");
  EXPECT_EQ(TaskId("e0fc7d9a32547ac5997c989eda61a50414a26522e5b05cabdb232a134896adac"),
            "wordmath/1");
  EXPECT_EQ(TaskId("b967802da397954ae1d401bcb9997a49f53fd7d50b2cd848b9c819762949e49b"),
            "wordmath-dev/1");
  EXPECT_EQ(TaskId("0123456789abcdef"), "custom/0123456789ab");
}

TEST(SamplingFor, OneSeedIsGreedy) {
  EXPECT_EQ(SamplingFor(WithSeeds(1), 0, 17), SamplingParams{});
}

TEST(SamplingFor, MoreSeedsSampleWithDrawsOfTheirOwnForEachQuestion) {
  const SamplingParams params = SamplingFor(WithSeeds(3), 2, 17);
  EXPECT_EQ(params,
            (SamplingParams{
                .temperature = 0.6, .top_k = 20, .top_p = 0.95, .seed = (uint64_t{2} << 32) + 17}));
  EXPECT_NE(SamplingFor(WithSeeds(3), 1, 17).seed, params.seed);
  EXPECT_NE(SamplingFor(WithSeeds(3), 2, 18).seed, params.seed);
}

}  // namespace
}  // namespace hproc::evals
