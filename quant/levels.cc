#include "quant/levels.h"

#include <algorithm>

#include "base/check.h"

namespace hproc::quant {
namespace {

// The bit planes of `low_bits`, widest first: the bits of the number itself, 4 before 2 before 1. `visit(bits, shift)`
// is told the plane's width and where its bits stand in the code.
template <typename Visit>
void ForEachBitPlane(int low_bits, Visit&& visit) {
  int shift = 0;
  for (int bits : {4, 2, 1}) {
    if ((low_bits & bits) == 0) continue;
    visit(bits, shift);
    shift += bits;
  }
}

}  // namespace

void PackRow(std::span<const uint8_t> codes, int levels, std::span<uint8_t> packed) {
  const PlaneLayout planes = PlanesOf(levels);
  const auto columns = static_cast<int64_t>(codes.size());
  HPROC_CHECK(static_cast<int64_t>(packed.size()) == CodeBytesPerRow(columns, levels), "size of a packed row");
  std::ranges::fill(packed, uint8_t{0});
  const auto code_at = [&](int64_t column) -> unsigned {
    return column < columns ? codes[static_cast<size_t>(column)] : 0u;
  };
  uint8_t* out = packed.data();
  for (int64_t base = 0; base < columns; base += kUnitColumns) {
    ForEachBitPlane(planes.low_bits, [&](int bits, int shift) {
      const int bytes = kUnitColumns * bits / 8;
      for (int c = 0; c < kUnitColumns; ++c) {
        const unsigned field = (code_at(base + c) >> shift) & ((1u << bits) - 1);
        out[c % bytes] = static_cast<uint8_t>(out[c % bytes] | (field << (bits * (c / bytes))));
      }
      out += bytes;
    });
    if (planes.ternary) {
      for (int i = 0; i < kTernaryUnitBytes; ++i) {
        std::array<int, 5> digits{};
        for (int j = 0; j < 5; ++j) {
          const int c = j * kTernaryUnitBytes + i;
          digits[static_cast<size_t>(j)] = c < kUnitColumns ? static_cast<int>(code_at(base + c) >> planes.low_bits) : 0;
        }
        out[i] = EncodeTernary(digits);
      }
      out += kTernaryUnitBytes;
    }
  }
}

void UnpackRow(std::span<const uint8_t> packed, int levels, std::span<uint8_t> codes) {
  const PlaneLayout planes = PlanesOf(levels);
  const auto columns = static_cast<int64_t>(codes.size());
  HPROC_CHECK(static_cast<int64_t>(packed.size()) == CodeBytesPerRow(columns, levels), "size of a packed row");
  for (int64_t c = 0; c < columns; ++c) codes[static_cast<size_t>(c)] = static_cast<uint8_t>(CodeAt(packed.data(), planes, c));
}

}  // namespace hproc::quant
