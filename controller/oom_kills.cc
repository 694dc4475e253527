#include "controller/oom_kills.h"

#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace hproc::controller {
namespace {

// These files report a size of 0 and must be read to their end.
std::string ReadPseudoFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream{std::string(text)};
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool Contains(const std::vector<std::string>& list, std::string_view item) {
  for (const std::string& entry : list) {
    if (entry == item) return true;
  }
  return false;
}

// The folder of `cgroup` under a mount point that shows the hierarchy from `root` on. Without
// cgroup namespaces a container sees its own cgroup mounted as root: the mount point is then what
// there is to see.
std::filesystem::path Folder(const std::string& mount_point, const std::string& root,
                             const std::string& cgroup) {
  if (root == "/") return std::filesystem::path(mount_point + cgroup).lexically_normal();
  if (cgroup.rfind(root, 0) == 0) {
    return std::filesystem::path(mount_point + cgroup.substr(root.size())).lexically_normal();
  }
  return mount_point;
}

}  // namespace

std::vector<std::filesystem::path> OomKillFiles(std::string_view cgroups, std::string_view mounts) {
  // "4:memory:/path" is v1, "0::/path" v2. With both, memory is controlled where it is named.
  std::optional<std::string> v1;
  std::optional<std::string> v2;
  for (const std::string& line : Split(cgroups, '\n')) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (path.rfind("/..", 0) == 0) continue;  // outside what this namespace shows
    if (controllers.empty()) v2 = path;
    if (Contains(Split(controllers, ','), "memory")) v1 = path;
  }

  // "35 31 0:32 /root /mount/point options [tags…] - type source super_options"
  std::vector<std::filesystem::path> of_v1;
  std::vector<std::filesystem::path> of_v2;
  for (const std::string& line : Split(mounts, '\n')) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> head = Split(std::string_view(line).substr(0, dash), ' ');
    const std::vector<std::string> tail = Split(std::string_view(line).substr(dash + 3), ' ');
    if (head.size() < 5 || tail.size() < 3) continue;
    if (v1 && tail[0] == "cgroup" && Contains(Split(tail[2], ','), "memory")) {
      of_v1.push_back(Folder(head[4], head[3], *v1) / "memory.oom_control");
    }
    if (v2 && tail[0] == "cgroup2") {
      const std::filesystem::path folder = Folder(head[4], head[3], *v2);
      of_v2.push_back(folder / "memory.events.local");  // without what happens in cgroups below
      of_v2.push_back(folder / "memory.events");
    }
  }
  of_v1.insert(of_v1.end(), of_v2.begin(), of_v2.end());
  return of_v1;
}

OomKillCounter OomKillCounter::OfThisProcess() {
  for (const std::filesystem::path& file :
       OomKillFiles(ReadPseudoFile("/proc/self/cgroup"), ReadPseudoFile("/proc/self/mountinfo"))) {
    OomKillCounter counter(file);
    if (counter.Read()) return counter;
  }
  return OomKillCounter({});
}

std::optional<int64_t> OomKillCounter::Read() const {
  if (file_.empty()) return std::nullopt;
  for (const std::string& line : Split(ReadPseudoFile(file_), '\n')) {
    static constexpr std::string_view kKey = "oom_kill ";
    if (line.rfind(kKey, 0) != 0) continue;
    int64_t count = 0;
    const char* end = line.data() + line.size();
    const auto parsed = std::from_chars(line.data() + kKey.size(), end, count);
    if (parsed.ec == std::errc() && parsed.ptr == end) return count;
  }
  return std::nullopt;
}

}  // namespace hproc::controller
