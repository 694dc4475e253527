// Slurm's commands as child processes: an argv, no shell, bounded in time and output.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "controller/spawn.h"

namespace hproc::controller {

// A command that runs beside whatever its owner does. Killed and reaped with the object. Thread-compatible.
class ChildCommand {
 public:
  // argv[0] is a path.
  static Result<ChildCommand> Start(const std::vector<std::string>& argv);
  ChildCommand(ChildCommand&&) noexcept = default;
  ChildCommand& operator=(ChildCommand&&) noexcept;
  ~ChildCommand();

  int pidfd() const { return spawned_.pidfd.get(); }
  int output_fd() const { return spawned_.log.get(); }  // -1 once there is no more
  void ReadOutput();
  // What it printed on both streams, the first kMaxOutputBytes of it.
  const std::string& output() const { return output_; }
  // Once pidfd() is readable: reaps it. 128 + N where signal N ended it.
  int Reap();

  static constexpr size_t kMaxOutputBytes = size_t{1} << 20;

 private:
  explicit ChildCommand(SpawnedWorker spawned);
  void KillAndForget();

  SpawnedWorker spawned_;
  std::string output_;
};

// Runs it to its end. The error is that it cannot be started, takes longer than `patience`, or exits with another code
// than 0: then the last line it printed.
Result<std::string> RunCommand(const std::vector<std::string>& argv, std::chrono::milliseconds patience);

// Becomes the program of `argv` (argv[0] is a path), which gets a SIGTERM once the calling process's parent is gone, however it
// went. Returns only where that cannot be done, with a line on standard error, or where `parent` is not the parent any more.
int BecomeChild(pid_t parent, const std::vector<std::string>& argv);

// The last line of `text` that says something and begins with `prefix`; empty where none does.
std::string LastLine(std::string_view text, std::string_view prefix = {});

}  // namespace hproc::controller
