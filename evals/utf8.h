// UTF-8, one code point at a time. What models and files hand over is not always valid.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace hproc::evals {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct CodePoint {
  char32_t value = kReplacementCharacter;
  size_t bytes = 1;    // how far to move on
  bool valid = false;  // false: a broken sequence, read as one U+FFFD
};

// The first code point of `text`, which must not be empty. A broken sequence is taken up to where
// it breaks, the substitution of maximal subparts (The Unicode Standard, section 3.9), so that
// counts agree with other decoders.
CodePoint FirstCodePoint(std::string_view text);

// Byte offset of the first broken sequence.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

}  // namespace hproc::evals
