#include "worker/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hproc::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kQwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

PreTokenizerStep Regex(const std::string& pattern) { return {.pattern = pattern}; }

PreTokenizerStep ByteLevel(bool use_regex, bool add_prefix_space = false) {
  return {.kind = PreTokenizerStep::Kind::kByteLevel,
          .pattern = {},
          .add_prefix_space = add_prefix_space,
          .use_regex = use_regex};
}

std::vector<std::string> Split(const std::vector<PreTokenizerStep>& steps, std::string_view text) {
  const Result<PreTokenizer> pre_tokenizer = PreTokenizer::Create(steps);
  if (!pre_tokenizer.ok()) return {pre_tokenizer.error().message};
  std::vector<std::string> pieces;
  RegexRun run(text.size());
  const Result<void> split = pre_tokenizer->Split(text, run, [&](std::string_view piece) {
    pieces.emplace_back(piece);
    return Ok();
  });
  EXPECT_TRUE(split.ok()) << split.error().message;
  return pieces;
}

std::vector<std::string> SplitQwen(std::string_view text) {
  return Split({Regex(kQwen), ByteLevel(false)}, text);
}

TEST(PreTokenizer, QwensPatternCutsAsOnigurumaDoes) {
  EXPECT_THAT(SplitQwen("it's I'LL we'\u017f x"),
              ElementsAre("it", "'s", " I", "'LL", " we", "'\u017f", " x"));
  EXPECT_THAT(SplitQwen("  two\n\n  lines \r\n end  "),
              ElementsAre(" ", " two", "\n\n", " ", " lines", " \r\n", " end", "  "));
  EXPECT_THAT(SplitQwen("a1\u066123\u00b2"), ElementsAre("a", "1", "\u0661", "2", "3", "\u00b2"));
  EXPECT_THAT(SplitQwen("\u00a0\u00a0x\u3000y"), ElementsAre("\u00a0", "\u00a0x", "\u3000y"));
  EXPECT_THAT(SplitQwen("x\u0085\u0085y z"), ElementsAre("x", "\u0085", "\u0085y", " z"));
  EXPECT_THAT(SplitQwen("hi!!\n\n\tyo"), ElementsAre("hi", "!!\n\n", "\tyo"));
  EXPECT_THAT(SplitQwen("e\u0301a \u0301\u0301"), ElementsAre("e\u0301a", " \u0301\u0301"));
  EXPECT_THAT(SplitQwen(" \n x"), ElementsAre(" \n", " x"));
  EXPECT_THAT(SplitQwen(""), ElementsAre());
}

TEST(PreTokenizer, AVowelSeparatorIsNoWhiteSpace) {
  // U+180E was white space until Unicode 6.3, and still is to PCRE2's own \s.
  EXPECT_THAT(SplitQwen("a\u180eb"), ElementsAre("a", "\u180eb"));
  EXPECT_THAT(Split({Regex(R"(\s+)"), ByteLevel(false)}, "a\u180eb\u2003c"),
              ElementsAre("a\u180eb", "\u2003", "c"));
  EXPECT_THAT(Split({Regex(R"([^\S]+)"), ByteLevel(false)}, "a\u180eb\u2003c"),
              ElementsAre("a\u180eb", "\u2003", "c"));
}

TEST(PreTokenizer, ByteLevelAloneCutsByGpt2sPattern) {
  EXPECT_THAT(Split({ByteLevel(true)}, "it's 123  ok\n"),
              ElementsAre("it", "'s", " 123", " ", " ok", "\n"));
  EXPECT_THAT(Split({ByteLevel(true)}, "IT'S"), ElementsAre("IT", "'", "S"));
}

TEST(PreTokenizer, ByteLevelPutsASpaceInFrontWhereAsked) {
  EXPECT_THAT(Split({ByteLevel(true, true)}, "a b"), ElementsAre(" a", " b"));
  EXPECT_THAT(Split({ByteLevel(true, true)}, " a"), ElementsAre(" a"));
  EXPECT_THAT(Split({Regex("[0-9]"), ByteLevel(false, true)}, "a1 b"),
              ElementsAre(" a", " 1", " b"));
}

TEST(PreTokenizer, StepsWorkOnPiecesAndSeeNothingAcrossThem) {
  // Digits by threes, then words with a blank in front: the blank before a digit is cut off first.
  EXPECT_THAT(Split({Regex(R"(\p{N}{1,3})"), Regex(R"( ?\p{L}+|\s+(?!\S)|\s+)"), ByteLevel(false)},
                    "ab 12345 cd"),
              ElementsAre("ab", " ", "123", "45", " cd"));
}

TEST(PreTokenizer, RemovedKeepsWhatIsNotTheDelimiter) {
  PreTokenizerStep removed{.pattern = ",", .is_literal = true, .keep_matches = false};
  EXPECT_THAT(Split({removed, ByteLevel(false)}, "a,b,,c"), ElementsAre("a", "b", "c"));
  removed = {.pattern = R"(\p{L}+)", .keep_between = false};  // inverted
  EXPECT_THAT(Split({removed, ByteLevel(false)}, "1a2bc3"), ElementsAre("a", "bc"));
}

TEST(PreTokenizer, TakesLiteralsLiterally) {
  const PreTokenizerStep dot{.pattern = ".*[a]\\", .is_literal = true};
  EXPECT_THAT(Split({dot, ByteLevel(false)}, "x.*[a]\\y"), ElementsAre("x", ".*[a]\\", "y"));
}

TEST(PreTokenizer, EmptyMatchesCutWithoutPieces) {
  EXPECT_THAT(Split({Regex("x*"), ByteLevel(false)}, "axxb\u00e9"),
              ElementsAre("a", "xx", "b", "\u00e9"));
}

TEST(PreTokenizer, NamesThePatternThatDoesNotCompile) {
  EXPECT_THAT(Split({Regex("a)"), ByteLevel(false)}, "x"),
              ElementsAre("regular expression 'a)': a ) without its ( is not supported"));
  EXPECT_THAT(Split({Regex("*"), ByteLevel(false)}, "x"),
              ElementsAre(HasSubstr("regular expression '*': ")));
}

}  // namespace
}  // namespace hproc::worker
