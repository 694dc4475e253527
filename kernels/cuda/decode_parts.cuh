// The parts of the decode kernels (decode_kernel.cuh, decode_token.cuh): how items are walked, how codebooks, words, activations and outliers
// are read.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/decode_params.h"
#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/stored_value.cuh"
#include "kernels/decode.h"

namespace hproc::kernels::cuda {

// floor(a / b) for 0 <= a < 2^20, b > 0: half a unit is far more than the error of the reciprocal.
__device__ __forceinline__ int Quotient(int a, int b) {
  return static_cast<int>((static_cast<float>(a) + 0.5f) * Reciprocal(static_cast<float>(b)));
}

// The same for a * b < 2^31, by what the host has made of b: what its reciprocal is too large by comes to less than 1 / b.
__device__ __forceinline__ int QuotientBy(int a, uint32_t reciprocal) {
  return static_cast<int>(__umulhi(2 * static_cast<uint32_t>(a), reciprocal));
}

// Walks a warp's items, batch by batch. An item is a pair of tiles: neighbours in a row tile (kColumnPairs; virtual tile outer, so
// that sums stay in registers), or of two row tiles and one column tile (column tile outer). A last pair may lack its second.
template <DecodeWork kWork, bool kColumnPairs>
struct Walk {
  int first, units;  // of the batch
  int pairs;         // inner ones
  int outer, inner, left;

  static __device__ __forceinline__ int VirtualTiles(const DecodeParams& p, int units) {
    return units * (kWork == DecodeWork::kGateUp ? 2 : kWork == DecodeWork::kDown ? p.all : 1);
  }
  __device__ __forceinline__ void Enter(const DecodeParams& p, int first_unit, int block_end, int warp) {
    first = first_unit;
    units = min(p.batch_units, block_end - first_unit);
    pairs = kColumnPairs ? (p.column_tiles + 1) / 2 : (units + 1) / 2;
    const int items = pairs * (kColumnPairs ? VirtualTiles(p, units) : p.column_tiles);
    const int each = (items + kDecodeWarps - 1) / kDecodeWarps;
    const int begin = min(warp * each, items);
    left = min(each, items - begin);
    outer = Quotient(begin, pairs);
    inner = begin - outer * pairs;
  }
  // Whether the outer one is another now.
  __device__ __forceinline__ bool Step() {
    --left;
    if (++inner < pairs) return false;
    inner = 0;
    ++outer;
    return true;
  }
};

// Whether both tiles of the item are whole ones; and whether it has a second.
template <DecodeWork kWork, bool kColumnPairs>
__device__ __forceinline__ bool IsWhole(const DecodeParams& p, const Walk<kWork, kColumnPairs>& item) {
  if constexpr (kColumnPairs) return p.whole_pairs || item.inner + 1 < item.pairs;
  return p.last_tile_halves == 2 || item.outer + 1 < p.column_tiles;
}
template <DecodeWork kWork>
__device__ __forceinline__ bool HasSecond(const Walk<kWork, false>& item) {
  return 2 * item.inner + 1 < item.units;
}

// Where virtual tile v of the batch from unit `first` on belongs.
struct TilePlace {
  int chosen;  // which of the token's experts
  int unit;    // from the batch's first
  bool is_up;  // gate-up: the second of its unit
};
template <DecodeWork kWork>
__device__ __forceinline__ TilePlace TilePlaceOf(const DecodeParams& p, int first, int units, int v) {
  if constexpr (kWork == DecodeWork::kMatmul) return {0, v, false};
  if constexpr (kWork == DecodeWork::kGateUp) return {Quotient(first + v / 2, p.expert_tiles), v / 2, v % 2 == 1};
  const int chosen = Quotient(v, units);
  return {chosen, v - chosen * units, false};
}
// The part that a token's `chosen`th expert is of.
template <DecodeWork kWork>
__device__ __forceinline__ const DecodePart& PartOf(const DecodeParams& p, const DecodePart& own, int chosen) {
  if constexpr (kWork == DecodeWork::kMatmul) return own;
  return chosen < p.top ? p.parts[0] : p.parts[1];
}
// Its row tile in its part, a gate's for an up; `expert`: the id of place.chosen.
template <DecodeWork kWork>
__device__ __forceinline__ int RowTileOf(const DecodeParams& p, int first, const TilePlace& place, int expert) {
  if constexpr (kWork == DecodeWork::kMatmul) return first + place.unit;
  if constexpr (kWork == DecodeWork::kDown) return expert * p.expert_tiles + first + place.unit;
  return (expert * 2 - place.chosen) * p.expert_tiles + first + place.unit;
}

// Which part this block is of, and its number there.
struct PartPlace {
  int part, block;
};
template <DecodeWork kWork>
__device__ __forceinline__ PartPlace PartPlaceOf(const DecodeParams& p) {
  const auto block = static_cast<int>(blockIdx.x);
  if constexpr (kWork != DecodeWork::kMatmul) return {0, block};
  PartPlace place{0, block};
#pragma unroll
  for (int i = 0; i + 1 < kMostDecodeParts; ++i) {
    if (block >= p.first_blocks[i]) place = {i + 1, block - p.first_blocks[i]};
  }
  return place;
}

// Where a virtual tile's outliers are.
struct OutlierPlace {
  const uint8_t* columns;
  const uint16_t* values;
};
template <DecodeWork kWork>
__device__ __forceinline__ OutlierPlace OutliersOf(const DecodeParams& p, const DecodePart& own, const TilePlace& place) {
  const DecodePart& part = PartOf<kWork>(p, own, place.chosen);
  if (place.is_up) return {part.second_outlier_columns, part.second_outlier_values};
  return {part.outlier_columns, part.outlier_values};
}

template <int kLevels>
__device__ __forceinline__ void LoadCodebook(const uint8_t* from, uint32_t* table) {
  constexpr int kWords = Expander<kLevels>::kTableWords;
  if constexpr (kLevels == 2) {
    table[0] = *reinterpret_cast<const uint16_t*>(from);
  } else if constexpr (kWords == 1) {
    table[0] = *reinterpret_cast<const uint32_t*>(from);
  } else if constexpr (kWords == 2) {
    const uint2 t = *reinterpret_cast<const uint2*>(from);
    table[0] = t.x;
    table[1] = t.y;
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 t = *reinterpret_cast<const uint4*>(from + i * 4);
      table[i] = t.x;
      if (i + 1 < kWords) table[i + 1] = t.y;
      if (i + 2 < kWords) table[i + 2] = t.z;
      if (i + 3 < kWords) table[i + 3] = t.w;
    }
  }
}

