#include "worker/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

namespace hproc::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kLabel = "model.safetensors";

// A header in front of `data_bytes` bytes of data.
Result<SafetensorsHeader> Parse(std::string_view json, int64_t data_bytes) {
  return ParseSafetensorsHeader(kLabel, json, 8 + static_cast<int64_t>(json.size()) + data_bytes);
}

// The message, which must name the file, be one line and be short; "accepted" where there is none.
std::string ErrorOf(std::string_view json, int64_t data_bytes) {
  const Result<SafetensorsHeader> header = Parse(json, data_bytes);
  if (header.ok()) return "accepted";
  const std::string& message = header.error().message;
  EXPECT_THAT(message, testing::StartsWith("model.safetensors: "));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 400u) << message;
  return message.substr(kLabel.size() + 2);
}

std::string Tensor(std::string_view name, std::string_view dtype, std::string_view shape,
                   std::string_view offsets) {
  return "\"" + std::string(name) + R"(":{"dtype":")" + std::string(dtype) + R"(","shape":)" +
         std::string(shape) + R"(,"data_offsets":)" + std::string(offsets) + "}";
}

std::string Length(uint64_t n) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(static_cast<unsigned char>(n >> (8 * i)));
  return bytes;
}

TEST(SafetensorsHeaderBytes, IsTheLittleEndianNumberInFront) {
  EXPECT_EQ(*SafetensorsHeaderBytes(kLabel, Length(0x0102), 8 + 0x0102), 0x0102);
  EXPECT_EQ(*SafetensorsHeaderBytes(kLabel, Length(0), 8), 0);
  EXPECT_EQ(*SafetensorsHeaderBytes(kLabel, Length(100'000'000), 100'000'008), 100'000'000);
}

TEST(SafetensorsHeaderBytes, RefusesFilesTooShortToHaveOne) {
  for (int64_t size = 0; size < 8; ++size) {
    const Result<int64_t> length =
        SafetensorsHeaderBytes(kLabel, std::string(static_cast<size_t>(size), '\0'), size);
    ASSERT_FALSE(length.ok());
    EXPECT_EQ(length.error().message,
              "model.safetensors: not a safetensors file: " + std::to_string(size) +
                  " bytes, fewer than the 8 of the header's length");
  }
}

TEST(SafetensorsHeaderBytes, RefusesMoreThanTheReferenceReads) {
  for (const uint64_t n :
       {uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    const Result<int64_t> length = SafetensorsHeaderBytes(kLabel, Length(n), int64_t{1} << 40);
    ASSERT_FALSE(length.ok()) << n;
    EXPECT_THAT(length.error().message, HasSubstr("more than the 100000000 allowed"));
  }
}

TEST(SafetensorsHeaderBytes, RefusesAHeaderPastTheEndOfTheFile) {
  EXPECT_TRUE(SafetensorsHeaderBytes(kLabel, Length(2), 10).ok());
  const Result<int64_t> length = SafetensorsHeaderBytes(kLabel, Length(3), 10);
  ASSERT_FALSE(length.ok());
  EXPECT_EQ(length.error().message,
            "model.safetensors: the header's 3 bytes reach past the end of the file (10 bytes)");
}

TEST(SafetensorsHeader, ListsTensorsByOffsetWhateverTheOrderInTheHeader) {
  const std::string json = "{" + Tensor("b", "F32", "[2,3]", "[4,28]") + "," +
                           Tensor("a", "BF16", "[2]", "[0,4]") +
                           R"(,"__metadata__":{"format":"pt"}})";
  const Result<SafetensorsHeader> header = Parse(json, 28);
  ASSERT_TRUE(header.ok()) << header.error().message;
  ASSERT_EQ(header->tensors.size(), 2u);
  const TensorInfo& a = header->tensors[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, Dtype::kBF16);
  EXPECT_THAT(a.shape, ElementsAre(2));
  EXPECT_EQ(a.begin, 0);
  EXPECT_EQ(a.end, 4);
  const TensorInfo& b = header->tensors[1];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, Dtype::kF32);
  EXPECT_THAT(b.shape, ElementsAre(2, 3));
  EXPECT_EQ(b.begin, 4);
  EXPECT_EQ(b.bytes(), 24);
  EXPECT_EQ(b.elements(), 6);
  EXPECT_EQ(header->metadata_entries, 1);
}

TEST(SafetensorsHeader, KeepsNothingOfTheMetadata) {
  constexpr int kEntries = 200'000;
  std::string json = R"({"__metadata__":{"format":"pt")";
  for (int i = 1; i < kEntries; ++i) json += ",\"k" + std::to_string(i) + "\":\"" + std::string(static_cast<size_t>(i % 50), 'v') + "\"";
  json += "}}";
  const size_t before = ::mallinfo2().uordblks;
  const Result<SafetensorsHeader> header = Parse(json, 0);
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->metadata_entries, kEntries);
  EXPECT_LT(::mallinfo2().uordblks, before + 65536);
}

