// The thread behind a WorkerProcess. Private to worker_process.cc and supervisor.cc.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "base/unique_fd.h"
#include "controller/conversation.h"
#include "controller/spawn.h"
#include "controller/watchdog.h"
#include "controller/worker_log.h"
#include "controller/worker_process.h"
#include "worker/lines.h"

namespace hproc::controller {

// What a supervisor is made from: a process that runs, and what was noted before it did.
struct SupervisorStart {
  std::vector<std::string> argv;
  worker::Job job;
  std::string job_line;
  SpawnedWorker spawned;
  UniqueFd wake;  // a non-blocking eventfd
  std::optional<int64_t> oom_kills_before;
};

// Two kinds of state: what the thread alone touches, and the mailbox between it and the callers,
// under a mutex that is not held across I/O. Callers leave wishes in the mailbox and wake the
// thread through an eventfd; it leaves events.
class WorkerProcess::Supervisor {
 public:
  Supervisor(WorkerOptions options, SupervisorStart start);
  // Joins the thread; the process must have been told to end.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Thread-safe.
  void Send(worker::Command command, std::string line);
  // The first cause stands. at_once: SIGKILL, and no grace.
  void End(KillCause cause, std::string detail, bool at_once);
  std::variant<worker::Event, WorkerEnd> NextEvent();
  std::string LogTail(size_t max_bytes) const { return log_.Tail(max_bytes); }
  const std::vector<std::string>& argv() const { return argv_; }
  const std::vector<std::string>& environment() const { return options_.environment; }
  pid_t pid() const { return pid_; }

 private:
  using Clock = Watchdog::Clock;

  struct Outgoing {
    worker::Command command;
    std::string line;
  };
  struct Queued {
    worker::Event event;
    int64_t bytes;
  };
  struct Wish {
    KillCause cause;
    std::string detail;
    bool at_once;
  };
  // The steps of ending a process, as drawn in worker_process.h.
  enum class Ending { kNone, kClosed, kTerminated, kKilled };

  void Wake();
  bool HasRoom() const;  // under mutex_

  // All below is of the thread.
  void Run();
  void Turn();  // waits for something to do and does it
  void TakeWishes();
  void WriteControl();
  bool ReadChunk(UniqueFd& fd, std::string_view* bytes);
  size_t ReadLog();     // bytes read
  size_t ReadEvents();  // likewise
  size_t ReadNotes();   // likewise
  bool TakeLine(std::string_view line);
  Clock::time_point NextDeadline() const;
  void CheckDeadlines(Clock::time_point now);
  void BeginEnding(KillCause cause, std::string_view detail);
  void Kill();
  void Bury();  // the last thing done: sets end_
  void DrainPipes();
  void Reap(WorkerEnd* end);

  const WorkerOptions options_;
  const std::vector<std::string> argv_;
  const pid_t pid_;
  const UniqueFd pidfd_;
  const UniqueFd wake_;
  const std::optional<int64_t> oom_kills_before_;
  const Clock::time_point started_;

  // Of the thread.
  UniqueFd control_;
  UniqueFd events_;
  UniqueFd log_pipe_;
  UniqueFd notes_pipe_;
  std::string outgoing_;  // to control_, not written yet
  std::array<char, 64 << 10> chunk_;
  worker::LineSplitter lines_;
  Conversation conversation_;
  Watchdog watchdog_;
  WorkerLog log_;  // but for Tail
  worker::LineSplitter notes_;
  bool is_heard_;  // false: the launcher has not connected the worker yet
  std::optional<LaunchEnd> launch_end_;
  Ending ending_ = Ending::kNone;
  Clock::time_point ending_until_;  // when the next step of the ending is due
  KillCause cause_ = KillCause::kNone;
  std::string detail_;
  bool sigkill_sent_ = false;
  bool dead_ = false;
  bool unkillable_ = false;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable arrived_;
  std::deque<Outgoing> commands_;
  std::optional<Wish> wish_;
  std::deque<Queued> queue_;
  int64_t queued_bytes_ = 0;
  std::optional<WorkerEnd> end_;

  std::jthread thread_;  // last: starts when all above is there
};

}  // namespace hproc::controller