// A lane's words of a tile of kWords words a lane (kernels/decode_order.h), to and from its place in the ring.
template <int kWords>
__device__ __forceinline__ void CopyWords(uint32_t ring, const uint8_t* tile, int lane, bool wanted) {
#pragma unroll
  for (int i = 0; i < kWords / 4; ++i) CopyAsync<16>(ring + i * 512 + lane * 16, tile + i * 512 + lane * 16, wanted);
  constexpr int kAfter4 = kWords / 4 * 4;
  if constexpr (kWords - kAfter4 >= 2)
    CopyAsync<8>(ring + kAfter4 * 128 + lane * 8, tile + kAfter4 * 128 + lane * 8, wanted);
  if constexpr (kWords % 2 == 1) {
    CopyAsync<4>(ring + (kWords - 1) * 128 + lane * 4, tile + (kWords - 1) * 128 + lane * 4, wanted);
  }
}
// A whole tile.
template <int kLevels>
__device__ __forceinline__ void CopyTile(uint32_t ring, const uint8_t* tile, int lane, bool wanted) {
  using Expand = Expander<kLevels>;
  CopyWords<Expand::kWords>(ring, tile, lane, wanted);
  if constexpr (Expand::kTernary) {  // 32 bytes: eight lanes copy four each
    constexpr int kBytesAt = Expand::kWords * 128;
    CopyAsync<4>(ring + kBytesAt + lane * 4, tile + kBytesAt + lane * 4, wanted && lane < 8);
  }
}
template <int kWords>
__device__ __forceinline__ void LoadWords(const uint8_t* ring, int lane, uint32_t* words) {
#pragma unroll
  for (int i = 0; i < kWords / 4; ++i) {
    const uint4 t = *reinterpret_cast<const uint4*>(ring + i * 512 + lane * 16);
    words[4 * i] = t.x;
    words[4 * i + 1] = t.y;
    words[4 * i + 2] = t.z;
    words[4 * i + 3] = t.w;
  }
  constexpr int kAfter4 = kWords / 4 * 4;
  if constexpr (kWords - kAfter4 >= 2) {
    const uint2 t = *reinterpret_cast<const uint2*>(ring + kAfter4 * 128 + lane * 8);
    words[kAfter4] = t.x;
    words[kAfter4 + 1] = t.y;
  }
  if constexpr (kWords % 2 == 1)
    words[kWords - 1] = *reinterpret_cast<const uint32_t*>(ring + (kWords - 1) * 128 + lane * 4);
}

