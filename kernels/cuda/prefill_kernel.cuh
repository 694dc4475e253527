// The prefill kernel; see kernels/prefill.h for what it computes.
//
// A block has 128 rows of weights, a pair of row tiles a warp, and a tile of 64 tokens, whose high and low bytes are the 128 columns
// of a warpgroup product. Column tile by column tile:
//
//     wait for the tokens of this column tile; barrier
//     ask for the column tile after the next: its tokens by bulk copies, its words by the lanes that will read them
//     multiply the first half of the tile, which is in registers; expand the second meanwhile; multiply that
//     expand the first half of the next tile meanwhile
//
// Then scales, outliers, and SwiGLU where a pair is gate and up.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/prefill_parts.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace hproc::kernels::cuda {

// Bytes of the ring of weights, of the library, and of all.
template <int kLevels>
constexpr int PrefillRingBytes() {
  return kPrefillStages * kPrefillWarps * 2 * Expander<kLevels>::kRingBytes;
}
template <int kLevels>
constexpr int PrefillSharedBytes() {
  return kPrefillStages * kPrefillTileBytes + PrefillRingBytes<kLevels>() + quant::kLibrarySize * Expander<kLevels>::kStride +
         kPrefillTokens * 8 + kPrefillStages * 8;
}

template <int kLevels>
__global__ void __launch_bounds__(kPrefillThreads, 1) PrefillKernel(const __grid_constant__ PrefillParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Expand = Expander<kLevels>;
  constexpr int kTile = Expand::kRingBytes;
  extern __shared__ __align__(128) uint8_t shared[];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int g = lane / 4;
  const int q = lane % 4;
  AllowNextKernel();
  WaitForKernelInFront();
  PrefillTile tile;
  if (p.list != nullptr) {
    tile = p.list[blockIdx.y];
  } else {
    tile.first = static_cast<int>(blockIdx.x) * kPrefillTokens;
    tile.count = min(kPrefillTokens, p.input_rows - tile.first);
  }
  if (tile.count == 0) return;
  const int pair = static_cast<int>(p.list != nullptr ? blockIdx.x : blockIdx.y) * kPrefillWarps + warp;
  const bool has_first = pair < p.pairs;
  const int first_tile = tile.expert * p.row_tiles + min(pair, p.pairs - 1) * p.pair_step;
  const bool has_second = has_first && min(pair, p.pairs - 1) * p.pair_step + p.second_tile < p.row_tiles;
  const int row_tile[2] = {first_tile, has_second ? first_tile + p.second_tile : first_tile};
  const uint8_t* record[2] = {p.records + int64_t{row_tile[0]} * p.record_bytes, p.records + int64_t{row_tile[1]} * p.record_bytes};

  uint8_t* const ring = shared + kPrefillStages * kPrefillTileBytes + warp * 2 * kTile;
  uint8_t* const library = shared + kPrefillStages * kPrefillTileBytes + PrefillRingBytes<kLevels>();
  // What the end will ask for: the tokens' scales and where their products go.
  float* const token_scales = reinterpret_cast<float*>(library + quant::kLibrarySize * Expand::kStride);
  int32_t* const token_rows = reinterpret_cast<int32_t*>(token_scales + kPrefillTokens);
  if (thread < tile.count) {
    token_scales[thread] = p.scales[tile.first + thread];
    token_rows[thread] = p.output_rows != nullptr ? p.output_rows[tile.first + thread] : tile.first + thread;
  }
  float scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) scale[i] = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(record[i])[g]);

  // A barrier a stage counts the bytes of its tokens.
  uint64_t* const arrived = reinterpret_cast<uint64_t*>(token_rows + kPrefillTokens);
  if (thread == 0) {
    for (int i = 0; i < kPrefillStages; ++i) InitBarrier(arrived + i, 1);
    ShowBarriers();
  }
  __syncthreads();
  const uint8_t* const my_tiles[2] = {p.tiles + uint64_t{static_cast<uint32_t>(row_tile[0])} * p.row_tile_bytes,
                                      p.tiles + uint64_t{static_cast<uint32_t>(row_tile[1])} * p.row_tile_bytes};
  const auto load = [&](int column_tile) {
    if (column_tile >= p.column_tiles) return CommitCopies();
    const int stage = column_tile % kPrefillStages;
    if (warp == 0) {
      const int bytes = tile.count * kChunkBytes;
      if (lane == 0) ArriveExpecting(arrived + stage, kTileChunks * bytes);
      if (lane < kTileChunks) {
        CopyBulk(SharedAddress(shared) + stage * kPrefillTileBytes + lane * kPrefillTokens * kChunkBytes,
                 p.input + ((int64_t{column_tile} * kTileChunks + lane) * p.input_rows + tile.first) * kChunkBytes, bytes, arrived + stage);
      }
    }
    const bool whole = p.last_tile_halves == 2 || column_tile + 1 < p.column_tiles;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint8_t* from = my_tiles[i] + column_tile * p.tile_bytes;
      const uint32_t words = SharedAddress(ring) + stage * kPrefillWarps * 2 * kTile + i * kTile;
      const bool wanted = i == 0 ? has_first : has_second;
      if (whole) {
        CopyWords<Expand::kWords>(words, from, lane, wanted);
        if constexpr (Expand::kTernary) {
          CopyAsync<4>(words + Expand::kWords * 128 + lane * 4, from + Expand::kWords * 128 + lane * 4, wanted && lane < 8);
        }
      } else {
        CopyWords<Expand::kHalfWords>(words, from, lane, wanted);
      }
    }
    CommitCopies();
  };
  load(0);
  load(1);
  for (int i = thread; i < p.library_bytes / 16; i += kPrefillThreads) {
    reinterpret_cast<uint4*>(library)[i] = __ldg(reinterpret_cast<const uint4*>(p.library) + i);
  }
  uint32_t table[2][Expand::kTableWords] = {};
  if (p.library_bytes == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) LoadCodebook<kLevels>(record[i] + p.record_books + g * Expand::kStride, table[i]);
  }

  // This lane's words of a column tile, as its half tiles are expanded from them.
  uint32_t words[2][Expand::kWords];
  uint32_t ternary_byte[2] = {0, 0};
  typename Expand::Digits digits[2] = {};
  const auto take_words = [&](int column_tile) {
    const bool whole = p.last_tile_halves == 2 || column_tile + 1 < p.column_tiles;
    if constexpr (Expand::kTernary) __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint8_t* from = ring + (column_tile % kPrefillStages * kPrefillWarps * 2 + i) * kTile;
      if (whole) {
        LoadWords<Expand::kWords>(from, lane, words[i]);
        if constexpr (Expand::kTernary) ternary_byte[i] = from[Expand::kWords * 128 + lane];
      } else {
        uint32_t half[Expand::kHalfWords];
        LoadWords<Expand::kHalfWords>(from, lane, half);
#pragma unroll
        for (int w = 0; w < Expand::kWords; ++w) words[i][w] = 0;
#pragma unroll
        for (int w = 0; w < Expand::kHalfWords; ++w) words[i][w < Expand::kLowBits ? w : w + Expand::kLowBits] = half[w];
      }
    }
  };
  const auto expand = [&]<int kHalf>(int column_tile, uint32_t (&a)[4][4]) {
    if (p.library_bytes > 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int book = record[i][p.record_books + (2 * column_tile + kHalf) * kTileRows + g];
        LoadCodebook<kLevels>(library + book * Expand::kStride, table[i]);
      }
    }
    const auto step = [&]<int kStep>() {
      uint32_t centroids[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        Expand::template Step<kHalf, kStep>(table[i], words[i] + kHalf * Expand::kLowBits, words[i] + 2 * Expand::kLowBits,
                                            ternary_byte[i], digits[i], centroids[i]);
      }
      a[kStep][0] = centroids[0][0], a[kStep][1] = centroids[1][0];
      a[kStep][2] = centroids[0][1], a[kStep][3] = centroids[1][1];
    };
    step.template operator()<0>();
    step.template operator()<1>();
    step.template operator()<2>();
    step.template operator()<3>();
  };

  int32_t sum[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) sum[i] = 0;
  uint32_t first_half[4][4];
  uint32_t second_half[4][4];
  WaitForCopies<1>();
  __syncthreads();  // the library
  take_words(0);
  expand.template operator()<0>(0, first_half);
