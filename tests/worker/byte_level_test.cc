#include "worker/byte_level.h"

#include <gtest/gtest.h>

#include <set>

namespace hproc::worker {
namespace {

using namespace std::string_literals;

TEST(ByteLevel, WritesBytesAsGpt2Does) {
  EXPECT_EQ(ToByteLevel(" the\n"), "\u0120the\u010a");
  EXPECT_EQ(ToByteLevel("\0\x7f\xa0\xad"s), "\u0100\u0121\u0142\u0143");
  EXPECT_EQ(ToByteLevel("\xa1\xac\xae\xff"), "\u00a1\u00ac\u00ae\u00ff");
  EXPECT_EQ(ToByteLevel("\u00e9"), "\u00c3\u00a9");
}

TEST(ByteLevel, ReadsWhatItWrites) {
  std::set<std::string_view> chars;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string_view written = ByteLevelChar(static_cast<uint8_t>(byte));
    chars.insert(written);
    EXPECT_EQ(FromByteLevel(written), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(chars.size(), 256u);
}

TEST(ByteLevel, ReadsNothingElse) {
  EXPECT_EQ(FromByteLevel("a b"), std::nullopt);  // a blank is written as U+0120
  EXPECT_EQ(FromByteLevel("\u00a0"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\u0144"), std::nullopt);
  EXPECT_EQ(FromByteLevel("\u8a9e"), std::nullopt);
  EXPECT_EQ(FromByteLevel(""), "");
}

}  // namespace
}  // namespace hproc::worker
