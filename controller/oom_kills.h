// OomKillCounter: how often the kernel's OOM killer struck in this process's memory cgroup, where
// its workers live too.
//
// The counter rises before the victim gets its SIGKILL, in the victim's own cgroup, whether that
// cgroup or the whole machine ran out. It does not name the victim, and a userspace killer
// (systemd-oomd) leaves no trace in it: a rise while a worker died of SIGKILL is evidence, no rise
// says that the kernel did not do it, and no counter says nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace hproc::controller {

class OomKillCounter {
 public:
  // Of the calling process's cgroup, v2 or v1; Read() gives nullopt for good where there is none.
  static OomKillCounter OfThisProcess();

  // A file with a line "oom_kill N" (memory.events, memory.events.local, memory.oom_control). May
  // be empty.
  explicit OomKillCounter(std::filesystem::path file) : file_(std::move(file)) {}

  std::optional<int64_t> Read() const;
  const std::filesystem::path& file() const { return file_; }

 private:
  std::filesystem::path file_;
};

// Where the counter may be, best first, given the texts of /proc/self/cgroup and
// /proc/self/mountinfo. Pure.
std::vector<std::filesystem::path> OomKillFiles(std::string_view cgroups, std::string_view mounts);

}  // namespace hproc::controller
