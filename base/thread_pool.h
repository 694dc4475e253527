// ThreadPool: a fixed set of threads that split one loop at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/function_ref.h"

namespace hproc {

// Thread-compatible: one caller at a time, and no ParallelFor from inside a task. The calling thread takes part as
// thread 0, so a pool of one starts no threads. Helpers spin for some tens of microseconds after a loop and then
// sleep: a decoded token is some fifty loops of a few microseconds each, which a sleep and wake-up would double.
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
  void RunTasks(int thread);

  std::atomic<uint64_t> generation_{0};  // counts the loops; helpers wait for it to change
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_helpers_{0};
  std::atomic<bool> stopping_{false};
  int64_t count_ = 0;
  FunctionRef<void(int64_t, int)>* task_ = nullptr;
  std::vector<std::jthread> helpers_;
};

}  // namespace hproc
