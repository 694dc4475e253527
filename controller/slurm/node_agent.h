// The end of a worker's connection on the node: started by srun there, it connects to the relay that asked for it
// (controller/slurm/relay.h), starts the worker as a local controller would, and passes everything on.
//
//   relay ◀──TCP──▶ agent ──stdin──▶ worker        stdout and stderr of the worker: the agent's own stderr, which srun
//                         ◀──events──              carries to the relay
//
// Of several ranks each has an agent and a connection of its own; srun starts that of rank 0, which starts the others and ends
// last. Where another cannot start its worker, or loses it to a signal, rank 0's ends, too: the job, and what the relay is
// told of its end, must not wait for workers to miss each other.
//
// The worker never outlives the connection: where it is lost, or the relay says that the worker is to end, its stdin is
// closed at once (it ends by itself), its group gets SIGTERM kPolite later and SIGKILL kTerminate after that.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace hproc::controller {

inline constexpr const char* kSecretVariable = "HPROC_STEP_SECRET";

struct NodeAgentOptions {
  std::vector<std::string> hosts;  // names or addresses of the relay's machine, tried in turn
  int port = 0;
  std::vector<std::string> worker;  // argv
  int ranks = 1;                    // of the trial, all on this node
  std::chrono::milliseconds connect_patience = std::chrono::seconds(30);
  std::chrono::milliseconds polite = std::chrono::seconds(2);
  std::chrono::milliseconds terminate = std::chrono::seconds(5);
};

// Takes the secret out of the environment. Returns the exit code: 0 where the relay was told of the worker's end,
// whatever that was; otherwise one of these, with a line on standard error.
inline constexpr int kAgentCannotReach = 6;   // or not start the worker, or another rank's agent could not
inline constexpr int kAgentCutOff = 7;
inline constexpr int kAgentWorkerKilled = 8;  // of a rank but 0, for rank 0's agent to know
int RunNodeAgent(const NodeAgentOptions& options);

}  // namespace hproc::controller
