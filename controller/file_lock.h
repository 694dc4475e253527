// FileLock: at most one writer of a study file, across processes and within one.
//
// An flock on a file beside it, `<file>.lock`. The lock belongs to the open file description, so
// the kernel drops it when its last holder dies, however it dies; the file itself stays behind and
// means nothing (removing it would race with a process that has just opened it). It is closed on
// exec, so a worker never inherits it. Inside stands who holds it, for the message to the second
// one: "hproc pid 123 on host since 2026-11-23T18:30:38.042Z".
//
// Not meant for network file systems, where neither this lock nor SQLite's write-ahead log is to be
// trusted.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace hproc::controller {

class FileLock {
 public:
  // Does not wait, but up to a second for what is left of a holder that is dead. The error says who holds the lock, or why the lock file cannot be had; it does
  // not name `file`.
  static Result<FileLock> Acquire(const std::filesystem::path& file, std::string_view now_utc);

  FileLock(FileLock&&) noexcept = default;
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

// Who holds the lock of a study file, seen without touching the lock.
struct LockHolder {
  pid_t pid = -1;
  std::string text;  // "hproc pid 123 on host since …", printable
};

// None where nobody does, or somebody whom this process may not look at (another user's, another machine's). The name
// inside the lock file counts only where that process has the lock file open.
std::optional<LockHolder> HolderOf(const std::filesystem::path& file);

}  // namespace hproc::controller
