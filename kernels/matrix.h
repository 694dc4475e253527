// Matrix: a weight matrix [rows, columns] as the operations see it, whatever it is stored as.
#pragma once

#include <cstdint>

#include "kernels/decode_order.h"
#include "quant/xfp_matrix.h"

namespace hproc::kernels {

// kDecodeOrder: an XFP matrix as the device's kernels read it (kernels/decode_order.h). kInt8: keys and values only
// (kernels/attention.h).
enum class Storage { kFloat32, kFloat16, kBfloat16, kXfp, kDecodeOrder, kInt8 };
constexpr bool IsPacked(Storage storage) { return storage == Storage::kXfp || storage == Storage::kDecodeOrder; }

// A view; the bytes belong to the model. Row r of a plain matrix is at data + r * columns * bytes per value.
struct Matrix {
  Storage storage = Storage::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  const void* data = nullptr;  // plain storage
  quant::XfpMatrix xfp;        // kXfp
  DecodeMatrix decode;         // kDecodeOrder
};

// Row `row`, in host memory, as float32 into values[0, columns). Plain loops; for references, embeddings and tests.
void DecodeMatrixRow(const Matrix& matrix, int64_t row, float* values);

}  // namespace hproc::kernels
