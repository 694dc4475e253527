#include "evals/scripts.h"

#include <gtest/gtest.h>

namespace hproc::evals {
namespace {

TEST(Script, KnowsTheLettersOfCommonLanguages) {
  EXPECT_EQ(ScriptOf(U'a'), Script::kLatin);
  EXPECT_EQ(ScriptOf(U'Z'), Script::kLatin);
  EXPECT_EQ(ScriptOf(U'ß'), Script::kLatin);
  EXPECT_EQ(ScriptOf(U'ế'), Script::kLatin);
  EXPECT_EQ(ScriptOf(U'λ'), Script::kGreek);
  EXPECT_EQ(ScriptOf(U'Ж'), Script::kCyrillic);
  EXPECT_EQ(ScriptOf(U'א'), Script::kHebrew);
  EXPECT_EQ(ScriptOf(U'ع'), Script::kArabic);
  EXPECT_EQ(ScriptOf(U'क'), Script::kIndic);
  EXPECT_EQ(ScriptOf(U'ก'), Script::kSoutheastAsian);
  EXPECT_EQ(ScriptOf(U'한'), Script::kHangul);
  EXPECT_EQ(ScriptOf(U'あ'), Script::kKana);
  EXPECT_EQ(ScriptOf(U'水'), Script::kHan);
  EXPECT_EQ(ScriptOf(U'𠀀'), Script::kHan);
  EXPECT_EQ(ScriptOf(U'ქ'), Script::kOther);
  EXPECT_EQ(ScriptOf(U'\uE000'), Script::kPrivateUse);
  EXPECT_EQ(ScriptOf(U'\U0010FFFF'), Script::kPrivateUse);
}

TEST(Script, LeavesOutWhatIsNoLetter) {
  for (const char32_t c : {U'\0', U' ',  U'7',    U'$',      U'@',      U'[',      U'{',     U'×',
                           U'÷',  U'°',  U'€',    U'…',      U'—',      U'→',      U'∑',     U'█',
                           U'。', U'，', U'🙂', U'\uFFFD', U'\u00A0', U'\u0301', U'\uFE0F'}) {
    EXPECT_FALSE(ScriptOf(c).has_value()) << static_cast<uint32_t>(c);
  }
}

TEST(Script, NamesComeBack) {
  for (int i = 0; i < kScriptCount; ++i) {
    const auto script = static_cast<Script>(i);
    EXPECT_EQ(ScriptFromName(ScriptName(script)), script);
  }
  EXPECT_EQ(ScriptName(Script::kSoutheastAsian), "southeast_asian");
  EXPECT_EQ(ScriptFromName("klingon"), std::nullopt);
}

TEST(CountCharacters, CountsCodePointsLettersAndWhatIsBroken) {
  const CharacterCounts counts = CountCharacters("Né 7\n水\xFF\x01\u0085\uFFFD");
  EXPECT_EQ(counts.total, 10);
  EXPECT_EQ(counts.letters, 3);
  EXPECT_EQ(counts.by_script[static_cast<size_t>(Script::kLatin)], 2);
  EXPECT_EQ(counts.by_script[static_cast<size_t>(Script::kHan)], 1);
  EXPECT_EQ(counts.replacement, 2);
  EXPECT_EQ(counts.control, 2);
}

TEST(CountCharacters, TakesTabAndLineEndsForText) {
  EXPECT_EQ(CountCharacters("a\tb\r\n").control, 0);
}

}  // namespace
}  // namespace hproc::evals
