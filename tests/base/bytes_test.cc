#include "base/bytes.h"

#include <gtest/gtest.h>

namespace hproc {
namespace {

TEST(ParseBytes, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseBytes("7MiB"), 7340032);
  EXPECT_EQ(*ParseBytes("7 mib"), 7340032);
  EXPECT_EQ(*ParseBytes("9.0MB"), 9000000);
  EXPECT_EQ(*ParseBytes("96G"), int64_t{96} << 30);
  EXPECT_EQ(*ParseBytes("1.5GiB"), 1610612736);
  EXPECT_EQ(*ParseBytes("123456"), 123456);
}

TEST(ParseBytes, NamesTheTextItCannotRead) {
  for (const char* text : {"", "MiB", "-1MiB", "0", "0.2", "7XB", "7MiBs", "nan", "inf", "1e400", "9999999TiB"}) {
    const Result<int64_t> bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_NE(bytes.error().message.find("'" + std::string(text) + "'"), std::string::npos) << bytes.error().message;
  }
}

TEST(FormatBytes, UsesBinaryUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(7340032), "7.00 MiB");
  EXPECT_EQ(FormatBytes(-2048), "-2.00 KiB");
}

}  // namespace
}  // namespace hproc
