#include "tests/controller/cli/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/file.h"

namespace hproc::controller {
namespace {

constexpr int64_t kMaxOutputBytes = 64 << 20;

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// The name of "NAME=value", '=' included.
std::string NameOf(const std::string& variable) {
  return variable.substr(0, variable.find('=') + 1);
}

}  // namespace

Command::Command(const std::vector<std::string>& arguments, const Options& options) {
  std::vector<std::string> words = {HPROC_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment = options.environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string name = NameOf(*variable);
    if (std::ranges::none_of(options.environment,
                             [&](const std::string& v) { return NameOf(v) == name; })) {
      environment.emplace_back(*variable);
    }
  }
  const std::string out =
      options.stdout_file.empty() ? (folder_ / "out").string() : options.stdout_file;
  const std::string err = folder_ / "err";
  posix_spawn_file_actions_t actions{};
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addchdir_np(&actions, folder_.path().c_str());
  const int code = ::posix_spawn(&pid_, HPROC_BINARY, &actions, nullptr, Pointers(words).data(),
                                 Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  HPROC_CHECK(code == 0, HPROC_BINARY);
}

Command::~Command() {
  if (pid_ <= 0) return;
  Signal(SIGKILL);
  Wait();
}

void Command::Signal(int signal) const { ::kill(pid_, signal); }

Finished Command::Wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  Finished finished;
  finished.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (Result<std::string> out = ReadFile(folder_ / "out", kMaxOutputBytes); out.ok())
    finished.out = *out;
  if (Result<std::string> err = ReadFile(folder_ / "err", kMaxOutputBytes); err.ok())
    finished.err = *err;
  return finished;
}

}  // namespace hproc::controller
