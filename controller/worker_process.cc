#include "controller/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/unique_fd.h"
#include "controller/spawn.h"
#include "controller/worker_log.h"
#include "worker/lines.h"

namespace hproc::controller {
namespace {

using Clock = Watchdog::Clock;

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kMaxDetail = 500;          // of a kill_detail
constexpr size_t kEndTailBytes = 16 << 10;  // of the log, in a WorkerEnd
// The controller was stopped or starved when poll returns so much later than asked.
constexpr Clock::duration kStall = std::chrono::seconds(1);

// Signals are for the main thread; a SIGPIPE stays pending here and the write says EPIPE.
void BlockAllSignals() {
  sigset_t all;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

// Should the machine run out of memory, better the worker than the controller with the study. Best
// effort; it may only be raised, and may be high already where a container runtime set it.
void PreferAsOomVictim(pid_t pid) {
  constexpr int kAdjustment = 500;
  const std::string path = "/proc/" + std::to_string(pid) + "/oom_score_adj";
  int inherited = kAdjustment;
  std::ifstream(path) >> inherited;
  if (inherited < kAdjustment) std::ofstream(path) << kAdjustment;
}

int PipeCapacity(const UniqueFd& fd) {
  const int capacity = ::fcntl(fd.get(), F_GETPIPE_SZ);
  return capacity > 0 ? capacity : 1 << 20;
}

}  // namespace

class WorkerProcess::Supervisor {
 public:
  Supervisor(WorkerOptions options, std::vector<std::string> argv, const worker::Job& job,
             SpawnedWorker spawned, UniqueFd wake, std::optional<int64_t> oom_kills_before)
      : options_(std::move(options)),
        argv_(std::move(argv)),
        pid_(spawned.pid),
        pidfd_(std::move(spawned.pidfd)),
        wake_(std::move(wake)),
        oom_kills_before_(oom_kills_before),
        started_(Clock::now()),
        control_(std::move(spawned.control)),
        events_(std::move(spawned.events)),
        log_pipe_(std::move(spawned.log)),
        outgoing_(worker::EncodeJob(job)),
        lines_(worker::kMaxLineBytes),
        conversation_(job),
        watchdog_(options_.deadlines, started_),
        log_(options_.log_file, options_.log_file_bytes, options_.log_tail_bytes),
        thread_([this] { Run(); }) {}

  // Of any thread.

  void Send(worker::Command command, std::string line) {
    {
      const std::lock_guard lock(mutex_);
      commands_.push_back({std::move(command), std::move(line)});
    }
    Wake();
  }

  void End(KillCause cause, std::string detail, bool at_once) {
    {
      const std::lock_guard lock(mutex_);
      if (!wish_) wish_ = Wish{cause, std::move(detail), false};
      wish_->at_once |= at_once;
    }
    Wake();
  }

