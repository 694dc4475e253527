#include "tests/controller/processes.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

namespace hproc::controller {
namespace {

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") == std::string::npos) pids.push_back(std::stoi(name));
  }
  return pids;
}

std::string ReadProc(pid_t pid, const char* file) {
  std::ifstream stream("/proc/" + std::to_string(pid) + "/" + file);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace

std::vector<pid_t> Marked(const std::string& mark) {
  std::vector<pid_t> found;
  for (const pid_t pid : AllProcesses()) {
    if (ReadProc(pid, "environ").find(mark) != std::string::npos) found.push_back(pid);
  }
  return found;
}

std::vector<pid_t> MarkedAfterAWhile(const std::string& mark) {
  std::vector<pid_t> found = Marked(mark);
  for (int i = 0; i < 200 && !found.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    found = Marked(mark);
  }
  return found;
}

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> found;
  for (const pid_t pid : AllProcesses()) {
    // "pid (name) state ppid …", and the name may hold anything.
    const std::string stat = ReadProc(pid, "stat");
    const size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos) continue;
    if (std::stoi(stat.substr(name_end + 4)) == parent) found.push_back(pid);
  }
  return found;
}

int TortureKills(int otherwise) {
  const char* kills = std::getenv("HPROC_TORTURE_KILLS");
  return kills == nullptr ? otherwise : std::atoi(kills);
}

}  // namespace hproc::controller
