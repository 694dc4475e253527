#include "worker/event_writer.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

namespace hproc::worker {
namespace {

bool IsLast(const EventBody& body) {
  if (const auto* result = std::get_if<ResultEvent>(&body)) {
    return std::holds_alternative<ExitResult>(result->result);
  }
  return std::holds_alternative<OutOfMemoryEvent>(body) || std::holds_alternative<ErrorEvent>(body);
}

}  // namespace

EventWriter::EventWriter(UniqueFd events) : EventWriter(std::move(events), Options()) {}

EventWriter::EventWriter(UniqueFd events, Options options)
    : events_(std::move(events)),
      options_(std::move(options)),
      start_(std::chrono::steady_clock::now()) {
  std::signal(SIGPIPE, SIG_IGN);
  if (options_.heartbeat.count() > 0) {
    heartbeat_ = std::jthread([this](std::stop_token stop) { Beat(std::move(stop)); });
  }
}

EventWriter::~EventWriter() = default;

bool EventWriter::Write(EventBody body) {
  std::unique_lock lock(mutex_);
  if (closed_) return false;
  closed_ = IsLast(body);
  Event event;
  event.seq = next_seq_++;
  event.t = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  event.body = std::move(body);
  pending_ += EncodeEvent(event);

  // Either a thread before this one takes the line along, or this one becomes the writer of all
  // that waits.
  turn_.wait(lock, [&] { return !writing_ || written_through_ > event.seq || broken_; });
  if (written_through_ > event.seq) return true;
  if (broken_) return false;
  writing_ = true;
  const std::string lines = std::exchange(pending_, {});
  const int64_t through = next_seq_;
  lock.unlock();
  const bool written = WriteAll(lines);
  lock.lock();
  writing_ = false;
  if (written) {
    written_through_ = through;
  } else {
    closed_ = broken_ = true;
  }
  lock.unlock();
  turn_.notify_all();
  if (written) return true;
  if (!options_.on_controller_gone) ::_exit(kExitControllerGone);
  options_.on_controller_gone();
  return false;
}

void EventWriter::Beat(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested() && !closed_) {
    beat_.wait_for(lock, stop, options_.heartbeat, [this] { return closed_; });
    const bool due = next_seq_ > 0 && !closed_ && !stop.stop_requested();
    if (!due) continue;
    lock.unlock();
    Write(HeartbeatEvent{progress_.load(std::memory_order_relaxed)});
    lock.lock();
  }
}

bool EventWriter::WriteAll(std::string_view lines) {
  while (!lines.empty()) {
    const ssize_t n = ::write(events_.get(), lines.data(), lines.size());
    if (n >= 0) {
      lines.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd wait{events_.get(), POLLOUT, 0};  // only where the other side made the pipe so
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace hproc::worker
