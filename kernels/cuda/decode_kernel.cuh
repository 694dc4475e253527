// The decode kernel of any number of tokens (decode_token.cuh has one token's): one for products, gate-up and down; see kernels/decode.h for what it computes and decode_params.h
// for its words.
//
// One block of 16 warps an SM. A block has its rows whole: no sums cross blocks, so there is no workspace, no counter and
// no second pass. Tiles of eight rows share out evenly over 132 SMs for the shapes of RESULTS.md (97 % and more).
//
//     issue loads:  activations, codebooks, kSlots items of each warp
//     round the activations into shared memory
//     every warp, for its share of the items:
//         read the item's words from the lane's ring, have the ring refilled, look up, multiply,
//         add 32-bit sums in shared memory
//     barrier; scales, outliers, SwiGLU or the routes' weighted sum
//
// An MMA has 16 rows of weights and 8 columns of activations. Its rows are two tiles of eight. For up to kColumnPairTokens
// tokens the two are neighbours in one row tile: one stretch of memory and one codebook, with activations of their own each:
// MMA column 4 s + 2 t + b is byte b (high, low) of token t at the columns of tile s, and of the products a tile's rows have with
// the other tile's columns nothing is made. So every item is two tiles however few row tiles a block has. For more tokens the two
// are of neighbouring row tiles, and the columns 2 t + b.
//
// Integer sums make the order of the warps' additions immaterial. A lane reads what it copied itself, so a copy group is all the
// synchronization that the ring needs.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/decode_parts.cuh"

