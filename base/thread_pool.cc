#include "base/thread_pool.h"

#include <algorithm>

#include "base/check.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace hproc {
namespace {

constexpr int kMostSpins = 4000;  // about 50 us on current x86
constexpr int kFewestSpins = 60;

constexpr uint32_t kInside = (1u << 15) - 1;
constexpr uint32_t kOpen = 1u << 15;
constexpr uint32_t kRound = 1u << 16;
constexpr uint32_t RoundOf(uint32_t gate) { return gate / kRound; }

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  HPROC_CHECK(threads >= 1 && threads <= static_cast<int>(kInside), "a pool has at least the calling thread");
  for (int t = 1; t < threads; ++t) helpers_.emplace_back([this, t] { HelperLoop(t); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  gate_.fetch_add(kRound, std::memory_order_release);
  gate_.notify_all();
}

int64_t ThreadPool::RunTasks(int thread) {
  for (int64_t done = 0;; ++done) {
    const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_) return done;
    (*task_)(index, thread);
  }
}

void ThreadPool::HelperLoop(int thread) {
  uint32_t seen = 0;
  int patience = kMostSpins;
  for (;;) {
    uint32_t gate;
    for (int spins = 0; RoundOf(gate = gate_.load(std::memory_order_acquire)) == seen; ++spins) {
      spins < patience ? Pause() : gate_.wait(gate, std::memory_order_acquire);
    }
    if (stopping_.load(std::memory_order_acquire)) return;
    seen = RoundOf(gate);
    bool inside = false;
    while (!inside && (gate & kOpen) != 0 && RoundOf(gate) == seen) {
      inside = gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire);
    }
    int64_t done = 0;
    if (inside) {
      done = RunTasks(thread);
      const uint32_t left = gate_.fetch_sub(1, std::memory_order_acq_rel) - 1;
      if ((left & (kOpen | kInside)) == 0) gate_.notify_all();
    }
    patience = done > 0 ? std::min(kMostSpins, 2 * patience) : std::max(kFewestSpins, patience / 2);
  }
}

void ThreadPool::ParallelFor(int64_t count, FunctionRef<void(int64_t, int)> task) {
  if (count <= 0) return;
  if (helpers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  count_ = count;
  task_ = &task;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t closed = gate_.load(std::memory_order_relaxed);
  gate_.store(closed + kRound + kOpen, std::memory_order_release);
  gate_.notify_all();
  RunTasks(0);
  uint32_t gate = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (int spins = 0; (gate & kInside) != 0; ++spins) {
    spins < kMostSpins ? Pause() : gate_.wait(gate, std::memory_order_acquire);
    gate = gate_.load(std::memory_order_acquire);
  }
}

}  // namespace hproc
