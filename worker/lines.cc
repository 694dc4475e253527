#include "worker/lines.h"

#include <utf8proc.h>

#include "base/check.h"

namespace hproc::worker {

void LineSplitter::Append(std::string_view bytes) {
  HPROC_CHECK(!overlong_, "the stream is lost");
  if (begin_ > 0) {
    buffer_.erase(0, begin_);
    scanned_ -= begin_;
    begin_ = 0;
  }
  buffer_.append(bytes);
}

std::optional<std::string_view> LineSplitter::Next() {
  if (overlong_) return std::nullopt;
  const size_t end = buffer_.find('\n', scanned_);
  const size_t line_end = end == std::string::npos ? buffer_.size() : end;
  if (line_end - begin_ > max_line_bytes_) {
    overlong_ = true;
    return std::nullopt;
  }
  if (end == std::string::npos) {
    scanned_ = buffer_.size();
    return std::nullopt;
  }
  const std::string_view line = std::string_view(buffer_).substr(begin_, end - begin_);
  begin_ = scanned_ = end + 1;
  return line;
}

std::string OneLine(std::string_view text, size_t max_bytes) {
  static constexpr std::string_view kCut = "…";
  std::string line;
  size_t last_fitting = 0;  // where to cut so that kCut still fits
  while (!text.empty()) {
    utf8proc_int32_t code = -1;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                         static_cast<utf8proc_ssize_t>(text.size()), &code);
    const size_t taken = length > 0 ? static_cast<size_t>(length) : 1;
    if (code < 0) {
      line += '?';
    } else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
      line += ' ';
    } else {
      line += text.substr(0, taken);
    }
    if (line.size() > max_bytes) {
      line.resize(last_fitting);
      return line.append(kCut.substr(0, max_bytes < kCut.size() ? 0 : kCut.size()));
    }
    if (line.size() + kCut.size() <= max_bytes) last_fitting = line.size();
    text.remove_prefix(taken);
  }
  return line;
}

}  // namespace hproc::worker
