#include "worker/unicode_sets.h"

#include <string>

#include "base/check.h"
#include "base/utf8.h"
#include "worker/tokenizer_regex.h"

namespace hproc::worker {

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsWordCharacter(char32_t c) {
  static const Regex word = [] {
    Result<Regex> compiled =
        Regex::FromOniguruma(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}])");
    HPROC_CHECK(compiled.ok(), compiled.error().message);
    return std::move(*compiled);
  }();
  std::string text;
  AppendUtf8(text, c);
  RegexRun run(text.size());
  bool is_word = false;
  const Result<void> searched = word.FindAll(text, run, [&](size_t, size_t) {
    is_word = true;
    return Ok();
  });
  HPROC_CHECK(searched.ok(), "one character");
  return is_word;
}

}  // namespace hproc::worker
