#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "controller/cli/commands.h"
#include "controller/cli/exit_codes.h"
#include "controller/cli/setup.h"

namespace hproc::controller {

int RunBench(const std::vector<std::string>& arguments) {
  Result<WorkerSetup> worker = WorkerBesideThis({});
  if (!worker.ok()) return Fail(kExitInfrastructure, worker.error().message);
  std::string program = worker->executable.string();
  std::string command = "bench";
  std::vector<std::string> owned = arguments;
  std::vector<char*> argv = {program.data(), command.data()};
  for (std::string& argument : owned) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  return Fail(kExitInfrastructure, program + ": " + std::generic_category().message(errno));
}

}  // namespace hproc::controller
