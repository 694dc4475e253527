#include "base/utf8.h"

#include <gtest/gtest.h>

namespace hproc {
namespace {

using namespace std::string_literals;

TEST(ReplaceInvalidUtf8, PutsOneReplacementForEachBrokenPiece) {
  // Expected values: Python 3, bytes.decode("utf-8", "replace").
  EXPECT_EQ(ReplaceInvalidUtf8("plain \u00e9\u65e5\U0001F600"), "plain \u00e9\u65e5\U0001F600");
  EXPECT_EQ(ReplaceInvalidUtf8("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE6\x97"), "\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE6\x97x"), "\uFFFDx");
  EXPECT_EQ(ReplaceInvalidUtf8("\xF0\x9F\x98\xE6\x97\xA5"), "\uFFFD\u65e5");
  EXPECT_EQ(ReplaceInvalidUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // a surrogate
  EXPECT_EQ(ReplaceInvalidUtf8("\xC0\xAF"), "\uFFFD\uFFFD");                      // overlong
  EXPECT_EQ(ReplaceInvalidUtf8("\xE0\x9F\xBF"), "\uFFFD\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(ReplaceInvalidUtf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(ReplaceInvalidUtf8("\x80\x80"), "\uFFFD\uFFFD");
  EXPECT_EQ(ReplaceInvalidUtf8("a\0b"s), "a\0b"s);
}

TEST(IsValidUtf8, AgreesWithTheReplacement) {
  for (const std::string& text : {""s, "ascii that is longer than eight bytes"s, "\u00e9"s,
                                  "12345678\xFF"s, "\xF4\x8F\xBF\xBF"s, "\xF4\x90\x80\x80"s,
                                  "\xE6\x97"s, "nul \0 inside"s, "abcdefgh\u65e5ijklmnopqr\x80"s}) {
    EXPECT_EQ(IsValidUtf8(text), ReplaceInvalidUtf8(text) == text) << text;
  }
  EXPECT_TRUE(IsValidUtf8("12345678\u65e5\u672c12345678"));
  EXPECT_FALSE(IsValidUtf8("12345678\u65e5\xE6"));
}

TEST(FindInvalidUtf8, NamesTheFirstBrokenPiece) {
  EXPECT_EQ(FindInvalidUtf8("ab\xC3"), 2u);
  EXPECT_EQ(FindInvalidUtf8("12345678\u00e9\xFFz\xFF"), 10u);
  EXPECT_FALSE(FindInvalidUtf8("ab\u00e9").has_value());
}

TEST(DecodeUtf8, AcceptsTheEndsOfEachRangeAndNothingBeyond) {
  for (const std::string_view text : {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                                      "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(DecodeUtf8(text, 0).valid);
    EXPECT_EQ(DecodeUtf8(text, 0).bytes, text.size());
  }
  for (const std::string_view text : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                                      "\xF5\x80\x80\x80", "\xFF", "\x80"}) {
    EXPECT_FALSE(DecodeUtf8(text, 0).valid);
  }
}

TEST(IncompleteUtf8Tail, CountsOnlyWhatMayStillBecomeACharacter) {
  EXPECT_EQ(IncompleteUtf8Tail(""), 0u);
  EXPECT_EQ(IncompleteUtf8Tail("abc"), 0u);
  EXPECT_EQ(IncompleteUtf8Tail("abc\xE6"), 1u);
  EXPECT_EQ(IncompleteUtf8Tail("abc\xE6\x97"), 2u);
  EXPECT_EQ(IncompleteUtf8Tail("abc\xE6\x97\xA5"), 0u);
  EXPECT_EQ(IncompleteUtf8Tail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteUtf8Tail("\xF4\x90"), 0u);      // can never be completed
  EXPECT_EQ(IncompleteUtf8Tail("\x80\x80\x80"), 0u);  // no lead byte
  EXPECT_EQ(IncompleteUtf8Tail("\xC0"), 0u);
}

TEST(AppendUtf8, WritesWhatDecodeUtf8Reads) {
  for (const char32_t c : {U'\0', U'A', U'\u007F', U'\u0080', U'\u07FF', U'\u0800', U'\uFFFF',
                           U'\U00010000', U'\U0010FFFF'}) {
    std::string text;
    AppendUtf8(text, c);
    const Utf8Char read = DecodeUtf8(text, 0);
    EXPECT_TRUE(read.valid);
    EXPECT_EQ(read.code_point, c);
    EXPECT_EQ(read.bytes, text.size());
  }
}

}  // namespace
}  // namespace hproc
