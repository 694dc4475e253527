// What a decode kernel is told; made by decode.cc, read by decode_kernel.cuh and decode_token.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/decode_order.h"
#include "kernels/matrix.h"
#include "kernels/sequence.h"

namespace hproc::kernels::cuda {

enum class DecodeWork : int32_t { kMatmul, kGateUp, kDown };

inline constexpr int kDecodeWarps = 16;
inline constexpr int kDecodeThreads = kDecodeWarps * 32;
inline constexpr int kMostDecodeParts = 4;
inline constexpr int kKeptFours = 8;  // fours of activations that a thread keeps until they are rounded
// Items of a warp's ring where a block may have 227 KB of shared memory, and on the consumer chips with their 99.
constexpr int DecodeSlots(int levels, bool large_shared) { return (large_shared ? 3 : 1) + (levels <= 16 ? 1 : 0); }

// Up to so many tokens, the two tiles that are multiplied at a time are neighbours in a row; see decode_kernel.cuh.
inline constexpr int kColumnPairTokens = 2;

// Words used here: a *unit* is what the blocks share out: a row tile (matmul), a gate tile with its up tile (gate-up), a
// row tile of the output (down). A block does its units in *batches*; a batch has `virtual tiles`: row tiles of the
// matrix with sums of their own (matmul: one a unit; gate-up: two; down: one a unit and expert).

// Byte offsets in the block's shared memory.
struct DecodeShared {
  int32_t ring, records, library, input, sums, outlier_sums, total;
};
// Before them: the largest |x| of each row as bits, u32 [kMaxDecodeTop], and the route weights, float [kMaxDecodeTop].
inline constexpr int32_t kSharedWeights = 128;
inline constexpr int32_t kSharedHeader = 256;

// So that QuotientBy (decode_parts.cuh) divides by b.
constexpr uint32_t ReciprocalOf(uint32_t b) { return (uint32_t{1} << 31) / b + 1; }

// A matrix of a launch: sections of kernels/decode_order.h, where its products go, and which blocks do them. All of a launch have
// one format and one number of columns. What a kernel begins with comes first, see DecodeParams.
struct DecodePart {
  const uint8_t* tiles;
  const uint8_t* records;
  // Block b of the part's own has units [b * block_units + min(b, spare_units), …), block_units of them and one more where
  // b < spare_units.
  int32_t block_units;
  int32_t spare_units;
  float* output;
  int64_t output_stride;
  int32_t rows;  // of the output: rows, width or hidden
  // The second tile of a pair, and of a gate's and an up's, is so many bytes behind the first; a shared expert's up is a matrix
  // of its own, with outliers of its own.
  int64_t second_tiles;
  int64_t second_records;
  const uint8_t* outlier_columns;
  const uint16_t* outlier_values;
  const uint8_t* second_outlier_columns;
  const uint16_t* second_outlier_values;
  const uint8_t* library;
};

// What is done with the first part's products where every token is a sequence of its own: see CausalConvCall.
struct DecodeConvolution {
  const SequenceRun* runs;
  const void* weight;  // null: nothing
  Storage storage;
  int32_t kernel;
  int64_t channels;
  float* state;
};

// What the token of a product is to be made of, for TokenInput::kNormed: (input + added) by their root mean square and the norm's
// weights. All 16 bits a weight. See DecodeNorm in kernels/decode.h.
struct DecodeNormParams {
  struct Plain {
    const void* weight;  // [rows, columns]
    float* output;
    int32_t rows;  // of both together, at most as many as blocks
  };
  const float* added;  // or null
  float* sum;          // or null
  const void* weight;  // null: the token is given otherwise
  Storage storage;
  Storage plain_storage;
  float offset;
  float epsilon;
  Plain plain[2];
  float* output;
  int8_t* rounded;
  float* scale;
};

// Where everything of the kernel of one token (decode_token.cuh) lies in the block's shared memory, as byte offsets. Before them: the
// largest |x| and the route weights as above, or what a norm's warps have found. Its ring's slots have the tiles of an item, and the
// codebooks of the row tile that it begins. The sums stand at kSharedHeader.
struct DecodeTokenShared {
  int32_t ring, headers, input, outlier_sums;
};

// Parameters are fetched by lines as they are read, and a warp waits for each. On sm_90 they begin 16 bytes into a line of 256; what a block of
// the first two parts needs before it can ask for its first weights and for its activations is in it, but for a norm's and the route weights.
struct DecodeParams {
  int32_t first_blocks[kMostDecodeParts - 1];  // of the parts but the first; no block's where there is none
  int32_t column_tiles;
  uint32_t pair_reciprocal;  // of column_tiles / 2, see ReciprocalOf; 0 for the kernel of any number of tokens
  uint32_t row_tile_bytes;
  uint16_t record_bytes;
  uint16_t record_books;
  int32_t weights_first;  // before the wait for the kernel in front
  DecodeTokenShared token;

  // Activations: float32, or rounded by the kernel that made them where `rounded` is not null. A rounded row has 2 * padded
  // bytes, 512 a column tile: [half][two of four steps][high or low][quarter of the lanes][two steps x 8 columns], so that
  // the B operands of a lane for two steps are one 16-byte load.
  const int8_t* rounded;
  const float* rounded_scales;
  const float* input;
  const float* shared_input;  // down: of the shared expert
  int64_t input_stride;
  const int32_t* experts;
  int32_t top;               // experts of a token: routed
  int32_t all;               // with the shared one; 1 for matmul
  int32_t expert_tiles;      // row tiles of one expert's output rows: width or hidden / kTileRows
  uint32_t four_reciprocal;  // of fours of a row on chip, see ReciprocalOf

