#include "evals/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace hproc::evals {
namespace {

std::vector<char32_t> Decode(std::string_view text) {
  std::vector<char32_t> points;
  while (!text.empty()) {
    const CodePoint point = FirstCodePoint(text);
    points.push_back(point.value);
    text.remove_prefix(point.bytes);
  }
  return points;
}

TEST(Utf8, DecodesEveryLength) {
  EXPECT_EQ(Decode("A\u00e9\u20ac\U0001F642"),
            (std::vector<char32_t>{0x41, 0xE9, 0x20AC, 0x1F642}));
  EXPECT_EQ(Decode("\xEF\xBF\xBD"), (std::vector<char32_t>{0xFFFD}));
  EXPECT_TRUE(FirstCodePoint("\xEF\xBF\xBD").valid);
}

TEST(Utf8, AcceptsTheEndsOfEachRange) {
  for (const std::string_view text :
       {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_FALSE(FindInvalidUtf8(text).has_value());
    EXPECT_EQ(FirstCodePoint(text).bytes, text.size());
  }
}

TEST(Utf8, RefusesOverlongFormsSurrogatesAndWhatLiesBeyond) {
  for (const std::string_view text :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\x80"}) {
    EXPECT_EQ(FindInvalidUtf8(text), 0u);
  }
}

TEST(Utf8, ReadsABrokenSequenceAsOneReplacementUpToWhereItBreaks) {
  // The example of The Unicode Standard, section 3.9, table 3-11 (truncated sequences).
  EXPECT_EQ(Decode("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"),
            (std::vector<char32_t>{0xFFFD, 0xFFFD, 0xFFFD, 0xFFFD, 0x41}));
  EXPECT_EQ(Decode("\xF0\x9F\x99"), (std::vector<char32_t>{0xFFFD}));
  EXPECT_EQ(FindInvalidUtf8("ab\xC3"), 2u);
}

}  // namespace
}  // namespace hproc::evals
