#include "kernels/decode_order.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/decode_lane.h"
#include "quant/half.h"

namespace hproc::kernels {
namespace {

using quant::Mode;

template <typename T>
T Load(const std::byte* from, int64_t index) {
  T value;
  std::memcpy(&value, from + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

int64_t CountOf(const void* counts, int64_t columns, int64_t row) {
  const auto* bytes = static_cast<const std::byte*>(counts);
  return quant::OutlierCountBytes(columns) == 1 ? int64_t{Load<uint8_t>(bytes, row)} : int64_t{Load<uint16_t>(bytes, row)};
}

}  // namespace

DecodeMatrix WriteDecodeOrder(const quant::XfpMatrix& matrix, std::span<std::byte> bytes) {
  const DecodeOrder order = DecodeOrderOf(matrix.rows, matrix.columns, matrix.format, matrix.outliers);
  HPROC_CHECK(static_cast<int64_t>(bytes.size()) == order.total_bytes, "size of a matrix in decode order");
  std::ranges::fill(bytes, std::byte{0});
  std::byte* out = bytes.data();
  const int levels = matrix.format.levels;
  const int stride = CodebookStride(levels);
  const bool library = matrix.format.mode == Mode::kV2a;
  if (library) {
    for (int i = 0; i < quant::kLibrarySize; ++i) {
      std::memcpy(out + order.library + i * stride, matrix.codebooks + i * levels, static_cast<size_t>(levels));
    }
  }
  const int64_t row_code_bytes = quant::CodeBytesPerRow(matrix.columns, levels);
  const int64_t groups = quant::GroupsPerRow(matrix.columns);
  const int64_t padded = order.column_tiles * kTileColumns;
  std::vector<uint8_t> codes(static_cast<size_t>(kTileRows * padded));
  for (int64_t tile = 0; tile < order.row_tiles; ++tile) {
    std::ranges::fill(codes, uint8_t{0});
    std::byte* record = out + order.records + tile * order.record_bytes;
    for (int r = 0; r < kTileRows; ++r) {
      const int64_t row = tile * kTileRows + r;
      if (row >= matrix.rows) break;
      quant::UnpackRow({matrix.codes + row * row_code_bytes, static_cast<size_t>(row_code_bytes)}, levels,
                       std::span(codes).subspan(static_cast<size_t>(r * padded), static_cast<size_t>(matrix.columns)));
      for (int64_t c = 0; c < matrix.columns; ++c) {
        uint8_t& code = codes[static_cast<size_t>(r * padded + c)];
        code = static_cast<uint8_t>(OrderedCode(matrix.format, code));
      }
      std::memcpy(record + r * 2, matrix.scales + row, 2);
      std::byte* rest = record + order.record_books;
      if (library) {
        for (int64_t g = 0; g < groups; ++g) rest[g * kTileRows + r] = std::byte{matrix.indices[row * groups + g]};
      } else {
        for (int i = 0; i < levels; ++i) {
          rest[r * stride + OrderedCode(matrix.format, i)] = static_cast<std::byte>(matrix.codebooks[row * levels + i]);
        }
      }
    }
    for (int64_t column_tile = 0; column_tile < order.column_tiles; ++column_tile) {
      std::byte* at = out + order.tiles + tile * order.row_tile_bytes + column_tile * order.tile_bytes;
      const int halves = TileHalves(order, column_tile);
      const int words = TileWords(levels, halves);
      for (int lane = 0; lane < 32; ++lane) {
        std::array<uint8_t, 2 * kHalfCodes> lane_codes{};
        const uint8_t* row_codes = codes.data() + lane / 4 * padded + column_tile * kTileColumns;
        for (int c = 0; c < halves * kHalfCodes; ++c) lane_codes[static_cast<size_t>(c)] = row_codes[ColumnInTile(lane, c)];
        const LaneCodes packed = PackLane(lane_codes.data(), levels, halves);
        for (int w = 0; w < words; ++w)
          std::memcpy(at + TileWordOffset(words, w, lane), &packed.words[static_cast<size_t>(w)], 4);
        if (TileBytes(levels, halves) > words * 128) at[words * 128 + lane] = std::byte{packed.byte};
      }
    }
  }
  if (matrix.outliers > 0) {
    uint32_t next = 0;
    const int count_bytes = quant::OutlierCountBytes(matrix.columns);
    for (int64_t tile = 0; tile < order.row_tiles; ++tile) {
      std::byte* record = out + order.records + tile * order.record_bytes + kTileRows * 2;
      std::memcpy(record, &next, 4);
      for (int64_t row = tile * kTileRows; row < std::min(matrix.rows, (tile + 1) * kTileRows); ++row) {
        const auto count = static_cast<uint16_t>(CountOf(matrix.outlier_counts, matrix.columns, row));
        std::memcpy(record + 4 + row % kTileRows * count_bytes, &count, static_cast<size_t>(count_bytes));
        next += count;
      }
    }
    const auto copy = [&](int64_t at, const void* from, int64_t size) {
      std::memcpy(out + at, from, static_cast<size_t>(size));
    };
    copy(order.outlier_columns, matrix.outlier_columns, matrix.outliers * quant::OutlierColumnBytes(matrix.columns));
    copy(order.outlier_values, matrix.outlier_values, matrix.outliers * quant::kOutlierValueBytes);
  }
  return {.rows = matrix.rows, .columns = matrix.columns, .format = matrix.format, .outliers = matrix.outliers, .bytes = out};
}

void DecodeOrderedRow(const DecodeMatrix& matrix, int64_t row, std::span<float> values) {
  HPROC_CHECK(row >= 0 && row < matrix.rows && static_cast<int64_t>(values.size()) == matrix.columns, "row of a matrix");
  const DecodeOrder order = matrix.order();
  const int levels = matrix.format.levels;
  const bool library = matrix.format.mode == Mode::kV2a;
  const int64_t tile = row / kTileRows;
  const int r = static_cast<int>(row % kTileRows);
  const std::byte* record = matrix.bytes + order.records + tile * order.record_bytes;
  const std::byte* rest = record + order.record_books;
  std::vector<float> in_units(static_cast<size_t>(order.column_tiles * kTileColumns));
  for (int64_t column_tile = 0; column_tile < order.column_tiles; ++column_tile) {
    const std::byte* at = matrix.bytes + order.tiles + tile * order.row_tile_bytes + column_tile * order.tile_bytes;
    const int halves = TileHalves(order, column_tile);
    const int words = TileWords(levels, halves);
    for (int lane = 4 * r; lane < 4 * r + 4; ++lane) {
      LaneCodes packed;
      for (int w = 0; w < words; ++w)
        packed.words[static_cast<size_t>(w)] = Load<uint32_t>(at + TileWordOffset(words, w, lane), 0);
      if (TileBytes(levels, halves) > words * 128) packed.byte = Load<uint8_t>(at + words * 128, lane);
      std::array<uint8_t, 2 * kHalfCodes> codes{};
      UnpackLane(packed, levels, halves, codes.data());
      for (int c = 0; c < halves * kHalfCodes; ++c) {
        const std::byte* codebook = rest + r * CodebookStride(levels);
        if (library) {
          const int64_t group = 2 * column_tile + c / kHalfCodes;
          codebook = matrix.bytes + order.library + Load<uint8_t>(rest, group * kTileRows + r) * CodebookStride(levels);
        }
        in_units[static_cast<size_t>(column_tile * kTileColumns + ColumnInTile(lane, c))] =
            static_cast<float>(Load<int8_t>(codebook, codes[static_cast<size_t>(c)]));
      }
    }
  }
  if (matrix.outliers > 0) {
    int64_t next = Load<uint32_t>(record + kTileRows * 2, 0);
    const std::byte* counts = record + kTileRows * 2 + 4;
    for (int before = 0; before < r; ++before) next += CountOf(counts, matrix.columns, before);
    for (int64_t i = next; i < next + CountOf(counts, matrix.columns, r); ++i) {
      const std::byte* columns = matrix.outlier_columns();
      const int64_t column = quant::OutlierColumnBytes(matrix.columns) == 2 ? int64_t{Load<uint16_t>(columns, i)}
                                                                            : int64_t{Load<uint32_t>(columns, i)};
      in_units[static_cast<size_t>(column)] += quant::HalfToFloat(Load<uint16_t>(matrix.outlier_values(), i));
    }
  }
  const float scale = quant::Bfloat16ToFloat(Load<uint16_t>(record, r));
  for (size_t c = 0; c < values.size(); ++c) values[c] = scale * in_units[c];
}

}  // namespace hproc::kernels
