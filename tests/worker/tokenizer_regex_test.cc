#include "worker/tokenizer_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/utf8.h"

namespace hproc::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Find(std::string_view pattern, std::string_view text) {
  const Result<Regex> regex = Regex::FromOniguruma(pattern);
  if (!regex.ok()) return {regex.error().message};
  std::vector<std::string> matches;
  RegexRun run(text.size());
  const Result<void> searched = regex->FindAll(text, run, [&](size_t begin, size_t end) {
    matches.emplace_back(text.substr(begin, end - begin));
    return Ok();
  });
  if (!searched.ok()) matches.push_back(searched.error().message);
  return matches;
}

// How many code points the pattern, which stands for one character, matches.
int CountCodePoints(std::string_view pattern) {
  const Result<Regex> regex = Regex::FromOniguruma(pattern);
  EXPECT_TRUE(regex.ok()) << regex.error().message;
  std::string all;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c < 0xD800 || c > 0xDFFF) AppendUtf8(all, c);
  }
  int count = 0;
  RegexRun run(all.size());
  const Result<void> searched = regex->FindAll(all, run, [&](size_t, size_t) {
    ++count;
    return Ok();
  });
  EXPECT_TRUE(searched.ok()) << searched.error().message;
  return count;
}

// Counted in Oniguruma 6.9.8. Only sets that do not grow with Unicode, so that a newer PCRE2
// agrees.
TEST(TokenizerRegex, SetsHoldAsManyCharactersAsInOniguruma) {
  EXPECT_EQ(CountCodePoints(R"(\s)"), 25);
  EXPECT_EQ(CountCodePoints(R"([\s])"), 25);
  EXPECT_EQ(CountCodePoints(R"([^\S])"), 25);
  EXPECT_EQ(CountCodePoints(R"(\S)"), 1112039);
  EXPECT_EQ(CountCodePoints(R"([^\s])"), 1112039);
  EXPECT_EQ(CountCodePoints(R"((?i:[a-z]))"), 54);  // with U+017F and U+212A
  EXPECT_EQ(CountCodePoints(R"((?i:k))"), 3);
  EXPECT_EQ(CountCodePoints(R"((?i:[^s]))"), 1112061);
}

TEST(TokenizerRegex, WordCharactersAreOnigurumas) {
  EXPECT_THAT(Find(R"(\w+)", "a\u0301_9\u00b2\u00bd\u203f-\u2460x"),
              ElementsAre("a\u0301_9\u00b2\u00bd\u203f", "x"));
  EXPECT_THAT(Find(R"([^\w]+)", "a-b \u2460"), ElementsAre("-", " \u2460"));
  EXPECT_THAT(Find(R"(\W+)", "a-b \u2460"), ElementsAre("-", " \u2460"));
}

TEST(TokenizerRegex, QuantifiedIntervalsMeanWhatTheyMeanInOniguruma) {
  EXPECT_THAT(Find("a{1,3}", "aaaaaaa"), ElementsAre("aaa", "aaa", "a"));
  EXPECT_THAT(Find("a{1,3}+", "aaaaaaa"), ElementsAre("aaaaaaa"));
  EXPECT_THAT(Find("a{1,3}+a", "aaaa"), ElementsAre("aaaa"));              // not possessive
  EXPECT_THAT(Find("(?:ab){2}?", "ababab"), ElementsAre("abab", "", ""));  // "twice, or not at all"
  EXPECT_THAT(Find("[ab]{1,2}?", "aba"), ElementsAre("a", "b", "a"));
  EXPECT_THAT(Find("xa{,2}", "xaaa"), ElementsAre("xaa"));
  EXPECT_THAT(Find("\u00e9{2}", "\u00e9\u00e9\u00e9"), ElementsAre("\u00e9\u00e9"));
  EXPECT_THAT(Find("a{", "a{"), ElementsAre("a{"));
  EXPECT_THAT(Find("a{x}", "a{x}"), ElementsAre("a{x}"));
  EXPECT_THAT(Find("a++b", "aab"), ElementsAre("aab"));
  EXPECT_THAT(Find("a++a", "aaa"), ElementsAre());  // possessive
}

TEST(TokenizerRegex, HyphensInClassesAreRangesOnlyBetweenCharacters) {
  EXPECT_THAT(Find("[a-c]+", "abc-"), ElementsAre("abc"));
  EXPECT_THAT(Find(R"([\s-]+)", "a -b"), ElementsAre(" -"));
  EXPECT_THAT(Find(R"([\--\/]+)", "a-./b"), ElementsAre("-./"));
  EXPECT_THAT(Find("[-a]+", "b-ab"), ElementsAre("-a"));
  EXPECT_THAT(Find("[a-]+", "b-ab"), ElementsAre("-a"));
  EXPECT_THAT(Find("[\u4e00-\u9fa5]+", "ab\u4e2d\u6587c"), ElementsAre("\u4e2d\u6587"));
  EXPECT_THAT(Find(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]+)", "a[]^-\\b"),
              ElementsAre("[]^-\\"));
}

