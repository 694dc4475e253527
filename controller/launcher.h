// Launcher: how a worker comes to run where the controller does not spawn it itself.
//
//   local   no launcher: WorkerProcess starts hproc-worker with its pipes
//   slurm   a job of Slurm for each worker (controller/slurm/slurm_launcher.h)
//
// A launcher changes what WorkerProcess starts: in place of the worker a program that has the same pipes, runs the worker
// elsewhere, passes everything on, and tells of it in notes (controller/launch_note.h). Supervision, protocol and verdicts
// are the same above it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "controller/worker_process.h"

namespace hproc::controller {

struct LaunchRequest {
  std::string name;                // of the job, unique within the study: "t3-a1"
  int threads = 0;                 // CPU threads of the worker, or of all its ranks; 0: all there are
  int ranks = 1;                   // workers that run together on one machine (controller/worker_group.h)
  std::vector<std::string> avoid;   // nodes where it failed before: another is better, but not worth a long wait
  std::vector<std::string> faulty;  // nodes that failed it by a fault (verdict.h): another is worth a long wait
};

// Thread-safe.
class Launcher {
 public:
  virtual ~Launcher() = default;

  // `options` has the worker's executable and arguments; they become the launcher's.
  virtual void Launch(WorkerOptions& options, const LaunchRequest& request) const = 0;
  // The same for a rank but 0, beside the one that `leader` was made for by Launch.
  virtual void LaunchRank(WorkerOptions& options, const WorkerOptions& leader, int rank) const = 0;
  // Whether workers can be launched at all, now; and whatever a controller of this study that was killed left running is
  // ended. The error is one line.
  virtual Result<void> Prepare() const = 0;
};

}  // namespace hproc::controller
