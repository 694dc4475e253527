// How many levels a codebook may have, and how codes of that many levels are packed into bytes.
//
// K is 2^p or 3 * 2^p. A code of K = 3 * 2^p is a ternary digit above p low bits, so every K is made of the same few
// planes: bit planes of 4, 2 and 1 bits, and a ternary plane of five digits a byte.
//
//   K     2    3     4    6     8    12    16   24    32   48    64
//   bits  1    1.625 2    2.625 3    3.625 4    4.625 5    5.625 6
//
// A row is cut into units of 64 columns, the last one padded. A unit's planes follow each other, widest first:
//
//   [4-bit plane, 32 B]  byte i holds columns i (low nibble) and 32 + i
//   [2-bit plane, 16 B]  byte i holds columns i, 16 + i, 32 + i, 48 + i from the low bits up
//   [1-bit plane,  8 B]  byte i holds columns i, 8 + i, …, 56 + i from the low bit up
//   [ternary,     13 B]  byte i holds columns i, 13 + i, 26 + i, 39 + i, 52 + i; see EncodeTernary
//
// so that one shift and one mask of a broadcast load give a whole register of codes in column order. Three codes of six
// levels in a byte would be 2.67 bits; planes of 3 and 2 take 2.625 and share their code.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace hproc::quant {

inline constexpr std::array<int, 11> kLevelCounts = {2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
inline constexpr int kMaxLevels = 64;
inline constexpr int kUnitColumns = 64;
inline constexpr int kTernaryUnitBytes = 13;

// The planes of one K.
struct PlaneLayout {
  int low_bits = 0;  // p: 0 to 6
  bool ternary = false;

  constexpr int unit_bytes() const { return 8 * low_bits + (ternary ? kTernaryUnitBytes : 0); }
};

constexpr bool IsLevelCount(int levels) {
  for (int k : kLevelCounts) {
    if (k == levels) return true;
  }
  return false;
}

// `levels` from kLevelCounts.
constexpr PlaneLayout PlanesOf(int levels) {
  PlaneLayout planes;
  if (levels % 3 == 0) {
    planes.ternary = true;
    levels /= 3;
  }
  while (levels > 1) {
    levels /= 2;
    ++planes.low_bits;
  }
  return planes;
}

constexpr int64_t UnitsPerRow(int64_t columns) { return (columns + kUnitColumns - 1) / kUnitColumns; }
constexpr int64_t CodeBytesPerRow(int64_t columns, int levels) {
  return UnitsPerRow(columns) * PlanesOf(levels).unit_bytes();
}

// Five digits d[0..4] of {0, 1, 2} as a byte, such that digit j is ((byte * 3^j mod 256) * 3) >> 8: the byte is the
// fraction 0.d0d1d2d3d4 (base 3) in 256ths, rounded up. The idea is that of llama.cpp's TQ1_0 (ggml-quants.c).
constexpr uint8_t EncodeTernary(const std::array<int, 5>& digits) {
  int value = 0;
  for (int d : digits) value = value * 3 + d;
  return static_cast<uint8_t>((value * 256 + 242) / 243);
}
constexpr int DecodeTernary(uint8_t byte, int digit) {
  unsigned fraction = byte;
  for (int j = 0; j < digit; ++j) fraction = (fraction * 3) & 255u;
  return static_cast<int>((fraction * 3) >> 8);
}

// The code of one column of a packed row.
constexpr unsigned CodeAt(const uint8_t* packed, PlaneLayout planes, int64_t column) {
  const uint8_t* in = packed + column / kUnitColumns * planes.unit_bytes();
  const auto c = static_cast<int>(column % kUnitColumns);
  unsigned code = 0;
  int shift = 0;
  for (int bits = 4; bits > 0; bits /= 2) {
    if ((planes.low_bits & bits) == 0) continue;
    const int bytes = kUnitColumns * bits / 8;
    code |= ((static_cast<unsigned>(in[c % bytes]) >> (bits * (c / bytes))) & ((1u << bits) - 1)) << shift;
    shift += bits;
    in += bytes;
  }
  if (!planes.ternary) return code;
  return code | static_cast<unsigned>(DecodeTernary(in[c % kTernaryUnitBytes], c / kTernaryUnitBytes)) << planes.low_bits;
}

// Packs one row of codes, each in [0, levels); `packed` has CodeBytesPerRow bytes, all of which are written.
void PackRow(std::span<const uint8_t> codes, int levels, std::span<uint8_t> packed);

// The inverse. Plain loops: the reference for the kernels.
void UnpackRow(std::span<const uint8_t> packed, int levels, std::span<uint8_t> codes);

}  // namespace hproc::quant
