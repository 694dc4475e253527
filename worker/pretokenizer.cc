#include "worker/pretokenizer.h"

#include <string>
#include <utility>

namespace hproc::worker {
namespace {

// What ByteLevel cuts by where it is asked to (openai/gpt-2, src/encoder.py).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string Quoted(std::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    if (std::string_view(R"(\^$.|?*+()[]{}-)").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

Result<PreTokenizer> PreTokenizer::Create(const std::vector<PreTokenizerStep>& steps) {
  PreTokenizer pre_tokenizer;
  for (const PreTokenizerStep& step : steps) {
    const bool is_byte_level = step.kind == PreTokenizerStep::Kind::kByteLevel;
    if (is_byte_level && !step.use_regex) {
      pre_tokenizer.final_prefix_space_ = step.add_prefix_space;
      continue;
    }
    Result<Regex> regex = Regex::FromOniguruma(is_byte_level     ? std::string(kGpt2Pattern)
                                               : step.is_literal ? Quoted(step.pattern)
                                                                 : step.pattern);
    if (!regex.ok()) return regex.error();
    pre_tokenizer.cuts_.push_back({std::move(*regex), step.keep_matches, step.keep_between,
                                   is_byte_level && step.add_prefix_space});
  }
  return pre_tokenizer;
}

Result<void> PreTokenizer::Split(std::string_view text, RegexRun& run,
                                 FunctionRef<Result<void>(std::string_view)> piece) const {
  return SplitFrom(0, text, run, piece);
}

Result<void> PreTokenizer::SplitFrom(size_t step, std::string_view text, RegexRun& run,
                                     FunctionRef<Result<void>(std::string_view)> piece) const {
  if (text.empty()) return Ok();
  const bool prefix_space =
      step == cuts_.size() ? final_prefix_space_ : cuts_[step].add_prefix_space;
  std::string prefixed;
  if (prefix_space && text.front() != ' ') {
    prefixed.append(1, ' ').append(text);
    text = prefixed;
  }
  if (step == cuts_.size()) return piece(text);

  const Cut& cut = cuts_[step];
  size_t done = 0;
  const auto between = [&](size_t end) {
    return cut.keep_between ? SplitFrom(step + 1, text.substr(done, end - done), run, piece) : Ok();
  };
  Result<void> searched =
      cut.regex.FindAll(text, run, [&](size_t begin, size_t end) -> Result<void> {
        if (Result<void> result = between(begin); !result.ok()) return result;
        done = end;
        return cut.keep_matches ? SplitFrom(step + 1, text.substr(begin, end - begin), run, piece)
                                : Ok();
      });
  return searched.ok() ? between(text.size()) : searched;
}

}  // namespace hproc::worker
