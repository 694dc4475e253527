#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace hproc {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The bytes that may follow each lead byte (Unicode Standard, table 3-7); length 0: no character
// begins so.
struct Lead {
  size_t length;
  unsigned char second_low;
  unsigned char second_high;
};

Lead LeadOf(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Number of bytes from `at` on that are ASCII, eight at a time.
size_t AsciiRun(std::string_view text, size_t at) {
  const size_t begin = at;
  for (uint64_t word; at + sizeof word <= text.size(); at += sizeof word) {
    std::memcpy(&word, text.data() + at, sizeof word);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at - begin;
}

}  // namespace

Utf8Char DecodeUtf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const size_t left = text.size() - at;
  const Lead lead = LeadOf(byte(0));
  if (lead.length == 1) return {byte(0), 1, true, false};
  if (lead.length == 0) return {0xFFFD, 1, false, false};
  if (left < 2) return {0xFFFD, 1, false, true};
  if (byte(1) < lead.second_low || byte(1) > lead.second_high) return {0xFFFD, 1, false, false};
  char32_t code_point = byte(0) & (lead.length == 2 ? 0x1Fu : lead.length == 3 ? 0x0Fu : 0x07u);
  code_point = code_point << 6 | (byte(1) & 0x3Fu);
  for (size_t i = 2; i < lead.length; ++i) {
    if (i >= left) return {0xFFFD, i, false, true};
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, i, false, false};
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  return {code_point, lead.length, true, false};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t at = AsciiRun(text, 0); at < text.size(); at += AsciiRun(text, at)) {
    const Utf8Char c = DecodeUtf8(text, at);
    if (!c.valid) return at;
    at += c.bytes;
  }
  return std::nullopt;
}

bool IsValidUtf8(std::string_view text) { return !FindInvalidUtf8(text); }

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    result += c.valid ? text.substr(at, c.bytes) : kReplacement;
    at += c.bytes;
  }
  return result;
}

size_t IncompleteUtf8Tail(std::string_view text) {
  // The lead byte of an incomplete character is among the last three bytes, and only continuations
  // follow it.
  for (size_t tail = 1; tail <= 3 && tail <= text.size(); ++tail) {
    const size_t at = text.size() - tail;
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    const Utf8Char c = DecodeUtf8(text, at);
    return c.cut_short && c.bytes == tail ? tail : 0;
  }
  return 0;
}

void AppendUtf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t bits) {
    text += static_cast<char>(static_cast<unsigned char>(bits));
  };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace hproc
