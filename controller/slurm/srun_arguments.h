// What the operator may tell srun: partition, devices, time, account, …. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace hproc::controller {

// Splits the text of --slurm-args at blanks; quotes, single or double, keep blanks together. The error is an open quote.
Result<std::vector<std::string>> SplitArguments(const std::string& text);

// Whether every argument is an option of srun that leaves us ours (kReserved in the .cc: name, tasks, streams, how it waits),
// and nothing that srun would take for the program to run. Long options carry their value behind "="; of the short ones
// "-p gpu" and "-pgpu" are the same. The error names the argument, the option it means, and why it is refused.
Result<void> CheckSrunArguments(const std::vector<std::string>& arguments);

struct SrunTask {
  std::string job_name;
  int threads = 0;                      // CPUs of the task; 0: as Slurm or the operator has it
  std::vector<std::string> operators;   // checked arguments, behind ours
  std::vector<std::string> avoid;       // nodes, beside those that the operator excludes
  std::vector<std::string> command;
};

// The argv of srun, from argv[1] on.
std::vector<std::string> SrunArguments(const SrunTask& task);

}  // namespace hproc::controller
