// From the packed words of a half-lane (kernels/decode_order.h) to the MMA operand: 32 codes to 32 centroids, by byte
// permutes of a codebook in registers. The codebook of K entries is K / 4 registers; a byte permute looks four codes up
// in eight entries, and the codes' higher bits choose between the results. The look-up by byte permute is the idea of
// ggml's get_int_from_table_16 (ggml-cuda/vecdotq.cuh).
//
// ALU instructions a weight by hand, per half-lane of 32: K = 2: 0.6, 4: 0.56, 8: 0.66, 16: 1.4, 32: 2.7, 64: 5.1;
// K = 3: 1.2, 6: 1.6. One permute's selector uses bits 0 to 15 alone and reads bit 3 of a nibble as "repeat the sign",
// so it must be clear.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_params.h"
#include "kernels/decode_order.h"

namespace hproc::kernels::cuda {

inline constexpr uint32_t kPick = 0x32103210u;  // selects bytes 0..3 of the first operand

__device__ __forceinline__ uint32_t Permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
}

// (bits & 0x44444444) | kPick, in one instruction: the compiler makes two of it.
__device__ __forceinline__ uint32_t Choice(uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(bits), "r"(0x44444444u), "r"(kPick));
  return result;
}

// x >> 16, by a dot product: the pipe that shifts is the one that looks up.
__device__ __forceinline__ uint32_t UpperHalf(uint32_t x) {
  uint32_t result;
  asm("dp2a.lo.u32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(0x0100u), "r"(0u));
  return result;
}

// 16 levels in pairs. A byte permute whose selector has bit 3 set gives the sign of the byte, 0 or -1. So with tables l and h of
// eight, looked up with code and with code ^ 8,
//
//     code = i      l[i] + sign(h[i])
//     code = i + 8  h[i] + sign(l[i])
//
// and both results may go into products as they are: four permutes for eight weights instead of six and three to choose between
// them, for twice the MMAs. From levels L, H, neighbours in an ascending codebook and so mostly of one sign, PairTables makes l, h
// with L = l + sign(h), H = h + sign(l): l = L - sign(H) and h = H - sign(L) where that keeps the signs; where L = -1 and H < 0,
// l = 0 and h = H, and likewise for H = -1. False where there is none, which is where one is 127 and the other negative.
__device__ __forceinline__ bool PairTables(uint32_t& low, uint32_t& high) {
  constexpr uint32_t kOnes = 0x01010101u;
  const uint32_t low_sign = low >> 7 & kOnes;
  const uint32_t high_sign = high >> 7 & kOnes;
  const auto is = [](uint32_t x, uint32_t byte) { return __vcmpeq4(x, byte) & kOnes; };
  const bool exists = ((is(low, 0x7F7F7F7Fu) & high_sign) | (is(high, 0x7F7F7F7Fu) & low_sign)) == 0;
  const uint32_t low_to_zero = is(low, 0xFFFFFFFFu) & high_sign;
  const uint32_t high_to_zero = is(high, 0xFFFFFFFFu) & low_sign & ~low_to_zero;
  const auto add = [](uint32_t x, uint32_t ones) { return ((x & 0x7F7F7F7Fu) + ones) ^ (x & 0x80808080u); };
  low = add(low, high_sign & ~high_to_zero);
  high = add(high, low_sign & ~low_to_zero);
  return exists;
}

template <int kLevels>
struct Expander {
  static constexpr int kLowBits = quant::PlanesOf(kLevels).low_bits;
  static constexpr bool kTernary = quant::PlanesOf(kLevels).ternary;
  static constexpr int kTableWords = (kLevels + 3) / 4;
  static constexpr int kWords = TileWords(kLevels, 2);
  static constexpr int kHalfWords = TileWords(kLevels, 1);  // of a tile of one half
  static constexpr int kStride = CodebookStride(kLevels);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
  static constexpr int kSlots = DecodeSlots(kLevels, false);
#else
  static constexpr int kSlots = DecodeSlots(kLevels, true);
#endif
  static constexpr int kRingBytes = (TileBytes(kLevels, 2) + 127) / 128 * 128;  // of a tile in shared memory

  // The selectors of step s, a nibble a code: the low three bits of each code, and for codes of more bits the choice
  // between first and second operand (nibble i = i % 4 + 4 * bit).
  struct Selectors {
    uint32_t low3, bit3, bit4, bit5;
  };

  // The digits of the tile's sets in order, one call a set pair.
  struct Digits {
    uint32_t even, odd;

    // Digits of set kSet as nibbles in bytes 1 (columns 0, 1) and 3 (columns 2, 3); other bytes are noise.
    template <int kSet>
    __device__ __forceinline__ uint32_t Next(const uint32_t* ternary_words, uint32_t ternary_byte) {
      if constexpr (kSet == 15) {
        return ((ternary_byte & 3u) << 8) | ((ternary_byte & 0xCu) << 10) | ((ternary_byte & 0x30u) << 20) |
               ((ternary_byte & 0xC0u) << 22);
      } else {
        if constexpr (kSet % 5 == 0) {
          even = ternary_words[kSet / 5] & 0x00FF00FFu;
          odd = (ternary_words[kSet / 5] >> 8) & 0x00FF00FFu;
        }
        const uint32_t even3 = even * 3;
        const uint32_t odd3 = odd * 3;
        even = even3 & 0x00FF00FFu;
        odd = odd3 & 0x00FF00FFu;
        return even3 | ((odd3 << 4) & 0x30003000u);
      }
    }
  };

  template <int kStep>
  static __device__ __forceinline__ uint32_t PlaneAt2(uint32_t plane) {  // bit 4 i + kStep to bit 4 i + 2, as a choice
    const uint32_t moved = kStep == 3 ? plane >> 1 : plane << (2 - kStep);
    return Choice(moved);
  }

  template <int kStep>
  static __device__ __forceinline__ Selectors LowSelectors(const uint32_t* w) {
    Selectors s{0, 0, 0, 0};
    if constexpr (kLowBits == 1) {
      s.low3 = (w[0] >> kStep) & 0x11111111u;
    } else if constexpr (kLowBits == 2) {
      s.low3 = (w[kStep / 2] >> (2 * (kStep % 2))) & 0x33333333u;
    } else if constexpr (kLowBits == 3) {
      if constexpr (kStep < 3) {
        s.low3 = w[kStep] & 0x77777777u;
      } else {
        s.low3 = ((w[0] >> 3) & 0x11111111u) | ((w[1] >> 2) & 0x22222222u) | ((w[2] >> 1) & 0x44444444u);
      }
    } else if constexpr (kLowBits >= 4) {
      s.low3 = w[kStep] & 0x77777777u;
      s.bit3 = Choice(w[kStep] >> 1);
      if constexpr (kLowBits >= 5) s.bit4 = PlaneAt2<kStep>(w[4]);
      if constexpr (kLowBits >= 6) s.bit5 = PlaneAt2<kStep>(w[5]);
    }
    return s;
  }

  static __device__ __forceinline__ void AddDigits(uint32_t digits, Selectors& s) {
    const auto choice = [&](int bit) { return Choice(bit == 0 ? digits << 2 : digits << 1); };
    if constexpr (kLowBits == 0) s.low3 = digits;
    if constexpr (kLowBits == 1) s.low3 |= digits << 1;
    if constexpr (kLowBits == 2) {
      s.low3 |= (digits << 2) & 0x44444444u;
      s.bit3 = choice(1);
    }
    if constexpr (kLowBits == 3) {
      s.bit3 = choice(0);
      s.bit4 = choice(1);
    }
    if constexpr (kLowBits == 4) {
      s.bit4 = choice(0);
      s.bit5 = choice(1);
    }
  }

  // Entries 16 q + [0, 16) of the table, as far as it goes.
  template <int kQuarter>
  static __device__ __forceinline__ uint32_t Lookup16(const uint32_t* table, const Selectors& s) {
    constexpr int kFirst = 4 * kQuarter;
    if constexpr (kTableWords == 1) {
      return Permute(table[0], table[0], s.low3);
    } else {
      const uint32_t low = Permute(table[kFirst], table[kFirst + 1], s.low3);
      if constexpr (kTableWords <= kFirst + 2) {
        return low;
      } else {
        constexpr int kLast = kTableWords > kFirst + 3 ? kFirst + 3 : kFirst + 2;
        return Permute(low, Permute(table[kFirst + 2], table[kLast], s.low3), s.bit3);
      }
    }
  }
  static __device__ __forceinline__ uint32_t Lookup(const uint32_t* table, const Selectors& s) {
    uint32_t value = Lookup16<0>(table, s);
    if constexpr (kTableWords > 4) value = Permute(value, Lookup16<1>(table, s), s.bit4);
    if constexpr (kTableWords > 8) {
      uint32_t upper = Lookup16<2>(table, s);
      if constexpr (kTableWords > 12) upper = Permute(upper, Lookup16<3>(table, s), s.bit4);
      value = Permute(value, upper, s.bit5);
    }
    return value;
  }

  // Centroids of step kStep of half kHalf: columns 0..3 and 4..7 of the step. Steps must be taken in order.
  // `words`: the low words of this half; `ternary_words`, `ternary_byte`: of the tile.
  template <int kHalf, int kStep>
  static __device__ __forceinline__ void Step(const uint32_t* table, const uint32_t* words, const uint32_t* ternary_words,
                                              uint32_t ternary_byte, Digits& digits, uint32_t (&centroids)[2]) {
    Selectors s = LowSelectors<kStep>(words);
    if constexpr (kTernary) {
      constexpr int kSet = 8 * kHalf + 2 * kStep;
      const uint32_t first = digits.template Next<kSet>(ternary_words, ternary_byte);
      const uint32_t second = digits.template Next<kSet + 1>(ternary_words, ternary_byte);
      AddDigits(Permute(first, second, 0x7531u), s);
    }
    centroids[0] = Lookup(table, s);
    const Selectors upper{UpperHalf(s.low3), UpperHalf(s.bit3), UpperHalf(s.bit4), UpperHalf(s.bit5)};
    centroids[1] = Lookup(table, upper);
  }

  // The same of 16 levels in pairs, whose sums are the centroids.
  static constexpr bool kPairs = kLevels == 16;
  static __device__ __forceinline__ void PairStep(const uint32_t* table, uint32_t word, uint32_t (&low)[2], uint32_t (&high)[2]) {
    const uint32_t other = word ^ 0x88888888u;
    low[0] = Permute(table[0], table[1], word);
    low[1] = Permute(table[0], table[1], UpperHalf(word));
    high[0] = Permute(table[2], table[3], other);
    high[1] = Permute(table[2], table[3], UpperHalf(other));
  }
};

}  // namespace hproc::kernels::cuda
