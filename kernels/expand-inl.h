// Expands one row of stored weights into a tile of whole numbers or floats, with SIMD. Included once per target by the
// CPU kernels that read weights; see quant/levels.h for the planes.
#if defined(HPROC_KERNELS_EXPAND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HPROC_KERNELS_EXPAND_INL_H_
#undef HPROC_KERNELS_EXPAND_INL_H_
#else
#define HPROC_KERNELS_EXPAND_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/matrix.h"
#include "quant/half.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using TagU8 = hn::ScalableTag<uint8_t>;
using TagI16 = hn::ScalableTag<int16_t>;
using TagI32 = hn::ScalableTag<int32_t>;
using TagF32 = hn::ScalableTag<float>;

// Right shifts that bring the field of block b (16 columns; 8 for the 1-bit plane) down, for a unit of 64 columns.
alignas(64) inline constexpr uint32_t kShift4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4};
alignas(64) inline constexpr uint32_t kShift2[16] = {0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6};
alignas(64) inline constexpr uint64_t kShift1[8] = {0, 1, 2, 3, 4, 5, 6, 7};

// Column c of a ternary unit is digit c / 13 of byte c % 13; a digit j is brought up by multiplying with 3^j mod 256.
struct TernaryTables {
  alignas(64) uint8_t byte[64];
  alignas(64) uint16_t even[32];  // multipliers of columns 0, 2, …
  alignas(64) uint16_t odd[32];   // of columns 1, 3, …
};
constexpr TernaryTables MakeTernaryTables() {
  constexpr uint16_t kPowers[5] = {1, 3, 9, 27, 81};
  TernaryTables tables{};
  for (int c = 0; c < 64; ++c) {
    tables.byte[c] = static_cast<uint8_t>(c % quant::kTernaryUnitBytes);
    const uint16_t power = kPowers[c / quant::kTernaryUnitBytes];
    (c % 2 == 0 ? tables.even[c / 2] : tables.odd[c / 2]) = power;
  }
  return tables;
}
inline constexpr TernaryTables kTernary = MakeTernaryTables();

// Codes of columns [first, first + lanes) of one unit; first is a multiple of the lanes. `unit` may be read 16 bytes
// past its end.
template <int kLowBits, bool kTernaryPlane>
HWY_INLINE hn::Vec<TagU8> UnitCodes(const uint8_t* unit, size_t first) {
  const TagU8 d8;
  const hn::Repartition<uint16_t, TagU8> d16;
  const hn::Repartition<uint32_t, TagU8> d32;
  const hn::Repartition<uint64_t, TagU8> d64;
  auto codes = hn::Zero(d8);
  int shift = 0;
  if constexpr ((kLowBits & 4) != 0) {
    hn::Vec<TagU8> bytes;
    if constexpr (HWY_MAX_BYTES == 64) {
      const hn::Half<TagU8> half;
      const auto low = hn::LoadU(half, unit);
      bytes = hn::Combine(d8, low, low);
    } else {
      bytes = hn::LoadU(d8, unit + first % 32);
    }
    const auto shifted = hn::BitCast(d32, bytes) >> hn::Load(d32, kShift4 + first / 4);
    codes = hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{15}));
    unit += 32;
    shift += 4;
  }
  if constexpr ((kLowBits & 2) != 0) {
    const auto bytes = hn::BitCast(d32, hn::LoadDup128(d8, unit));
    const auto shifted = bytes >> hn::Load(d32, kShift2 + first / 4);
    auto field = hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{3}));
    if constexpr ((kLowBits & 4) != 0) field = hn::BitCast(d8, hn::ShiftLeft<4>(hn::BitCast(d16, field)));
    codes = hn::Or(codes, field);
    unit += 16;
    shift += 2;
  }
  if constexpr ((kLowBits & 1) != 0) {
    uint64_t word;
    std::memcpy(&word, unit, sizeof(word));
    const auto shifted = hn::Set(d64, word) >> hn::Load(d64, kShift1 + first / 8);
    auto field = hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{1}));
    if constexpr ((kLowBits & 6) != 0) {
      field = hn::BitCast(d8, hn::ShiftLeft<(kLowBits & 6)>(hn::BitCast(d16, field)));
    }
    codes = hn::Or(codes, field);
    unit += 8;
    shift += 1;
  }
  if constexpr (kTernaryPlane) {
    const auto bytes = hn::BitCast(
        d16, hn::TableLookupBytes(hn::LoadDup128(d8, unit), hn::Load(d8, kTernary.byte + first)));
    const auto mask = hn::Set(d16, uint16_t{255});
    // Brought up, the digit is the carry of a last multiplication by 3.
    const auto even = hn::And(hn::And(bytes, mask) * hn::Load(d16, kTernary.even + first / 2), mask);
    const auto odd = hn::And(hn::ShiftRight<8>(bytes) * hn::Load(d16, kTernary.odd + first / 2), mask);
    const auto even_digit = hn::ShiftRight<8>(even + even + even);
    const auto odd_digit = hn::AndNot(mask, odd + odd + odd);
    auto digits = hn::Or(even_digit, odd_digit);
    if constexpr (kLowBits > 0) digits = hn::ShiftLeft<kLowBits>(digits);
    codes = hn::Or(codes, hn::BitCast(d8, digits));
  }
  return codes;
}

