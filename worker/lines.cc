#include "worker/lines.h"

#include "base/check.h"
#include "base/utf8.h"

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
    const Utf8Char first = DecodeUtf8(text, 0);
    const char32_t code = first.code_point;
    if (!first.valid) {
      line += '?';
    } else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
      line += ' ';
    } else {
      line += text.substr(0, first.bytes);
    }
    if (line.size() > max_bytes) {
      line.resize(last_fitting);
      return line.append(kCut.substr(0, max_bytes < kCut.size() ? 0 : kCut.size()));
    }
    if (line.size() + kCut.size() <= max_bytes) last_fitting = line.size();
    text.remove_prefix(first.bytes);
  }
  return line;
}

}  // namespace hproc::worker
