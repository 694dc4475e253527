// What stands on the controller's machine for rank 1, 2, … of a trial that Slurm runs: a process with the pipes of a worker,
// like the relay (controller/slurm/relay.h), which has rank 0 and the job. It gets its agent's connection from the relay
// (controller/slurm/rank_links.h) and passes everything on.
//
//   supervisor r ──pipes──▶ rank r ◀──TCP──▶ agent r ──▶ worker r     (node: all of them in the relay's job)
//                             ▲ connection, the job's end
//   supervisor 0 ──pipes──▶ relay  ◀──TCP──▶ agent 0 ──▶ worker 0
//
// Where the connection is lost, the relay says what became of the job. What the worker prints is in the job's log, which is
// rank 0's.
#pragma once

#include <chrono>
#include <string>

namespace hproc::controller {

struct RankRelayOptions {
  std::string job_name;
  int rank = 1;
  int notes_fd = -1;
  std::chrono::milliseconds link_patience = std::chrono::seconds(20);  // for the relay to be there
  // For the relay to know how the job ended. It asks Slurm for as long.
  std::chrono::milliseconds end_patience = std::chrono::seconds(40);
};

// Returns the exit code of the process: 0 once the last note is written.
int RunRankRelay(const RankRelayOptions& options);

}  // namespace hproc::controller
