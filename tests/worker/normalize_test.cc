#include "worker/normalize.h"

#include <gtest/gtest.h>

namespace hproc::worker {
namespace {

using namespace std::string_literals;

TEST(NormalizeNfc, ComposesAndOrders) {
  // Expected values: the Unicode Character Database, by way of Python's unicodedata.
  EXPECT_EQ(NormalizeNfc(""), "");
  EXPECT_EQ(NormalizeNfc("plain\0text"s), "plain\0text"s);
  EXPECT_EQ(NormalizeNfc("e\u0301"), "\u00e9");
  EXPECT_EQ(NormalizeNfc("xe\u0301y"), "x\u00e9y");
  EXPECT_EQ(NormalizeNfc("e\u0301\u0323"), "\u1eb9\u0301");
  EXPECT_EQ(NormalizeNfc("\u1e9b\u0323"), "\u1e9b\u0323");
  EXPECT_EQ(NormalizeNfc("\u0301e"), "\u0301e");
  EXPECT_EQ(NormalizeNfc("A\u030a \u212b \u00c5"), "\u00c5 \u00c5 \u00c5");
  EXPECT_EQ(NormalizeNfc("\u2126"), "\u03a9");
  EXPECT_EQ(NormalizeNfc("\ufb1d"), "\u05d9\u05b4");  // excluded from composition
  EXPECT_EQ(NormalizeNfc("\u0344"), "\u0308\u0301");
  EXPECT_EQ(NormalizeNfc("\ufb01"), "\ufb01");  // a compatibility character stays
  EXPECT_EQ(NormalizeNfc("\uf900\u65e5"), "\u8c48\u65e5");
  EXPECT_EQ(NormalizeNfc("\u4e00\u0301"), "\u4e00\u0301");
  EXPECT_EQ(NormalizeNfc("\U0001d15e"), "\U0001d157\U0001d165");
}

TEST(NormalizeNfc, ComposesHangul) {
  EXPECT_EQ(NormalizeNfc("\u1100\u1161"), "\uac00");
  EXPECT_EQ(NormalizeNfc("\u1100\u1161\u11a8"), "\uac01");
  EXPECT_EQ(NormalizeNfc("\uac00\u11a8"), "\uac01");
  EXPECT_EQ(NormalizeNfc("\uac01\u11a8"), "\uac01\u11a8");
  EXPECT_EQ(NormalizeNfc("\u1100\u0301\u1161"), "\u1100\u0301\u1161");
  // U+11A7 is one before the first trailing consonant, and none.
  EXPECT_EQ(NormalizeNfc("\uac00\u11a7"), "\uac00\u11a7");
  EXPECT_EQ(NormalizeNfc("\uac00\u11a7\u0301"), "\uac00\u11a7\u0301");
}

// The tokenizers library has the tables of Unicode 9.0: it moves nothing over marks that came later, and composes nothing
// with them.
TEST(NormalizeNfc, LeavesAloneWhatUnicode9DidNotKnow) {
  EXPECT_EQ(NormalizeNfc("\u1dfb\u0316"), "\u0316\u1dfb");              // 9.0, class 230 behind 220
  EXPECT_EQ(NormalizeNfc("\u0301\u07fd"), "\u0301\u07fd");              // 11.0, 220 behind 230
  EXPECT_EQ(NormalizeNfc("\u1dfa\u0301\u0316"), "\u1dfa\u0316\u0301");  // 14.0; what follows is ordered
  EXPECT_EQ(NormalizeNfc("e\u1dfa\u0301"), "e\u1dfa\u0301");            // no \u00e9 over it
  EXPECT_EQ(NormalizeNfc("e\u0301\u1dfa\u0301"), "\u00e9\u1dfa\u0301");
  EXPECT_EQ(NormalizeNfc("\u1dfa"), "\u1dfa");
  EXPECT_EQ(NormalizeNfc("\u1dfa\u1dfae\u0301"), "\u1dfa\u1dfa\u00e9");
  EXPECT_EQ(NormalizeNfc("\U00011935\U00011930"), "\U00011935\U00011930");  // 13.0: a composition
  EXPECT_EQ(NormalizeNfc("\U00011938\u0301"), "\U00011938\u0301");
  EXPECT_EQ(NormalizeNfc("\U0001e4ee\U0001e4ec"), "\U0001e4ee\U0001e4ec");  // 15.0
}

TEST(NormalizeNfc, OrdersLongRunsOfMarksInTime) {
  std::string text = "q";
  std::string expected = "q";
  for (int i = 0; i < 500'000; ++i) {
    text += i % 2 == 0 ? "\u0301" : "\u0316";  // classes 230 and 220
  }
  for (int i = 0; i < 250'000; ++i) expected += "\u0316";
  for (int i = 0; i < 250'000; ++i) expected += "\u0301";
  EXPECT_EQ(NormalizeNfc(text) == expected, true);
}

}  // namespace
}  // namespace hproc::worker
