// The decode kernel of one token, for what most of a model is: matrices of V2 whose columns are whole pairs of tiles. Its sums are those of
// decode_kernel.cuh, to the bit, whose words and items it has; what is different is what stands before the first item and behind the last. A warp has
// the codebook of a row tile with the tile's first item, in the same group of copies, so that no barrier and no place of the block's
// stands between them and it begins as its own weights are there; a block has all its rows in one batch; outliers are added and what an
// output needs is asked for in front of the last barrier; and what the one does by cases is left out here, since instructions that run once
// cost as they are fetched.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/decode_parts.cuh"

namespace hproc::kernels::cuda {

// So that 16384 registers are left to a block of the next kernel.
constexpr int kTokenRegisters = 96;

// A token as products get it: rounded, as float32, or as what a norm is to be made of (DecodeNorm in kernels/decode.h).
enum class TokenInput { kRounded, kFloat, kNormed };

// Items that a warp asks for before the kernel in front is done. What a block makes its token of comes out of the L2 behind all that was
// asked for, so that the more there is to make, the fewer items go ahead; the others follow what the token is made of.
template <DecodeWork kWork, TokenInput kInput, int kSlots>
constexpr int ItemsAhead() {
  if (kInput == TokenInput::kRounded) return kSlots;
  if (kInput == TokenInput::kNormed || kWork == DecodeWork::kDown) return 1;
  return (kSlots + 1) / 2;
}

template <int kLevels, DecodeWork kWork, TokenInput kInput>
__global__ void __maxnreg__(kTokenRegisters) DecodeTokenKernel(const __grid_constant__ DecodeParams p) {
  using Expand = Expander<kLevels>;
  constexpr int kSlots = TokenSlots(kLevels, kWork, Expand::kSlots);
  constexpr bool kGiven = kInput == TokenInput::kRounded;
  constexpr bool kNormed = kInput == TokenInput::kNormed;
  constexpr int kTileBytes = TileBytes(kLevels, 2);
  constexpr int kTile = Expand::kRingBytes;
  constexpr int kSlotBytes = TokenSlotBytes(kLevels);
  constexpr int kBookPieces = kTileRows * Expand::kStride / 16;
  extern __shared__ __align__(128) uint8_t shared[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int token = static_cast<int>(blockIdx.y);
  uint32_t* const largest = reinterpret_cast<uint32_t*>(shared);
  float* const route_weights = reinterpret_cast<float*>(shared + kSharedWeights);
  const DecodeTokenShared& at = p.token;

  const bool weights_first = kWork != DecodeWork::kGateUp && p.weights_first;
  if constexpr (kWork != DecodeWork::kGateUp) AllowNextKernel();
  if (!weights_first) WaitForKernelInFront();
  if constexpr (kWork == DecodeWork::kGateUp) AllowNextKernel();
  const int my_expert = kWork != DecodeWork::kMatmul && lane < p.top ? p.experts[token * p.top + lane] : 0;

  // Activations, all of a thread's at once: rounded rows by sixteen bytes, or float32.
  const int padded = p.column_tiles * kTileColumns;
  const int given_pieces = padded / 8;
  const uint4* const given_row = reinterpret_cast<const uint4*>(p.rounded) + (kWork == DecodeWork::kGateUp ? token * given_pieces : 0);
  uint4 given[kTokenPieces];
  float given_scale = 0;
  constexpr int kFours = kNormed ? kNormFours : kTokenFours;
  float4 kept[kFours];
  [[maybe_unused]] float4 added[kNormFours];
  const int fours_a_row = padded / 4;
  const int fours = p.all * fours_a_row;
  [[maybe_unused]] float route_weight = 1;  // of expert `thread`, or what the shared one's is made of
  const auto load_activations = [&] {
    if constexpr (kGiven) {
#pragma unroll
      for (int n = 0; n < kTokenPieces; ++n) {
        const int i = thread + n * kDecodeThreads;
        if (i < given_pieces) given[n] = given_row[i];
      }
      given_scale = p.rounded_scales[token];
    } else {
      const float* input = p.input + token * (kWork == DecodeWork::kDown ? p.top : 1) * p.input_stride;
#pragma unroll
      for (int n = 0; n < kFours; ++n) {
        const int i = thread + n * kDecodeThreads;
        const float4* from = reinterpret_cast<const float4*>(input) + i;
        if (kWork == DecodeWork::kDown && i >= p.top * fours_a_row) {
          from = reinterpret_cast<const float4*>(p.shared_input + token * p.input_stride) + (i - p.top * fours_a_row);
        }
        kept[n] = float4{0, 0, 0, 0};
        if (i < fours) kept[n] = *from;
        if constexpr (kNormed) {
          added[n] = float4{0, 0, 0, 0};
          if (i < fours && p.norm.added != nullptr) added[n] = reinterpret_cast<const float4*>(p.norm.added)[i];
        }
      }
    }
    if (kWork == DecodeWork::kDown && thread < p.all) {
      if (thread < p.top) {
        route_weight = p.route_weights[token * p.top + thread];
      } else if (p.shared_gate != nullptr) {
        route_weight = p.shared_gate[token];
      }
    }
  };
  if (!weights_first) load_activations();  // a multiprocessor's loads are answered in order

  const auto [own_at, block] = PartPlaceOf<kWork>(p);
  const DecodePart& own = p.parts[own_at];
  const int first = block * own.block_units + min(block, own.spare_units);
  const int units = own.block_units + (block < own.spare_units ? 1 : 0);
  const int tiles = units * (kWork == DecodeWork::kGateUp ? 2 : kWork == DecodeWork::kDown ? p.all : 1);

  // The warp's items: pairs of column tiles, row tile by row tile.
  const int pairs = p.column_tiles / 2;
  const int items = pairs * tiles;
  const int each = items / kDecodeWarps;
  const int begin = warp * each + min(warp, items % kDecodeWarps);
  int left = each + (warp < items % kDecodeWarps ? 1 : 0);
  int tile = QuotientBy(begin, p.pair_reciprocal);
  int pair = begin - tile * pairs;

  // The norm's weights, and of the plain rows that read it, one a block, this block's.
  [[maybe_unused]] uint2 norm_bits[kNormFours];
  [[maybe_unused]] uint2 row_bits[kNormFours];
  [[maybe_unused]] const int plain_at = kNormed && static_cast<int>(blockIdx.x) >= p.norm.plain[0].rows ? 1 : 0;
  [[maybe_unused]] const int plain_row = static_cast<int>(blockIdx.x) - (plain_at == 1 ? p.norm.plain[0].rows : 0);
  [[maybe_unused]] const bool has_plain_row = kNormed && plain_row < p.norm.plain[plain_at].rows;
  if constexpr (kNormed) {
#pragma unroll
    for (int n = 0; n < kNormFours; ++n) {
      const int i = thread + n * kDecodeThreads;
      norm_bits[n] = row_bits[n] = uint2{0, 0};
      if (i >= fours) continue;
      norm_bits[n] = __ldg(reinterpret_cast<const uint2*>(p.norm.weight) + i);
      if (has_plain_row) row_bits[n] = __ldg(reinterpret_cast<const uint2*>(p.norm.plain[plain_at].weight) + int64_t{plain_row} * fours + i);
    }
  }

  // Weights: the next item into a slot of the warp's ring, and with the first of a row tile that the warp has its codebooks.
  struct StoredTile {
    const uint8_t* words;
    const uint8_t* record;
  };
  const auto stored_tile = [&](int i) -> StoredTile {
    const TilePlace place = TilePlaceOf<kWork>(p, first, units, i);
    const DecodePart& part = PartOf<kWork>(p, own, place.chosen);
    const int expert = kWork == DecodeWork::kMatmul ? 0 : __shfl_sync(0xFFFFFFFFu, my_expert, place.chosen);
    const auto row_tile = static_cast<uint32_t>(RowTileOf<kWork>(p, first, place, expert));
    StoredTile stored{part.tiles + uint64_t{row_tile} * p.row_tile_bytes, part.records + uint64_t{row_tile} * uint32_t{p.record_bytes}};
    if (place.is_up) stored.words += part.second_tiles, stored.record += part.second_records;
    return stored;
  };
  uint8_t* const ring = shared + at.ring + warp * kSlots * kSlotBytes;
  const uint32_t ring_address = SharedAddress(ring);
  int ahead_left = left;
  int ahead_tile = tile;
  int ahead_pair = pair;
  bool ahead_enters = true;
  const uint8_t* source = nullptr;
  const auto ask = [&](int slot) {
    if (ahead_left > 0) {
      const uint32_t to = ring_address + slot * kSlotBytes;
      if (ahead_enters) {
        const StoredTile stored = stored_tile(ahead_tile);
        source = stored.words + static_cast<uint32_t>(ahead_pair * 2 * kTileBytes);
        CopyAsync<16>(to + 2 * kTile + lane * 16, stored.record + p.record_books + lane * 16, lane < kBookPieces);
      }
      CopyTile<kLevels>(to, source, lane, true);
      CopyTile<kLevels>(to + kTile, source + kTileBytes, lane, true);
      source += 2 * kTileBytes;
      --ahead_left;
      ahead_enters = ++ahead_pair == pairs;
      if (ahead_enters) {
        ahead_pair = 0;
        ++ahead_tile;
      }
    }
  };
  const auto fetch = [&](int slot) {
    ask(slot);
    CommitCopies();
  };
  constexpr int kAhead = ItemsAhead<kWork, kInput, kSlots>();
  ask(0);
  // With the first item, of every sixteenth row tile the scales and the counts of outliers: those that this warp adds.
#pragma unroll 1
  for (int i = warp; i < tiles; i += kDecodeWarps) {
    const uint8_t* const record = stored_tile(i).record;
    CopyAsync<16>(SharedAddress(shared) + at.headers + i * p.record_books + lane * 16, record + lane * 16, lane * 16 < p.record_books);
  }
  CommitCopies();
#pragma unroll 1
  for (int s = 1; s < kAhead; ++s) fetch(s);

  // While they are on their way.
  if constexpr (kWork == DecodeWork::kMatmul) {  // what the convolution will ask for at the end
    if (own_at == 0 && p.convolution.weight != nullptr) {
#pragma unroll 1
      for (int i = thread; i < units * kTileRows; i += kDecodeThreads) PrefetchConvolved(p.convolution, 0, first * kTileRows + i);
    }
  }
#pragma unroll 1
  for (int i = thread; i < (at.headers - kSharedHeader) / 4; i += kDecodeThreads) reinterpret_cast<uint32_t*>(shared + kSharedHeader)[i] = 0;
  if constexpr (kInput == TokenInput::kFloat) {
    if (thread < kMaxDecodeTop) largest[thread] = 0;
    __syncthreads();
  }
  if (weights_first) {
    WaitForKernelInFront();
    load_activations();
  }
#pragma unroll 1
  for (int s = kAhead; s < kSlots; ++s) fetch(s);
  uint8_t* const input_rows = shared + at.input;
  if constexpr (kGiven) {
#pragma unroll
    for (int n = 0; n < kTokenPieces; ++n) {
      const int i = thread + n * kDecodeThreads;
      if (i < given_pieces) reinterpret_cast<uint4*>(input_rows)[i] = given[n];
    }
  } else if constexpr (kNormed) {
    // Since a root divides a product as it divides what goes into it, one reduction gives the product, the root and the largest value.
    float square = 0;
    float dot = 0;
    uint32_t most = 0;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      const int i = thread + n * kDecodeThreads;
      float4& x = kept[n];
      x = {x.x + added[n].x, x.y + added[n].y, x.z + added[n].z, x.w + added[n].w};
      if (blockIdx.x == 0 && i < fours && p.norm.sum != nullptr) reinterpret_cast<float4*>(p.norm.sum)[i] = x;
      square = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, square))));
      const float4 norm = FourHalves(norm_bits[n], p.norm.storage);
      x = {x.x * (norm.x + p.norm.offset), x.y * (norm.y + p.norm.offset), x.z * (norm.z + p.norm.offset), x.w * (norm.w + p.norm.offset)};
      const float4 row = FourHalves(row_bits[n], p.norm.plain_storage);
      dot = fmaf(row.x, x.x, fmaf(row.y, x.y, fmaf(row.z, x.z, fmaf(row.w, x.w, dot))));
      most = max(most, LargestBits(x));
    }
    const auto over_lanes = [&](int from_step) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) {
        if (step > from_step) continue;
        square += __shfl_xor_sync(0xFFFFFFFFu, square, step);
        dot += __shfl_xor_sync(0xFFFFFFFFu, dot, step);
      }
      most = __reduce_max_sync(0xFFFFFFFFu, most);
    };
    over_lanes(16);
    float4* const parts = reinterpret_cast<float4*>(shared);  // of each warp
    static_assert(kDecodeWarps * sizeof(float4) <= kSharedHeader && kDecodeWarps == 16);
    if (lane == 0) parts[warp] = {square, dot, __uint_as_float(most), 0};
    __syncthreads();
    const float4 part = parts[lane % 16];
    square = part.x, dot = part.y, most = __float_as_uint(part.z);
    over_lanes(8);
    const float inverse = rsqrtf(square / static_cast<float>(p.columns) + p.norm.epsilon);
    if (thread == 0 && has_plain_row) p.norm.plain[plain_at].output[plain_row] = dot * inverse;
    most = __float_as_uint(__uint_as_float(most) * inverse);
    given_scale = ScaleOf(most);
    if (blockIdx.x == 0 && thread == 0) *p.norm.scale = given_scale;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      const int i = thread + n * kDecodeThreads;
      if (i >= fours) break;
      const float4 x{kept[n].x * inverse, kept[n].y * inverse, kept[n].z * inverse, kept[n].w * inverse};
      uint32_t high, low;
      RoundFour(x, InverseScale(most), high, low);
      const int to = RoundedOffset(i * 4);
      *reinterpret_cast<uint32_t*>(input_rows + to) = high;
      *reinterpret_cast<uint32_t*>(input_rows + to + kLowOffset) = low;
      if (blockIdx.x != 0) continue;
      reinterpret_cast<float4*>(p.norm.output)[i] = x;
      *reinterpret_cast<uint32_t*>(p.norm.rounded + to) = high;
      *reinterpret_cast<uint32_t*>(p.norm.rounded + to + kLowOffset) = low;
    }
  } else {
    if (kWork == DecodeWork::kDown && thread < p.all) {
      const bool is_logit = thread == p.top && p.shared_gate != nullptr;
      route_weights[thread] = is_logit ? __fdividef(1.0f, 1 + expf(-route_weight)) : route_weight;
    }
    // A warp's fours of one n are of one row.
    int rows[kFours];
    uint32_t most = 0;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      rows[n] = kWork == DecodeWork::kDown ? min(QuotientBy(warp * 32 + n * kDecodeThreads, p.four_reciprocal), p.all - 1) : 0;
      most = max(most, LargestBits(kept[n]));
      if (kWork != DecodeWork::kDown && n + 1 < kFours) continue;
      most = __reduce_max_sync(0xFFFFFFFFu, most);
      if (lane == 0) atomicMax(largest + rows[n], most);
      most = 0;
    }
    __syncthreads();
    const float inverse = lane < p.all ? InverseScale(largest[lane]) : 0.0f;  // of row `lane`
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      const int i = thread + n * kDecodeThreads;
      const float row_inverse = __shfl_sync(0xFFFFFFFFu, inverse, rows[n]);
      if (i >= fours) break;
      uint32_t high, low;
      RoundFour(kept[n], row_inverse, high, low);
      uint8_t* const to = input_rows + rows[n] * p.input_row_bytes + RoundedOffset((i - rows[n] * fours_a_row) * 4);
      *reinterpret_cast<uint32_t*>(to) = high;
      *reinterpret_cast<uint32_t*>(to + kLowOffset) = low;
    }
  }
  __syncthreads();

  const int g = lane / 4;
  const int q = lane % 4;
  const int lane_x = at.input + g / 4 * 512 + g % 2 * kLowOffset + q * 16;
  const auto x_of = [&] {
    const int row = kWork == DecodeWork::kDown ? TilePlaceOf<kWork>(p, first, units, tile).chosen : 0;
    return lane_x + row * p.input_row_bytes + pair * 1024;
  };
  int32_t* const sums = reinterpret_cast<int32_t*>(shared + kSharedHeader);
  const uint8_t* const headers = shared + at.headers;
  float* const outlier_sums = reinterpret_cast<float*>(shared + at.outlier_sums);
  if (kWork == DecodeWork::kMatmul && p.has_outliers) {  // wanted in the L2 when the items are done; experts have too few a tile
    WaitForCopies<kSlots - 1>();
    __syncwarp();
#pragma unroll 1
    for (int i = warp; i < tiles; i += kDecodeWarps) {
      Outliers outliers;
      outliers.Begin(p, headers + i * p.record_books, lane);
      outliers.Prefetch(OutliersOf<kWork>(p, own, TilePlaceOf<kWork>(p, first, units, i)), lane);
    }
  }
  int32_t sum[2][4] = {};
  uint32_t table[Expand::kTableWords];
  bool is_paired = false;
  bool enters = true;
  int x_at = 0;
  int slot = 0;
