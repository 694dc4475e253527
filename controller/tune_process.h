// TuneProcess: an `hproc tune`, `resume` or `rerun` as a supervised child: the way a service begins searches. The child
// opens the study file, holds its lock and writes; the service only watches (tune_journal.h) and interrupts.
//
//   running ── ends by itself ──▶ ended (exit code)
//      │ Interrupt(): SIGINT, what Ctrl-C is; the study can be resumed
//      └ EndNow(): SIGINT twice, which ends it at once; SIGKILL where that does not help
//
// What it prints is kept: the last of it in memory, all of it within bounds in a log file.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace hproc::controller {

// Thread-safe.
class TuneProcess {
 public:
  // argv[0] is the path of hproc. `log_file` is begun anew. The error names what could not be started.
  static Result<std::unique_ptr<TuneProcess>> Start(std::vector<std::string> argv, const std::filesystem::path& log_file);

  // Interrupts, waits up to `kPatience`, then ends it at once; returns when it is reaped.
  ~TuneProcess();
  TuneProcess(const TuneProcess&) = delete;
  TuneProcess& operator=(const TuneProcess&) = delete;

  static constexpr std::chrono::seconds kPatience{20};

  void Interrupt();
  void EndNow();
  // Whether it has ended within `patience`.
  bool Wait(std::chrono::milliseconds patience);

  // None while it runs; 128 + N where signal N ended it.
  std::optional<int> exit_code() const;
  pid_t pid() const;
  // The last of what it printed, at most max_bytes, from the start of a line.
  std::string LogTail(size_t max_bytes) const;

 private:
  struct State;
  explicit TuneProcess(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Sends SIGINT to the process that holds the lock of study file `db`, where one on this machine does: the interrupt that
// the command line understands. The error says that nobody holds it, or that the signal was not permitted.
Result<void> InterruptHolder(const std::filesystem::path& db);

}  // namespace hproc::controller
