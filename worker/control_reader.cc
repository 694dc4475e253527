#include "worker/control_reader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "worker/lines.h"

namespace hproc::worker {

ControlReader::ControlReader(UniqueFd control, std::function<void()> on_controller_gone)
    : control_(std::move(control)),
      wake_(::eventfd(0, EFD_CLOEXEC)),
      on_controller_gone_(std::move(on_controller_gone)),
      reader_([this] { Read(); }) {}

ControlReader::~ControlReader() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
}

Result<Job> ControlReader::ReadJob() {
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [this] { return job_.has_value() || error_.has_value(); });
  if (!job_) return *error_;
  return *std::exchange(job_, std::nullopt);
}

Result<Command> ControlReader::NextCommand() {
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [this] { return !commands_.empty() || error_.has_value(); });
  if (commands_.empty()) return *error_;
  if (std::holds_alternative<GenerateCommand>(commands_.front())) current_ = ++generates_taken_;
  Result<Command> command(std::move(commands_.front()));
  commands_.pop_front();
  return command;
}

void ControlReader::Read() {
  LineSplitter lines(kMaxLineBytes);
  std::array<char, 64 << 10> chunk;
  for (;;) {
    std::array<pollfd, 2> fds{pollfd{control_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR is the only error possible here
    if (fds[1].revents != 0) return;
    const ssize_t n = ::read(control_.get(), chunk.data(), chunk.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) {
      // Before anything else: the working thread may be busy for hours, and its device is wanted by
      // the next worker.
      if (!on_controller_gone_) ::_exit(kExitControllerGone);
      on_controller_gone_();
      Fail("the controller is gone");
      return;
    }
    // After an error what comes is read and dropped: EOF still has to be seen.
    if (lines.overlong()) continue;
    lines.Append({chunk.data(), static_cast<size_t>(n)});
    while (const auto line = lines.Next()) TakeLine(*line);
    if (lines.overlong()) Fail("a line from the controller is too long");
  }
}

void ControlReader::TakeLine(std::string_view line) {
  if (!job_seen_) {
    Result<Job> job = DecodeJob(line);
    if (!job.ok()) return Fail("job: " + job.error().message);
    job_seen_ = true;
    const std::lock_guard lock(mutex_);
    job_ = std::move(*job);
    ready_.notify_all();
    return;
  }
  Result<Command> command = DecodeCommand(line);
  if (!command.ok()) return Fail("command: " + command.error().message);
  if (std::holds_alternative<CancelCommand>(*command)) {
    cancelled_through_ = generates_read_;
    return;
  }
  if (std::holds_alternative<GenerateCommand>(*command)) ++generates_read_;
  {
    const std::lock_guard lock(mutex_);
    if (commands_.size() < kMaxQueued) {
      commands_.push_back(std::move(*command));
      ready_.notify_all();
      return;
    }
  }
  Fail("more than " + std::to_string(kMaxQueued) + " commands without waiting for an answer");
}

void ControlReader::Fail(std::string message) {
  const std::lock_guard lock(mutex_);
  if (!error_) error_ = Error{std::move(message)};
  ready_.notify_all();
}

}  // namespace hproc::worker