TEST(SafetensorsHeader, KnowsEveryDtypeAndItsBits) {
  struct Row {
    std::string_view name;
    int bits;
  };
  const Row rows[] = {{"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
                      {"U8", 8},      {"I8", 8},          {"F8_E5M2", 8},     {"F8_E4M3", 8},
                      {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
                      {"U16", 16},    {"F16", 16},        {"BF16", 16},       {"I32", 32},
                      {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},
                      {"I64", 64},    {"U64", 64}};
  ASSERT_EQ(std::size(rows), static_cast<size_t>(kDtypeCount));
  for (const Row& row : rows) {
    // Eight elements end at a whole byte whatever the type.
    const Result<SafetensorsHeader> header = Parse(
        "{" + Tensor("x", row.name, "[8]", "[0," + std::to_string(row.bits) + "]") + "}", row.bits);
    ASSERT_TRUE(header.ok()) << header.error().message;
    EXPECT_EQ(DtypeName(header->tensors[0].dtype), row.name);
    EXPECT_EQ(DtypeBits(header->tensors[0].dtype), row.bits);
    EXPECT_EQ(header->tensors[0].elements(), 8) << row.name;
  }
}

TEST(SafetensorsHeader, AcceptsWhatTheReferenceAccepts) {
  EXPECT_EQ(ErrorOf("{}", 0), "accepted");
  EXPECT_EQ(ErrorOf("{}       ", 0), "accepted");
  EXPECT_EQ(ErrorOf("{} \n\t\r ", 0), "accepted");
  EXPECT_EQ(ErrorOf("  {}", 0), "accepted");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":null})", 0), "accepted");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":{}})", 0), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("scalar", "F32", "[]", "[0,4]") + "}", 4), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("empty", "F32", "[0]", "[0,0]") + "}", 0), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("", "U8", "[1]", "[0,1]") + "}", 1), "accepted");
  EXPECT_EQ(
      ErrorOf(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":{"x":[1,{"y":null}]}}})",
          1),
      "accepted");
  // The product is taken from the left, so that a zero in front hides what would overflow.
  EXPECT_EQ(
      ErrorOf(
          "{" + Tensor("a", "F32", "[0,9223372036854775807,9223372036854775807]", "[0,0]") + "}",
          0),
      "accepted");
}

TEST(SafetensorsHeader, AcceptsEmptyTensorsThatShareAnOffset) {
  const std::string json =
      "{" + Tensor("full", "U8", "[4]", "[0,4]") + "," + Tensor("e1", "U8", "[0]", "[0,0]") + "," +
      Tensor("e2", "F64", "[3,0]", "[4,4]") + "," + Tensor("e3", "U8", "[0,5]", "[4,4]") + "}";
  EXPECT_EQ(ErrorOf(json, 4), "accepted");
}

TEST(SafetensorsHeader, RefusesWhatIsNotAJsonObject) {
  EXPECT_THAT(ErrorOf("", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("   ", 0), HasSubstr("not valid JSON"));
  EXPECT_EQ(ErrorOf("[]", 0), "header: the header is not a JSON object");
  EXPECT_EQ(ErrorOf("1", 0), "header: the header is not a JSON object");
  EXPECT_THAT(ErrorOf("{", 0), HasSubstr("not valid JSON at byte"));
  EXPECT_THAT(ErrorOf("{}x", 0), HasSubstr("not valid JSON at byte 3"));
  EXPECT_THAT(ErrorOf("{}{}", 0), HasSubstr("not valid JSON at byte 3"));
  EXPECT_THAT(ErrorOf("{\"a\":}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"\xFF\":1}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("{\"\\ud800\":1}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf("\xEF\xBB\xBF{}", 0), HasSubstr("byte order mark"));
  EXPECT_THAT(ErrorOf(std::string_view("{}\0\0", 4), 0), HasSubstr("a NUL byte"));
}

TEST(SafetensorsHeader, RefusesAnEntryOfTheWrongForm) {
  EXPECT_EQ(ErrorOf(R"({"a":1})", 0), "header: tensor 'a': its entry is not an object");
  EXPECT_EQ(ErrorOf(R"({"a":[]})", 0), "header: tensor 'a': its entry is not an object");
  EXPECT_EQ(ErrorOf(R"({"a":{}})", 0), "header: tensor 'a': no dtype");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"U8"}})", 0), "header: tensor 'a': no shape");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"U8","shape":[]}})", 0),
            "header: tensor 'a': no data_offsets");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0),
            "header: tensor 'a': dtype appears twice");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":3}})", 0), "header: tensor 'a': dtype is not a string");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"F128"}})", 0), "header: tensor 'a': unknown dtype 'F128'");
  EXPECT_EQ(ErrorOf(R"({"a":{"dtype":"bf16"}})", 0), "header: tensor 'a': unknown dtype 'bf16'");
  EXPECT_EQ(ErrorOf(R"({"a":{"shape":3}})", 0), "header: tensor 'a': shape is not an array");
  EXPECT_EQ(ErrorOf(R"({"a":{"shape":{}}})", 0), "header: tensor 'a': shape is not an array");
  EXPECT_EQ(ErrorOf(R"({"a":{"data_offsets":{}}})", 0),
            "header: tensor 'a': data_offsets is not an array");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":[]})", 0), "header: __metadata__ is not an object");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":{"k":1}})", 0), "header: __metadata__ 'k' is not a string");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":{"k":{}}})", 0), "header: __metadata__ 'k' is not a string");
  EXPECT_EQ(ErrorOf(R"({"__metadata__":{},"__metadata__":{}})", 0),
            "header: __metadata__ appears twice");
}