// The same of a whole tile, with its byte of ternary digits; of a tile of a half, the other half zero.
template <int kLevels>
__device__ __forceinline__ void LoadTile(const uint8_t* ring, int lane, uint32_t* words, uint32_t& ternary_byte) {
  using Expand = Expander<kLevels>;
  LoadWords<Expand::kWords>(ring, lane, words);
  if constexpr (Expand::kTernary) ternary_byte = ring[Expand::kWords * 128 + lane];
}
template <int kLevels>
__device__ __forceinline__ void LoadHalfTile(const uint8_t* ring, int lane, uint32_t* words) {
  using Expand = Expander<kLevels>;
  uint32_t half[Expand::kHalfWords];
  LoadWords<Expand::kHalfWords>(ring, lane, half);
#pragma unroll
  for (int w = 0; w < Expand::kWords; ++w) words[w] = 0;
#pragma unroll
  for (int w = 0; w < Expand::kHalfWords; ++w) words[w < Expand::kLowBits ? w : w + Expand::kLowBits] = half[w];
}

// One half of an item's two tiles, neighbours in a row tile, with its activations `x` (of two steps each): centroids to the sums of
// even and odd steps. tables[i]: the codebook of tile i; of pairs (expand.cuh), the first one's.
template <int kLevels, int kHalf, bool kPaired>
__device__ __forceinline__ void MultiplyHalf(const uint32_t* const (&tables)[2], const uint32_t (&words)[2][Expander<kLevels>::kWords],
                                             const uint32_t (&ternary_byte)[2], typename Expander<kLevels>::Digits (&digits)[2],
                                             const uint4 (&x)[4], int32_t (&sum)[2][4]) {
  using Expand = Expander<kLevels>;
  const auto step = [&]<int kStep>() {
    const uint4& two = x[2 * kHalf + kStep / 2];
    const auto add = [&](int32_t (&to)[4], const uint32_t (&a)[2][2]) {
      MultiplyAdd(to, a[0][0], a[1][0], a[0][1], a[1][1], kStep % 2 == 0 ? two.x : two.z, kStep % 2 == 0 ? two.y : two.w);
    };
    uint32_t centroids[2][2];
    if constexpr (kPaired) {
      uint32_t others[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        Expand::PairStep(tables[0], words[i][kHalf * Expand::kLowBits + kStep], centroids[i], others[i]);
      }
      add(sum[0], centroids);
      add(sum[1], others);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        Expand::template Step<kHalf, kStep>(tables[i], words[i] + kHalf * Expand::kLowBits, words[i] + 2 * Expand::kLowBits,
                                            ternary_byte[i], digits[i], centroids[i]);
      }
      add(sum[kStep % 2], centroids);
    }
  };
  step.template operator()<0>();
  step.template operator()<1>();
  step.template operator()<2>();
  step.template operator()<3>();
}

// The sums of an item's row tile, over its tiles, high and low: lane 4 g + t has those of row g and token t.
__device__ __forceinline__ int2 TileSums(const int32_t (&sum)[2][4], int q) {
  // Lane 4 g + 2 s + t has token t of row g of tile s: the first tile's in [0, 1], the second's in [2, 3].
  int32_t total[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] = q < 2 ? sum[0][i] + sum[1][i] : sum[0][2 + i] + sum[1][2 + i];
    total[i] += __shfl_xor_sync(0xFFFFFFFFu, total[i], 2);
  }
  return {total[0], total[1]};
}

