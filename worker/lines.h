// Lines out of a byte stream whose other end may be broken or hostile; used on both sides of the
// worker's pipes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace hproc::worker {

// Cuts a stream into lines. Holds at most max_line_bytes plus one Append. Thread-compatible.
class LineSplitter {
 public:
  // max_line_bytes does not count the '\n'.
  explicit LineSplitter(size_t max_line_bytes) : max_line_bytes_(max_line_bytes) {}

  // Not to be called again once overlong() is true.
  void Append(std::string_view bytes);

  // The next whole line without its '\n', valid until the next Append; nullopt where there is none
  // yet, and for good from the first line on that is too long.
  std::optional<std::string_view> Next();

  // A line, ended or not, exceeded max_line_bytes: the stream is lost.
  bool overlong() const { return overlong_; }

  // Bytes of the line that has no '\n' yet. What is left at the end of the stream is a torn line.
  size_t torn_bytes() const { return buffer_.size() - begin_; }

 private:
  const size_t max_line_bytes_;
  std::string buffer_;
  size_t begin_ = 0;  // of the first byte not handed out
  size_t scanned_ =
      0;  // no '\n' in [begin_, scanned_): a long line is searched once, not once per Append
  bool overlong_ = false;
};

// `text` as one line of printable UTF-8, at most max_bytes long: control characters become spaces,
// each broken piece of UTF-8 becomes '?', what is cut off shows as "…". For text of foreign origin
// inside messages.
std::string OneLine(std::string_view text, size_t max_bytes);

}  // namespace hproc::worker
