#include "controller/slurm/job_queue.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace hproc::controller {
namespace {

bool IsOneOf(std::string_view state, std::initializer_list<std::string_view> states) {
  return std::ranges::find(states, state) != states.end();
}

}  // namespace

std::vector<std::string> SqueueArguments(const std::string& job_name) {
  return {"--noheader", "--states=all", "--name=" + job_name, "--format=%i|%T|%N|%r"};
}

std::optional<JobInfo> ParseSqueue(std::string_view output) {
  std::optional<JobInfo> job;
  while (!output.empty()) {
    const size_t end = std::min(output.find('\n'), output.size());
    std::string_view line = output.substr(0, end);
    output.remove_prefix(std::min(end + 1, output.size()));
    std::array<std::string_view, 4> fields;
    size_t count = 0;
    while (count < 3 && line.find('|') != std::string_view::npos) {
      fields[count++] = line.substr(0, line.find('|'));
      line.remove_prefix(line.find('|') + 1);
    }
    if (count < 3 || fields[0].empty() || fields[0].find_first_not_of("0123456789_[]-") != std::string_view::npos) continue;
    fields[3] = line;  // a reason may hold anything
    job = JobInfo{std::string(fields[0]), std::string(fields[1]), std::string(fields[2]),
                  fields[3] == "None" ? "" : std::string(fields[3])};
  }
  return job;  // of several the last, which is the youngest
}

bool IsPending(std::string_view state) {
  return IsOneOf(state, {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"});
}

bool IsActive(std::string_view state) {
  return IsOneOf(state, {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING"});
}

Result<std::filesystem::path> FindProgram(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string_view folders = path != nullptr ? path : "/usr/bin:/bin";
  while (!folders.empty()) {
    const size_t end = std::min(folders.find(':'), folders.size());
    const std::filesystem::path file = std::filesystem::path(folders.substr(0, end)) / name;
    std::error_code error;
    if (end > 0 && std::filesystem::is_regular_file(file, error) && ::access(file.c_str(), X_OK) == 0) return file;
    folders.remove_prefix(std::min(end + 1, folders.size()));
  }
  return Error{name + ": not found in PATH; is Slurm installed here?"};
}

Result<SlurmPrograms> FindSlurmPrograms() {
  SlurmPrograms programs;
  for (const auto& [name, path] : {std::pair{"srun", &programs.srun}, {"squeue", &programs.squeue}, {"scancel", &programs.scancel}}) {
    const Result<std::filesystem::path> found = FindProgram(name);
    if (!found.ok()) return found.error();
    *path = found->string();
  }
  return programs;
}

}  // namespace hproc::controller