#pragma unroll 1
  while (left > 0) {
    WaitForCopies<kSlots - 1>();
    __syncwarp();  // lanes read what others copied
    const uint8_t* const from = ring + slot * kSlotBytes;
    uint32_t words[2][Expand::kWords];
    uint32_t ternary_byte[2] = {0, 0};
    LoadTile<kLevels>(from, lane, words[0], ternary_byte[0]);
    LoadTile<kLevels>(from + kTile, lane, words[1], ternary_byte[1]);
    if (enters) {
      x_at = x_of();
      LoadCodebook<kLevels>(from + 2 * kTile + g * Expand::kStride, table);
      if constexpr (Expand::kPairs) {
        uint32_t paired[Expand::kTableWords] = {table[0], table[1], table[2], table[3]};
        bool exists = PairTables(paired[0], paired[2]);
        exists = PairTables(paired[1], paired[3]) && exists;
        is_paired = __all_sync(0xFFFFFFFFu, exists);
#pragma unroll
        for (int i = 0; i < 4; ++i) table[i] = is_paired ? paired[i] : table[i];
      }
    }
    uint4 x[4];  // of two steps each
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = *reinterpret_cast<const uint4*>(shared + x_at + i * 128);
    __syncwarp();
    fetch(slot);
    slot = slot + 1 == kSlots ? 0 : slot + 1;
    typename Expand::Digits digits[2] = {};
    const uint32_t* const tables[2] = {table, table};
    if (Expand::kPairs && is_paired) {
      MultiplyHalf<kLevels, 0, Expand::kPairs>(tables, words, ternary_byte, digits, x, sum);
      MultiplyHalf<kLevels, 1, Expand::kPairs>(tables, words, ternary_byte, digits, x, sum);
    } else {
      MultiplyHalf<kLevels, 0, false>(tables, words, ternary_byte, digits, x, sum);
      MultiplyHalf<kLevels, 1, false>(tables, words, ternary_byte, digits, x, sum);
    }
    x_at += 1024;
    --left;
    enters = ++pair == pairs;
    if (enters || left == 0) {
      const int2 total = TileSums(sum, q);
      if (q == 0) {
        int32_t* const to = sums + (tile * kTileRows + g) * 2;
        atomicAdd(to, total.x);
        atomicAdd(to + 1, total.y);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[0][i] = sum[1][i] = 0;
      if (enters) {
        pair = 0;
        ++tile;
      }
    }
  }
  WaitForCopies<0>();
  __syncwarp();
  if (p.has_outliers) {
    // Two tiles at a time, so that one waits for the L2 with the other.
#pragma unroll 1
    for (int i = warp; i < tiles; i += 2 * kDecodeWarps) {
      Outliers outliers[2];
      TilePlace place[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at_tile = i + n * kDecodeWarps;
        if (at_tile >= tiles) break;
        place[n] = TilePlaceOf<kWork>(p, first, units, at_tile);
        outliers[n].Begin(p, headers + at_tile * p.record_books, lane);
        outliers[n].Fetch(p, OutliersOf<kWork>(p, own, place[n]));
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at_tile = i + n * kDecodeWarps;
        if (at_tile >= tiles) break;
        const int row = kWork == DecodeWork::kDown ? place[n].chosen : 0;
        const auto* const input_row = reinterpret_cast<const int8_t*>(input_rows) + row * p.input_row_bytes;
        outliers[n].template Add<1>(p, OutliersOf<kWork>(p, own, place[n]), input_row, p.input_row_bytes, outlier_sums + at_tile * kTileRows, lane);
      }
    }
  }

  // Where this thread's first row goes and, of a convolution, what it comes to: asked for before the last warp is done.
  const int rows = kWork == DecodeWork::kMatmul ? min(units * kTileRows, own.rows - first * kTileRows) : units * kTileRows;
  const auto output_of = [&](int i) {
    const int row = first * kTileRows + i;
    if constexpr (kWork == DecodeWork::kGateUp) {
      const int routed = p.top * own.rows;  // row in [all, width)
      return row < routed ? own.output + token * int64_t{routed} + row : p.parts[1].output + token * int64_t{own.rows} + row - routed;
    } else {
      return own.output + (kWork == DecodeWork::kDown ? token * own.output_stride : 0) + row;
    }
  };
  float* const to = output_of(thread);
  [[maybe_unused]] const bool convolves = kWork == DecodeWork::kMatmul && own_at == 0 && p.convolution.weight != nullptr;
  [[maybe_unused]] ConvolvedChannel channel;
  if (convolves && thread < rows) channel.Ask(p.convolution, 0, first * kTileRows + thread);
  __syncthreads();

  const auto value = [&](int i, int r, float input_scale) {
    const int index = i * kTileRows + r;
    const float scale = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(headers + i * p.record_books)[r]);
    const int2 whole = reinterpret_cast<const int2*>(sums)[index];
    return scale * input_scale * (static_cast<float>(whole.x) * 256.0f + static_cast<float>(whole.y) + outlier_sums[index]);
  };
  const auto finish = [&](int i, float* output) {
    const int unit = i / kTileRows;
    const int r = i % kTileRows;
    if constexpr (kWork == DecodeWork::kGateUp) {
      const float gate = value(2 * unit, r, given_scale);
      const float up = value(2 * unit + 1, r, given_scale);
      *output = __fdividef(gate, 1 + __expf(-gate)) * up;
    } else if constexpr (kWork == DecodeWork::kDown) {
      float result = 0;
#pragma unroll 4
      for (int e = 0; e < p.all; ++e) result += route_weights[e] * value(e * units + unit, r, ScaleOf(largest[e]));
      *output = p.accumulate ? *output + result : result;
    } else {
      float result = value(unit, r, kInput == TokenInput::kFloat ? ScaleOf(largest[0]) : given_scale);
      if (convolves) result = channel.Convolved(p.convolution, 0, first * kTileRows + i, result);
      *output = p.accumulate ? *output + result : result;
    }
  };
  if (thread < rows) finish(thread, to);
#pragma unroll 1
  for (int i = thread + kDecodeThreads; i < rows; i += kDecodeThreads) {
    if (convolves) channel.Ask(p.convolution, 0, first * kTileRows + i);
    finish(i, output_of(i));
  }
}

}  // namespace hproc::kernels::cuda
