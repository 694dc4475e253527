// ControlReader: the worker's end of its stdin: the job, the commands, and the death of the
// controller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "worker/protocol.h"

namespace hproc::worker {

// Owns the descriptor and one thread, whose job is to read: so that EOF ends the process at once
// and a cancel is seen at once, however busy the working thread is. Make one before anything slow
// (a device context, a checkpoint) begins.
//
// EOF means that the controller closed the pipe or died; the kernel closes it then, which holds
// where PR_SET_PDEATHSIG does not (that one fires when the spawning *thread* ends).
//
// Thread-safe; meant for one working thread that takes the job and then the commands.
class ControlReader {
 public:
  // The controller waits for an answer before its next command: more than this many unread ones are
  // an error.
  static constexpr size_t kMaxQueued = 16;

  // `on_controller_gone` is called once, from the reading thread. Empty:
  // _exit(kExitControllerGone). If it returns, ReadJob and NextCommand give errors.
  explicit ControlReader(UniqueFd control, std::function<void()> on_controller_gone = {});
  ~ControlReader();  // stops the thread; does not wait for the controller
  ControlReader(const ControlReader&) = delete;
  ControlReader& operator=(const ControlReader&) = delete;

  // Waits for the first line. Call it once, first. The error is fit for an `error` event.
  Result<Job> ReadJob();

  // Waits for the next command; never a CancelCommand. Every error is final.
  Result<Command> NextCommand();

  // Whether the generate last returned by NextCommand was cancelled. Cheap: two relaxed loads. A
  // cancel counts for the generates sent before it, those still in the queue included, and for none
  // sent after it; so it stays true after the answer, until the next generate: ask while one runs.
  bool cancelled() const {
    return cancelled_through_.load(std::memory_order_relaxed) >=
           current_.load(std::memory_order_relaxed);
  }

 private:
  void Read();
  void TakeLine(std::string_view line);
  void Fail(std::string message);

  const UniqueFd control_;
  const UniqueFd wake_;  // an eventfd that ends the thread's poll
  const std::function<void()> on_controller_gone_;

  std::mutex mutex_;  // guards the four below
  std::condition_variable ready_;
  std::optional<Job> job_;
  std::deque<Command> commands_;
  std::optional<Error> error_;
  bool job_seen_ = false;

  int64_t generates_read_ = 0;                 // of the reading thread
  int64_t generates_taken_ = 0;                // of the working thread
  std::atomic<int64_t> cancelled_through_{0};  // generates are numbered from 1
  std::atomic<int64_t> current_{1};

  std::jthread reader_;  // last: ends before the rest goes
};

}  // namespace hproc::worker
