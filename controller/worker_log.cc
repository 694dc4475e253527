#include "controller/worker_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace hproc::controller {
namespace {

constexpr int64_t kMarkerBytes = 64;  // room for the line that stands for what was left out

}  // namespace

WorkerLog::WorkerLog(const std::filesystem::path& file, int64_t file_bytes, int64_t tail_bytes)
    : tail_bytes_(std::max<int64_t>(tail_bytes, 0)),
      head_bytes_(std::max<int64_t>(file_bytes - tail_bytes_ - kMarkerBytes, 0)) {
  if (file.empty()) return;
  file_.Reset(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file_) {
    error_ = file.string() + ": cannot open: " + std::generic_category().message(errno);
  }
}

void WorkerLog::Append(std::string_view bytes) {
  if (written_ < head_bytes_) {
    const auto room = static_cast<size_t>(head_bytes_ - written_);
    const std::string_view head = bytes.substr(0, room);
    WriteToFile(head);
    written_ += static_cast<int64_t>(head.size());
  }
  appended_ += static_cast<int64_t>(bytes.size());
  const std::lock_guard lock(mutex_);
  tail_.append(bytes);
  const auto keep = static_cast<size_t>(tail_bytes_);
  if (tail_.size() > 2 * keep) tail_.erase(0, tail_.size() - keep);
}

void WorkerLog::Close() {
  const auto rest = static_cast<size_t>(std::min(appended_ - written_, tail_bytes_));
  const int64_t left_out = appended_ - written_ - static_cast<int64_t>(rest);
  if (left_out > 0) WriteToFile("\n[... " + std::to_string(left_out) + " bytes left out ...]\n");
  // No other thread changes tail_, so it may be read without the lock.
  if (rest > 0) WriteToFile(std::string_view(tail_).substr(tail_.size() - rest));
  file_.Reset();
}

std::string WorkerLog::Tail(size_t max_bytes) const {
  const std::lock_guard lock(mutex_);
  const size_t keep = std::min(max_bytes, static_cast<size_t>(tail_bytes_));
  if (tail_.size() <= keep) return tail_;
  const std::string tail = tail_.substr(tail_.size() - keep);
  const size_t line_end = tail.find('\n');
  const bool has_more = line_end != std::string::npos && line_end + 1 < tail.size();
  return has_more ? tail.substr(line_end + 1) : tail;
}

void WorkerLog::WriteToFile(std::string_view bytes) {
  while (file_ && !bytes.empty()) {
    const ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      error_ = "cannot write the log: " + std::generic_category().message(errno);
      file_.Reset();
    }
  }
}

}  // namespace hproc::controller
