#include "evals/utf8.h"

#include <cstdint>

#include "base/check.h"

namespace hproc::evals {
namespace {

// What may follow a lead byte (The Unicode Standard, table 3-7). Only the second byte has a range
// of its own: that is where overlong forms, surrogates and values past U+10FFFF are shut out.
struct Lead {
  size_t bytes = 0;  // 0: no lead byte
  uint8_t second_low = 0x80;
  uint8_t second_high = 0xBF;
};

Lead ClassifyLead(uint8_t byte) {
  if (byte < 0x80) return {.bytes = 1};
  if (byte >= 0xC2 && byte <= 0xDF) return {.bytes = 2};
  if (byte == 0xE0) return {.bytes = 3, .second_low = 0xA0};
  if (byte == 0xED) return {.bytes = 3, .second_high = 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {.bytes = 3};
  if (byte == 0xF0) return {.bytes = 4, .second_low = 0x90};
  if (byte >= 0xF1 && byte <= 0xF3) return {.bytes = 4};
  if (byte == 0xF4) return {.bytes = 4, .second_high = 0x8F};
  return {};
}

}  // namespace

CodePoint FirstCodePoint(std::string_view text) {
  HPROC_CHECK(!text.empty(), "no code point in an empty text");
  const auto first = static_cast<uint8_t>(text[0]);
  const Lead lead = ClassifyLead(first);
  if (lead.bytes == 0) return {};
  if (lead.bytes == 1) return {.value = first, .bytes = 1, .valid = true};
  char32_t value = first & (0xFFu >> (lead.bytes + 1));
  for (size_t i = 1; i < lead.bytes; ++i) {
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xBF;
    if (i >= text.size()) return {.bytes = i};
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < low || byte > high) return {.bytes = i};
    value = (value << 6) | (byte & 0x3Fu);
  }
  return {.value = value, .bytes = lead.bytes, .valid = true};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    const CodePoint point = FirstCodePoint(text.substr(offset));
    if (!point.valid) return offset;
    offset += point.bytes;
  }
  return std::nullopt;
}

}  // namespace hproc::evals
