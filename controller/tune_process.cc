#include "controller/tune_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "controller/file_lock.h"
#include "controller/spawn.h"
#include "controller/worker_log.h"

namespace hproc::controller {
namespace {

constexpr int64_t kLogBytes = int64_t{1} << 20;
constexpr int64_t kTailBytes = int64_t{64} << 10;

}  // namespace

struct TuneProcess::State {
  State(SpawnedWorker s, const std::filesystem::path& log_file)
      : spawned(std::move(s)), log(log_file, kLogBytes, kTailBytes) {
    spawned.control.Reset();  // it reads nothing
    spawned.events.Reset();   // and speaks through the journal
    thread = std::thread([this] { Watch(); });
  }

  // Drains what it prints, then reaps it. The zombie keeps its number until `mutex` is held, so that no signal goes astray.
  void Watch() {
    std::array<char, 8192> buffer{};
    bool printing = true;
    for (;;) {
      std::array<pollfd, 2> wait{{{.fd = printing ? spawned.log.get() : -1, .events = POLLIN, .revents = 0},
                                  {.fd = spawned.pidfd.get(), .events = POLLIN, .revents = 0}}};
      if (::poll(wait.data(), wait.size(), -1) < 0) continue;
      const bool ended = wait[1].revents != 0;
      while (printing) {
        const ssize_t count = ::read(spawned.log.get(), buffer.data(), buffer.size());
        if (count > 0) {
          log.Append({buffer.data(), static_cast<size_t>(count)});
          continue;
        }
        // A grandchild may keep the pipe open; what it prints is no longer waited for.
        if (count == 0 || errno != EINTR) {
          if (count == 0) printing = false;
          break;
        }
      }
      if (ended) break;
    }
    log.Close();
    const std::scoped_lock lock(mutex);
    int status = 0;
    while (::waitpid(spawned.pid, &status, 0) < 0 && errno == EINTR) {
    }
    exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    ended_condition.notify_all();
  }

  void Signal(int signal) {
    const std::scoped_lock lock(mutex);
    if (!exit_code) ::kill(spawned.pid, signal);
  }

  SpawnedWorker spawned;
  WorkerLog log;
  mutable std::mutex mutex;  // guards exit_code and the life of the pid
  std::condition_variable ended_condition;
  std::optional<int> exit_code;
  std::thread thread;
};

Result<std::unique_ptr<TuneProcess>> TuneProcess::Start(std::vector<std::string> argv,
                                                        const std::filesystem::path& log_file) {
  Result<SpawnedWorker> spawned = SpawnWorker(argv, EnvironmentWith({}));
  if (!spawned.ok()) return spawned.error();
  const pid_t pid = spawned->pid;
  try {
    return std::unique_ptr<TuneProcess>(new TuneProcess(std::make_unique<State>(*std::move(spawned), log_file)));
  } catch (const std::system_error& error) {  // no thread to be had
    KillAndReap(pid);
    return Error{std::string("cannot supervise a tune: ") + error.what()};
  }
}

TuneProcess::TuneProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}

TuneProcess::~TuneProcess() {
  Interrupt();
  if (!Wait(kPatience)) EndNow();
  state_->thread.join();
}

void TuneProcess::Interrupt() { state_->Signal(SIGINT); }

void TuneProcess::EndNow() {
  constexpr std::chrono::milliseconds kBetween{200};  // two signals at once would be one
  for (int i = 0; i < 2; ++i) {
    Interrupt();
    if (Wait(kBetween)) return;
  }
  if (!Wait(std::chrono::seconds(2))) state_->Signal(SIGKILL);  // its worker sees the pipe close, and ends
}

bool TuneProcess::Wait(std::chrono::milliseconds patience) {
  std::unique_lock lock(state_->mutex);
  return state_->ended_condition.wait_for(lock, patience, [this] { return state_->exit_code.has_value(); });
}

std::optional<int> TuneProcess::exit_code() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->exit_code;
}

pid_t TuneProcess::pid() const { return state_->spawned.pid; }

std::string TuneProcess::LogTail(size_t max_bytes) const { return state_->log.Tail(max_bytes); }

Result<void> InterruptHolder(const std::filesystem::path& db) {
  const std::optional<LockHolder> holder = HolderOf(db);
  if (!holder) return Error{"nothing runs on " + db.filename().string()};
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, holder->pid, 0)));
  // Asked again once the number cannot pass to another process.
  const std::optional<LockHolder> still = HolderOf(db);
  if (!pidfd || !still || still->pid != holder->pid) return Error{"nothing runs on " + db.filename().string()};
  if (::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGINT, nullptr, 0) != 0) {
    return Error{"process " + std::to_string(holder->pid) + " cannot be interrupted: " +
                 std::generic_category().message(errno)};
  }
  return Ok();
}

}  // namespace hproc::controller
