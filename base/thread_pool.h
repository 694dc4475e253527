// ThreadPool: a fixed set of threads that split one loop at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/function_ref.h"

namespace hproc {

// Thread-compatible: one caller at a time, and no ParallelFor from inside a task. The calling thread takes part as
// thread 0, so a pool of one starts no threads.
//
// Made for loops of a few microseconds: a decoded token is some fifty of them. Helpers spin for some tens of
// microseconds after a loop before they sleep, because a sleep and a wake-up would double such a loop. And a loop waits
// only for the helpers that came in time to take part: on a machine that is busy with something else, a helper that
// is not scheduled must not hold up work that is done without it. Such a helper also loses its patience to spin.
class ThreadPool {
 public:
  // `threads` >= 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls task(index, thread) once for every index in [0, count), thread in [0, size()), and returns when all are
  // done. Indices are claimed in order, one at a time, so make each worth a microsecond or more. `task` must not throw.
  void ParallelFor(int64_t count, FunctionRef<void(int64_t index, int thread)> task);

 private:
  void HelperLoop(int thread);
  int64_t RunTasks(int thread);  // how many

  // [round : 16 | open : 1 | helpers inside : 15]. A helper enters a round while it is open, by adding itself; the caller
  // closes the round when no index is left and returns when no one is inside. All else below changes only then.
  std::atomic<uint32_t> gate_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stopping_{false};
  int64_t count_ = 0;
  FunctionRef<void(int64_t, int)>* task_ = nullptr;
  std::vector<std::jthread> helpers_;
};

}  // namespace hproc
