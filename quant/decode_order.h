// Decode order: an XFP matrix laid out the way the CUDA decode kernels eat it. Host code, no CUDA; same codes, levels,
// scales and outliers as the container (quant/xfp_matrix.h), and the same bytes but for the padding named below.
//
// Tile: 8 rows x 256 columns, the B operand of eight m16n8k32 integer MMAs of one warp. Lane 4 g + q holds 64 codes of
// row g: columns 128 h + 32 q + [0, 32) for the halves h = 0, 1 of the tile, that is four MMA steps s of 8 columns a
// half. A half is also a group of V2a, so one codebook serves it. Rows are padded to whole tiles; the last tile of a
// row may have one half.
//
// The codes of a half-lane, 32 of them, stand as nibbles that a byte permute takes as selectors (nibble i of step s is
// column 8 s + i), in p words for the p low bits of K:
//
//   p = 1   bit 4 i + s of the word
//   p = 2   step s: word s / 2, bits 4 i + 2 (s % 2) up
//   p = 3   steps 0, 1, 2: the low three bits of word s; step 3: the nibbles' fourth bits of words 0, 1, 2
//   p = 4   step s: word s
//   p > 4   the low four bits as p = 4; bit 4 and bit 5 in a word each, placed as p = 1
//
// With 16 levels of a row's own (V2), level c stands at c / 2 + 8 (c % 2) of the codebook and has that for a code, so that the
// high bit chooses between neighbours; see PairTables in kernels/cuda/expand.cuh.
//
// (ternary levels: the digit above the low bits): the 128 digits of 16 "sets" of four columns, set = 8 h + 2 s + i / 4.
// Word X[set / 5], byte i % 4 is a fraction of five digits as quant::EncodeTernary makes, digit set % 5 of it; the last
// set has two bits a digit in one byte of its own. 13 bytes a lane, as in the container. A tile of one half has two
// words instead (2 bits a digit for that tail alone).
//
// In memory the words of a tile's lanes stand in chunks of four, then two, then one word a lane, so that every load is
// the widest there is and free of bank conflicts: [chunk][lane][4]; then the byte plane.
//
//   library  V2a: 32 x CodebookStride            once a matrix
//   records  one a row tile: 8 bf16 scales; with outliers: a u32, how many stand before this tile, then 8 counts u8
//            (u16), padded to 16 (32) bytes; then V2: 8 codebooks of CodebookStride(K) bytes,
//            V2a: indices [halves, padded to even][8 rows]
//   tiles    [row tile][column tile]             one row tile is contiguous
//   outliers columns u16 (u32), values fp16; as in the container
#pragma once

#include <cstdint>
#include <optional>

#include "quant/xfp_matrix.h"

namespace hproc::quant {

inline constexpr int kTileRows = 8;
inline constexpr int kTileColumns = 256;
inline constexpr int kHalfColumns = kGroupColumns;
// A sum of products of centroids and halves of activations stays within 32 bits up to here.
inline constexpr int64_t kMaxDecodeColumns = 131072;

// Words of one lane in a tile of `halves` (1 or 2).
constexpr int TileWords(int levels, int halves) {
  const PlaneLayout planes = PlanesOf(levels);
  return planes.low_bits * halves + (planes.ternary ? halves + 1 : 0);
}
constexpr int TileBytes(int levels, int halves) {
  return TileWords(levels, halves) * 128 + (PlanesOf(levels).ternary && halves == 2 ? 32 : 0);
}
// Byte offset of word `word` of `lane` in a tile of `words` words a lane.
constexpr int TileWordOffset(int words, int word, int lane) {
  int base = 0;
  for (int chunk : {4, 2, 1}) {
    const int whole = words / chunk * chunk;
    if (word < whole) return base * 128 + word / chunk * chunk * 128 + (lane * chunk + word % chunk) * 4;
    base += whole;
    word -= whole;
    words -= whole;
  }
  return -1;
}
// Where level `code` stands in a codebook in decode order.
constexpr int OrderedCode(const XfpFormat& format, int code) {
  return format.levels == 16 && format.mode == Mode::kV2 ? code / 2 + code % 2 * 8 : code;
}
// Bytes from codebook to codebook: K rounded up to a power of two, or to whole 16-byte loads.
constexpr int CodebookStride(int levels) {
  if (levels > 16) return (levels + 15) / 16 * 16;
  int stride = 2;
  while (stride < levels) stride *= 2;
  return stride;
}

// Byte offsets and sizes; -1 where a section is absent.
struct DecodeOrder {
  int64_t row_tiles = 0;
  int64_t column_tiles = 0;
  int last_tile_halves = 2;
  int64_t tile_bytes = 0;       // of a whole tile
  int64_t last_tile_bytes = 0;  // of the last tile of a row
  int64_t row_tile_bytes = 0;
  int64_t record_bytes = 0;
  int64_t record_books = 0;  // where codebooks or indices begin in a record

  int64_t library = -1;
  int64_t records = 0;
  int64_t tiles = 0;
  int64_t outlier_columns = -1;
  int64_t outlier_values = -1;
  int64_t total_bytes = 0;
};

// Whether the decode kernels can run the format: int8 centroids, no group scales.
bool HasDecodeOrder(const XfpFormat& format);

DecodeOrder DecodeOrderOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers);

// How many column halves tile `column_tile` of a row has.
constexpr int TileHalves(const DecodeOrder& order, int64_t column_tile) {
  return column_tile + 1 == order.column_tiles ? order.last_tile_halves : 2;
}

// The bytes in decode order of a matrix that is worth putting into it: one that takes no more there than its container, or a large one
// that takes hardly more (1 % at rows of 1024 columns, 3 % at 512). Products of a container cost several times as long, and decode
// order pads at most 15 bytes a row: codebooks to their stride, and counts of outliers. Nothing for one that stays a container: small
// ones take what their plan says. `cut`: of the container's rows.
std::optional<int64_t> ArrangedBytes(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers,
                                     const ColumnCut& cut = {});

}  // namespace hproc::quant