TEST(SafetensorsHeader, RefusesNumbersThatAreNoSizes) {
  const std::string dimension =
      "header: tensor 'a': a dimension of its shape is not an integer from 0 to 2^63 - 1";
  for (const char* number : {"-1", "-0", "1.0", "1e3", "9223372036854775808",
                             "18446744073709551616", "\"1\"", "null", "[1]"}) {
    EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[" + std::string(number) + "]", "[0,1]") + "}", 1),
              dimension)
        << number;
  }
  const std::string offset =
      "header: tensor 'a': an entry of data_offsets is not an integer from 0 to 2^63 - 1";
  for (const char* number : {"-1", "0.5", "9223372036854775808", "1e400", "true", "{}"}) {
    const std::string message =
        ErrorOf("{" + Tensor("a", "U8", "[1]", "[0," + std::string(number) + "]") + "}", 1);
    EXPECT_TRUE(message == offset || message.find("not valid JSON") != std::string::npos)
        << number << ": " << message;
  }
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[1]", "[0]") + "}", 1),
            "header: tensor 'a': data_offsets has less than two entries");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[1]", "[0,1,2]") + "}", 1),
            "header: tensor 'a': data_offsets has more than two entries");
}

TEST(SafetensorsHeader, RefusesEndBeforeBegin) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[1]", "[2,1]") + "}", 2),
            "header: tensor 'a': data_offsets [2, 1] end before they begin");
}

TEST(SafetensorsHeader, RefusesOverlappingTensors) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[8]", "[0,8]") + "," +
                        Tensor("b", "U8", "[8]", "[4,12]") + "}",
                    12),
            "tensor 'b': begins at byte 4, inside tensor 'a', which ends at 8");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[8]", "[0,8]") + "," +
                        Tensor("b", "U8", "[8]", "[0,8]") + "}",
                    8),
            "tensor 'b': begins at byte 0, inside tensor 'a', which ends at 8");
}

TEST(SafetensorsHeader, RefusesAHundredThousandTensorsOnOneRange) {
  std::string json = "{";
  for (int i = 0; i < 100'000; ++i) {
    json += (i > 0 ? "," : "") + Tensor("t" + std::to_string(i), "U8", "[8]", "[0,8]");
  }
  EXPECT_THAT(ErrorOf(json + "}", 8), HasSubstr("begins at byte 0, inside tensor 't0'"));
}

TEST(SafetensorsHeader, RefusesHoles) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[4]", "[4,8]") + "}", 8),
            "tensor 'a': begins at byte 4, but no tensor holds bytes 0 to 4");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[4]", "[0,4]") + "," +
                        Tensor("b", "U8", "[1]", "[5,6]") + "}",
                    6),
            "tensor 'b': begins at byte 5, but no tensor holds bytes 4 to 5");
}

TEST(SafetensorsHeader, RefusesBytesThatBelongToNoTensor) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", "[4]", "[0,4]") + "}", 9),
            "5 bytes after the last tensor belong to none");
  EXPECT_EQ(ErrorOf("{}", 1), "1 bytes after the last tensor belong to none");
}

TEST(SafetensorsHeader, RefusesAFileCutShort) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F32", "[2]", "[0,8]") + "}", 6),
            "tensor 'a': ends at byte 8 of the data, but the file holds 6: cut short?");
}

