// What Slurm says of a job, by squeue: where it stands, and how it ended. Pure but for FindProgram.
//
// Jobs are asked for by name, since srun tells its job's number only where the job has to wait; the names are unique
// (controller/slurm/slurm_launcher.h). squeue knows ended jobs for a while too (MinJobAge, 5 min), with or without an
// accounting database.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hproc::controller {

struct JobInfo {
  std::string id;
  std::string state;   // "PENDING", "RUNNING", "COMPLETED", "CANCELLED", "NODE_FAIL", …
  std::string node;    // where it runs, or ran
  std::string reason;  // why it waits; "None" comes as empty
};

// The arguments of squeue, and the job in its answer; none where it knows no such job or does not answer.
std::vector<std::string> SqueueArguments(const std::string& job_name);
std::optional<JobInfo> ParseSqueue(std::string_view output);

// In the queue, or on its way to or from a node: not yet where its worker could run, or not yet ended for good.
bool IsPending(std::string_view state);
bool IsActive(std::string_view state);  // running, or about to end

// In PATH; the error names what is missing.
Result<std::filesystem::path> FindProgram(const std::string& name);

struct SlurmPrograms {
  std::string srun;
  std::string squeue;
  std::string scancel;
};
Result<SlurmPrograms> FindSlurmPrograms();

}  // namespace hproc::controller
