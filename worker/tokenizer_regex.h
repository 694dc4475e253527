// Regular expressions as tokenizer.json has them: written for Oniguruma, run by PCRE2.
//
// The two read the same text differently in places, so a pattern is translated piece by piece, and
// what has no known equal is refused rather than run with another meaning:
//
//   \s \S        Unicode White_Space (PCRE2's own adds U+180E); inside classes too
//   \w \W        alphabetic, marks, decimal digits, connector punctuation and the numbers of
//                Latin-1 (PCRE2's own has all numbers and no marks)
//   \p{Han}      the script, not its extensions
//   x{1,3}+      repeats x{1,3}; in PCRE2, possessive
//   x{2}?        x{2} or nothing; in PCRE2, lazy
//   \uXXXX \v    a code point, the vertical tab
//   refused      ^ $ \b and other anchors, back references, named groups, inline options other
//                than (?i:…), \h \R \X, nested classes, [[:posix:]], &&, a caseless \p{Lu}
//
// Left out: a caseless "ss" or "st" does not match the ligature that folds to it; no tokenizer has
// such a pattern. Letters are those of PCRE2's Unicode version (14 in Debian 12 and Ubuntu 24.04,
// the same as in Oniguruma 6.9.8).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/function_ref.h"
#include "base/result.h"

namespace hproc::worker {

// The PCRE2 pattern that means what `pattern` (valid UTF-8) means to Oniguruma.
Result<std::string> TranslateOnigurumaPattern(std::string_view pattern);

// What all searches on one text share: working memory, and the processor time that they may take
// together (1 s and 10 us for each byte, some hundred times what sane patterns need). For one
// thread.
class RegexRun {
 public:
  explicit RegexRun(size_t text_bytes);
  ~RegexRun();
  RegexRun(const RegexRun&) = delete;
  RegexRun& operator=(const RegexRun&) = delete;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

// A compiled pattern. Movable; FindAll is safe from several threads at once, each with its own run.
class Regex {
 public:
  static Result<Regex> FromOniguruma(std::string_view pattern);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Calls found(begin, end) for the matches in `text` (valid UTF-8), left to right, byte offsets,
  // none overlapping; empty ones too, except right behind the match before. Ends with the first
  // error of `found`, which may itself search with the same run. A search that takes more steps or
  // time than any sane pattern needs is an error: no pair of pattern and text hangs.
  Result<void> FindAll(std::string_view text, RegexRun& run,
                       FunctionRef<Result<void>(size_t begin, size_t end)> found) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  int Match(std::string_view text, size_t at, RegexRun& run) const;

  std::unique_ptr<Code> code_;
};

}  // namespace hproc::worker
