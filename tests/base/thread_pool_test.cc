#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
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

void WaitFor(const std::atomic<bool>& flag) {
  while (!flag) std::this_thread::yield();
}

TEST(ThreadPool, ThrowsOnTheCallerWhatATaskThrewOnAHelper) {
  ThreadPool pool(2);
  std::atomic<bool> helping{false};
  EXPECT_THROW(pool.ParallelFor(2,
                                [&](int64_t, int thread) {
                                  if (thread == 0) return WaitFor(helping);
                                  helping = true;
                                  throw std::bad_alloc();
                                }),
               std::bad_alloc);
}

TEST(ThreadPool, WaitsForItsHelpersWhereTheCallersTaskThrows) {
  ThreadPool pool(2);
  std::atomic<bool> helping{false};
  std::atomic<bool> left{false};
  EXPECT_THROW(pool.ParallelFor(2,
                                [&](int64_t, int thread) {
                                  if (thread == 0) {
                                    WaitFor(helping);
                                    throw std::runtime_error("the caller's");
                                  }
                                  helping = true;
                                  std::this_thread::sleep_for(std::chrono::milliseconds(30));
                                  left = true;
                                }),
               std::runtime_error);
  EXPECT_TRUE(left);
}

TEST(ThreadPool, ClaimsNoFurtherIndexAfterAThrow) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  EXPECT_THROW(pool.ParallelFor(1000000,
                                [&](int64_t, int) {
                                  ++calls;
                                  throw std::runtime_error("each of them");
                                }),
               std::runtime_error);
  EXPECT_LE(calls.load(), 3);
}

TEST(ThreadPool, RunsTheLoopsAfterOneThatThrew) {
  ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    EXPECT_THROW(pool.ParallelFor(8, [](int64_t, int) { throw std::bad_alloc(); }), std::bad_alloc);
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(8, [&](int64_t i, int) { sum += i; });
    ASSERT_EQ(sum.load(), 28);
  }
}

TEST(ThreadPool, EndsTheThreadsThatStartedWhereTheHostHasNoRoomForAll) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that this test takes away";
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto start = [] {
    const rlimit limit{size_t{1} << 30, size_t{1} << 30};  // some hundred stacks
    ::setrlimit(RLIMIT_AS, &limit);
    ::alarm(20);
    try {
      ThreadPool pool(10000);
    } catch (const std::system_error& e) {
      std::_Exit(e.code() == std::errc::resource_unavailable_try_again ? 0 : 1);
    }
    std::_Exit(2);
  };
  EXPECT_EXIT(start(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace hproc
