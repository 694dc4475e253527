// What a prefill kernel is told; made by prefill.cc, read by prefill_kernel.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/prefill.h"

namespace hproc::kernels::cuda {

inline constexpr int kPrefillWarps = 8;  // two warpgroups, a pair of row tiles a warp
inline constexpr int kPrefillThreads = kPrefillWarps * 32;
inline constexpr int kPrefillStages = 3;  // column tiles on their way
// A column tile of rounded rows: 32 bytes a token, step and half of a step, high bytes before low ones.
inline constexpr int kPrefillTileBytes = 512 * kPrefillTokens;

struct PrefillParams {
  // Weights. Sections of kernels/decode_order.h.
  const uint8_t* library;
  const uint8_t* records;
  const uint8_t* tiles;
  const uint8_t* outlier_columns;
  const uint16_t* outlier_values;
  uint32_t row_tile_bytes;
  int32_t tile_bytes;
  int32_t record_bytes;
  int32_t record_books;
  int32_t column_tiles;
  int32_t last_tile_halves;
  int32_t wide_counts;
  int32_t wide_columns;
  int32_t library_bytes;  // 0 for V2

  // Pair i of an expert (or of the matrix) is row tiles pair_step * i and second_tile behind it, where that is below row_tiles.
  int32_t pairs;
  int32_t pair_step;
  int32_t second_tile;
  int32_t row_tiles;  // of an expert
  int32_t gate_up;    // the pair's values become one

  const int8_t* input;  // rounded
  const float* scales;
  const int16_t* transposed;
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

}  // namespace hproc::kernels::cuda