TEST(SafetensorsHeader, RefusesASizeThatIsNotTheShapes) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F32", "[2,3]", "[0,23]") + "}", 23),
            "tensor 'a': F32 [2, 3] takes 24 bytes, but data_offsets [0, 23] hold 23");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F32", "[]", "[0,0]") + "}", 0),
            "tensor 'a': F32 [] takes 4 bytes, but data_offsets [0, 0] hold 0");
}

TEST(SafetensorsHeader, RefusesProductsThatOverflow) {
  const std::string overflow = " has more bits than 64 bits can count";
  EXPECT_THAT(ErrorOf("{" + Tensor("a", "U8", "[2,9223372036854775807]", "[0,0]") + "}", 0),
              HasSubstr(overflow));
  // 4194305 * 4194305 * 211106198978564 wraps around to 4.
  EXPECT_THAT(
      ErrorOf("{" + Tensor("a", "U8", "[4194305,4194305,211106198978564]", "[0,4]") + "}", 4),
      HasSubstr(overflow));
  // The elements fit, their bits do not: 2^61 elements of 64 bits.
  EXPECT_THAT(ErrorOf("{" + Tensor("a", "F64", "[2305843009213693952]", "[0,0]") + "}", 0),
              HasSubstr(overflow));
  // A zero at the end does not help, as in the reference.
  EXPECT_THAT(
      ErrorOf("{" + Tensor("a", "U8", "[9223372036854775807,9223372036854775807,0]", "[0,0]") + "}",
              0),
      HasSubstr(overflow));
  // 2^64 - 2 is no dimension here; the reference finds the overflow.
  EXPECT_THAT(ErrorOf("{" + Tensor("a", "U8", "[2,18446744073709551614]", "[0,0]") + "}", 0),
              HasSubstr("a dimension"));
}

TEST(SafetensorsHeader, RefusesSubByteTensorsThatEndInsideAByte) {
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F4", "[4]", "[0,2]") + "}", 2), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F6_E2M3", "[4]", "[0,3]") + "}", 3), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F4", "[3]", "[0,1]") + "}", 1),
            "tensor 'a': F4 [3] does not end at a whole byte");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "F6_E3M2", "[2]", "[0,1]") + "}", 1),
            "tensor 'a': F6_E3M2 [2] does not end at a whole byte");
}

TEST(SafetensorsHeader, RefusesTwoTensorsOfOneName) {
  EXPECT_EQ(
      ErrorOf("{" + Tensor("a", "U8", "[1]", "[0,1]") + "," + Tensor("b", "U8", "[1]", "[1,2]") +
                  "," + Tensor("\\u0061", "U8", "[1]", "[2,3]") + "}",
              3),
      "tensor 'a': appears twice in the header");
}

TEST(SafetensorsHeader, RefusesDeepNesting) {
  const std::string deep = R"({"a":{"note":)" + std::string(1'000'000, '[');
  EXPECT_EQ(ErrorOf(deep, 0), "header: JSON nested more than 16 deep");
  EXPECT_EQ(ErrorOf(std::string(1'000'000, '['), 0), "header: the header is not a JSON object");
}

TEST(SafetensorsHeader, RefusesMoreTensorsOrDimensionsThanItsCaps) {
  std::string json = "{";
  const std::string entry = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
  for (size_t i = 0; i <= kMaxTensorsPerFile; ++i) json += "\"" + std::to_string(i) + entry;
  json.back() = '}';
  EXPECT_EQ(ErrorOf(json, 0), "header: more than 1048576 tensors");

  std::string shape = "[1";
  for (size_t i = 1; i < kMaxDimensions; ++i) shape += ",1";
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", shape + "]", "[0,1]") + "}", 1), "accepted");
  EXPECT_EQ(ErrorOf("{" + Tensor("a", "U8", shape + ",1]", "[0,1]") + "}", 1),
            "header: tensor 'a': more than 32 dimensions");
}

TEST(SafetensorsHeader, ShowsHostileNamesEscapedAndShortened) {
  EXPECT_EQ(ErrorOf(R"({"a\u0000b\n\u202Ec":1})", 0),
            "header: tensor 'a\\u{0000}b\\n\\u{202E}c': its entry is not an object");
  const std::string huge(1 << 20, 'x');
  EXPECT_THAT(ErrorOf("{\"" + huge + "\":1}", 0),
              HasSubstr("(1048576 bytes)': its entry is not an object"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":")" + huge + R"("}})", 0), HasSubstr("(1048576 bytes)'"));
  // A name with a NUL is odd, but a name.
  const Result<SafetensorsHeader> header =
      Parse("{" + Tensor("a\\u0000", "U8", "[1]", "[0,1]") + "}", 1);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->tensors[0].name, std::string("a\0", 2));
}

}  // namespace
}  // namespace hproc::worker