#pragma unroll 1
  for (int column_tile = 0; column_tile < p.column_tiles; ++column_tile) {
    WaitForPhase(arrived + column_tile % kPrefillStages, static_cast<uint32_t>(column_tile) / kPrefillStages % 2);
    __syncthreads();  // the stage to be filled has been multiplied
    load(column_tile + 2);
    const uint32_t tokens = SharedAddress(shared) + column_tile % kPrefillStages * kPrefillTileBytes;
    const auto multiply = [&](int half, const uint32_t (&a)[4][4]) {
      BeginWarpgroupProducts();
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        WarpgroupMultiplyAdd(sum, a[s][0], a[s][1], a[s][2], a[s][3], SharedOperand(tokens + (half * 4 + s) * 4096, 128, 2048));
      }
      CommitWarpgroupProducts();
    };
    multiply(0, first_half);
    expand.template operator()<1>(column_tile, second_half);
    multiply(1, second_half);
    WaitForCopies<1>();
    WaitForWarpgroupProducts<1>();  // the first half's registers are free
    if (column_tile + 1 < p.column_tiles) {
      take_words(column_tile + 1);
      expand.template operator()<0>(column_tile + 1, first_half);
    }
    WaitForWarpgroupProducts<0>();
  }
  HoldSums(sum);

  // Outliers are shown through shared memory.
  float* const outlier_sums = reinterpret_cast<float*>(shared) + warp * 16 * kPrefillTokens;
  if (p.outliers.values != nullptr) {
    static_assert(kPrefillWarps * 16 * kPrefillTokens * 4 <= kPrefillStages * kPrefillTileBytes);
    __syncthreads();  // all products have read their tokens
#pragma unroll 1
    for (int r = 0; r < 16; ++r) {
      float products[kPrefillTokens / 32];
      OutlierProducts<kPrefillTokens>(p.outliers, record[r / 8], r % 8, tile.first, tile.count, products);
#pragma unroll
      for (int n = 0; n < kPrefillTokens / 32; ++n) outlier_sums[r * kPrefillTokens + lane + 32 * n] = products[n];
    }
    __syncwarp();
  }
  if (!has_first) return;

  const int row = min(pair, p.pairs - 1) * p.pair_step * kTileRows + g;
#pragma unroll
  for (int j = 0; j < kPrefillTokens / 4; ++j) {
    const int token = 4 * j + q;
    if (token >= tile.count) continue;
    const float token_scale = token_scales[token];
    float value[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      value[i] = WholeSum(sum[4 * j + 2 * i], sum[4 * j + 2 * i + 1]);
      if (p.outliers.values != nullptr) value[i] += outlier_sums[(8 * i + g) * kPrefillTokens + token];
      value[i] *= scale[i] * token_scale;
    }
    float* to = p.output + token_rows[token] * p.output_stride;
    if (p.gate_up) {
      if (row < p.rows) to[row] = value[0] / (1 + __expf(-value[0])) * value[1];
    } else {
      if (row < p.rows) to[row] = value[0];
      if (has_second && row + kTileRows * p.second_tile < p.rows) to[row + kTileRows * p.second_tile] = value[1];
    }
  }
#endif
}

}  // namespace hproc::kernels::cuda
