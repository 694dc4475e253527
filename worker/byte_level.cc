#include "worker/byte_level.h"

#include <array>

#include "base/utf8.h"

namespace hproc::worker {
namespace {

constexpr int kAlphabetEnd = 0x100 + 68;  // one past the last code point in use

struct Alphabet {
  std::array<std::string, 256> chars;        // by byte
  std::array<int, kAlphabetEnd> bytes = {};  // by code point; -1: none
};

bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet = [] {
    Alphabet a;
    a.bytes.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const int code_point = StandsForItself(byte) ? byte : next++;
      AppendUtf8(a.chars[static_cast<size_t>(byte)], static_cast<char32_t>(code_point));
      a.bytes[static_cast<size_t>(code_point)] = byte;
    }
    return a;
  }();
  return alphabet;
}

}  // namespace

std::string_view ByteLevelChar(uint8_t byte) { return TheAlphabet().chars[byte]; }

std::string ToByteLevel(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += ByteLevelChar(static_cast<uint8_t>(byte));
  return text;
}

std::optional<std::string> FromByteLevel(std::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    const int byte = c.code_point < kAlphabetEnd ? alphabet.bytes[c.code_point] : -1;
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(byte));
    at += c.bytes;
  }
  return bytes;
}

}  // namespace hproc::worker
