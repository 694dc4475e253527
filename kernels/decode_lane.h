// How one lane's codes of a tile in decode order (kernels/decode_order.h) become words. Constant functions, so that a device
// can run them too.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/decode_order.h"

namespace hproc::kernels {

inline constexpr int kLaneSets = 16;
inline constexpr int kHalfCodes = 32;  // of one lane

// Where the bits of a code of step s, nibble i stand among the words of a half-lane, by p as the header draws it:
// visit(word, bit of the word, bit of the code).
template <typename Visit>
constexpr void ForEachLaneBit(int low_bits, int s, int i, Visit&& visit) {
  switch (low_bits) {
    case 0:
      return;
    case 1:
      visit(0, 4 * i + s, 0);
      return;
    case 2:
      for (int b = 0; b < 2; ++b) visit(s / 2, 4 * i + 2 * (s % 2) + b, b);
      return;
    case 3:
      for (int b = 0; b < 3; ++b) {
        if (s < 3) {
          visit(s, 4 * i + b, b);
        } else {
          visit(b, 4 * i + 3, b);
        }
      }
      return;
    default:
      for (int b = 0; b < 4; ++b) visit(s, 4 * i + b, b);
      for (int b = 4; b < low_bits; ++b) visit(b, 4 * i + s, b);
  }
}

// The codes of one lane [halves][32] to its words and its byte, and back.
struct LaneCodes {
  std::array<uint32_t, 12> words{};
  uint8_t byte = 0;
};

constexpr LaneCodes PackLane(const uint8_t* codes, int levels, int halves) {
  const quant::PlaneLayout planes = quant::PlanesOf(levels);
  LaneCodes lane;
  for (int c = 0; c < halves * kHalfCodes; ++c) {
    const int half = c / kHalfCodes;
    ForEachLaneBit(planes.low_bits, c % kHalfCodes / 8, c % 8, [&](int word, int bit, int code_bit) {
      lane.words[static_cast<size_t>(half * planes.low_bits + word)] |= ((codes[c] >> code_bit) & 1u) << bit;
    });
  }
  if (!planes.ternary) return lane;
  const int sets = halves * kLaneSets / 2;
  const auto digit = [&](int set, int i) { return set < sets ? codes[set * 4 + i] >> planes.low_bits : 0; };
  for (int word = 0; word < halves + 1; ++word) {
    for (int i = 0; i < 4; ++i) {
      std::array<int, 5> digits{};
      for (int j = 0; j < 5; ++j) digits[static_cast<size_t>(j)] = digit(word * 5 + j, i);
      lane.words[static_cast<size_t>(halves * planes.low_bits + word)] |= uint32_t{quant::EncodeTernary(digits)} << (8 * i);
    }
  }
  for (int i = 0; halves == 2 && i < 4; ++i) lane.byte = static_cast<uint8_t>(lane.byte | (digit(kLaneSets - 1, i) << (2 * i)));
  return lane;
}

constexpr void UnpackLane(const LaneCodes& lane, int levels, int halves, uint8_t* codes) {
  const quant::PlaneLayout planes = quant::PlanesOf(levels);
  for (int c = 0; c < halves * kHalfCodes; ++c) {
    const int half = c / kHalfCodes;
    unsigned code = 0;
    ForEachLaneBit(planes.low_bits, c % kHalfCodes / 8, c % 8, [&](int word, int bit, int code_bit) {
      code |= ((lane.words[static_cast<size_t>(half * planes.low_bits + word)] >> bit) & 1u) << code_bit;
    });
    if (planes.ternary) {
      const int set = c / 4;
      unsigned digit = (lane.byte >> (2 * (c % 4))) & 3u;
      if (set < kLaneSets - 1) {
        const uint32_t word = lane.words[static_cast<size_t>(halves * planes.low_bits + set / 5)];
        digit = static_cast<unsigned>(quant::DecodeTernary(static_cast<uint8_t>(word >> (8 * (c % 4))), set % 5));
      }
      code |= digit << planes.low_bits;
    }
    codes[c] = static_cast<uint8_t>(code);
  }
}

// The column of code c of lane `lane`, from the tile's first.
constexpr int ColumnInTile(int lane, int c) { return c / kHalfCodes * kHalfColumns + lane % 4 * kHalfCodes + c % kHalfCodes; }

}  // namespace hproc::kernels
