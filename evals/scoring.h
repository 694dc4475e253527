// Scoring of one answer, as GSM8K is scored: strict match and flexible extract, both by string
// equality after cleaning.
//
// Source: lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml (version 3.0), filters/extraction.py,
// api/metrics.py and models/utils.py. The regular expressions below are theirs; here they are
// scanners written by hand, because std::regex recurses on the length of its input and model output
// is long. All of them are about ASCII characters, and Python's classes are written out ([0-9], not
// \d), so scanning bytes equals scanning code points, broken UTF-8 included. Pure functions,
// thread-safe.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hproc::evals {

// Stands where an output has nothing to extract.
inline constexpr std::string_view kInvalidExtraction = "[invalid]";

// The text before the first occurrence of any stop text; empty stop texts are ignored.
std::string_view CutAtStop(std::string_view text, std::span<const std::string_view> stops);

// What follows the last `think_end_token`, white space stripped from its left; the whole text,
// stripped likewise, where the token does not occur. An empty token leaves the text as it is. To be
// applied before CutAtStop.
std::string_view AfterThinking(std::string_view text, std::string_view think_end_token);

// First match of `#### (\-?[0-9\.\,]+)`: its group.
std::optional<std::string_view> ExtractStrict(std::string_view text);

// Last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
std::optional<std::string_view> ExtractFlexible(std::string_view text);

// Gold and extraction alike, in this order: every `,` and every `\$` deleted; then everything up to
// the last "#### "; then one `\.$`; the rest in lower case. Of a worked solution this leaves the
// number after "#### ". No number is ever parsed: "18.0" is not "18".
std::string CleanAnswer(std::string_view text);

struct AnswerScore {
  std::string strict;  // cleaned extractions; kInvalidExtraction where there is none
  std::string flexible;
  bool strict_correct = false;
  bool flexible_correct = false;
};

// `gold` is a worked solution or the bare number. `output` is what the model said, cut at its stop
// already.
AnswerScore ScoreAnswer(std::string_view gold, std::string_view output);

}  // namespace hproc::evals