  std::variant<worker::Event, WorkerEnd> NextEvent() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return !queue_.empty() || end_.has_value(); });
    if (queue_.empty()) return *end_;
    const bool was_full = !HasRoom();
    worker::Event event = std::move(queue_.front().event);
    queued_bytes_ -= queue_.front().bytes;
    queue_.pop_front();
    lock.unlock();
    if (was_full) Wake();
    return event;
  }

  std::string LogTail(size_t max_bytes) const { return log_.Tail(max_bytes); }
  const std::vector<std::string>& argv() const { return argv_; }
  const std::vector<std::string>& environment() const { return options_.environment; }
  pid_t pid() const { return pid_; }

  // Joins; the process must have been told to end.
  ~Supervisor() {
    thread_.join();
    if (!unkillable_) return;
    // Perhaps it has come loose. If not, whoever inherits it reaps it.
    if (::waitpid(pid_, nullptr, WNOHANG) == 0) {
      spdlog::error("worker {} does not die of SIGKILL: it is stuck in the kernel", pid_);
    }
  }

 private:
  struct Outgoing {
    worker::Command command;
    std::string line;
  };
  struct Queued {
    worker::Event event;
    int64_t bytes;
  };
  struct Wish {
    KillCause cause;
    std::string detail;
    bool at_once;
  };
  enum class Ending { kNone, kClosed, kTerminated, kKilled };

  // Under mutex_.
  bool HasRoom() const {
    return queue_.size() < options_.max_queued_events && queued_bytes_ < options_.max_queued_bytes;
  }

  void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
  }

  // All below is of the supervisor's thread.

  void Run() {
    BlockAllSignals();
    PreferAsOomVictim(pid_);
    while (!dead_ && !unkillable_) Turn();
    Bury();
  }

  // Waits for something to do and does it.
  void Turn() {
    bool has_room = false;
    {
      const std::lock_guard lock(mutex_);
      has_room = HasRoom();
    }
    const bool listening = events_ && has_room;
    std::array<pollfd, 5> fds{
        pollfd{wake_.get(), POLLIN, 0},
        pollfd{pidfd_.get(), POLLIN, 0},
        // Without anything to write a broken pipe would be reported over and over.
        pollfd{outgoing_.empty() ? -1 : control_.get(), POLLOUT, 0},
        pollfd{listening ? events_.get() : -1, POLLIN, 0},
        pollfd{log_pipe_.get(), POLLIN, 0},
    };
    const Clock::time_point before = Clock::now();
    const Clock::time_point due = std::min(NextDeadline(), before + std::chrono::minutes(1));
    const auto timeout = std::max(std::chrono::ceil<std::chrono::milliseconds>(due - before),
                                  std::chrono::milliseconds(0));
    if (::poll(fds.data(), fds.size(), static_cast<int>(timeout.count())) < 0) return;  // EINTR
    const Clock::time_point after = Clock::now();
    const Clock::duration late = after - before - timeout;
    if (events_ && !has_room) {
      watchdog_.Excuse(after - before);
    } else if (late > kStall) {
      watchdog_.Excuse(late);
    }

    if (fds[0].revents != 0) TakeWishes();
    if (fds[4].revents != 0) ReadLog();
    if (fds[3].revents != 0) ReadEvents();
    if (fds[2].revents != 0) WriteControl();
    if (fds[1].revents != 0) {
      dead_ = true;
      return;
    }
    // Only now, so that what was waiting in the pipes counts before the clock does.
    CheckDeadlines(Clock::now());
  }

  void TakeWishes() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof(count));
    std::deque<Outgoing> commands;
    std::optional<Wish> wish;
    {
      const std::lock_guard lock(mutex_);
      commands.swap(commands_);
      wish = wish_;
    }
    for (const Outgoing& next : commands) {
      conversation_.OnCommand(next.command);
      outgoing_ += next.line;
    }
    watchdog_.Enter(Clock::now(), conversation_.step(), conversation_.record().phase);
    WriteControl();
    if (!wish) return;
    BeginEnding(wish->cause, wish->detail);
    if (wish->at_once) Kill();
  }

  void WriteControl() {
    size_t written = 0;
    while (control_ && written < outgoing_.size()) {
      const ssize_t n =
          ::write(control_.get(), outgoing_.data() + written, outgoing_.size() - written);
      if (n >= 0) {
        written += static_cast<size_t>(n);
      } else if (errno == EAGAIN) {
        break;
      } else if (errno != EINTR) {
        control_.Reset();  // the worker closed its end: it is about to end, or will be found silent
      }
    }
    outgoing_.erase(0, control_ ? written : std::string::npos);
  }

  // False when there is nothing more to read now, or ever (the descriptor is then closed).
  bool ReadChunk(UniqueFd& fd, std::string_view* bytes) {
    const ssize_t n = ::read(fd.get(), chunk_.data(), chunk_.size());
    if (n > 0) {
      *bytes = {chunk_.data(), static_cast<size_t>(n)};
      return true;
    }
    if (n == 0 || (errno != EINTR && errno != EAGAIN)) fd.Reset();
    return false;
  }

  size_t ReadLog() {
    std::string_view bytes;
    if (!ReadChunk(log_pipe_, &bytes)) return 0;
    log_.Append(bytes);
    return bytes.size();
  }

  size_t ReadEvents() {
    std::string_view bytes;
    if (!ReadChunk(events_, &bytes)) return 0;
    // Once the process is being ended, what it still says no longer counts; reading on lets it come
    // to its own end.
    if (cause_ != KillCause::kNone) return bytes.size();
    lines_.Append(bytes);
    while (const auto line = lines_.Next()) {
      if (!TakeLine(*line)) return bytes.size();
    }
    if (lines_.overlong()) {
      BeginEnding(KillCause::kProtocolError,
                  "a line of more than " + std::to_string(worker::kMaxLineBytes) + " bytes");
    }
    return bytes.size();
  }

  // False when the line ended the conversation by breaking the protocol.
  bool TakeLine(std::string_view line) {
    Result<worker::Event> event = worker::DecodeEvent(line);
    const Result<void> valid =
        event.ok() ? conversation_.OnEvent(*event) : Result<void>(event.error());
    if (!valid.ok()) {
      BeginEnding(KillCause::kProtocolError, valid.error().message);
      return false;
    }
    const Clock::time_point now = Clock::now();
    watchdog_.Heard(now, event->body);
    watchdog_.Enter(now, conversation_.step(), conversation_.record().phase);
    // Nobody but the watchdog needs heartbeats, and an idle conversation would fill the queue with
    // them.
    if (std::holds_alternative<worker::HeartbeatEvent>(event->body)) return true;
    const auto bytes = static_cast<int64_t>(line.size());
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back({std::move(*event), bytes});
      queued_bytes_ += bytes;
    }
    arrived_.notify_all();
    return true;
  }

  Clock::time_point NextDeadline() const {
    return ending_ == Ending::kNone ? watchdog_.Next() : ending_until_;
  }

  void CheckDeadlines(Clock::time_point now) {
    if (ending_ == Ending::kNone) {
      if (const auto alarm = watchdog_.Check(now)) BeginEnding(alarm->cause, alarm->detail);
      return;
    }
    if (now < ending_until_) return;
    switch (ending_) {
      case Ending::kClosed:
        ending_ = Ending::kTerminated;
        ending_until_ = now + options_.terminate;
        ::kill(-pid_, SIGTERM);
        break;
      case Ending::kTerminated:
        Kill();
        break;
      case Ending::kKilled:
        unkillable_ = true;
        break;
      case Ending::kNone:
        break;
    }
  }

  void BeginEnding(KillCause cause, std::string_view detail) {
    if (cause_ != KillCause::kNone) return;
    cause_ = cause;
    detail_ = worker::OneLine(detail, kMaxDetail);
    ending_ = Ending::kClosed;
    ending_until_ = Clock::now() + options_.polite;
    control_.Reset();
    outgoing_.clear();
  }

  void Kill() {
    if (ending_ == Ending::kKilled) return;
    ending_ = Ending::kKilled;
    ending_until_ = Clock::now() + options_.reap;
    sigkill_sent_ = true;
    ::kill(-pid_, SIGKILL);
    ::kill(
        pid_,
        SIGKILL);  // should it have left its own group; not reaped, so the number is still its own
  }

  void Bury() {
    WorkerEnd end;
    end.kill_cause = cause_;
    end.kill_detail = detail_;
    end.sigkill_sent = sigkill_sent_;
    if (unkillable_) {
      end.unkillable = true;
    } else {
      // Before the wait: as long as the zombie holds its number, the group's cannot be anybody
      // else's.
      ::kill(-pid_, SIGKILL);
      DrainPipes();
      Reap(&end);
      // A violation may have come to light in what was drained.
      end.kill_cause = cause_;
      end.kill_detail = detail_;
    }
    log_.Close();
    end.log_tail = log_.Tail(kEndTailBytes);
    end.log_error = log_.error();
    end.record = conversation_.record();
    end.torn_bytes = static_cast<int64_t>(lines_.torn_bytes());
    end.wall_seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    const std::optional<int64_t> oom_kills_after = options_.oom_kills.Read();
    if (oom_kills_before_ && oom_kills_after) {
      end.oom_kills = *oom_kills_after > *oom_kills_before_ ? OomKills::kSome : OomKills::kNone;
    }
    {
      const std::lock_guard lock(mutex_);
      end_ = std::move(end);
    }
    arrived_.notify_all();
  }

  // What the worker wrote before it died is in the pipes, and no more than they hold. Their other
  // ends may be held open and written to by a process that left the group, so neither EOF nor
  // silence is waited for.
  void DrainPipes() {
    for (int left = events_ ? PipeCapacity(events_) : 0; events_ && left > 0;) {
      const size_t n = ReadEvents();
      if (n == 0) break;
      left -= static_cast<int>(n);
    }
    for (int left = log_pipe_ ? PipeCapacity(log_pipe_) : 0; log_pipe_ && left > 0;) {
      const size_t n = ReadLog();
      if (n == 0) break;
      left -= static_cast<int>(n);
    }
    control_.Reset();
    events_.Reset();
    log_pipe_.Reset();
  }

  void Reap(WorkerEnd* end) {
    int status = 0;
    rusage usage{};
    pid_t reaped = -1;
    do {
      reaped = ::wait4(pid_, &status, 0, &usage);
    } while (reaped < 0 && errno == EINTR);
    end->peak_rss_bytes = int64_t{usage.ru_maxrss} << 10;
    if (reaped != pid_) {
      end->status_lost = true;
    } else if (WIFEXITED(status)) {
      end->exit_code = WEXITSTATUS(status);
    } else {
      end->signal = WTERMSIG(status);
    }
  }

  const WorkerOptions options_;
  const std::vector<std::string> argv_;
  const pid_t pid_;
  const UniqueFd pidfd_;
  const UniqueFd wake_;  // an eventfd
  const std::optional<int64_t> oom_kills_before_;
  const Clock::time_point started_;

  // Of the supervisor's thread.
  UniqueFd control_;
  UniqueFd events_;
  UniqueFd log_pipe_;
  std::string outgoing_;
  std::array<char, kReadBytes> chunk_;
  worker::LineSplitter lines_;
  Conversation conversation_;
  Watchdog watchdog_;
  WorkerLog log_;  // but for Tail
  Ending ending_ = Ending::kNone;
  Clock::time_point ending_until_;
  KillCause cause_ = KillCause::kNone;
  std::string detail_;
  bool sigkill_sent_ = false;
  bool dead_ = false;
  bool unkillable_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable arrived_;
  std::deque<Outgoing> commands_;
  std::optional<Wish> wish_;
  std::deque<Queued> queue_;
  int64_t queued_bytes_ = 0;
  std::optional<WorkerEnd> end_;

  std::jthread thread_;  // last: starts when all above is there
};

