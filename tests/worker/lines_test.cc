#include "worker/lines.h"

#include <gtest/gtest.h>

#include <vector>

namespace hproc::worker {
namespace {

std::vector<std::string> Drain(LineSplitter& lines) {
  std::vector<std::string> all;
  while (const auto line = lines.Next()) all.emplace_back(*line);
  return all;
}

TEST(LineSplitter, CutsTheSameLinesHoweverTheBytesArrive) {
  const std::string stream = "one\n\nthree is longer\nfour\ntorn";
  for (size_t chunk = 1; chunk <= stream.size(); ++chunk) {
    LineSplitter lines(100);
    std::vector<std::string> all;
    for (size_t at = 0; at < stream.size(); at += chunk) {
      lines.Append(std::string_view(stream).substr(at, chunk));
      for (std::string& line : Drain(lines)) all.push_back(std::move(line));
    }
    EXPECT_EQ(all, (std::vector<std::string>{"one", "", "three is longer", "four"})) << chunk;
    EXPECT_EQ(lines.torn_bytes(), 4u);
  }
}

TEST(LineSplitter, AcceptsALineOfExactlyTheLimit) {
  LineSplitter lines(4);
  lines.Append("1234\n");
  EXPECT_EQ(Drain(lines), std::vector<std::string>{"1234"});
  EXPECT_FALSE(lines.overlong());
}

TEST(LineSplitter, StopsForGoodAtALineBeyondTheLimit) {
  LineSplitter ended(4);
  ended.Append("ab\n12345\ncd\n");
  EXPECT_EQ(Drain(ended), std::vector<std::string>{"ab"});
  EXPECT_TRUE(ended.overlong());

  LineSplitter unended(4);
  unended.Append("123");
  EXPECT_FALSE(unended.Next().has_value());
  EXPECT_FALSE(unended.overlong());
  unended.Append("45");
  EXPECT_FALSE(unended.Next().has_value());
  EXPECT_TRUE(unended.overlong());
}

TEST(OneLine, LeavesPrintableTextAlone) {
  EXPECT_EQ(OneLine("naïve „text“ 数", 100), "naïve „text“ 数");
}

TEST(OneLine, TakesTheTeethOutOfControlCharactersAndBytesThatAreNotText) {
  EXPECT_EQ(OneLine("a\nb\r\x1b[2J\x7f\xc2\x85z", 100), "a b  [2J  z");
  EXPECT_EQ(OneLine("a\xff\xc3", 100), "a??");
}

TEST(OneLine, CutsBetweenCharactersWithinTheLimit) {
  EXPECT_EQ(OneLine("abcdef", 6), "abcdef");
  EXPECT_EQ(OneLine("abcdefg", 6), "abc…");
  EXPECT_EQ(OneLine("éééé", 7), "éé…");
  EXPECT_EQ(OneLine("éééé", 6), "é…");
  EXPECT_EQ(OneLine("abc", 2), "");
}

}  // namespace
}  // namespace hproc::worker
