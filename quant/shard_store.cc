#include "quant/shard_store.h"

#include <cstring>

#include "base/check.h"

namespace hproc::quant {

QuantizedRows CutColumns(const QuantizedRows& rows, const XfpFormat& format, const ColumnCut& cut, int64_t columns) {
  HPROC_CHECK(cut.first >= 0 && columns > 0 && cut.first + columns <= cut.whole, "columns of a row");
  QuantizedRows part;
  part.codebooks = rows.codebooks;
  const auto count = static_cast<size_t>(rows.rows());
  const auto whole_bytes = static_cast<size_t>(CodeBytesPerRow(cut.whole, format.levels));
  const auto part_bytes = static_cast<size_t>(CodeBytesPerRow(columns, format.levels));
  const auto whole_groups = static_cast<size_t>(GroupsPerRow(cut.whole));
  const auto first_group = static_cast<size_t>(cut.first / kGroupColumns);
  const auto part_groups = static_cast<size_t>(GroupsPerRow(cut.group_offset() + columns));
  std::vector<uint8_t> codes(static_cast<size_t>(cut.whole));
  part.codes.resize(count * part_bytes);
  size_t at = 0;
  for (size_t r = 0; r < count; ++r) {
    UnpackRow(std::span(rows.codes).subspan(r * whole_bytes, whole_bytes), format.levels, codes);
    PackRow(std::span(codes).subspan(static_cast<size_t>(cut.first), static_cast<size_t>(columns)), format.levels,
            std::span(part.codes).subspan(r * part_bytes, part_bytes));
    const auto take_groups = [&](const auto& from, auto& to) {
      const auto begin = from.begin() + static_cast<std::ptrdiff_t>(r * whole_groups + first_group);
      to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(part_groups));
    };
    if (format.mode == Mode::kV2a) take_groups(rows.indices, part.indices);
    if (format.group_scales) {
      take_groups(rows.scales, part.scales);
    } else {
      part.scales.push_back(rows.scales[r]);
    }
    uint32_t outliers = 0;
    for (const size_t end = at + rows.outlier_counts[r]; at < end; ++at) {
      const int64_t column = int64_t{rows.outlier_columns[at]} - cut.first;
      if (column < 0 || column >= columns) continue;
      part.outlier_columns.push_back(static_cast<uint32_t>(column));
      part.outlier_values.push_back(rows.outlier_values[at]);
      ++outliers;
    }
    part.outlier_counts.push_back(outliers);
  }
  return part;
}

void ShardStore::Add(const QuantizedRows& rows) {
  const bool is_whole = cut_ == ColumnCut{};
  const QuantizedRows& part = blocks_.emplace_back(is_whole ? rows : CutColumns(rows, format_, cut_, columns_));
  rows_ += part.rows();
  outliers_ += static_cast<int64_t>(part.outlier_columns.size());
}

int64_t ShardStore::container_bytes() const { return LayoutOf(rows_, columns_, format_, outliers_, cut_).total_bytes; }

XfpMatrix ShardStore::Write(std::span<const uint8_t> library, std::span<std::byte> container) const {
  std::memset(container.data(), 0, container.size());
  const XfpMatrix matrix = ViewOf(rows_, columns_, format_, outliers_, container, cut_);
  int64_t row = 0;
  int64_t outliers = 0;
  for (const QuantizedRows& block : blocks_) {
    StoreRows(block, matrix, row, outliers, container);
    row += block.rows();
    outliers += static_cast<int64_t>(block.outlier_columns.size());
  }
  if (!library.empty()) {
    std::memcpy(container.data() + LayoutOf(rows_, columns_, format_, outliers_, cut_).codebooks, library.data(), library.size());
  }
  return matrix;
}

}  // namespace hproc::quant