  // Products: one matrix each. Experts: the routed ones, then the shared one.
  DecodePart parts[kMostDecodeParts];

  const float* route_weights;
  const float* shared_gate;  // down: the logits of its weights; null: 1
  int32_t tokens;            // rows of `input` that a block multiplies with every tile: 1 for experts
  int32_t input_rows;        // held on chip; 0 where rounded ones are read through the L2
  int32_t input_row_bytes;   // of one on chip
  int32_t columns;
  int32_t virtual_tiles;  // at most, in a batch
  int32_t has_outliers;
  int32_t accumulate;
  int32_t wide_counts;   // u16 instead of u8
  int32_t wide_columns;  // u32 instead of u16
  DecodeWork work;
  int32_t slots;  // DecodeSlots
  int32_t tile_bytes;
  int32_t last_tile_halves;
  int32_t whole_pairs;  // column tiles are even in number and none of a half
  int32_t batch_units;    // at most, in a batch
  int32_t library_bytes;  // 0 for V2
  DecodeShared at;
  DecodeConvolution convolution;
  DecodeNormParams norm;
};
static_assert(offsetof(DecodeParams, rounded) == 48 && offsetof(DecodeParams, parts) == 112 &&
              offsetof(DecodeParams, parts) + sizeof(DecodePart) + offsetof(DecodePart, output) <= 240);

// Rows of rounded activations on chip have a whole number of pairs of column tiles, and are this much longer, so that tokens fall
// on other banks.
inline constexpr int32_t kInputRowPadding = 64;
constexpr int32_t InputRowBytes(int32_t column_tiles) { return (column_tiles + 1) / 2 * 1024 + kInputRowPadding; }

// Where everything lies; p.at is not read.
inline DecodeShared DecodeSharedOf(const DecodeParams& p) {
  DecodeShared s{};
  int32_t end = kSharedHeader;
  const auto take = [&](int64_t bytes) {
    const int32_t at = end;
    end += static_cast<int32_t>((bytes + 127) / 128 * 128);
    return at;
  };
  s.ring = take(int64_t{kDecodeWarps} * p.slots * 2 * ((p.tile_bytes + 127) / 128 * 128));
  s.records = take(int64_t{1} * p.virtual_tiles * p.record_bytes);
  s.library = take(p.library_bytes);
  s.input = take(int64_t{p.input_rows} * p.input_row_bytes);
  s.sums = take(int64_t{8} * p.virtual_tiles * 8 * p.tokens);
  s.outlier_sums = take(int64_t{4} * p.virtual_tiles * 8 * p.tokens);
  s.total = end;
  return s;
}

inline constexpr int kTokenPieces = 4;  // of sixteen bytes of a rounded row, of a thread
inline constexpr int kTokenFours = 5;  // of activations that a thread rounds
inline constexpr int kNormFours = 2;   // likewise, of a norm
// Items of a warp's ring. What is asked for before the kernel in front is done is gained, and so many items as shared memory holds are;
// experts' weights are asked for by all blocks at once, and the first of a large ring come when the last do: as much as the memory needs to
// be kept busy.
constexpr int TokenSlots(int levels, DecodeWork work, int most) {
  if (work == DecodeWork::kMatmul) return most;
  const int item_bytes = 2 * TileBytes(levels, 2);
  const int slots = (4096 + item_bytes - 1) / item_bytes;
  return slots < most ? slots : most;
}
constexpr int32_t TokenSlotBytes(int levels) {
  return 2 * ((TileBytes(levels, 2) + 127) / 128 * 128) + (kTileRows * CodebookStride(levels) + 127) / 128 * 128;
}
// `tiles`: row tiles of a block with sums of their own.
struct DecodeTokenLayout {
  DecodeTokenShared at;
  int32_t total_bytes;
};
inline DecodeTokenLayout DecodeTokenLayoutOf(const DecodeParams& p, int32_t tiles, int32_t slots, int32_t slot_bytes) {
  DecodeTokenLayout layout{};
  int32_t end = kSharedHeader + tiles * kTileRows * 8;
  layout.at.outlier_sums = end, end += tiles * kTileRows * 4;
  layout.at.headers = end, end += tiles * p.record_books;
  layout.at.input = end = (end + 127) / 128 * 128;
  end += p.input_rows * p.input_row_bytes;
  layout.at.ring = end = (end + 127) / 128 * 128;
  layout.total_bytes = end + kDecodeWarps * slots * slot_bytes;
  return layout;
}
// Enqueues it; `token` and `shared_bytes` are of the layout for all row tiles of the block that has the most. Instantiated likewise.
template <int kLevels>
void LaunchDecodeToken(const DecodeParams& params, int shared_bytes, dim3 grid, bool overlap, cudaStream_t stream);

// Enqueues the kernel for kColumnPairTokens tokens where token_tiles is 1, for 4 * token_tiles where it is 2 or 4. Instantiated for
// every K of quant::kLevelCounts in decode_launch_*.cu.
template <int kLevels>
void LaunchDecode(const DecodeParams& params, int token_tiles, dim3 grid, bool overlap, cudaStream_t stream);

// Rounds `tokens` rows into rounded [tokens][2 * padded], each laid out as DecodeParams says, and scales [tokens].
void LaunchRoundActivations(const float* input, int64_t input_stride, int32_t tokens, int32_t columns, int32_t padded,
                            int8_t* rounded, float* scales, bool overlap, cudaStream_t stream);

}  // namespace hproc::kernels::cuda
