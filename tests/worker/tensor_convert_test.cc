#include "worker/tensor_convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace hproc::worker {
namespace {

template <typename T>
std::vector<float> Convert(Dtype dtype, const std::vector<T>& values, int64_t* nonfinite) {
  std::vector<float> out(values.size());
  *nonfinite = ConvertToFloat(dtype, std::as_bytes(std::span(values)), out);
  return out;
}

TEST(ConvertToFloat, Bf16IsTheUpperHalfOfAFloat) {
  int64_t nonfinite = 0;
  const std::vector<uint16_t> bits = {0x3F80, 0xC000, 0x0001, 0x8000,
                                      0x7F7F, 0x7F80, 0xFF80, 0x7FC0};
  const std::vector<float> out = Convert(Dtype::kBF16, bits, &nonfinite);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], 0x1p-133f);
  EXPECT_TRUE(out[3] == 0 && std::signbit(out[3]));
  EXPECT_EQ(out[4], 0x1.FEp127f);
  EXPECT_EQ(nonfinite, 3);
}

TEST(ConvertToFloat, F16IsExactForEveryBitPattern) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  int64_t nonfinite = 0;
  const std::vector<float> out = Convert(Dtype::kF16, bits, &nonfinite);
  EXPECT_EQ(nonfinite, 2 * 1024);
  for (size_t i = 0; i < bits.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31);
    const int mantissa = static_cast<int>(i & 1023);
    if (exponent == 31) {
      EXPECT_EQ(std::isinf(out[i]), mantissa == 0) << i;
      EXPECT_EQ(std::isnan(out[i]), mantissa != 0) << i;
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(static_cast<double>(out[i]), (i >> 15) != 0 ? -magnitude : magnitude) << i;
    }
    EXPECT_EQ(std::signbit(out[i]), (i >> 15) != 0) << i;
  }
}

TEST(ConvertToFloat, F32PassesUnchangedNansIncluded) {
  const std::vector<float> values = {1.5f, -0.0f, std::numeric_limits<float>::quiet_NaN(),
                                     -std::numeric_limits<float>::infinity(), 1e-45f};
  int64_t nonfinite = 0;
  const std::vector<float> out = Convert(Dtype::kF32, values, &nonfinite);
  EXPECT_EQ(std::memcmp(out.data(), values.data(), values.size() * sizeof(float)), 0);
  EXPECT_EQ(nonfinite, 2);
}

TEST(ConvertToFloat, F64IsRoundedAndCountsWhatFloatCannotHold) {
  int64_t nonfinite = 0;
  const std::vector<float> out =
      Convert(Dtype::kF64, std::vector<double>{0.1, -1e300, 1e-300}, &nonfinite);
  EXPECT_EQ(out[0], 0.1f);
  EXPECT_TRUE(std::isinf(out[1]));
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(nonfinite, 1);
}

TEST(ConvertToFloat, TakesValuesAtAnyAlignment) {
  std::vector<std::byte> bytes(1 + 2 * sizeof(uint16_t));
  const uint16_t one_two[] = {0x3F80, 0x4000};
  std::memcpy(bytes.data() + 1, one_two, sizeof one_two);
  std::vector<float> out(2);
  EXPECT_EQ(ConvertToFloat(Dtype::kBF16, std::span(bytes).subspan(1), out), 0);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], 2.0f);
}

TEST(ConvertToFloat, TakesNothing) {
  EXPECT_EQ(ConvertToFloat(Dtype::kF32, {}, {}), 0);
  EXPECT_EQ(ConvertToFloat(Dtype::kBF16, {}, {}), 0);
}

TEST(IsConvertibleToFloat, SaysNoToIntegersAndSmallFloats) {
  EXPECT_TRUE(IsConvertibleToFloat(Dtype::kBF16));
  EXPECT_TRUE(IsConvertibleToFloat(Dtype::kF64));
  EXPECT_FALSE(IsConvertibleToFloat(Dtype::kI32));
  EXPECT_FALSE(IsConvertibleToFloat(Dtype::kF8E4M3));
}

}  // namespace
}  // namespace hproc::worker