// A codebook of up to kLevels int8 entries in registers; entries beyond the codebook's end are never asked for. The
// codebook's bytes may be read up to the next multiple of 16.
template <int kLevels>
struct Codebook {
  static constexpr int kRegisters = (kLevels + 15) / 16;
#if HWY_TARGET == HWY_AVX3_DL
  hn::Vec<TagU8> table;
  HWY_INLINE explicit Codebook(const uint8_t* entries) {
    const TagU8 d8;
    if constexpr (kRegisters == 1) {
      table = hn::LoadDup128(d8, entries);
    } else if constexpr (kRegisters == 2) {
      const hn::Half<TagU8> half;
      const auto low = hn::LoadU(half, entries);
      table = hn::Combine(d8, low, low);
    } else {
      table = hn::LoadU(d8, entries);
    }
  }
  HWY_INLINE hn::Vec<TagU8> Lookup(hn::Vec<TagU8> codes) const {
    if constexpr (kRegisters == 1) return hn::TableLookupBytes(table, codes);
    return hn::Vec<TagU8>{_mm512_permutexvar_epi8(codes.raw, table.raw)};
  }
#else
  hn::Vec<TagU8> tables[kRegisters];
  HWY_INLINE explicit Codebook(const uint8_t* entries) {
    const TagU8 d8;
    for (int i = 0; i < kRegisters; ++i) tables[i] = hn::LoadDup128(d8, entries + 16 * i);
  }
  HWY_INLINE hn::Vec<TagU8> Lookup(hn::Vec<TagU8> codes) const {
    const TagU8 d8;
    const hn::RebindToSigned<TagU8> d8s;  // codes are below 64: signed comparison, which every target has
    auto found = hn::TableLookupBytes(tables[0], codes);
    for (int i = 1; i < kRegisters; ++i) {
      // The byte shuffle looks at four bits only, so later tables replace what earlier ones gave to larger codes.
      const auto here = hn::TableLookupBytes(tables[i], codes);
      const auto beyond = hn::BitCast(d8s, codes) > hn::Set(d8s, static_cast<int8_t>(16 * i - 1));
      found = hn::IfThenElse(hn::RebindMask(d8, beyond), here, found);
    }
    return found;
  }
#endif
};

