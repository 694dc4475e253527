// Which script a letter belongs to, coarsely: enough to see that a model answers English questions
// in something else.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace hproc::evals {

enum class Script {
  kLatin,
  kGreek,
  kCyrillic,
  kHebrew,
  kArabic,
  kIndic,           // Devanagari to Sinhala
  kSoutheastAsian,  // Thai to Myanmar, Khmer
  kHangul,
  kKana,
  kHan,
  kOther,       // any other letter: Armenian, Georgian, Ethiopic, …
  kPrivateUse,  // characters without a meaning: the mark of tokens that were never trained
};
inline constexpr int kScriptCount = 12;

std::string_view ScriptName(Script script);  // "latin", "southeast_asian", …
std::optional<Script> ScriptFromName(std::string_view name);

// Nothing for what is no letter: digits, punctuation, symbols, white space, emoji, U+FFFD. By
// blocks of The Unicode Standard; unassigned code points count as their block.
std::optional<Script> ScriptOf(char32_t c);

// Characters of a text by what they are. Broken UTF-8 counts as U+FFFD (base/utf8.h).
struct CharacterCounts {
  int64_t total = 0;
  int64_t replacement = 0;  // U+FFFD
  int64_t control = 0;      // C0 but tab, newline and carriage return; DEL; C1
  int64_t letters = 0;
  std::array<int64_t, kScriptCount> by_script{};  // adds up to `letters`
};
CharacterCounts CountCharacters(std::string_view text);

}  // namespace hproc::evals