// Whole numbers of 16 bits: high byte in [-127, 127], low byte in [-128, 127]. Adding 1.5 * 2^23 rounds to a whole number
// and leaves it in the low mantissa bits; 128 more are added for the high byte, which the low one has too much then.
__device__ __forceinline__ void RoundFour(float4 x, float inverse, uint32_t& high, uint32_t& low) {
  const auto whole = [&](float value) { return __float_as_uint(fmaf(value, inverse, 12582912.0f + 128.0f)); };
  const uint32_t first = Permute(whole(x.x), whole(x.y), 0x4051u);
  const uint32_t second = Permute(whole(x.z), whole(x.w), 0x4051u);
  high = Permute(first, second, 0x5410u);
  low = Permute(first, second, 0x7632u) ^ 0x80808080u;
}
// 0 for rows of (nearly) nothing, and for non-finite ones, whose scale makes every product non-finite.
__device__ __forceinline__ float InverseScale(uint32_t largest) {
  const float value = __uint_as_float(largest);
  return value >= kLeastActivation && value <= 3.402823466e38f ? __fdividef(kDecodeActivationMax, value) : 0.0f;
}
__device__ __forceinline__ float ScaleOf(uint32_t largest) {
  return __uint_as_float(largest) * (1.0f / kDecodeActivationMax);
}
// Columns [column, column + 4) of a row that can be read to a multiple of 4; zeros behind its end.
__device__ __forceinline__ float4 LoadFour(const float* row, int column, int columns) {
  float4 x{0, 0, 0, 0};
  if (column < columns) x = *reinterpret_cast<const float4*>(row + column);
  if (column + 1 >= columns) x.y = 0;
  if (column + 2 >= columns) x.z = 0;
  if (column + 3 >= columns) x.w = 0;
  return x;
}
__device__ __forceinline__ uint32_t LargestBits(float4 x) {
  // As bits, so that NaN is larger than all and shows in the output.
  const uint32_t a = max(__float_as_uint(x.x) & 0x7FFFFFFFu, __float_as_uint(x.y) & 0x7FFFFFFFu);
  const uint32_t b = max(__float_as_uint(x.z) & 0x7FFFFFFFu, __float_as_uint(x.w) & 0x7FFFFFFFu);
  return max(a, b);
}

__device__ __forceinline__ void PrefetchConvolved(const DecodeConvolution& conv, int token, int channel) {
  const int64_t at = conv.runs[token].slot * conv.channels + channel;
  const int bytes = conv.storage == Storage::kFloat32 ? 4 : 2;
  asm volatile("prefetch.global.L2 [%0];" ::"l"(conv.state + at * (conv.kernel - 1)));
  asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(conv.weight) + int64_t{channel} * conv.kernel * bytes));
}

// A channel's convolution of its newest input and the ones before it, which move on by one. All that is there before the newest input is
// asked for at once, by Ask.
struct ConvolvedChannel {
  static constexpr int kMostHistory = kMaxDecodeTaps - 1;
  float inputs[kMostHistory];
  uint32_t taps[kMostHistory + 1];

  static __device__ __forceinline__ float* StateOf(const DecodeConvolution& conv, int token, int channel) {
    return conv.state + (conv.runs[token].slot * conv.channels + channel) * (conv.kernel - 1);
  }
  __device__ __forceinline__ void Ask(const DecodeConvolution& conv, int token, int channel) {
    const float* state = StateOf(conv, token, channel);
    const int64_t first = int64_t{channel} * conv.kernel;
#pragma unroll
    for (int k = 0; k <= kMostHistory; ++k) {
      if (k >= conv.kernel) break;
      taps[k] = conv.storage == Storage::kFloat32 ? __ldg(static_cast<const uint32_t*>(conv.weight) + first + k)
                                                  : __ldg(static_cast<const uint16_t*>(conv.weight) + first + k);
      if (k < kMostHistory && k + 1 < conv.kernel) inputs[k] = state[k];
    }
  }
  __device__ __forceinline__ float Convolved(const DecodeConvolution& conv, int token, int channel, float newest) const {
    const auto tap = [&](uint32_t bits) {
      const auto half = static_cast<uint16_t>(bits);
      return conv.storage == Storage::kFloat32    ? __uint_as_float(bits)
             : conv.storage == Storage::kBfloat16 ? quant::Bfloat16ToFloat(half)
                                                  : __half2float(__ushort_as_half(half));
    };
    float* state = StateOf(conv, token, channel);
    float sum = 0;
#pragma unroll
    for (int k = 0; k <= kMostHistory; ++k) {
      if (k >= conv.kernel) break;
      const bool is_newest = k + 1 == conv.kernel;
      const float input = is_newest || k == kMostHistory ? newest : inputs[k];
      sum = fmaf(tap(taps[k]), input, sum);
      if (k > 0) state[k - 1] = input;
    }
    return __fdividef(sum, 1.0f + expf(-sum));
  }
};