namespace hproc::kernels::cuda {

template <int kLevels, int kTokenTiles, DecodeWork kWork>
__global__ void __launch_bounds__(kDecodeThreads, 1) DecodeKernel(const __grid_constant__ DecodeParams p) {
  using Expand = Expander<kLevels>;
  using Items = Walk<kWork, kTokenTiles == 1>;
  constexpr int kSlots = Expand::kSlots;
  constexpr int kTileBytes = TileBytes(kLevels, 2);
  constexpr bool kColumnPairs = kTokenTiles == 1;
  constexpr int kTokens = kColumnPairs ? kColumnPairTokens : 4 * kTokenTiles;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int thread = static_cast<int>(threadIdx.x);
  const int token_row = static_cast<int>(blockIdx.y);  // experts: one token a row of the grid
  uint32_t* largest = reinterpret_cast<uint32_t*>(shared);
  float* route_weights = reinterpret_cast<float*>(shared + kSharedWeights);
  const auto [own_at, block] = PartPlaceOf<kWork>(p);
  const DecodePart& own = p.parts[own_at];
  const int block_first = block * own.block_units + min(block, own.spare_units);
  const int block_end = block_first + own.block_units + (block < own.spare_units ? 1 : 0);

  // What the kernel in front makes: activations, with gate-up the experts' ids. Down comes behind a gate-up that had its own ids
  // before it let down start, so that it may read them at once.
  const bool weights_first = p.weights_first != 0;
  if (kWork != DecodeWork::kGateUp) AllowNextKernel();
  if (!weights_first) WaitForKernelInFront();
  if (kWork == DecodeWork::kGateUp) AllowNextKernel();
  if (thread < kMaxDecodeTop) largest[thread] = 0;
  const int my_expert = kWork != DecodeWork::kMatmul && lane < p.top ? p.experts[token_row * p.top + lane] : 0;
  const auto expert_at = [&](int k) { return kWork == DecodeWork::kMatmul ? 0 : __shfl_sync(0xFFFFFFFFu, my_expert, k); };

  // Activations, four columns at a time. The first kKept fours of a thread stay in registers until all are rounded: one row
  // thread by thread; of several rows, a warp's 32 fours are of one.
  constexpr int kKept = kKeptFours;
  float4 kept[kKept];
  const float* input = p.input + token_row * (kWork == DecodeWork::kDown ? p.top : 1) * p.input_stride;
  const bool given = p.rounded != nullptr;
  const int padded = p.column_tiles * kTileColumns;
  const int fours_a_row = padded / 4;
  const int fours = p.input_rows * fours_a_row;
  const bool one_row = kWork == DecodeWork::kGateUp || (kWork == DecodeWork::kMatmul && kColumnPairs && p.input_rows == 1);
  const auto row_of = [&](int i) { return one_row ? 0 : Quotient(i, fours_a_row); };
  const auto load_four = [&](int i) {
    const int row = row_of(i);
    const float* from = input + row * static_cast<int>(p.input_stride);
    if (kWork == DecodeWork::kDown && row == p.top) from = p.shared_input + token_row * p.input_stride;
    return LoadFour(from, (i - row * fours_a_row) * 4, p.columns);
  };
  const auto load_kept = [&]() {
    if (one_row && p.columns % 4 == 0) {
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        kept[n] = float4{0, 0, 0, 0};
        const int column = (thread + n * kDecodeThreads) * 4;
        if (column < p.columns) kept[n] = reinterpret_cast<const float4*>(input)[thread + n * kDecodeThreads];
      }
    } else {
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        kept[n] = float4{0, 0, 0, 0};
        if (thread + n * kDecodeThreads < fours) kept[n] = load_four(thread + n * kDecodeThreads);
      }
    }
  };
  // Rounded ones, 16 bytes at a time.
  const int given_row_pieces = padded / 8;
  const int given_pieces = given ? p.input_rows * given_row_pieces : 0;
  const uint4* const given_rows =
      reinterpret_cast<const uint4*>(p.rounded) + (kWork == DecodeWork::kGateUp ? token_row * given_row_pieces : 0);
  uint4 given_piece{};
  const auto load_activations = [&] {
    if (kWork == DecodeWork::kDown && thread < p.all) {
      route_weights[thread] = thread < p.top           ? p.route_weights[token_row * p.top + thread]
                              : p.shared_gate != nullptr ? 1 / (1 + expf(-p.shared_gate[token_row]))
                                                         : 1.0f;
    }
    if (!given) return load_kept();
    if (thread < given_pieces) given_piece = given_rows[thread];
    if (thread < p.tokens) largest[thread] = __float_as_uint(p.rounded_scales[token_row + thread]);  // a scale here
  };
  if (!weights_first) load_activations();

  // Codebooks and scales of a batch, a few 16-byte pieces a thread; pieces `thread`, thread + kDecodeThreads, …
  const int record_pieces = p.record_bytes / 16;
  const auto load_record = [&](const Items& batch, int i) {
    int64_t from = int64_t{batch.first} * p.record_bytes + i * 16;
    if constexpr (kWork != DecodeWork::kMatmul) {
      const int v = Quotient(i, record_pieces);
      const TilePlace place = TilePlaceOf<kWork>(p, batch.first, batch.units, v);
      const int expert = place.chosen < p.top ? p.experts[token_row * p.top + place.chosen] : 0;
      const DecodePart& part = PartOf<kWork>(p, own, place.chosen);
      from = int64_t{RowTileOf<kWork>(p, batch.first, place, expert)} * p.record_bytes + (i - v * record_pieces) * 16;
      if (place.is_up) from += part.second_records;
      return __ldg(reinterpret_cast<const uint4*>(part.records + from));
    }
    return __ldg(reinterpret_cast<const uint4*>(own.records + from));
  };
  const auto record_at = [&](int i) -> uint4& { return reinterpret_cast<uint4*>(shared + p.at.records)[i]; };
  // Puts a piece there, a codebook as pair tables where it can be; whether it could.
  constexpr bool kMayPair = kColumnPairs && Expand::kPairs;
  const auto put_record = [&](uint4 piece, int i) {
    bool is_paired = true;
    if constexpr (kMayPair) {
      if (p.library_bytes == 0 && i - Quotient(i, record_pieces) * record_pieces >= p.record_books / 16) {
        is_paired = PairTables(piece.x, piece.z);
        is_paired = PairTables(piece.y, piece.w) && is_paired;
      }
    }
    record_at(i) = piece;
    return is_paired;
  };

  if constexpr (kWork == DecodeWork::kMatmul) {  // what the convolution will ask for at the end
    if (own_at == 0 && p.convolution.weight != nullptr) {
      for (int i = thread; i < (block_end - block_first) * kTileRows * p.tokens; i += kDecodeThreads) {
        PrefetchConvolved(p.convolution, i % p.tokens, block_first * kTileRows + i / p.tokens);
      }
    }
  }

  // Weights: the next item of `ahead` into the ring, from `source` on.
  Items now;
  now.Enter(p, block_first, block_end, warp);
  Items ahead = now;
  int pieces = Items::VirtualTiles(p, now.units) * record_pieces;
  uint4 first_piece{};
  if (thread < pieces) first_piece = load_record(now, thread);
  constexpr int kTile = Expand::kRingBytes;
  uint8_t* const ring = shared + p.at.ring + warp * kSlots * 2 * kTile;
  const uint8_t* source = nullptr;
  const auto find_source = [&] {
    const int v = kColumnPairs ? ahead.outer : 2 * ahead.inner;
    const TilePlace place = TilePlaceOf<kWork>(p, ahead.first, ahead.units, v);
    const DecodePart& part = PartOf<kWork>(p, own, place.chosen);
    const auto row_tile = static_cast<uint32_t>(RowTileOf<kWork>(p, ahead.first, place, expert_at(place.chosen)));
    source = part.tiles + uint64_t{row_tile} * p.row_tile_bytes +
             static_cast<uint32_t>((kColumnPairs ? 2 * ahead.inner : ahead.outer) * kTileBytes);
    if (place.is_up) source += part.second_tiles;
  };
  if (ahead.left > 0) find_source();
  const int64_t next_item = kColumnPairs ? int64_t{2 * kTileBytes} : 2 * int64_t{p.row_tile_bytes};
  const auto fetch = [&](int slot) {
    if (ahead.left == 0) {
      while (ahead.left == 0) {
        if (ahead.first + ahead.units >= block_end) {
          CommitCopies();
          return;
        }
        ahead.Enter(p, ahead.first + ahead.units, block_end, warp);
      }
      find_source();
    }
    const uint32_t to = SharedAddress(ring) + slot * 2 * kTile;
    if (IsWhole(p, ahead)) {
      CopyTile<kLevels>(to, source, lane, true);
      if constexpr (kColumnPairs) {
        CopyTile<kLevels>(to + kTile, source + kTileBytes, lane, true);
      } else {
        CopyTile<kLevels>(to + kTile, source + p.row_tile_bytes, lane, HasSecond(ahead));
      }
    } else if constexpr (kColumnPairs) {
      const int tile = 2 * ahead.inner;
      const bool first_is_last = tile + 1 == p.column_tiles;
      const bool is_half = p.last_tile_halves == 1;
      if (!first_is_last || !is_half) CopyTile<kLevels>(to, source, lane, true);
      CopyWords<Expand::kHalfWords>(first_is_last ? to : to + kTile, first_is_last ? source : source + kTileBytes, lane,
                                    is_half);
    } else {
      CopyWords<Expand::kHalfWords>(to, source, lane, true);
      CopyWords<Expand::kHalfWords>(to + kTile, source + p.row_tile_bytes, lane, HasSecond(ahead));
    }
    CommitCopies();
    if (!ahead.Step()) {
      source += next_item;
    } else if (ahead.left > 0) {
      find_source();
    }
  };
  // Where the weights need not wait for the kernel in front, they go first. Otherwise the activations of all warps are asked for
  // before any weight: a multiprocessor's loads are answered in order.
  if (!weights_first) __syncthreads();
