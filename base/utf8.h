// UTF-8, as far as text from outside needs it: is it valid, what to put where it is not, where may
// it go on.
//
// "Broken" follows the Unicode Standard, section 3.9, "Substitution of Maximal Subparts": an
// ill-formed sequence is cut where it stops being the beginning of a character, and each part
// counts as one broken piece. Python's bytes.decode(errors="replace"), Rust's from_utf8_lossy and
// web browsers agree with this.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace hproc {

// What stands at one place of a text.
struct Utf8Char {
  char32_t code_point = 0;  // U+FFFD where valid is false
  size_t bytes = 1;         // 1..4; of the broken piece (1..3) where valid is false
  bool valid = true;
  bool cut_short =
      false;  // broken only because the text ends here: more bytes could complete the character
};

// at < text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t at);

bool IsValidUtf8(std::string_view text);
// Byte offset of the first broken piece.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// One U+FFFD for every broken piece.
std::string ReplaceInvalidUtf8(std::string_view text);

// How many bytes at the end of the text begin a character that is not complete yet: 0..3.
size_t IncompleteUtf8Tail(std::string_view text);

// code_point is a Unicode scalar value (no surrogate, at most 0x10FFFF).
void AppendUtf8(std::string& text, char32_t code_point);

}  // namespace hproc
