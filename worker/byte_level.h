// The byte-level alphabet: 256 printable characters that stand for the 256 bytes in a byte-level
// vocabulary, so that any text can be written in it ("Ġ" is a space, "Ċ" a line feed). Printable
// Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and following, in order
// (openai/gpt-2, src/encoder.py, bytes_to_unicode).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace hproc::worker {

// The character that stands for `byte`, as UTF-8 (one or two bytes).
std::string_view ByteLevelChar(uint8_t byte);

// `bytes`, each written as its character.
std::string ToByteLevel(std::string_view bytes);

// The bytes that `text` (valid UTF-8) writes; nullopt where a character of it is not in the
// alphabet.
std::optional<std::string> FromByteLevel(std::string_view text);

}  // namespace hproc::worker