#pragma unroll 1
  for (int s = 0; s < kSlots; ++s) fetch(s);
  if (weights_first) {
    WaitForKernelInFront();
    load_activations();
    __syncthreads();
  }

  // While the weights are on their way: zero the sums, copy the library, round the activations.
#pragma unroll 1
  for (int i = thread; i < (p.at.total - p.at.sums) / 16; i += kDecodeThreads) {
    reinterpret_cast<uint4*>(shared + p.at.sums)[i] = uint4{0, 0, 0, 0};
  }
#pragma unroll 1
  for (int i = thread; i < p.library_bytes / 16; i += kDecodeThreads) {
    reinterpret_cast<uint4*>(shared + p.at.library)[i] = __ldg(reinterpret_cast<const uint4*>(own.library) + i);
  }
  bool is_paired = thread >= pieces || put_record(first_piece, thread);
#pragma unroll 1
  for (int i = thread + kDecodeThreads; i < pieces; i += kDecodeThreads) is_paired &= put_record(load_record(now, i), i);
  // Behind an odd number of column tiles comes one of zeros, the partner of the last.
  if (kColumnPairs && p.column_tiles % 2 == 1) {
#pragma unroll 1
    for (int i = thread; i < p.input_rows * 32; i += kDecodeThreads) {
      reinterpret_cast<uint4*>(shared + p.at.input + i / 32 * p.input_row_bytes + 2 * padded)[i % 32] = uint4{0, 0, 0, 0};
    }
  }
  const int input_row_bytes = p.input_rows > 0 ? p.input_row_bytes : 2 * padded;
  const int8_t* rounded = reinterpret_cast<const int8_t*>(given_rows);
  if (given) {
    if (given_pieces > 0) {
      const auto store = [&](uint4 piece, int i) {
        const int row = p.input_rows == 1 ? 0 : Quotient(i, given_row_pieces);
        *reinterpret_cast<uint4*>(shared + p.at.input + row * input_row_bytes + (i - row * given_row_pieces) * 16) = piece;
      };
      if (thread < given_pieces) store(given_piece, thread);
#pragma unroll 4
      for (int i = thread + kDecodeThreads; i < given_pieces; i += kDecodeThreads) store(given_rows[i], i);
      rounded = reinterpret_cast<const int8_t*>(shared + p.at.input);
    }
  } else {
    const auto take_largest = [&](uint32_t bits, int row) {
      bits = __reduce_max_sync(0xFFFFFFFFu, bits);
      if (lane == 0) atomicMax(largest + row, bits);
    };
    if (one_row) {
      uint32_t bits = 0;
#pragma unroll
      for (int n = 0; n < kKept; ++n) bits = max(bits, LargestBits(kept[n]));
#pragma unroll 1
      for (int i = thread + kKept * kDecodeThreads; i < fours; i += kDecodeThreads)
        bits = max(bits, LargestBits(load_four(i)));
      take_largest(bits, 0);
    } else {
#pragma unroll
      for (int n = 0; n < kKept; ++n) {
        if (thread + n * kDecodeThreads < fours) take_largest(LargestBits(kept[n]), row_of(thread + n * kDecodeThreads));
      }
#pragma unroll 1
      for (int i = thread + kKept * kDecodeThreads; i < fours; i += kDecodeThreads)
        take_largest(LargestBits(load_four(i)), row_of(i));
    }
    __syncthreads();
    const auto store = [&](float4 x, int i) {
      const int row = row_of(i);
      uint32_t high, low;
      RoundFour(x, InverseScale(largest[row]), high, low);
      uint8_t* at = shared + p.at.input + row * input_row_bytes + RoundedOffset((i - row * fours_a_row) * 4);
      *reinterpret_cast<uint32_t*>(at) = high;
      *reinterpret_cast<uint32_t*>(at + kLowOffset) = low;
    };
#pragma unroll
    for (int n = 0; n < kKept; ++n) {
      if (thread + n * kDecodeThreads < fours) store(kept[n], thread + n * kDecodeThreads);
    }
#pragma unroll 1
    for (int i = thread + kKept * kDecodeThreads; i < fours; i += kDecodeThreads) store(load_four(i), i);
    rounded = reinterpret_cast<const int8_t*>(shared + p.at.input);
  }
  // Behind the barrier for all of the batch's records: whether the codebooks are pair tables, all of them or none.
  const auto settle_records = [&] {
    if constexpr (kMayPair) {
      is_paired = __syncthreads_and(is_paired);
      if (is_paired || p.library_bytes > 0) return;
#pragma unroll 1
      for (int i = thread; i < pieces; i += kDecodeThreads) record_at(i) = load_record(now, i);
    }
    __syncthreads();
  };
  settle_records();

  const int g = lane / 4;
  const int q = lane % 4;
  const uint8_t* records = shared + p.at.records;
  int32_t* sums = reinterpret_cast<int32_t*>(shared + p.at.sums);
  float* outlier_sums = reinterpret_cast<float*>(shared + p.at.outlier_sums);
  int slot = 0;
  for (int first = block_first; first < block_end; first += p.batch_units) {
    now.Enter(p, first, block_end, warp);
    const int virtual_tiles = Items::VirtualTiles(p, now.units);
    if (first != block_first) {
      pieces = virtual_tiles * record_pieces;
      is_paired = true;
#pragma unroll 1
      for (int i = thread; i < pieces; i += kDecodeThreads) is_paired &= put_record(load_record(now, i), i);
      settle_records();
    }
    // One tile's outliers a warp are fetched ahead and added when the products are done.
    Outliers outliers;
    if (p.has_outliers && warp < virtual_tiles) {
      outliers.Begin(p, records + warp * p.record_bytes, lane);
      outliers.Fetch(p, OutliersOf<kWork>(p, own, TilePlaceOf<kWork>(p, first, now.units, warp)));
    }

    // The item's words out of the ring; its place is refilled.
    uint32_t words[2][Expand::kWords];
    uint32_t ternary_byte[2] = {0, 0};
    const auto take_words = [&] {
      WaitForCopies<kSlots - 1>();
      if constexpr (Expand::kTernary) __syncwarp();
      const uint8_t* const from = ring + slot * 2 * kTile;
      if (IsWhole(p, now)) {
        LoadTile<kLevels>(from, lane, words[0], ternary_byte[0]);
        LoadTile<kLevels>(from + kTile, lane, words[1], ternary_byte[1]);
      } else if constexpr (kColumnPairs) {
        const bool first_is_last = 2 * now.inner + 1 == p.column_tiles;
        const bool is_half = p.last_tile_halves == 1;
        if (first_is_last && is_half) {
          LoadHalfTile<kLevels>(from, lane, words[0]);
        } else {
          LoadTile<kLevels>(from, lane, words[0], ternary_byte[0]);
        }
        // The partner of a last tile counts nothing, whatever its words are: its activations are zero.
        if (!first_is_last) LoadHalfTile<kLevels>(from + kTile, lane, words[1]);
      } else {
        LoadHalfTile<kLevels>(from, lane, words[0]);
        LoadHalfTile<kLevels>(from + kTile, lane, words[1]);
      }
    };
    const auto refill = [&] {
      if constexpr (Expand::kTernary) __syncwarp();
      fetch(slot);
      slot = slot + 1 == kSlots ? 0 : slot + 1;
    };

    if constexpr (kColumnPairs) {
      int32_t sum[2][4] = {};  // of even and odd steps
      int book_at = 0;         // the lane's codebook of the virtual tile, or its index of the item
      int x_at = 0;
      const auto enter_tile = [&] {
        book_at = p.at.records + now.outer * p.record_bytes + p.record_books +
                  (p.library_bytes > 0 ? now.inner * 4 * kTileRows + g : g * Expand::kStride);
        const int row = kWork == DecodeWork::kDown ? TilePlaceOf<kWork>(p, first, now.units, now.outer).chosen
                                                   : min(g / 2 % 2, p.tokens - 1);
        x_at = p.at.input + row * input_row_bytes + (2 * now.inner + g / 4) * 512 + g % 2 * kLowOffset + q * 16;
      };
      enter_tile();
      while (now.left > 0) {
        take_words();
        uint4 x[4];  // of two steps each
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = *reinterpret_cast<const uint4*>(shared + x_at + i * 128);
        const auto multiply = [&]<bool kLibrary, bool kPaired>() {
          uint32_t table[2][Expand::kTableWords];
          if constexpr (!kLibrary) LoadCodebook<kLevels>(shared + book_at, table[0]);
          refill();
          typename Expand::Digits digits[2] = {};
          const auto half = [&]<int kHalf>() {
            if constexpr (kLibrary) {
              const int partner = 2 * now.inner + 1 < p.column_tiles ? 2 * kTileRows : 0;
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const int book = shared[book_at + i * partner + kHalf * kTileRows];
                LoadCodebook<kLevels>(shared + p.at.library + book * Expand::kStride, table[i]);
              }
            }
            const uint32_t* const tables[2] = {table[0], table[kLibrary ? 1 : 0]};
            MultiplyHalf<kLevels, kHalf, kPaired>(tables, words, ternary_byte, digits, x, sum);
          };
          half.template operator()<0>();
          half.template operator()<1>();
        };
        if (p.library_bytes > 0) {
          multiply.template operator()<true, false>();
        } else if (kMayPair && is_paired) {
          multiply.template operator()<false, kMayPair>();
        } else {
          multiply.template operator()<false, false>();
        }
        x_at += 2 * 512;
        if (p.library_bytes > 0) book_at += 4 * kTileRows;
        const int tile = now.outer;
        const bool is_next = now.Step();
        if (is_next || now.left == 0) {
          const int2 total = TileSums(sum, q);
          if (q < p.tokens) {
            int32_t* at = sums + ((tile * kTileRows + g) * p.tokens + q) * 2;
            atomicAdd(at, total.x);
            atomicAdd(at + 1, total.y);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[0][i] = sum[1][i] = 0;
          if (now.left > 0) enter_tile();
        }
      }
    } else {
      uint4 x[kTokenTiles][4];  // of two steps each
      const int8_t* x_from = nullptr;
      int loaded = -1;
      const auto load_x = [&](int tile, int i) {
        x[tile][i] = *reinterpret_cast<const uint4*>(x_from + min(g / 2 + 4 * tile, p.tokens - 1) * input_row_bytes + i * 128);
      };
      while (now.left > 0) {
        if (now.outer != loaded) {
          loaded = now.outer;
          x_from = rounded + loaded * 512 + g % 2 * kLowOffset + q * 16;
          if constexpr (kTokenTiles < 4) {
#pragma unroll
            for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
              for (int i = 0; i < 4; ++i) load_x(tile, i);
            }
          }
        }
        const int virtual_tile = 2 * now.inner;
        const bool has_second = HasSecond(now);
        const uint8_t* books[2];
        books[0] = records + virtual_tile * p.record_bytes + p.record_books +
                   (p.library_bytes > 0 ? 2 * loaded * kTileRows + g : g * Expand::kStride);
        books[1] = books[0] + (has_second ? p.record_bytes : 0);
        take_words();
        refill();

        int32_t sum[kTokenTiles][4] = {};
        uint32_t table[2][Expand::kTableWords];
        typename Expand::Digits digits[2] = {};
        const auto half_tile = [&]<int kHalf, int kTiles>() {
          if (kHalf == 0 || p.library_bytes > 0) {
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
              const uint8_t* book =
                  p.library_bytes > 0 ? shared + p.at.library + books[i][kHalf * kTileRows] * Expand::kStride : books[i];
              LoadCodebook<kLevels>(book, table[i]);
            }
          }
          if constexpr (kTokenTiles == 4) {
#pragma unroll
            for (int tile = 0; tile < kTokenTiles; ++tile) {
              load_x(tile, 2 * kHalf);
              load_x(tile, 2 * kHalf + 1);
            }
          }
          const auto step = [&]<int kStep>() {
            uint32_t centroids[2][2] = {};
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
              Expand::template Step<kHalf, kStep>(table[i], words[i] + kHalf * Expand::kLowBits,
                                                  words[i] + 2 * Expand::kLowBits, ternary_byte[i], digits[i], centroids[i]);
            }
#pragma unroll
            for (int tile = 0; tile < kTokenTiles; ++tile) {
              const uint4& two = x[tile][2 * kHalf + kStep / 2];
              MultiplyAdd(sum[tile], centroids[0][0], centroids[1][0], centroids[0][1], centroids[1][1],
                          kStep % 2 == 0 ? two.x : two.z, kStep % 2 == 0 ? two.y : two.w);
            }
          };
          step.template operator()<0>();
          step.template operator()<1>();
          step.template operator()<2>();
          step.template operator()<3>();
        };
        if (has_second) {
          half_tile.template operator()<0, 2>();
          half_tile.template operator()<1, 2>();
        } else {
          half_tile.template operator()<0, 1>();
          half_tile.template operator()<1, 1>();
        }
        // Lane 4 g + q has token q of row g: high and low sum of the first tile in [0, 1], of the second in [2, 3].
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile) {
          if (q + 4 * tile < p.tokens) {
            int32_t* at = sums + ((virtual_tile * kTileRows + g) * p.tokens + q + 4 * tile) * 2;
            atomicAdd(at, sum[tile][0]);
            atomicAdd(at + 1, sum[tile][1]);
            if (has_second) {
              atomicAdd(at + kTileRows * p.tokens * 2, sum[tile][2]);
              atomicAdd(at + kTileRows * p.tokens * 2 + 1, sum[tile][3]);
            }
          }
        }
        now.Step();
      }
    }
    if (p.has_outliers) {
      for (int i = warp; i < virtual_tiles; i += kDecodeWarps) {
        const TilePlace tile = TilePlaceOf<kWork>(p, first, now.units, i);
        const OutlierPlace place = OutliersOf<kWork>(p, own, tile);
        if (i != warp) {
          outliers.Begin(p, records + i * p.record_bytes, lane);
          outliers.Fetch(p, place);
        }
        const int input_row = kWork == DecodeWork::kDown ? tile.chosen : 0;
        outliers.template Add<kTokens>(p, place, rounded + input_row * input_row_bytes, input_row_bytes,
                                       outlier_sums + i * kTileRows * p.tokens, lane);
      }
    }
    __syncthreads();

    // value(i, r, t): the product of virtual tile i's row r with token t. Leaves zero sums for the next batch.
    const auto input_scale = [&](int t) { return given ? __uint_as_float(largest[t]) : ScaleOf(largest[t]); };
    const auto value = [&](int i, int r, int t, float scale_of_input) {
      const int index = (i * kTileRows + r) * p.tokens + t;
      const float scale = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(records + i * p.record_bytes)[r]);
      int2* at = reinterpret_cast<int2*>(sums) + index;
      const float sum = static_cast<float>(at->x) * 256.0f + static_cast<float>(at->y);
      *at = int2{0, 0};
      return scale * scale_of_input * (sum + outlier_sums[index]);
    };
