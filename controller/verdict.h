// What the end of a worker process says about the operating point it ran. Pure.
//
//   the controller saw, first match from the top    | verdict            | boundary | retry
//   ------------------------------------------------+--------------------+----------+-------------
//   the events pipe breaks the protocol             | protocol_error     | no       | never
//   `oom` event, however the process then ends      | out_of_memory      | yes      | never
//   `error` event, however the process then ends    | by its kind        | no       | by the reason
//   its job cancelled, preempted, requeued          | killed             | no       | 3 runs in all, elsewhere
//   its job's time limit or deadline over           | timeout            | no       | once, elsewhere
//   its job beyond the host memory it asked for     | host_out_of_memory | no       | once, one thread
//   its node failed, or is no longer heard          | node_lost          | no       | once, elsewhere
//   Slurm would not run its job, or gives no answer | not_launched       | no       | once, then on resume
//   it outlives SIGKILL                             | device_lost        | no       | stop study
//   SIGSEGV, SIGABRT, SIGBUS, SIGILL and their like | crash              | no       | once
//   result:exit, exit code 0                        | none: as reported  | yes      |
//   ended by us: silence, heartbeat without progress| hang               | no       | once
//   ended by us: a phase over its limit             | timeout            | no       | once
//   ended by us: stopped                            | interrupted        | no       | on resume
//   SIGKILL not by us, the cgroup's oom_kill rose   | host_out_of_memory | no       | once, one thread
//   SIGKILL not by us, it did not, or is unknown    | killed             | no       | 3 runs in all
//   another signal                                  | killed             | no       | 3 runs in all
//   exit code 0, 2, 4 or 5 without the event due    | protocol_error     | no       | never
//   any other exit code                             | crash              | no       | once
//
// Of a run that was launched on another machine, "never" and "stop study" hold once a second machine has said the same: a read
// error, an old copy of the worker or a broken device is that machine's own.
//
// A crash signal outranks our own ending of a hang: a process that dumps core neither beats nor
// answers, and the kernel keeps the signal that began it. An exit code of 128 + N counts as signal
// N: launchers and shells report so.
#pragma once

#include <optional>

#include "controller/study.h"
#include "controller/worker_end.h"

namespace hproc::controller {

struct RunVerdict {
  // What the run makes of its trial: nullopt where that is for others to say (a run as reported, an
  // interrupted one). kFailed ends the attempt; whether it ends the trial is for IsTriedAgain.
  std::optional<TrialState> state;
  Verdict verdict;  // reason kNone: the run ended as it should
};

RunVerdict Judge(const WorkerEnd& end);

// How the runs of one trial failed so far; those that were interrupted say nothing.
struct PastRuns {
  int64_t kills = 0;
  int64_t faults = 0;    // IsFault
  int64_t failures = 0;  // otherwise
  bool is_launched = false;  // on machines that a launcher chooses

  void Add(Reason reason);
};

// Not merely bad luck: the files, the worker, or the device.
bool IsFault(Reason reason);

// A fault that came on `node`; empty: on this machine, of which nothing is said.
void BlameNode(Verdict& verdict, const std::string& node);

// Whether a run that failed so is made again after those before it. What may pass is tried once more. A kill from outside, by
// a person or a scheduler, says nothing at all, and kMostKills runs may end so. A fault is tried once more where another
// machine may be without it, and not at all otherwise.
bool IsTriedAgain(Reason reason, const PastRuns& before);
inline constexpr int kMostKills = 3;

}  // namespace hproc::controller
