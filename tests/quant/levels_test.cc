#include "quant/levels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace hproc::quant {
namespace {

TEST(Planes, CostTheBitsTheHeaderPromises) {
  const std::pair<int, int> expected[] = {{2, 8},   {3, 13},  {4, 16},  {6, 21},  {8, 24}, {12, 29},
                                          {16, 32}, {24, 37}, {32, 40}, {48, 45}, {64, 48}};
  for (const auto& [levels, bytes] : expected) EXPECT_EQ(PlanesOf(levels).unit_bytes(), bytes) << levels;
  EXPECT_EQ(CodeBytesPerRow(64, 3), 13);
  EXPECT_EQ(CodeBytesPerRow(65, 3), 26);
  EXPECT_EQ(CodeBytesPerRow(384, 16), 192);
}

TEST(Ternary, EveryFiveDigitsComeBack) {
  for (int value = 0; value < 243; ++value) {
    std::array<int, 5> digits{};
    for (int j = 4, rest = value; j >= 0; --j, rest /= 3) digits[static_cast<size_t>(j)] = rest % 3;
    const uint8_t byte = EncodeTernary(digits);
    for (int j = 0; j < 5; ++j) EXPECT_EQ(DecodeTernary(byte, j), digits[static_cast<size_t>(j)]) << value;
  }
}

TEST(PackRow, EveryLevelCountAndRowLengthComesBack) {
  std::mt19937 random(1);
  for (int levels : kLevelCounts) {
    for (int columns : {1, 7, 63, 64, 65, 128, 200, 384}) {
      std::vector<uint8_t> codes(static_cast<size_t>(columns));
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % static_cast<unsigned>(levels));
      std::vector<uint8_t> packed(static_cast<size_t>(CodeBytesPerRow(columns, levels)), 0xFF);
      PackRow(codes, levels, packed);
      std::vector<uint8_t> unpacked(codes.size(), 0xFF);
      UnpackRow(packed, levels, unpacked);
      EXPECT_EQ(unpacked, codes) << levels << " levels, " << columns << " columns";
    }
  }
}

TEST(PackRow, LaysCodesOutAsTheHeaderDraws) {
  std::vector<uint8_t> codes(64, 0);
  codes[17] = 3;  // 2-bit plane: byte 1, second field
  std::vector<uint8_t> packed(16);
  PackRow(codes, 4, packed);
  EXPECT_EQ(packed[1], 3 << 2);
  EXPECT_EQ(std::ranges::count(packed, 0), 15);

  codes.assign(64, 0);
  codes[33] = 8 + 4;  // K = 24: low bits 4 in planes of 2 and 1 bits (0 and 1), ternary digit 1
  packed.resize(37);
  PackRow(codes, 24, packed);
  EXPECT_EQ(packed[16 + 1], 1 << 4);                      // 1-bit plane: byte 33 % 8, bit 33 / 8
  EXPECT_EQ(DecodeTernary(packed[24 + 33 % 13], 33 / 13), 1);
}

}  // namespace
}  // namespace hproc::quant
