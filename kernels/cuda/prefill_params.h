// What a prefill kernel is told; made by prefill.cc, read by prefill_kernel.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/prefill.h"

namespace hproc::kernels::cuda {

inline constexpr int kPrefillWarps = 8;  // two warpgroups, a pair of row tiles a warp
inline constexpr int kPrefillThreads = kPrefillWarps * 32;
inline constexpr int kPrefillStages = 3;  // column tiles on their way
// Rounded rows are [chunk of 16 columns][row][16 high bytes, 16 low ones], so that a run of rows is one bulk copy a chunk. Chunk
// 8 h + 2 s + f is columns 128 h + 32 q + 8 s + 4 f + [0, 4) for q in [0, 4): what the lanes of an MMA expand at a time.
inline constexpr int kChunkColumns = 16;
inline constexpr int kTileChunks = kTileColumns / kChunkColumns;
inline constexpr int kHalfChunks = kHalfColumns / kChunkColumns;
inline constexpr int kChunkBytes = 32;  // of a row
inline constexpr int kPrefillTileBytes = kTileChunks * kChunkBytes * kPrefillTokens;  // a column tile of a tile's rows

// Outliers of a matrix as its records point into them, and the tokens they are multiplied with.
struct OutlierSections {
  const uint8_t* columns;
  const uint16_t* values;  // null: there are none
  const int16_t* transposed;
  int32_t wide_counts;
  int32_t wide_columns;
  int32_t input_rows;
};

struct PrefillParams {
  // Weights. Sections of kernels/decode_order.h.
  const uint8_t* library;
  const uint8_t* records;
  const uint8_t* tiles;
  OutlierSections outliers;
  uint32_t row_tile_bytes;
  int32_t tile_bytes;
  int32_t record_bytes;
  int32_t record_books;
  int32_t column_tiles;
  int32_t last_tile_halves;
  int32_t library_bytes;  // 0 for V2

  // Pair i of an expert (or of the matrix) is row tiles pair_step * i and second_tile behind it, where that is below row_tiles.
  int32_t pairs;
  int32_t pair_step;
  int32_t second_tile;
  int32_t row_tiles;  // of an expert
  int32_t gate_up;    // the pair's values become one

  const int8_t* input;  // rounded
  const float* scales;
  int32_t input_rows;

  const PrefillTile* list;  // null: tiles of kPrefillTokens in order, the fast index of the grid
  const int32_t* output_rows;  // where place p goes; null: row p
  float* output;
  int64_t output_stride;
  int32_t rows;  // of the output
};

// Instantiated for every K of quant::kLevelCounts beside the decode kernels. The grid is [row blocks, tiles] with a list, else the
// other way round.
template <int kLevels>
void LaunchPrefill(const PrefillParams& params, dim3 grid, cudaStream_t stream);

// Expanded weights (expand_rows.cuh, expanded_matmul.cu): a block of kExpandedRows rows is [column half][chunk of a rounded row:
// 8][row tile: 16][row: 8][16 bytes], the operand of warpgroup products as it stands in shared memory.
inline constexpr int kExpandedRows = 128;
inline constexpr int kExpandedTokens = 128;  // of a tile of their products
inline constexpr int kExpandedHalfBytes = kExpandedRows * kHalfColumns;
inline constexpr int kExpandTiles = 4;  // column tiles of a row tile that a warp expands

struct ExpandParams {
  const uint8_t* library;
  const uint8_t* records;
  const uint8_t* tiles;
  uint32_t row_tile_bytes;
  int32_t tile_bytes;
  int32_t record_bytes;
  int32_t record_books;
  int32_t column_tiles;
  int32_t last_tile_halves;
  int32_t library_bytes;
  int32_t row_tiles;  // from the first on that the pointers are at
  uint8_t* expanded;
};
// Instantiated as LaunchPrefill.
template <int kLevels>
void LaunchExpandRows(const ExpandParams& params, cudaStream_t stream);

struct ExpandedParams {
  const uint8_t* expanded;
  int32_t halves;      // of all columns
  int32_t first_row;   // of the expanded ones
  int32_t row_blocks;
  int32_t token_tiles;

  const uint8_t* records;  // of the whole matrix
  int32_t record_bytes;
  OutlierSections outliers;
  const int8_t* input;  // rounded
  const float* scales;
  int32_t input_rows;
  float* output;
  int64_t output_stride;
  int32_t rows;
};
void LaunchExpandedMatmul(const ExpandedParams& params, cudaStream_t stream);

}  // namespace hproc::kernels::cuda
