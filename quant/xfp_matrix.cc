#include "quant/xfp_matrix.h"

#include <cstring>
#include <vector>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::quant {
namespace {

template <typename T>
T Load(const uint8_t* bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

}  // namespace

std::string_view ModeName(Mode mode) { return mode == Mode::kV2 ? "v2" : "v2a"; }
std::string_view CentroidsName(Centroids centroids) { return centroids == Centroids::kInt8 ? "int8" : "fp16"; }

XfpLayout LayoutOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers, const ColumnCut& cut) {
  HPROC_CHECK(rows > 0 && columns > 0 && IsLevelCount(format.levels) && outliers >= 0, "shape of a container");
  HPROC_CHECK(format.mode == Mode::kV2a || !format.group_scales, "group scales belong to V2a");
  XfpLayout layout;
  int64_t end = 0;
  const auto section = [&](int64_t bytes) {
    const int64_t begin = (end + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
    end = begin + bytes;
    return begin;
  };
  const bool library = format.mode == Mode::kV2a;
  const int64_t groups = GroupsPerRow(cut.group_offset() + columns);
  layout.codes = section(rows * CodeBytesPerRow(columns, format.levels));
  layout.code_bytes = end;
  layout.codebooks = section((library ? kLibrarySize : rows) * format.levels * format.centroid_bytes());
  layout.scales = section(rows * (format.group_scales ? groups : 1) * 2);
  if (library) layout.indices = section(rows * groups);
  layout.codebook_bytes = end - layout.code_bytes;
  if (outliers > 0) {
    layout.outlier_starts = section((rows + kOutlierRowBlock - 1) / kOutlierRowBlock * 4);
    layout.outlier_counts = section(rows * OutlierCountBytes(cut.whole_columns(columns)));
    layout.outlier_columns = section(outliers * OutlierColumnBytes(columns));
    layout.outlier_values = section(outliers * kOutlierValueBytes);
  }
  end = (end + kTailPadding + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
  layout.outlier_bytes = end - layout.code_bytes - layout.codebook_bytes;
  layout.total_bytes = end;
  return layout;
}

XfpMatrix ViewOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers,
                 std::span<const std::byte> bytes, const ColumnCut& cut) {
  const XfpLayout layout = LayoutOf(rows, columns, format, outliers, cut);
  HPROC_CHECK(static_cast<int64_t>(bytes.size()) == layout.total_bytes, "size of a container");
  const auto* base = reinterpret_cast<const uint8_t*>(bytes.data());
  HPROC_CHECK(reinterpret_cast<uintptr_t>(base) % kSectionAlignment == 0, "alignment of a container");
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
  XfpMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.format = format;
  matrix.outliers = outliers;
  matrix.cut = cut;
  matrix.codes = at(layout.codes);
  matrix.codebooks = at(layout.codebooks);
  matrix.scales = reinterpret_cast<const uint16_t*>(at(layout.scales));
  matrix.indices = at(layout.indices);
  matrix.outlier_starts = reinterpret_cast<const uint32_t*>(at(layout.outlier_starts));
  matrix.outlier_counts = at(layout.outlier_counts);
  matrix.outlier_columns = at(layout.outlier_columns);
  matrix.outlier_values = reinterpret_cast<const uint16_t*>(at(layout.outlier_values));
  return matrix;
}

void DecodeRow(const XfpMatrix& matrix, int64_t row, std::span<float> values) {
  const int64_t columns = matrix.columns;
  const int levels = matrix.format.levels;
  HPROC_CHECK(row >= 0 && row < matrix.rows && static_cast<int64_t>(values.size()) == columns, "row of a container");
  const int64_t row_bytes = CodeBytesPerRow(columns, levels);
  std::vector<uint8_t> codes(static_cast<size_t>(columns));
  UnpackRow({matrix.codes + row * row_bytes, static_cast<size_t>(row_bytes)}, levels, codes);

  const bool library = matrix.format.mode == Mode::kV2a;
  const int64_t groups = matrix.groups();
  std::vector<float> in_units(static_cast<size_t>(columns));
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t book = library ? matrix.indices[row * groups + matrix.group_of(c)] : row;
    const int64_t entry = book * levels + codes[static_cast<size_t>(c)];
    in_units[static_cast<size_t>(c)] = matrix.format.centroids == Centroids::kInt8
                                           ? static_cast<float>(Load<int8_t>(matrix.codebooks, entry))
                                           : HalfToFloat(Load<uint16_t>(matrix.codebooks, entry));
  }
  if (matrix.outliers > 0) {
    const auto count_of = [&](int64_t r) -> int64_t {
      return matrix.count_bytes() == 1 ? int64_t{matrix.outlier_counts[r]}
                                             : int64_t{Load<uint16_t>(matrix.outlier_counts, r)};
    };
    int64_t next = matrix.outlier_starts[row / kOutlierRowBlock];
    for (int64_t r = row / kOutlierRowBlock * kOutlierRowBlock; r < row; ++r) next += count_of(r);
    for (int64_t i = next; i < next + count_of(row); ++i) {
      const int64_t column = OutlierColumnBytes(columns) == 2 ? int64_t{Load<uint16_t>(matrix.outlier_columns, i)}
                                                              : int64_t{Load<uint32_t>(matrix.outlier_columns, i)};
      in_units[static_cast<size_t>(column)] += HalfToFloat(matrix.outlier_values[i]);
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t scale = matrix.format.group_scales ? row * groups + matrix.group_of(c) : row;
    values[static_cast<size_t>(c)] = Bfloat16ToFloat(matrix.scales[scale]) * in_units[static_cast<size_t>(c)];
  }
}

}  // namespace hproc::quant
