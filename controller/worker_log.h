// WorkerLog: what a worker prints, kept within bounds: the head in a file as it comes, the tail in
// memory until the end.
//
//   file:  head (as it arrives) │ "[… N bytes left out …]" │ tail (on Close)
//
// A worker may print without end, and a disk may be full: neither harms the run. After the first
// error of the file nothing more is written to it; the tail in memory goes on. A controller that is
// killed leaves the head.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace hproc::controller {

// One thread appends and closes; Tail may be called from any.
class WorkerLog {
 public:
  // `file` may be empty: then only the tail is kept. file_bytes bounds the file, tail included;
  // tail_bytes the tail.
  WorkerLog(const std::filesystem::path& file, int64_t file_bytes, int64_t tail_bytes);

  void Append(std::string_view bytes);
  // Completes the file. Nothing may be appended afterwards.
  void Close();

  // The last bytes, at most max_bytes, from the start of a line where there is one. Thread-safe.
  std::string Tail(size_t max_bytes) const;

  // Why the file is incomplete; empty: it is not. Of the appending thread.
  const std::string& error() const { return error_; }

 private:
  void WriteToFile(std::string_view bytes);

  const int64_t tail_bytes_;
  int64_t head_bytes_;  // of the file; 0 without one
  UniqueFd file_;
  std::string error_;
  int64_t written_ = 0;   // to the head
  int64_t appended_ = 0;  // in all

  mutable std::mutex mutex_;  // guards tail_ alone, and is not held across I/O
  std::string tail_;          // up to twice tail_bytes_, so that trimming it is rare
};

}  // namespace hproc::controller
