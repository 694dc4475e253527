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
// connection, on which the agent ends the worker, and srun's, on which Slurm ends the job.
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
  SrunTask task;                     // but for its command, which is the relay's to make
  std::string agent;                 // the program that runs the agent, at the same path on every node
  std::vector<std::string> hosts;    // that nodes reach this machine by; empty: its name and addresses
  std::vector<std::string> worker;   // argv
  int notes_fd = -1;
  // How long Slurm may give no answer before the launch is given up: its controller may be restarted meanwhile.
  std::chrono::milliseconds slurm_patience = std::chrono::minutes(2);
  // From the start of the job to the agent's proof.
  std::chrono::milliseconds connect_patience = std::chrono::seconds(60);
};

inline constexpr size_t kMostStrangers = 8;
inline constexpr std::chrono::seconds kStrangerPatience{5};

// Returns the exit code of the process: 0 once the last note is written.
int RunRelay(const RelayOptions& options);

}  // namespace hproc::controller
