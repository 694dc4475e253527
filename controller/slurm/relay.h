// The controller's end of a worker that Slurm runs: a process that looks like the worker to its supervisor (the same
// pipes, worker_process.h), runs srun, and passes everything on over one authenticated connection.
//
//   supervisor ──stdin, events, notes──▶ relay ──TCP──▶ agent ──▶ worker          (node)
//              ◀──stderr───────────────        ──child─▶ srun ──▶ slurmctld, slurmd
//
//   queued ── job runs ──▶ started ── agent proved itself ──▶ connected ── worker's end, srun's end ──▶ ended
//
// A process of its own, so that a job never outlives its controller: killed or not, that one's end closes the relay's
// stdin, and the relay has the worker end, the job cancelled, and only then goes. Killed itself, the kernel closes the
// connection, on which the agent ends the worker, and sends srun a SIGTERM (BecomeChild), on which it gives its job back, whether
// that runs or waits.
//
// Before the agent proves itself anybody may connect: at most kMostStrangers at once, kStrangerPatience each, and
// nothing is believed of what they say; then the port is closed.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "controller/slurm/srun_arguments.h"

namespace hproc::controller {

struct RelayOptions {
  SrunTask task;                     // but for its command and the nodes to avoid, which are the relay's to make
  std::string agent;                 // the program that runs the agent, at the same path on every node
  std::vector<std::string> hosts;    // that nodes reach this machine by; empty: its name and addresses
  std::vector<std::string> worker;   // argv
  int ranks = 1;                     // workers to run; all but rank 0's are others' to speak for (controller/slurm/rank_relay.h)
  int notes_fd = -1;
  // As LaunchRequest's (controller/launcher.h). Where Slurm refuses the job without them, or it waits in the queue for longer
  // than they are worth, it is asked for with them; of the faulty ones a remark says so.
  std::vector<std::string> avoid;
  std::vector<std::string> faulty;
  std::chrono::milliseconds elsewhere_patience = std::chrono::seconds(30);  // for the sake of `avoid`
  std::chrono::milliseconds faulty_patience = std::chrono::minutes(30);     // for the sake of `faulty`
  // How long Slurm may give no answer, at a stretch, before the launch is given up: its controller may be restarted meanwhile.
  std::chrono::milliseconds slurm_patience = std::chrono::minutes(2);
  // From the start of the job to the agent's proof. Time in the queue is no part of it, however often the job goes back there.
  std::chrono::milliseconds connect_patience = std::chrono::seconds(60);
  // For the agent to end its worker (2 and 5 s), and for srun to notice that it is cut off.
  std::chrono::milliseconds agent_grace = std::chrono::seconds(8);
};

inline constexpr size_t kMostStrangers = 8;
inline constexpr std::chrono::seconds kStrangerPatience{5};

// Returns the exit code of the process: 0 once the last note is written.
int RunRelay(const RelayOptions& options);

}  // namespace hproc::controller
