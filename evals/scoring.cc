#include "evals/scoring.h"

#include <algorithm>

#include "base/utf8.h"

namespace hproc::evals {
namespace {

constexpr std::string_view kMark = "#### ";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsStrictChar(char c) { return IsDigit(c) || c == '.' || c == ','; }
bool IsFlexibleChar(char c) { return IsStrictChar(c) || c == '$'; }

// How many characters from `start` on satisfy `is`.
size_t RunLength(std::string_view text, size_t start, bool (*is)(char)) {
  size_t end = start;
  while (end < text.size() && is(text[end])) ++end;
  return end - start;
}

// Length of the match of `(-?[$0-9.,]{2,})|(-?[0-9]+)` at `start`; 0: none. The second branch is
// reached only by a single digit, since two of them satisfy the first.
size_t FlexibleMatch(std::string_view text, size_t start) {
  const size_t sign = text[start] == '-' ? 1 : 0;
  const size_t wide = RunLength(text, start + sign, IsFlexibleChar);
  if (wide >= 2) return sign + wide;
  return wide == 1 && IsDigit(text[start + sign]) ? sign + 1 : 0;
}

// str.isspace of Python 3.
bool IsPythonSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view StripLeft(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char first = DecodeUtf8(text, 0);
    if (!IsPythonSpace(first.code_point)) break;
    text.remove_prefix(first.bytes);
  }
  return text;
}

}  // namespace

std::string_view CutAtStop(std::string_view text, std::span<const std::string_view> stops) {
  for (const std::string_view stop : stops) {
    if (!stop.empty()) text = text.substr(0, text.find(stop));
  }
  return text;
}

std::string_view AfterThinking(std::string_view text, std::string_view think_end_token) {
  if (think_end_token.empty()) return text;
  const size_t last = text.rfind(think_end_token);
  if (last != std::string_view::npos) text.remove_prefix(last + think_end_token.size());
  return StripLeft(text);
}

std::optional<std::string_view> ExtractStrict(std::string_view text) {
  // The next search starts one byte on, not behind the mark: "##### 5" matches at its second '#'.
  for (size_t mark = text.find(kMark); mark != std::string_view::npos;
       mark = text.find(kMark, mark + 1)) {
    const size_t start = mark + kMark.size();
    const size_t sign = start < text.size() && text[start] == '-' ? 1 : 0;
    const size_t length = RunLength(text, start + sign, IsStrictChar);
    if (length > 0) return text.substr(start, sign + length);
  }
  return std::nullopt;
}

std::optional<std::string_view> ExtractFlexible(std::string_view text) {
  // Matches do not overlap and each is the longest at its place, so the last one depends on all
  // before it ("1-2-" ends in "-2"); a scan from the right would have to undo that.
  std::optional<std::string_view> last;
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = FlexibleMatch(text, at);
    if (length > 0) last = text.substr(at, length);
    at += std::max<size_t>(length, 1);
  }
  return last;
}

std::string CleanAnswer(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (const char c : text) {
    if (c != ',' && c != '$') clean += c;
  }
  if (const size_t mark = clean.rfind(kMark); mark != std::string::npos)
    clean.erase(0, mark + kMark.size());
  // Python's `$` also matches before a newline that ends the text.
  const size_t end = clean.ends_with('\n') ? clean.size() - 1 : clean.size();
  if (end > 0 && clean[end - 1] == '.') clean.erase(end - 1, 1);
  // ASCII is enough: an extraction holds nothing else, and no other letter becomes one of
  // "[invalid]" in lower case.
  for (char& c : clean) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return clean;
}

AnswerScore ScoreAnswer(std::string_view gold, std::string_view output) {
  const std::string clean_gold = CleanAnswer(gold);
  AnswerScore score;
  score.strict = CleanAnswer(ExtractStrict(output).value_or(kInvalidExtraction));
  score.flexible = CleanAnswer(ExtractFlexible(output).value_or(kInvalidExtraction));
  score.strict_correct = score.strict == clean_gold;
  score.flexible_correct = score.flexible == clean_gold;
  return score;
}

}  // namespace hproc::evals