// Where the high bytes of columns [column, column + 4) stand in a rounded row (decode_params.h); the low ones come
// kLowOffset later.
inline constexpr int kLowOffset = 64;
__device__ __forceinline__ int RoundedOffset(int column) {
  const auto c = static_cast<unsigned>(column);
  return static_cast<int>(c / 128 * 256 + c % 32 / 16 * 128 + c % 128 / 32 * 16 + c % 16);
}

// The outliers of one row tile: lane 4 g + q has every fourth of row g.
struct Outliers {
  static constexpr int kKept = 4;  // of a lane, fetched ahead
  uint32_t next = 0, end = 0;
  uint32_t columns[kKept];
  uint16_t values[kKept];

  static __device__ __forceinline__ uint32_t ColumnAt(const DecodeParams& p, const OutlierPlace& place, uint32_t i) {
    return p.wide_columns ? __ldg(reinterpret_cast<const uint32_t*>(place.columns) + i)
                          : __ldg(reinterpret_cast<const uint16_t*>(place.columns) + i);
  }
  __device__ __forceinline__ void Begin(const DecodeParams& p, const uint8_t* record, int lane) {
    const uint8_t* counts = record + kTileRows * 2 + 4;
    const uint32_t count = p.wide_counts ? reinterpret_cast<const uint16_t*>(counts)[lane / 4] : counts[lane / 4];
    end = count;  // of the rows up to this one
#pragma unroll
    for (int rows = 1; rows < kTileRows; rows *= 2) {
      const uint32_t above = __shfl_up_sync(0xFFFFFFFFu, end, rows * 4);
      if (lane / 4 >= rows) end += above;
    }
    end += *reinterpret_cast<const uint32_t*>(record + kTileRows * 2);
    next = end - count + lane % 4;
  }
  // Has the L2 fetch them, sector by sector, where columns are of 16 bits.
  __device__ __forceinline__ void Prefetch(const OutlierPlace& place, int lane) const {
#pragma unroll 1
    for (uint32_t i = next + lane % 4 * 15; i < end; i += 64) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(place.columns + i * 2));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(place.values + i));
    }
  }
  __device__ __forceinline__ void Fetch(const DecodeParams& p, const OutlierPlace& place) {
#pragma unroll
    for (int n = 0; n < kKept; ++n) {
      const uint32_t i = next + 4 * n;
      columns[n] = 0;
      values[n] = 0;
      if (i < end) {
        columns[n] = ColumnAt(p, place, i);
        values[n] = __ldg(place.values + i);
      }
    }
    next += 4 * kKept;
  }
  // Their sum with the rounded rows first_row, …, into sums[row of the tile][tokens], in units of the rows' scales.
  template <int kTokens>
  __device__ __forceinline__ void Add(const DecodeParams& p, const OutlierPlace& place, const int8_t* rounded, int row_bytes,
                                      float* sums, int lane) {
    float total[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) total[t] = 0;
    for (;;) {
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        const float value = __half2float(__ushort_as_half(values[n]));
        const int8_t* at = rounded + RoundedOffset(static_cast<int>(columns[n] & ~3u)) + (columns[n] & 3u);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t < p.tokens)
            total[t] += value * static_cast<float>(at[t * row_bytes] * 256 + at[t * row_bytes + kLowOffset]);
        }
      }
      if (!__any_sync(0xFFFFFFFFu, next < end)) break;
      Fetch(p, place);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      total[t] += __shfl_xor_sync(0xFFFFFFFFu, total[t], 1);
      total[t] += __shfl_xor_sync(0xFFFFFFFFu, total[t], 2);
      if (lane % 4 == 0 && t < p.tokens) sums[lane / 4 * p.tokens + t] = total[t];
    }
  }
};

}  // namespace hproc::kernels::cuda
