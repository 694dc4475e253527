// hproc-slurm: the programs between a controller and a worker that Slurm runs. Started by hproc, not by hand.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "controller/slurm/node_agent.h"
#include "controller/slurm/rank_relay.h"
#include "controller/slurm/relay.h"
#include "controller/slurm/run_command.h"
#include "controller/spawn.h"
#include "worker/version.h"

namespace hproc::controller {
namespace {

// The argv of what is to be run stands behind "--".
int Main(int argc, char** argv) {
  std::vector<std::string> ours;
  std::vector<std::string> worker;
  bool behind = false;
  for (int i = 1; i < argc; ++i) {
    if (!behind && std::string(argv[i]) == "--") {
      behind = true;
    } else {
      (behind ? worker : ours).emplace_back(argv[i]);
    }
  }
  CLI::App app{"Passes on what a controller and a worker in a Slurm job say to each other (for hproc)."};
  app.set_version_flag("--version", worker::kVersion);
  app.require_subcommand(1);

  RelayOptions relay;
  CLI::App* relay_command = app.add_subcommand("relay", "Run a worker by srun and be it to the supervisor");
  relay_command->add_option("--job-name", relay.task.job_name, "Unique name of the job")->required();
  relay_command->add_option("--notes-fd", relay.notes_fd, "Where notes go")->required()->check(CLI::NonNegativeNumber);
  relay_command->add_option("--threads", relay.task.threads, "CPUs of the task; 0: as Slurm has it");
  relay_command->add_option("--ranks", relay.ranks, "Workers on the node")->check(CLI::PositiveNumber);
  relay_command->add_option("--srun-arg", relay.task.operators, "One argument for srun");
  relay_command->add_option("--avoid", relay.avoid, "A node to wait a little for another");
  relay_command->add_option("--faulty", relay.faulty, "A node not to run on while there is another");
  relay_command->add_option("--host", relay.hosts, "A name or address that nodes reach this machine by");
  relay_command->add_option_function<int>("--patience", [&](int s) { relay.slurm_patience = std::chrono::seconds(s); },
                                          "Seconds without an answer of Slurm");
  relay_command->add_option_function<int>("--connect-patience", [&](int s) { relay.connect_patience = std::chrono::seconds(s); },
                                          "Seconds from the start of the job to its agent's proof");
  relay_command->add_option_function<int>("--elsewhere-patience", [&](int s) { relay.elsewhere_patience = std::chrono::seconds(s); },
                                          "Seconds in the queue for the sake of --avoid");
  relay_command->add_option_function<int>("--faulty-patience", [&](int s) { relay.faulty_patience = std::chrono::seconds(s); },
                                          "Seconds in the queue for the sake of --faulty");
  relay_command->add_option_function<int>("--agent-grace", [&](int s) { relay.agent_grace = std::chrono::seconds(s); },
                                          "Seconds for the agent to end its worker");

  NodeAgentOptions node;
  CLI::App* node_command = app.add_subcommand("node", "Run a worker on this node for the relay that asked for it");
  node_command->add_option("--host", node.hosts, "A name or address of the relay's machine")->required();
  node_command->add_option("--ranks", node.ranks, "Workers to run")->check(CLI::PositiveNumber);
  node_command->add_option_function<int>("--connect-patience", [&](int s) { node.connect_patience = std::chrono::seconds(s); },
                                         "Seconds for the relay to be reached");
  node_command->add_option("--port", node.port, "Its port")->required()->check(CLI::Range(1, 65535));

  RankRelayOptions rank;
  CLI::App* rank_command = app.add_subcommand("rank", "Be the worker of a rank but 0 to the supervisor");
  rank_command->add_option("--job-name", rank.job_name, "Name of the job that the relay runs")->required();
  rank_command->add_option("--rank", rank.rank, "1, 2, …")->required()->check(CLI::PositiveNumber);
  rank_command->add_option("--notes-fd", rank.notes_fd, "Where notes go")->required()->check(CLI::NonNegativeNumber);
  int events_fd = kEventsFd;  // every worker is told, and it is always that
  rank_command->add_option("--events-fd", events_fd, "Where events go")->check(CLI::Range(kEventsFd, kEventsFd));
  pid_t parent = 0;
  CLI::App* srun_command = app.add_subcommand("srun", "Be srun for as long as the relay that asked for it is there");
  srun_command->add_option("--parent", parent, "The relay's process")->required();

  try {
    std::vector<std::string> reversed(ours.rbegin(), ours.rend());
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (*rank_command) return RunRankRelay(rank);
  if (worker.empty()) {
    std::fprintf(stderr, "hproc-slurm: the command is missing behind --\n");
    return 2;
  }
  if (*srun_command) return BecomeChild(parent, worker);
  if (*node_command) {
    node.worker = std::move(worker);
    return RunNodeAgent(node);
  }
  relay.worker = std::move(worker);
  relay.agent = std::filesystem::read_symlink("/proc/self/exe").string();
  return RunRelay(relay);
}

}  // namespace
}  // namespace hproc::controller

int main(int argc, char** argv) {
  try {
    return hproc::controller::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hproc-slurm: %s\n", e.what());
    return 1;
  }
}
