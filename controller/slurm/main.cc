// hproc-slurm: the two programs between a controller and a worker that Slurm runs. Started by hproc, not by hand.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "controller/slurm/node_agent.h"
#include "controller/slurm/relay.h"
#include "worker/version.h"

namespace hproc::controller {
namespace {

// The worker's argv stands behind "--".
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
  relay_command->add_option("--srun-arg", relay.task.operators, "One argument for srun");
  relay_command->add_option("--avoid", relay.task.avoid, "A node not to run on");
  relay_command->add_option("--host", relay.hosts, "A name or address that nodes reach this machine by");
  relay_command->add_option_function<int>("--patience", [&](int s) { relay.slurm_patience = std::chrono::seconds(s); },
                                          "Seconds without an answer of Slurm");

  NodeAgentOptions node;
  CLI::App* node_command = app.add_subcommand("node", "Run a worker on this node for the relay that asked for it");
  node_command->add_option("--host", node.hosts, "A name or address of the relay's machine")->required();
  node_command->add_option("--port", node.port, "Its port")->required()->check(CLI::Range(1, 65535));

  try {
    std::vector<std::string> reversed(ours.rbegin(), ours.rend());
    app.parse(reversed);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (worker.empty()) {
    std::fprintf(stderr, "hproc-slurm: the worker's command is missing behind --\n");
    return 2;
  }
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
