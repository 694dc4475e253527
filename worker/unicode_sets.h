// Two sets of characters, as regular expressions of Rust's regex crate mean them (\s and \w); added
// tokens need them.
#pragma once

namespace hproc::worker {

// Unicode White_Space.
bool IsWhiteSpace(char32_t c);

// Alphabetic, marks, decimal digits, connector punctuation, joiners. Slow: for a look at single
// characters.
bool IsWordCharacter(char32_t c);

}  // namespace hproc::worker
