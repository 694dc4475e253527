#include "controller/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <utility>

namespace hproc::controller {
namespace {

constexpr size_t kMaxDetail = 500;          // of a kill_detail
constexpr size_t kMaxNoteBytes = 64 << 10;
constexpr size_t kEndTailBytes = 16 << 10;  // of the log, in a WorkerEnd
// The controller was stopped or starved when poll returns so much later than asked.
constexpr std::chrono::seconds kStall{1};

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

// The groups of the workers that are not reaped yet, for KillAllWorkers. One too many for it is not killed there.
std::array<std::atomic<pid_t>, 256> g_groups;

void Replace(pid_t from, pid_t to) {
  for (std::atomic<pid_t>& group : g_groups) {
    pid_t expected = from;
    if (group.compare_exchange_strong(expected, to)) return;
  }
}

}  // namespace

void KillAllWorkers() {
  for (const std::atomic<pid_t>& group : g_groups) {
    if (const pid_t pid = group; pid > 0) ::kill(-pid, SIGKILL);
  }
}

WorkerProcess::Supervisor::Supervisor(WorkerOptions options, SupervisorStart start)
    : options_(std::move(options)),
      argv_(std::move(start.argv)),
      pid_(start.spawned.pid),
      pidfd_(std::move(start.spawned.pidfd)),
      wake_(std::move(start.wake)),
      oom_kills_before_(start.oom_kills_before),
      started_(Clock::now()),
      control_(std::move(start.spawned.control)),
      events_(std::move(start.spawned.events)),
      log_pipe_(std::move(start.spawned.log)),
      notes_pipe_(std::move(start.spawned.notes)),
      outgoing_(std::move(start.job_line)),
      lines_(worker::kMaxLineBytes),
      conversation_(start.job),
      watchdog_(options_.deadlines, started_),
      log_(options_.log_file, options_.log_file_bytes, options_.log_tail_bytes),
      notes_(kMaxNoteBytes),
      is_heard_(!options_.is_launched),
      thread_([this] { Run(); }) {}

WorkerProcess::Supervisor::~Supervisor() {
  thread_.join();
  if (!unkillable_) return;
  // Perhaps it has come loose. If not, whoever inherits it reaps it.
  if (::waitpid(pid_, nullptr, WNOHANG) == 0) {
    spdlog::error("worker {} does not die of SIGKILL: it is stuck in the kernel", pid_);
  }
}

void WorkerProcess::Supervisor::Send(worker::Command command, std::string line) {
  {
    const std::lock_guard lock(mutex_);
    commands_.push_back({std::move(command), std::move(line)});
  }
  Wake();
}

void WorkerProcess::Supervisor::End(KillCause cause, std::string detail, bool at_once) {
  {
    const std::lock_guard lock(mutex_);
    if (!wish_) wish_ = Wish{cause, std::move(detail), false};
    wish_->at_once |= at_once;
  }
  Wake();
}

std::variant<worker::Event, WorkerEnd> WorkerProcess::Supervisor::NextEvent() {
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

bool WorkerProcess::Supervisor::HasRoom() const {
  return queue_.size() < options_.max_queued_events && queued_bytes_ < options_.max_queued_bytes;
}

void WorkerProcess::Supervisor::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
}

void WorkerProcess::Supervisor::Run() {
  Replace(0, pid_);
  BlockAllSignals();
  if (!options_.is_launched) PreferAsOomVictim(pid_);
  while (!dead_ && !unkillable_) Turn();
  Bury();
}

void WorkerProcess::Supervisor::Turn() {
  bool has_room = false;
  {
    const std::lock_guard lock(mutex_);
    has_room = HasRoom();
  }
  const bool listening = events_ && has_room;
  enum Source { kWake, kProcess, kControl, kEvents, kLog, kNotes };
  std::array<pollfd, 6> fds{
      pollfd{wake_.get(), POLLIN, 0},
      pollfd{pidfd_.get(), POLLIN, 0},
      // Without anything to write a broken pipe would be reported over and over.
      pollfd{outgoing_.empty() ? -1 : control_.get(), POLLOUT, 0},
      pollfd{listening ? events_.get() : -1, POLLIN, 0},
      pollfd{log_pipe_.get(), POLLIN, 0},
      pollfd{notes_pipe_.get(), POLLIN, 0},
  };
  const Clock::time_point before = Clock::now();
  const Clock::time_point due = std::min(NextDeadline(), before + std::chrono::minutes(1));
  const auto timeout = std::max(std::chrono::ceil<std::chrono::milliseconds>(due - before),
                                std::chrono::milliseconds(0));
  if (::poll(fds.data(), fds.size(), static_cast<int>(timeout.count())) < 0) return;  // EINTR
  const Clock::time_point after = Clock::now();
  const Clock::duration late = after - before - timeout;
  if (!is_heard_ || (events_ && !has_room)) {
    watchdog_.Excuse(after - before);
  } else if (late > kStall) {
    watchdog_.Excuse(late);
  }

  if (fds[kWake].revents != 0) TakeWishes();
  if (fds[kNotes].revents != 0) ReadNotes();
  if (fds[kLog].revents != 0) ReadLog();
  if (fds[kEvents].revents != 0) ReadEvents();
  if (fds[kControl].revents != 0) WriteControl();
  if (fds[kProcess].revents != 0) {
    dead_ = true;
    return;
  }
  // Only now, so that what was waiting in the pipes counts before the clock does.
  CheckDeadlines(Clock::now());
}

void WorkerProcess::Supervisor::TakeWishes() {
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

void WorkerProcess::Supervisor::WriteControl() {
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
bool WorkerProcess::Supervisor::ReadChunk(UniqueFd& fd, std::string_view* bytes) {
  const ssize_t n = ::read(fd.get(), chunk_.data(), chunk_.size());
  if (n > 0) {
    *bytes = {chunk_.data(), static_cast<size_t>(n)};
    return true;
  }
  if (n == 0 || (errno != EINTR && errno != EAGAIN)) fd.Reset();
  return false;
}

size_t WorkerProcess::Supervisor::ReadLog() {
  std::string_view bytes;
  if (!ReadChunk(log_pipe_, &bytes)) return 0;
  log_.Append(bytes);
  return bytes.size();
}

size_t WorkerProcess::Supervisor::ReadNotes() {
  std::string_view bytes;
  if (!ReadChunk(notes_pipe_, &bytes)) return 0;
  if (notes_.overlong()) return bytes.size();  // no launcher of ours
  notes_.Append(bytes);
  while (const auto line = notes_.Next()) {
    std::optional<LaunchNote> note = DecodeNote(*line);
    if (!note) continue;
    is_heard_ |= note->kind == LaunchNote::Kind::kConnected;
    if (note->kind == LaunchNote::Kind::kEnded) {
      launch_end_ = std::move(note->end);
    } else if (options_.on_note) {
      options_.on_note(*note);
    }
  }
  return bytes.size();
}

size_t WorkerProcess::Supervisor::ReadEvents() {
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
bool WorkerProcess::Supervisor::TakeLine(std::string_view line) {
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

Watchdog::TimePoint WorkerProcess::Supervisor::NextDeadline() const {
  return ending_ == Ending::kNone ? watchdog_.Next() : ending_until_;
}

void WorkerProcess::Supervisor::CheckDeadlines(Clock::time_point now) {
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

void WorkerProcess::Supervisor::BeginEnding(KillCause cause, std::string_view detail) {
  if (cause_ != KillCause::kNone) return;
  cause_ = cause;
  detail_ = worker::OneLine(detail, kMaxDetail);
  ending_ = Ending::kClosed;
  ending_until_ = Clock::now() + options_.polite;
  control_.Reset();
  outgoing_.clear();
}

void WorkerProcess::Supervisor::Kill() {
  if (ending_ == Ending::kKilled) return;
  ending_ = Ending::kKilled;
  ending_until_ = Clock::now() + options_.reap;
  sigkill_sent_ = true;
  ::kill(-pid_, SIGKILL);
  // Should it have left its own group. It is not reaped, so the number is still its own.
  ::kill(pid_, SIGKILL);
}

void WorkerProcess::Supervisor::Bury() {
  WorkerEnd end;
  if (unkillable_) {
    end.unkillable = true;
  } else {
    // Before the wait: while the zombie holds its number, the group's cannot be anybody else's.
    ::kill(-pid_, SIGKILL);
    DrainPipes();
    Reap(&end);
  }
  end.kill_cause = cause_;  // perhaps a violation that came to light in what was drained
  end.kill_detail = detail_;
  end.sigkill_sent = sigkill_sent_;
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
  if (options_.is_launched) {
    // The process here was the launcher; what is to be judged is the worker.
    end.oom_kills = launch_end_ ? launch_end_->oom_kills : OomKills::kUnknown;
    if (launch_end_ && (launch_end_->exit_code || launch_end_->signal != 0)) {
      end.exit_code = launch_end_->exit_code;
      end.signal = launch_end_->signal;
    }
    end.launch = std::move(launch_end_);
    end.sigkill_sent |= cause_ != KillCause::kNone;  // by the agent there, on our word
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
void WorkerProcess::Supervisor::DrainPipes() {
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
  for (int left = notes_pipe_ ? PipeCapacity(notes_pipe_) : 0; notes_pipe_ && left > 0;) {
    const size_t n = ReadNotes();
    if (n == 0) break;
    left -= static_cast<int>(n);
  }
  control_.Reset();
  events_.Reset();
  log_pipe_.Reset();
  notes_pipe_.Reset();
}

void WorkerProcess::Supervisor::Reap(WorkerEnd* end) {
  Replace(pid_, 0);  // once it is reaped, its number may be another's
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

}  // namespace hproc::controller
