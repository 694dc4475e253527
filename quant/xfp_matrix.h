// The XFP container: how one quantized matrix [rows, columns] lies in one run of bytes.
//
//   codes        rows x CodeBytesPerRow                        quant/levels.h
//   codebooks    V2:  rows x levels centroids                  V2a: kLibrarySize x levels centroids
//   scales       V2:  rows bfloat16                            V2a: rows bfloat16, or rows x groups with group scales
//   indices      V2a: rows x groups u8, the codebook of each group of kGroupColumns columns (the last may be shorter)
//   outliers     only where there are any, sorted by row, then column:
//                starts   u32 for every kOutlierRowBlock rows: how many outliers stand before them
//                counts   u8 a row (u16 where a row may have more than 255)
//                columns  u16 (u32 in rows longer than 65536)
//                values   fp16, in units of the row's scale
//
// Element (r, c) is scale[r] * (codebook[r][code] + outlier), or with V2a scale[r (, group)] * (library[index][code] +
// outlier). Sections start at multiples of kSectionAlignment, the whole is padded by kTailPadding so that a kernel may
// load a whole register at the end of any section.
//
// A rank of tensor parallelism may hold some columns of every row alone (ColumnCut): codes, outliers, and the indices and
// group scales of the groups that it has a part of. Codebooks and scales are the whole row's, the first group may lack columns
// in front, and a row may have as many outliers as the whole one.
//
// Experts of one layer are one matrix: expert e of a projection [E, out, in] is rows [e * out, (e + 1) * out).
//
// Centroids are int8 in units of the scale, or fp16 in the same units. int8 costs at most 2e-5 of cosine, halves the
// table, and is what a GPU can look up in registers; fp16 stays for comparison.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "quant/levels.h"

namespace hproc::quant {

enum class Mode { kV2, kV2a };
std::string_view ModeName(Mode mode);  // "v2", "v2a"

enum class Centroids { kInt8, kHalf };
std::string_view CentroidsName(Centroids centroids);  // "int8", "fp16"

inline constexpr int kLibrarySize = 32;
inline constexpr int kGroupColumns = 128;
inline constexpr int kOutlierRowBlock = 64;
inline constexpr int kSectionAlignment = 64;
inline constexpr int kTailPadding = 64;

constexpr int64_t GroupsPerRow(int64_t columns) { return (columns + kGroupColumns - 1) / kGroupColumns; }

// Columns [first, first + columns) of rows of `whole` columns, as they were quantized. The default: rows that were not cut.
struct ColumnCut {
  int64_t first = 0;
  int64_t whole = 0;  // 0: as many as there are

  constexpr int64_t group_offset() const { return first % kGroupColumns; }  // columns that the first group lacks in front
  constexpr int64_t whole_columns(int64_t columns) const { return whole > 0 ? whole : columns; }
  bool operator==(const ColumnCut&) const = default;
};

struct XfpFormat {
  Mode mode = Mode::kV2;
  int levels = 16;
  Centroids centroids = Centroids::kInt8;
  bool group_scales = false;  // V2a only

  constexpr int centroid_bytes() const { return centroids == Centroids::kInt8 ? 1 : 2; }

  bool operator==(const XfpFormat&) const = default;
};

// Byte offsets of the sections; -1 where a section is absent.
struct XfpLayout {
  int64_t codes = 0;
  int64_t codebooks = 0;
  int64_t scales = 0;
  int64_t indices = -1;
  int64_t outlier_starts = -1;
  int64_t outlier_counts = -1;
  int64_t outlier_columns = -1;
  int64_t outlier_values = -1;
  int64_t total_bytes = 0;

  int64_t code_bytes = 0;      // the share of the codes, padding of rows included
  int64_t codebook_bytes = 0;  // codebooks or library, scales, indices
  int64_t outlier_bytes = 0;
};

XfpLayout LayoutOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers, const ColumnCut& cut = {});

// Bytes of one entry of the outlier sections. A channel has at most columns / 16 outliers (quant/channel_fit.h), the
// columns those of the whole row.
inline constexpr int kOutlierValueBytes = 2;
constexpr int OutlierColumnBytes(int64_t columns) { return columns > 65536 ? 4 : 2; }
constexpr int OutlierCountBytes(int64_t columns) { return columns / 16 > 255 ? 2 : 1; }
// Beyond it a channel may have more outliers than its count of two bytes can say.
inline constexpr int64_t kMostColumns = 16 * int64_t{65536} - 1;

// A view of a container; owns nothing. Pointers of absent sections are null.
struct XfpMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  XfpFormat format;
  int64_t outliers = 0;
  ColumnCut cut;
  const uint8_t* codes = nullptr;
  const uint8_t* codebooks = nullptr;  // int8 or fp16
  const uint16_t* scales = nullptr;
  const uint8_t* indices = nullptr;
  const uint32_t* outlier_starts = nullptr;
  const uint8_t* outlier_counts = nullptr;   // u8 or u16, OutlierCountBytes
  const uint8_t* outlier_columns = nullptr;  // u16 or u32, OutlierColumnBytes
  const uint16_t* outlier_values = nullptr;

  constexpr int64_t groups() const { return GroupsPerRow(cut.group_offset() + columns); }
  constexpr int64_t group_of(int64_t column) const { return (cut.group_offset() + column) / kGroupColumns; }
  constexpr int count_bytes() const { return OutlierCountBytes(cut.whole_columns(columns)); }
};

// `bytes` holds LayoutOf(...).total_bytes and outlives the view.
XfpMatrix ViewOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers,
                 std::span<const std::byte> bytes, const ColumnCut& cut = {});

// Row `row` given back as float32; `values` has matrix.columns entries. The reference for every kernel: plain loops.
void DecodeRow(const XfpMatrix& matrix, int64_t row, std::span<float> values);

}  // namespace hproc::quant
