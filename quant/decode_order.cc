#include "quant/decode_order.h"

#include "base/check.h"

namespace hproc::quant {
namespace {

constexpr int64_t kWideColumns = 512;
constexpr int64_t kLargeWeights = int64_t{1} << 18;
constexpr int64_t kMostPadding = 32;  // a thirty-second: of rows of 512 columns at K = 24

}  // namespace

bool HasDecodeOrder(const XfpFormat& format) {
  return format.centroids == Centroids::kInt8 && !format.group_scales;
}

DecodeOrder DecodeOrderOf(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers) {
  HPROC_CHECK(rows > 0 && columns > 0 && columns <= kMaxDecodeColumns && outliers >= 0, "shape of a decode matrix");
  HPROC_CHECK(HasDecodeOrder(format), "format of a decode matrix");
  DecodeOrder order;
  order.row_tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t halves = (columns + kHalfColumns - 1) / kHalfColumns;
  order.column_tiles = (halves + 1) / 2;
  order.last_tile_halves = halves % 2 == 0 ? 2 : 1;
  order.tile_bytes = TileBytes(format.levels, 2);
  order.last_tile_bytes = TileBytes(format.levels, order.last_tile_halves);
  order.row_tile_bytes = (order.column_tiles - 1) * order.tile_bytes + order.last_tile_bytes;
  const bool library = format.mode == Mode::kV2a;
  order.record_books = kTileRows * 2 + (outliers == 0 ? 0 : 16 * OutlierCountBytes(columns));
  order.record_bytes = order.record_books + kTileRows * (library ? 2 * order.column_tiles : CodebookStride(format.levels));

  int64_t end = 0;
  const auto section = [&](int64_t bytes) {
    const int64_t at = end;
    end = (end + bytes + 127) / 128 * 128;
    return at;
  };
  if (library) order.library = section(kLibrarySize * CodebookStride(format.levels));
  order.records = section(order.row_tiles * order.record_bytes);
  order.tiles = section(order.row_tiles * order.row_tile_bytes);
  if (outliers > 0) {
    order.outlier_columns = section(outliers * OutlierColumnBytes(columns));
    order.outlier_values = section(outliers * kOutlierValueBytes);
  }
  order.total_bytes = end;
  return order;
}

std::optional<int64_t> ArrangedBytes(int64_t rows, int64_t columns, const XfpFormat& format, int64_t outliers, const ColumnCut& cut) {
  if (!HasDecodeOrder(format) || columns > kMaxDecodeColumns || columns % 4 != 0) return std::nullopt;
  // Groups that begin inside a cut row's first one, and counts of another width than the part's own, are a container's affair.
  if (format.mode == Mode::kV2a && cut.group_offset() != 0) return std::nullopt;
  if (OutlierCountBytes(cut.whole_columns(columns)) != OutlierCountBytes(columns)) return std::nullopt;
  const int64_t container = LayoutOf(rows, columns, format, outliers, cut).total_bytes;
  const int64_t bytes = DecodeOrderOf(rows, columns, format, outliers).total_bytes;
  const bool is_large = columns >= kWideColumns && rows * columns >= kLargeWeights;
  if (bytes <= container || (is_large && bytes <= container + container / kMostPadding)) return bytes;
  return std::nullopt;
}

}  // namespace hproc::quant
