// Matrices in every storage, with their bytes, for the tests and benches of kernels.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/matrix.h"
#include "quant/half.h"
#include "quant/matrix_quantizer.h"

namespace hproc::kernels {

struct StoredMatrix {
  std::unique_ptr<std::byte, decltype(&std::free)> bytes{nullptr, &std::free};
  int64_t byte_count = 0;
  Matrix matrix;
};

inline StoredMatrix Allocate(int64_t bytes) {
  StoredMatrix stored;
  stored.byte_count = (bytes + 127) / 64 * 64;
  stored.bytes.reset(static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(stored.byte_count))));
  return stored;
}

inline StoredMatrix StorePlain(const std::vector<float>& values, int64_t columns, Storage storage) {
  const int64_t size = storage == Storage::kFloat32 ? 4 : 2;
  StoredMatrix stored = Allocate(static_cast<int64_t>(values.size()) * size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (storage == Storage::kFloat32) {
      reinterpret_cast<float*>(stored.bytes.get())[i] = values[i];
    } else {
      reinterpret_cast<uint16_t*>(stored.bytes.get())[i] =
          storage == Storage::kBfloat16 ? quant::FloatToBfloat16(values[i]) : quant::FloatToHalf(values[i]);
    }
  }
  stored.matrix.storage = storage;
  stored.matrix.rows = static_cast<int64_t>(values.size()) / columns;
  stored.matrix.columns = columns;
  stored.matrix.data = stored.bytes.get();
  return stored;
}

// Quantizes to `format` at `floor`, which must be reachable.
inline StoredMatrix StoreXfp(const std::vector<float>& values, int64_t columns, const quant::XfpFormat& format,
                             double floor) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  std::vector<float> sample;
  for (int64_t r : quant::LibrarySampleRows(rows, columns)) {
    sample.insert(sample.end(), values.begin() + r * columns, values.begin() + (r + 1) * columns);
  }
  quant::TensorPlan plan;
  plan.spec = {.name = "w", .family = quant::Family::kStrict, .rows = rows, .columns = columns, .bytes_per_value = 2};
  plan.format = format;
  plan.ladder_index = quant::LadderIndex(floor);
  quant::MatrixQuantizer::Block block;
  quant::MatrixQuantizer(plan, sample).Encode(values, block);
  plan.outliers = static_cast<int64_t>(block.outlier_columns.size());
  quant::MatrixQuantizer quantizer(plan, sample);
  StoredMatrix stored = Allocate(quantizer.container_bytes());
  const std::span<std::byte> container(stored.bytes.get(), static_cast<size_t>(quantizer.container_bytes()));
  HPROC_CHECK(block.unreachable < 0, "a reachable floor");
  HPROC_CHECK(quantizer.Store(0, block, container).ok() && quantizer.Finish(container).ok(), "stored");
  stored.matrix.storage = Storage::kXfp;
  stored.matrix.rows = rows;
  stored.matrix.columns = columns;
  stored.matrix.xfp = quant::ViewOf(rows, columns, format, plan.outliers, container);
  return stored;
}

// Rounded to nearest at 4 bits.
inline StoredMatrix StoreInt4(const std::vector<float>& values, int64_t columns) {
  quant::RateTable table;
  table.tensors.push_back({.spec = {.name = "w", .family = quant::Family::kStrict,
                                    .rows = static_cast<int64_t>(values.size()) / columns, .columns = columns,
                                    .bytes_per_value = 2},
                           .candidates = {}});
  const quant::TensorPlan plan = quant::Int4Plan(table).tensors[0];
  quant::MatrixQuantizer quantizer(plan, {});
  quant::MatrixQuantizer::Block block;
  quantizer.Encode(values, block);
  StoredMatrix stored = Allocate(plan.bytes);
  const std::span<std::byte> container(stored.bytes.get(), static_cast<size_t>(plan.bytes));
  HPROC_CHECK(quantizer.Store(0, block, container).ok() && quantizer.Finish(container).ok(), "stored");
  stored.matrix = {.storage = Storage::kXfp, .rows = plan.spec.rows, .columns = columns, .data = nullptr, .xfp = {}};
  stored.matrix.xfp = quant::ViewOf(plan.spec.rows, columns, *plan.format, 0, container);
  return stored;
}

// A floor that `levels` reach with a few outliers a row on Gaussian rows.
inline double ReachableFloor(int levels) {
  switch (levels) {
    case 2: return 0.82;
    case 3: return 0.91;
    case 4: return 0.94;
    case 6: return 0.97;
    case 8: return 0.98;
    case 12: return 0.99;
    case 16: return 0.994;
    default: return 0.995;
  }
}

}  // namespace hproc::kernels
