#include "controller/slurm/run_command.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <system_error>
#include <utility>

#include "worker/lines.h"

namespace hproc::controller {

ChildCommand::ChildCommand(SpawnedWorker spawned) : spawned_(std::move(spawned)) {
  spawned_.control.Reset();  // it reads nothing
  spawned_.events.Reset();
}

Result<ChildCommand> ChildCommand::Start(const std::vector<std::string>& argv) {
  Result<SpawnedWorker> spawned = SpawnWorker(argv, EnvironmentWith({}));
  if (!spawned.ok()) return spawned.error();
  return ChildCommand(*std::move(spawned));
}

ChildCommand& ChildCommand::operator=(ChildCommand&& other) noexcept {
  if (this == &other) return *this;
  KillAndForget();
  spawned_ = std::move(other.spawned_);
  output_ = std::move(other.output_);
  return *this;
}

ChildCommand::~ChildCommand() { KillAndForget(); }

// The pidfd is there for as long as there is something to reap.
void ChildCommand::KillAndForget() {
  if (!spawned_.pidfd) return;
  KillAndReap(spawned_.pid);
  spawned_.pidfd.Reset();
}

void ChildCommand::ReadOutput() {
  std::array<char, 8192> chunk{};
  const ssize_t n = ::read(spawned_.log.get(), chunk.data(), chunk.size());
  if (n > 0) {
    output_.append(chunk.data(), std::min(static_cast<size_t>(n), kMaxOutputBytes - output_.size()));
  } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
    spawned_.log.Reset();
  }
}

int ChildCommand::Reap() {
  for (size_t before = SIZE_MAX; spawned_.log && before != output_.size();) {
    before = output_.size();
    ReadOutput();
  }
  int status = 0;
  while (::waitpid(spawned_.pid, &status, 0) < 0 && errno == EINTR) {
  }
  spawned_.pidfd.Reset();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result<std::string> RunCommand(const std::vector<std::string>& argv, std::chrono::milliseconds patience) {
  Result<ChildCommand> child = ChildCommand::Start(argv);
  if (!child.ok()) return child.error();
  const auto until = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Error{argv[0] + ": no answer within " + std::to_string(patience.count() / 1000) + " s"};
    std::array<pollfd, 2> fds{{{child->output_fd(), POLLIN, 0}, {child->pidfd(), POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), static_cast<int>(left.count())) < 0) continue;
    if (fds[0].revents != 0) child->ReadOutput();
    if (fds[1].revents != 0) break;
  }
  const int code = child->Reap();
  if (code == 0) return child->output();
  const std::string said = LastLine(child->output());
  return Error{said.empty() ? argv[0] + ": exit code " + std::to_string(code) : said};
}

int BecomeChild(pid_t parent, const std::vector<std::string>& argv) {
  // posix_spawn cannot say so for its child. Kept over exec, unless the program is set-uid.
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) return 1;
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  std::fprintf(stderr, "hproc-slurm: %s: %s\n", arguments[0], std::generic_category().message(errno).c_str());
  return 1;
}

std::string LastLine(std::string_view text, std::string_view prefix) {
  constexpr size_t kMaxBytes = 300;
  while (!text.empty()) {
    const size_t start = text.rfind('\n');
    const std::string_view line = start == std::string_view::npos ? text : text.substr(start + 1);
    if (line.starts_with(prefix) && line.find_first_not_of(" \t\r") != std::string_view::npos) return worker::OneLine(line, kMaxBytes);
    if (start == std::string_view::npos) break;
    text = text.substr(0, start);
  }
  return {};
}

}  // namespace hproc::controller
