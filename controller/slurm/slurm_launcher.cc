#include "controller/slurm/slurm_launcher.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/sha256.h"
#include "controller/slurm/handshake.h"
#include "controller/slurm/job_queue.h"
#include "controller/slurm/run_command.h"

namespace hproc::controller {
namespace {

constexpr std::chrono::seconds kPatience{30};
constexpr size_t kKeyDigits = 10;
constexpr size_t kNonceDigits = 6;

// The relay needs longer than a local worker: the node's agent, then srun, are given their own graces
// (controller/slurm/relay.cc).
constexpr std::chrono::seconds kPolite{12};
constexpr std::chrono::seconds kTerminate{10};

}  // namespace

SlurmLauncher::SlurmLauncher(std::filesystem::path program, std::vector<std::string> srun_arguments,
                             const std::filesystem::path& db)
    : program_(std::move(program)), srun_arguments_(std::move(srun_arguments)) {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  prefix_ = "hproc-" + Sha256Hex(std::string(host.data()) + '\0' + db.lexically_normal().string()).substr(0, kKeyDigits) + "-";
}

void SlurmLauncher::Launch(WorkerOptions& options, const LaunchRequest& request) const {
  // No two jobs have one name, whatever ran here before: squeue remembers them for a while.
  const std::string name = prefix_ + request.name + "-" + MakeSecret().substr(0, kNonceDigits);
  std::vector<std::string> arguments = {"relay", "--job-name=" + name,
                                        "--notes-fd=" + std::to_string(kNotesFd),
                                        "--threads=" + std::to_string(request.threads),
                                        "--ranks=" + std::to_string(request.ranks)};
  for (const std::string& argument : srun_arguments_) arguments.push_back("--srun-arg=" + argument);
  for (const std::string& node : request.avoid) arguments.push_back("--avoid=" + node);
  for (const std::string& node : request.faulty) arguments.push_back("--faulty=" + node);
  arguments.emplace_back("--");
  arguments.push_back(options.executable.string());
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  options.executable = program_;
  options.arguments = std::move(arguments);
  options.is_launched = true;
  options.polite = kPolite;
  options.terminate = kTerminate;
}

void SlurmLauncher::LaunchRank(WorkerOptions& options, const WorkerOptions& leader, int rank) const {
  constexpr std::string_view kName = "--job-name=";
  const auto name = std::ranges::find_if(leader.arguments, [&](const std::string& argument) { return argument.starts_with(kName); });
  HPROC_CHECK(name != leader.arguments.end(), "no options of Launch's");
  options.arguments = {"rank", *name, "--notes-fd=" + std::to_string(kNotesFd), "--rank=" + std::to_string(rank)};
}

Result<void> SlurmLauncher::Prepare() const {
  const Result<SlurmPrograms> programs = FindSlurmPrograms();
  if (!programs.ok()) return Error{"--launcher slurm: " + programs.error().message};
  // Jobs that have ended are not in this list.
  const Result<std::string> listed = RunCommand(
      {programs->squeue, "--noheader", "--user=" + std::to_string(::geteuid()), "--format=%i|%j"}, kPatience);
  if (!listed.ok()) return Error{"--launcher slurm: " + listed.error().message};
  std::vector<std::string> cancel = {programs->scancel, "--quiet"};
  for (size_t at = 0; at < listed->size();) {
    const size_t end = std::min(listed->find('\n', at), listed->size());
    const std::string line = listed->substr(at, end - at);
    at = end + 1;
    const size_t bar = line.find('|');
    if (bar == std::string::npos || !std::string_view(line).substr(bar + 1).starts_with(prefix_)) continue;
    cancel.push_back(line.substr(0, bar));
  }
  if (cancel.size() == 2) return Ok();
  const Result<std::string> cancelled = RunCommand(cancel, kPatience);
  if (!cancelled.ok()) return Error{"--launcher slurm: " + cancelled.error().message};
  return Ok();
}

}  // namespace hproc::controller
