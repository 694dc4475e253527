// Containers of a rank of tensor parallelism: some rows of a matrix, or some columns of all its rows.
//
// Channels are quantized whole, by the whole matrix's quantizer, and cut then: so the codes, scales and outliers of a column are
// the same on whichever rank it is, and the plan is that of the unsharded matrix. How many outliers a rank gets shows once
// its last row is quantized; the rows wait on the host until then, packed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/matrix_quantizer.h"
#include "quant/plan.h"

namespace hproc::quant {

// Columns [cut.first, cut.first + columns) of quantized rows of cut.whole columns: codes packed anew, outliers counted from
// the first of them, indices and group scales of their groups.
QuantizedRows CutColumns(const QuantizedRows& rows, const XfpFormat& format, const ColumnCut& cut, int64_t columns);

// What becomes one container. Thread-compatible.
class ShardStore {
 public:
  // `columns` of the rows are kept, as `cut` says.
  ShardStore(const XfpFormat& format, int64_t columns, const ColumnCut& cut) : format_(format), columns_(columns), cut_(cut) {}

  // The next rows of the rank, with all of their columns.
  void Add(const QuantizedRows& rows);

  int64_t rows() const { return rows_; }
  int64_t outliers() const { return outliers_; }
  int64_t container_bytes() const;
  // Writes the container, of container_bytes(); `library`: MatrixQuantizer::LibraryBytes. Gives a view of it.
  XfpMatrix Write(std::span<const uint8_t> library, std::span<std::byte> container) const;

 private:
  XfpFormat format_;
  int64_t columns_;
  ColumnCut cut_;
  int64_t rows_ = 0;
  int64_t outliers_ = 0;
  std::vector<QuantizedRows> blocks_;
};

}  // namespace hproc::quant