TEST(TokenizerRegex, KnowsEscapesAndScripts) {
  EXPECT_THAT(Find(R"(\u0041\x42\x{43})", "ABC"), ElementsAre("ABC"));
  EXPECT_THAT(Find(R"(\v)", "\n\x0b"), ElementsAre("\x0b"));
  EXPECT_THAT(Find(R"(\p{Han}+)", "\u6f22\u3001\u5b57"),
              ElementsAre("\u6f22", "\u5b57"));  // U+3001: extension only
  EXPECT_THAT(Find(R"(\p{^L}+)", "a1b"), ElementsAre("1"));
  EXPECT_THAT(Find(R"(\P{L}+)", "a1b"), ElementsAre("1"));
  EXPECT_THAT(Find("(a|b)+", "abc"), ElementsAre("ab"));
  EXPECT_THAT(Find("(?<!a)b", "abb"), ElementsAre("b"));
  EXPECT_THAT(Find(".+", "ab\ncd"), ElementsAre("ab", "cd"));
}

TEST(TokenizerRegex, RefusesWhatHasNoKnownEqual) {
  for (const char* pattern :
       {"^a",      "a$",          R"(\bx)",  R"(\Ax)",  R"(\h)",     R"(\R)",
        R"(\X)",   R"(\1)",       R"(a\)",   "(?<n>a)", "(?i)a",     "(?m:a)",
        "(?#x)",   "[[:alpha:]]", "[a[b]]",  "[a&&b]",  "[]a]",      "[a",
        "(a",      "a)",          R"(\p{L)", R"(\pL)",  R"(\p{L!})", R"((?i:\p{Lu}))",
        R"([\W])", R"(\xe9)",     R"(\x{})", R"(\u12)", R"([a-\s])"}) {
    const Result<std::string> translated = TranslateOnigurumaPattern(pattern);
    ASSERT_FALSE(translated.ok()) << pattern << " became " << *translated;
    EXPECT_THAT(translated.error().message, HasSubstr("is not supported")) << pattern;
  }
  EXPECT_THAT(Find(R"(\p{Klingon})", ""), ElementsAre(HasSubstr("unknown property")));
  EXPECT_THAT(Find(std::string(100'000, 'a'), ""),
              ElementsAre(HasSubstr("more than the 65536 allowed")));
  EXPECT_THAT(Find(std::string(1000, '(') + std::string(1000, ')'), ""),
              ElementsAre(HasSubstr("too deeply nested")));
}

TEST(TokenizerRegex, BacktracksFurtherThanTheCompilersStack) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += "ab";
  EXPECT_EQ(Find("(?:a|b)+", text).size(), 1u);
  EXPECT_EQ(Find("(?:a|b)+", text)[0].size(), text.size());
}

TEST(TokenizerRegex, GivesUpOnPatternsThatNeverEnd) {
  EXPECT_THAT(Find("(?:a|aa)+(?=b)", std::string(200, 'a')),
              ElementsAre(HasSubstr("match limit exceeded")));
}

TEST(TokenizerRegex, GivesUpOnPatternsThatAreSlowEverywhere) {
  // At each place the rest of the text is looked through for a c: no place takes long, all together
  // do.
  std::string text;
  for (int i = 0; i < 50'000; ++i) text += "ab";
  EXPECT_THAT(Find("(?=(?:a|b)*c)a", text), ElementsAre(HasSubstr("takes too long")));
}

TEST(TokenizerRegex, EndsWithTheFirstErrorOfTheCaller) {
  const Result<Regex> regex = Regex::FromOniguruma("a");
  ASSERT_TRUE(regex.ok());
  int calls = 0;
  RegexRun run(3);
  const Result<void> searched =
      regex->FindAll("aaa", run, [&](size_t begin, size_t) -> Result<void> {
        ++calls;
        return begin == 1 ? Result<void>(Error{"enough"}) : Ok();
      });
  ASSERT_FALSE(searched.ok());
  EXPECT_EQ(searched.error().message, "enough");
  EXPECT_EQ(calls, 2);
}

TEST(TokenizerRegex, FindsMatchesOnBothSidesOfAStretch) {
  // The search is cut into stretches of the text; a match may lie across, or come long after.
  std::string text(1000, '.');
  text.replace(120, 20, "<------------------>");
  text.replace(900, 3, "<->");
  EXPECT_THAT(Find("<-+>", text), ElementsAre("<------------------>", "<->"));
  std::string wide;
  for (int i = 0; i < 1000; ++i) wide += "\u65e5";
  EXPECT_THAT(Find("\u672c", wide + "\u672c" + wide), ElementsAre("\u672c"));
}

}  // namespace
}  // namespace hproc::worker
