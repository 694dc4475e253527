// Matrices in decode order (quant/decode_order.h draws it): views, writing and reading.
#pragma once

#include <cstdint>
#include <span>

#include "quant/decode_order.h"

namespace hproc::kernels {

using quant::CodebookStride;
using quant::DecodeOrder;
using quant::DecodeOrderOf;
using quant::HasDecodeOrder;
using quant::kHalfColumns;
using quant::kMaxDecodeColumns;
using quant::kTileColumns;
using quant::kTileRows;
using quant::OrderedCode;
using quant::TileBytes;
using quant::TileHalves;
using quant::TileWordOffset;
using quant::TileWords;

// A view of a matrix in decode order, in host or device memory; owns nothing. Sections are aligned to 128 bytes where
// `bytes` is.
struct DecodeMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  quant::XfpFormat format;
  int64_t outliers = 0;
  const std::byte* bytes = nullptr;  // DecodeOrderOf(...).total_bytes
  // Where the outliers' two sections stand, if not behind the tiles: how many a part of a matrix has shows once it is made.
  const std::byte* outlier_bytes = nullptr;

  DecodeOrder order() const { return DecodeOrderOf(rows, columns, format, outliers); }
  // The outliers' sections; null where there are none.
  const std::byte* outlier_columns() const { return OutlierSection(order().outlier_columns); }
  const std::byte* outlier_values() const { return OutlierSection(order().outlier_values); }

 private:
  const std::byte* OutlierSection(int64_t offset) const {
    if (offset < 0) return nullptr;
    return outlier_bytes == nullptr ? bytes + offset : outlier_bytes + (offset - order().outlier_columns);
  }
};

// Writes `matrix` in decode order; `bytes` has DecodeOrderOf(...).total_bytes, all of which are written. The format must
// have a decode order. Thread-safe.
DecodeMatrix WriteDecodeOrder(const quant::XfpMatrix& matrix, std::span<std::byte> bytes);

// Row `row` given back as float32 into values[0, columns), from host memory: the same bits as quant::DecodeRow of the
// container. Plain loops; for tests.
void DecodeOrderedRow(const DecodeMatrix& matrix, int64_t row, std::span<float> values);

}  // namespace hproc::kernels