// `values[c]` = centroid of column c of `row`, as a whole number, for c in [0, PaddedColumns), scales left out; int8
// centroids. What the padding holds does not matter: the activations there are zero.
template <int kLevels>
HWY_NOINLINE void ExpandRowInt(const quant::XfpMatrix& matrix, int64_t row, int16_t* HWY_RESTRICT values) {
  constexpr quant::PlaneLayout kPlanes = quant::PlanesOf(kLevels);
  const TagU8 d8;
  const hn::Rebind<int16_t, hn::Half<TagU8>> d16;
  const hn::RebindToSigned<TagU8> d8s;
  const size_t lanes = hn::Lanes(d8);
  const int64_t units = quant::UnitsPerRow(matrix.columns);
  const uint8_t* codes = matrix.codes + row * units * kPlanes.unit_bytes();
  const auto expand = [&](const Codebook<kLevels>& codebook, int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t u = begin; u < end; ++u) {
      const uint8_t* unit = codes + u * kPlanes.unit_bytes();
      int16_t* out = values + u * quant::kUnitColumns;
      for (size_t first = 0; first < size_t{quant::kUnitColumns}; first += lanes) {
        const auto found = codebook.Lookup(UnitCodes<kPlanes.low_bits, kPlanes.ternary>(unit, first));
        const auto bytes = hn::BitCast(d8s, found);
        hn::Store(hn::PromoteTo(d16, hn::LowerHalf(bytes)), d16, out + first);
        hn::Store(hn::PromoteTo(d16, hn::UpperHalf(hn::Half<decltype(d8s)>(), bytes)), d16, out + first + lanes / 2);
      }
    }
  };
  if (matrix.format.mode == quant::Mode::kV2) {
    expand(Codebook<kLevels>(matrix.codebooks + row * kLevels), 0, units);
  } else {
    constexpr int64_t kUnitsPerGroup = quant::kGroupColumns / quant::kUnitColumns;
    const int64_t groups = matrix.groups();
    const int64_t offset = matrix.cut.group_offset();
    if (offset % quant::kUnitColumns != 0) {  // cut inside a unit: two groups share one
      for (int64_t c = 0; c < units * quant::kUnitColumns; ++c) {
        const int64_t group = HWY_MIN(matrix.group_of(c), groups - 1);
        const uint8_t* codebook = matrix.codebooks + matrix.indices[row * groups + group] * kLevels;
        values[c] = static_cast<int8_t>(codebook[quant::CodeAt(codes, kPlanes, c)]);
      }
      return;
    }
    const int64_t units_before = offset / quant::kUnitColumns;
    for (int64_t g = 0; g < groups; ++g) {
      const Codebook<kLevels> codebook(matrix.codebooks + matrix.indices[row * groups + g] * kLevels);
      expand(codebook, HWY_MAX(int64_t{0}, g * kUnitsPerGroup - units_before),
             HWY_MIN(units, (g + 1) * kUnitsPerGroup - units_before));
    }
  }
}

using ExpandRowIntFunction = void (*)(const quant::XfpMatrix&, int64_t, int16_t*);

HWY_INLINE ExpandRowIntFunction ExpandRowIntOf(int levels) {
  switch (levels) {
    case 2: return &ExpandRowInt<2>;
    case 3: return &ExpandRowInt<3>;
    case 4: return &ExpandRowInt<4>;
    case 6: return &ExpandRowInt<6>;
    case 8: return &ExpandRowInt<8>;
    case 12: return &ExpandRowInt<12>;
    case 16: return &ExpandRowInt<16>;
    case 24: return &ExpandRowInt<24>;
    case 32: return &ExpandRowInt<32>;
    case 48: return &ExpandRowInt<48>;
    default: return &ExpandRowInt<64>;
  }
}

// One row of plain storage, or of the rarer XFP variants, as floats; the padding is zeroed.
HWY_INLINE void ExpandRowFloat(const Matrix& matrix, int64_t row, int64_t padded, float* HWY_RESTRICT values) {
  const TagF32 d;
  const size_t lanes = hn::Lanes(d);
  const int64_t columns = matrix.columns;
  const int64_t whole = columns / static_cast<int64_t>(lanes) * static_cast<int64_t>(lanes);
  const int64_t first = row * columns;
  int64_t c = 0;
  if (matrix.storage == Storage::kBfloat16) {
    const hn::Rebind<hwy::bfloat16_t, TagF32> half;
    const auto* in = static_cast<const hwy::bfloat16_t*>(matrix.data) + first;
    for (; c < whole; c += static_cast<int64_t>(lanes)) hn::Store(hn::PromoteTo(d, hn::LoadU(half, in + c)), d, values + c);
    for (; c < columns; ++c) values[c] = quant::Bfloat16ToFloat(static_cast<const uint16_t*>(matrix.data)[first + c]);
  } else if (matrix.storage == Storage::kFloat16) {
    const hn::Rebind<hwy::float16_t, TagF32> half;
    const auto* in = static_cast<const hwy::float16_t*>(matrix.data) + first;
    for (; c < whole; c += static_cast<int64_t>(lanes)) hn::Store(hn::PromoteTo(d, hn::LoadU(half, in + c)), d, values + c);
    for (; c < columns; ++c) values[c] = quant::HalfToFloat(static_cast<const uint16_t*>(matrix.data)[first + c]);
  } else {
    DecodeMatrixRow(matrix, row, values);
    c = columns;
  }
  for (; c < padded; ++c) values[c] = 0;
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard, toggled per target