Result<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(WorkerOptions options,
                                                            const worker::Job& job) {
  std::vector<std::string> argv{options.executable.string()};
  argv.insert(argv.end(), options.arguments.begin(), options.arguments.end());
  argv.insert(argv.end(), {"--events-fd", std::to_string(kEventsFd)});

  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return Error{"cannot make an eventfd"};
  const std::optional<int64_t> oom_kills_before = options.oom_kills.Read();
  Result<SpawnedWorker> spawned = SpawnWorker(argv, EnvironmentWith(options.environment));
  if (!spawned.ok()) return spawned.error();
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(
      std::make_unique<Supervisor>(std::move(options), std::move(argv), job, *std::move(spawned),
                                   std::move(wake), oom_kills_before)));
}

WorkerProcess::WorkerProcess(std::unique_ptr<Supervisor> supervisor)
    : supervisor_(std::move(supervisor)) {}

WorkerProcess::~WorkerProcess() {
  supervisor_->End(KillCause::kStopped, "its owner is gone", /*at_once=*/true);
}

Result<void> WorkerProcess::Send(const worker::Command& command) {
  std::string line = worker::EncodeCommand(command);
  if (line.size() > worker::kMaxLineBytes) {
    return Error{"a command of " + std::to_string(line.size()) + " bytes, more than " +
                 std::to_string(worker::kMaxLineBytes)};
  }
  supervisor_->Send(command, std::move(line));
  return Ok();
}

std::variant<worker::Event, WorkerEnd> WorkerProcess::NextEvent() {
  return supervisor_->NextEvent();
}

void WorkerProcess::Stop(std::string why) {
  supervisor_->End(KillCause::kStopped, std::move(why), /*at_once=*/false);
}

void WorkerProcess::Reject(std::string lie) {
  supervisor_->End(KillCause::kProtocolError, std::move(lie), /*at_once=*/false);
}

std::string WorkerProcess::LogTail(size_t max_bytes) const {
  return supervisor_->LogTail(max_bytes);
}

const std::vector<std::string>& WorkerProcess::argv() const { return supervisor_->argv(); }
const std::vector<std::string>& WorkerProcess::environment() const {
  return supervisor_->environment();
}
pid_t WorkerProcess::pid() const { return supervisor_->pid(); }

}  // namespace hproc::controller
