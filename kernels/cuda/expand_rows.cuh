// Weights in decode order to the bytes of their centroids (see prefill_params.h for the order of those).
#pragma once

#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/prefill_parts.cuh"

namespace hproc::kernels::cuda {

inline constexpr int kExpandWarps = 8;

// A warp kExpandTiles column tiles of a row tile. A lane's four columns of a chunk are one store, a warp's 128 bytes that stand
// together.
template <int kLevels>
__global__ void __launch_bounds__(kExpandWarps * 32) ExpandRowsKernel(const __grid_constant__ ExpandParams p) {
  using Expand = Expander<kLevels>;
  StartBehindKernelInFront();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int row_tile = static_cast<int>(blockIdx.x) * kExpandWarps + static_cast<int>(threadIdx.x) / 32;
  if (row_tile >= p.row_tiles) return;
  const uint8_t* record = p.records + int64_t{row_tile} * p.record_bytes;
  uint32_t table[Expand::kTableWords];
  if (p.library_bytes == 0) LoadCodebook<kLevels>(record + p.record_books + g * Expand::kStride, table);
  constexpr int kBlockTiles = kExpandedRows / kTileRows;
  const int halves = 2 * p.column_tiles - 2 + p.last_tile_halves;
  uint8_t* const out = p.expanded + int64_t{row_tile / kBlockTiles} * halves * kExpandedHalfBytes + row_tile % kBlockTiles * 128 + lane * 4;
  const int begin = static_cast<int>(blockIdx.y) * kExpandTiles;
#pragma unroll 2
  for (int column_tile = begin; column_tile < min(begin + kExpandTiles, p.column_tiles); ++column_tile) {
    const uint8_t* from = p.tiles + uint64_t{static_cast<uint32_t>(row_tile)} * p.row_tile_bytes + column_tile * p.tile_bytes;
    uint32_t words[Expand::kWords];
    uint32_t ternary_byte = 0;
    const bool whole = p.last_tile_halves == 2 || column_tile + 1 < p.column_tiles;
    if (whole) {
      LoadWords<Expand::kWords>(from, lane, words);
      if constexpr (Expand::kTernary) ternary_byte = from[Expand::kWords * 128 + lane];
    } else {
      uint32_t half[Expand::kHalfWords];
      LoadWords<Expand::kHalfWords>(from, lane, half);
#pragma unroll
      for (int w = 0; w < Expand::kWords; ++w) words[w] = 0;
#pragma unroll
      for (int w = 0; w < Expand::kHalfWords; ++w) words[w < Expand::kLowBits ? w : w + Expand::kLowBits] = half[w];
    }
    typename Expand::Digits digits{};
    const auto expand = [&]<int kHalf>() {
      if (p.library_bytes > 0) {
        const int book = record[p.record_books + (2 * column_tile + kHalf) * kTileRows + g];
        LoadCodebook<kLevels>(p.library + book * Expand::kStride, table);
      }
      uint8_t* to = out + (2 * column_tile + kHalf) * kExpandedHalfBytes;
      const auto step = [&]<int kStep>() {
        uint32_t centroids[2];
        Expand::template Step<kHalf, kStep>(table, words + kHalf * Expand::kLowBits, words + 2 * Expand::kLowBits, ternary_byte, digits,
                                            centroids);
#pragma unroll
        for (int f = 0; f < 2; ++f) *reinterpret_cast<uint32_t*>(to + (2 * kStep + f) * kExpandedRows * kChunkColumns) = centroids[f];
      };
      step.template operator()<0>();
      step.template operator()<1>();
      step.template operator()<2>();
      step.template operator()<3>();
    };
    expand.template operator()<0>();
    if (whole) expand.template operator()<1>();
  }
}

}  // namespace hproc::kernels::cuda