#pragma unroll 1
    for (int i = thread; i < now.units * kTileRows; i += kDecodeThreads) {
      const int unit = i / kTileRows;
      const int r = i % kTileRows;
      const int row = first * kTileRows + i;
      if constexpr (kWork == DecodeWork::kGateUp) {
        const float scale = input_scale(0);
        const float gate = value(2 * unit, r, 0, scale);
        const float up = value(2 * unit + 1, r, 0, scale);
        const int routed = p.top * own.rows;  // row in [all, width)
        float* to = row < routed ? own.output + token_row * int64_t{routed} + row
                                 : p.parts[1].output + token_row * int64_t{own.rows} + row - routed;
        *to = gate / (1 + __expf(-gate)) * up;
      } else if constexpr (kWork == DecodeWork::kDown) {
        float result = 0;
#pragma unroll 1
        for (int e = 0; e < p.all; ++e) {
          result += route_weights[e] * value(e * now.units + unit, r, 0, input_scale(e));
        }
        float* to = own.output + token_row * own.output_stride + row;
        *to = p.accumulate ? *to + result : result;
      } else {
#pragma unroll 1
        for (int t = 0; t < p.tokens; ++t) {
          float result = value(unit, r, t, input_scale(t));
          if (row >= own.rows) continue;
          if (own_at == 0 && p.convolution.weight != nullptr) {
            ConvolvedChannel channel;
            channel.Ask(p.convolution, t, row);
            result = channel.Convolved(p.convolution, t, row, result);
          }
          float* to = own.output + t * own.output_stride + row;
          *to = p.accumulate ? *to + result : result;
        }
      }
    }
    if (first + p.batch_units < block_end) __syncthreads();  // records and sums are free
  }
}

}  // namespace hproc::kernels::cuda
