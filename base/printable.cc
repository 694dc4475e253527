#include "base/printable.h"

#include <cstdio>

#include "base/utf8.h"

namespace hproc {
namespace {

constexpr size_t kMaxBytes = 96;
constexpr size_t kHeadBytes = 60;
constexpr size_t kTailBytes = 24;

void AppendEscaped(std::string& out, std::string_view text, bool quoted) {
  char escape[16];
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (!c.valid) {
      for (size_t i = 0; i < c.bytes; ++i) {
        std::snprintf(escape, sizeof escape, "\\x%02X", static_cast<unsigned char>(text[at + i]));
        out += escape;
      }
    } else if (c.code_point == '\n') {
      out += "\\n";
    } else if (c.code_point == '\t') {
      out += "\\t";
    } else if (c.code_point == '\r') {
      out += "\\r";
    } else if (quoted && (c.code_point == '\\' || c.code_point == '\'')) {
      out += '\\';
      out += text[at];
    } else if (IsDeceptive(c.code_point)) {
      std::snprintf(escape, sizeof escape, "\\u{%04X}", static_cast<unsigned>(c.code_point));
      out += escape;
    } else {
      out += text.substr(at, c.bytes);
    }
    at += c.bytes;
  }
}

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

bool IsDeceptive(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0xAD || c == 0x034F || c == 0x061C ||
         c == 0x115F || c == 0x1160 || c == 0x17B4 || c == 0x17B5 || (c >= 0x180B && c <= 0x180F) ||
         (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) ||
         (c >= 0x2060 && c <= 0x206F) || c == 0x3164 || (c >= 0xFE00 && c <= 0xFE0F) ||
         c == 0xFEFF || c == 0xFFA0 || (c >= 0xFFF0 && c <= 0xFFFB) ||
         (c >= 0xE0000 && c <= 0xE0FFF);
}

std::string PrintableLine(std::string_view text) {
  std::string out;
  AppendEscaped(out, text, false);
  return out;
}

std::string Printable(std::string_view text) {
  std::string out;
  if (text.size() <= kMaxBytes) {
    AppendEscaped(out, text, true);
    return out;
  }
  // Cut between characters; three steps are the most that a character reaches over the cut.
  size_t head = kHeadBytes;
  while (head > kHeadBytes - 3 && IsContinuation(text[head])) --head;
  size_t tail = text.size() - kTailBytes;
  while (tail < text.size() - kTailBytes + 3 && IsContinuation(text[tail])) ++tail;
  AppendEscaped(out, text.substr(0, head), true);
  out += "\u2026";
  AppendEscaped(out, text.substr(tail), true);
  out += " (" + std::to_string(text.size()) + " bytes)";
  return out;
}

}  // namespace hproc
