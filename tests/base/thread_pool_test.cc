#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace hproc {
namespace {

TEST(ThreadPool, RunsEveryIndexExactlyOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
      pool.ParallelFor(count, [&](int64_t i, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++seen[static_cast<size_t>(i)];
      });
      for (const auto& n : seen) EXPECT_EQ(n.load(), 1);
    }
  }
}

TEST(ThreadPool, HandsResultsOverBetweenManyShortLoops) {
  ThreadPool pool(3);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(64, [&](int64_t i, int) { values[static_cast<size_t>(i)] += 1; });
  }
  for (int64_t v : values) EXPECT_EQ(v, 2000);
}

TEST(ThreadPool, DoesNotWaitForHelpersThatComeTooLate) {
  // More threads than a machine runs at once: most helpers find the round closed, and no later loop may hear of them.
  ThreadPool pool(64);
  for (int round = 0; round < 500; ++round) {
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(3, [&](int64_t i, int) { sum += i + 1; });
    ASSERT_EQ(sum.load(), 6);
  }
}

TEST(ThreadPool, CountsRoundsPastTheGatesSixteenBits) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 70000; ++round) pool.ParallelFor(2, [&](int64_t i, int) { sum += i; });
  EXPECT_EQ(sum.load(), 70000);
}

}  // namespace
}  // namespace hproc
