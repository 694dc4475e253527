#include "base/thread_pool.h"

#include "base/check.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace hproc {
namespace {

constexpr int kSpinsBeforeSleep = 4000;  // about 50 us on current x86

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  HPROC_CHECK(threads >= 1, "a pool has at least the calling thread");
  for (int t = 1; t < threads; ++t) helpers_.emplace_back([this, t] { HelperLoop(t); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
}

void ThreadPool::RunTasks(int thread) {
  for (;;) {
    const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_) return;
    (*task_)(index, thread);
  }
}

void ThreadPool::HelperLoop(int thread) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpinsBeforeSleep) {
        Pause();
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stopping_.load(std::memory_order_acquire)) return;
    RunTasks(thread);
    if (busy_helpers_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_helpers_.notify_one();
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
  busy_helpers_.store(static_cast<int>(helpers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunTasks(0);
  int spins = 0;
  for (int busy; (busy = busy_helpers_.load(std::memory_order_acquire)) != 0;) {
    if (++spins < kSpinsBeforeSleep) {
      Pause();
    } else {
      busy_helpers_.wait(busy, std::memory_order_acquire);
    }
  }
}

}  // namespace hproc
