// SlurmLauncher: each worker a job of Slurm, by srun, with hproc-slurm between it and its supervisor
// (controller/slurm/relay.h).
//
// Jobs are named hproc-KEY-NAME-NONCE, like hproc-0d1f…-t3-a1-9bc04e. The key is made of this machine's name and the study file's path, so that a controller
// that goes on with a study finds the jobs of one that was killed, and two studies never meet.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/launcher.h"

namespace hproc::controller {

class SlurmLauncher final : public Launcher {
 public:
  // `program` is hproc-slurm; `srun_arguments` are checked (controller/slurm/srun_arguments.h); `db` is absolute.
  SlurmLauncher(std::filesystem::path program, std::vector<std::string> srun_arguments, const std::filesystem::path& db);

  void Launch(WorkerOptions& options, const LaunchRequest& request) const override;
  void LaunchRank(WorkerOptions& options, const WorkerOptions& leader, int rank) const override;
  // Slurm's commands are there and answer, and no job of this study is left.
  Result<void> Prepare() const override;

  const std::string& prefix() const { return prefix_; }  // of the jobs' names

 private:
  std::filesystem::path program_;
  std::vector<std::string> srun_arguments_;
  std::string prefix_;
};

}  // namespace hproc::controller
