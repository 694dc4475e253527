// SpawnWorker: starts a process with the pipes of the worker protocol.
//
// posix_spawn rather than Boost.Process v2 (1.81), which was read and rejected for this one job:
//  - its wait reaps as soon as the process ends. The group's number is then free for reuse, so what
//    is left of the group can no longer be killed safely; it has to be killed while the zombie
//    still holds the number;
//  - it forks and runs C++ in the child of a multi-threaded parent (vectors, Asio's fork handlers,
//    exit() with its static destructors when exec fails) and leaves a zombie after a failed exec;
//  - process group, signal mask and dispositions would be hooks of ours in that same child, and its
//    own pipes are not close-on-exec from birth, so that a worker started meanwhile keeps them.
// posix_spawn does all of it in the C library, without copying the address space (gigabytes, once
// CUDA is loaded), and reports a failed exec as an error code.
//
//   child's fd   0            1, 2           3           4
//                ▲ control    │ log          │ events     │ notes, where wanted    the rest: closed
//   ours         write end    read end       read end    read end
//
// Standard output goes to the log, since libraries print there. All ends of ours are close-on-exec
// from birth and not blocking. When the controller dies, however it dies, the kernel closes
// `control`, the worker reads EOF and ends: the death pipe. PR_SET_PDEATHSIG would fire when the
// spawning thread ends, and cannot be had with posix_spawn.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace hproc::controller {

inline constexpr int kEventsFd = 3;  // in the worker; its argument --events-fd
inline constexpr int kNotesFd = 4;   // in a launcher (controller/launch_note.h)

struct SpawnedWorker {
  pid_t pid = -1;  // the leader of its own process group; the caller reaps it
  UniqueFd pidfd;  // readable once the process has ended
  UniqueFd control;
  UniqueFd events;
  UniqueFd log;
  UniqueFd notes;
};

enum class Notes { kNone, kWanted };

// argv[0] is the path of the executable, not searched for in PATH; `environment` is the whole of
// it, "NAME=value". The child starts with an empty signal mask and default dispositions, so that
// neither an ignored SIGPIPE nor a blocked SIGTERM of the controller is inherited. An error names
// the executable or the call; no process is left behind then.
Result<SpawnedWorker> SpawnWorker(const std::vector<std::string>& argv,
                                  const std::vector<std::string>& environment,
                                  Notes notes = Notes::kNone);

// Ends the whole group of a worker that nobody supervises yet, and reaps it.
void KillAndReap(pid_t pid);

// The calling process's environment with `changes` ("NAME=value") laid over it.
std::vector<std::string> EnvironmentWith(const std::vector<std::string>& changes);

}  // namespace hproc::controller
