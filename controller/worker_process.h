// WorkerProcess: one worker, supervised from its start to its reaping.
//
// A thread of its own (the supervisor) is the only one that touches the pipes and the process: it
// writes commands, checks events against the protocol, drains the log, watches the deadlines, ends
// the process and reaps it.
//
//                     exits or crashes by itself
//   running ────────────────────────────────────────────────────────────▶ reaped
//      │ deadline, protocol error, Stop()                                   ▲
//      ▼                polite                terminate                     │
//   control closed ─────────────▶ SIGTERM ─────────────▶ SIGKILL ───────────┤
//   (the worker sees EOF and                                │ reap          │
//    ends, even when it is busy)                            ▼               │
//                                                      unkillable     group killed
//
// Signals go to the worker's process group. Once the worker is dead and before it is reaped,
// whatever is left of its group gets SIGKILL: no child of the worker outlives it, unless it left
// the group. A process that outlives SIGKILL (stuck in a driver) is reported and left alone.
//
// There is no deadline in NextEvent: the watchdog guarantees that a worker which was asked for
// something answers or ends. Not watched is the worker that was asked for nothing, beyond its
// heartbeat.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "controller/launch_note.h"
#include "controller/oom_kills.h"
#include "controller/watchdog.h"
#include "controller/worker_end.h"
#include "worker/protocol.h"

namespace hproc::controller {

struct WorkerOptions {
  std::filesystem::path executable;
  std::vector<std::string> arguments;    // before --events-fd N
  std::vector<std::string> environment;  // "NAME=value", laid over the controller's own

  std::filesystem::path log_file;             // truncated; empty: the tail is kept in memory alone
  int64_t log_file_bytes = int64_t{4} << 20;  // at most, head and tail together
  int64_t log_tail_bytes = int64_t{256} << 10;

  Deadlines deadlines;
  // Graces of the three steps of ending, see above.
  std::chrono::milliseconds polite = std::chrono::seconds(2);
  std::chrono::milliseconds terminate = std::chrono::seconds(5);
  std::chrono::milliseconds reap = std::chrono::seconds(10);

  // Events waiting in NextEvent's queue before the supervisor stops reading. The worker then blocks
  // in its next write, which is not held against it.
  size_t max_queued_events = 4096;
  int64_t max_queued_bytes = int64_t{64} << 20;

  OomKillCounter oom_kills = OomKillCounter::OfThisProcess();

  // The executable is a launcher (controller/launcher.h), which passes everything on to a worker elsewhere and tells of it
  // on the notes pipe. Until the worker is connected no deadline runs: time in a queue is not the worker's.
  bool is_launched = false;
  // Called with each note but the last, from the supervisor's thread; must be quick and outlive the process.
  std::function<void(const LaunchNote&)> on_note;
};

class WorkerProcess {
 public:
  // Starts the process and sends it the job. An error means that it could not be started: the
  // machine or the installation is at fault, never the job.
  static Result<std::unique_ptr<WorkerProcess>> Start(WorkerOptions options,
                                                      const worker::Job& job);

  // SIGKILL at once, where the process still runs; then reaps it.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // Queues a command; fits only where the conversation has its turn for it (conversation.h). To a
  // worker that has ended it goes nowhere: NextEvent tells. The error is a command beyond
  // worker::kMaxLineBytes. Thread-safe.
  Result<void> Send(const worker::Command& command);

  // Waits for the next event that keeps to the protocol, heartbeats left out, or for the end. All
  // events come before the end; after it every call gives the end again. One thread at a time.
  std::variant<worker::Event, WorkerEnd> NextEvent();

  // Ends the process, politely first. Returns at once. The first cause stands. Thread-safe.
  void Stop(std::string why);
  // The same for an event that keeps to the protocol, yet lies.
  void Reject(std::string lie);

  // The last of what the worker printed, so far. Thread-safe.
  std::string LogTail(size_t max_bytes) const;

  // As the process was started; the environment without what it inherited. For reports of what went
  // wrong.
  const std::vector<std::string>& argv() const;
  const std::vector<std::string>& environment() const;
  pid_t pid() const;

 private:
  class Supervisor;
  explicit WorkerProcess(std::unique_ptr<Supervisor> supervisor);

  std::unique_ptr<Supervisor> supervisor_;
};

// SIGKILL to the groups of all workers of this program: for an end without destructors. Async-signal-safe.
void KillAllWorkers();

}  // namespace hproc::controller
