// Matrix: a weight matrix [rows, columns] as the operations see it, whatever it is stored as.
#pragma once

#include <cstdint>

#include "quant/xfp_matrix.h"

namespace hproc::kernels {

enum class Storage { kFloat32, kFloat16, kBfloat16, kXfp, kInt8 };  // int8: keys and values only, kernels/attention.h

// A view; the bytes belong to the model. Row r of a plain matrix is at data + r * columns * bytes per value.
struct Matrix {
  Storage storage = Storage::kFloat32;
  int64_t rows = 0;
  int64_t columns = 0;
  const void* data = nullptr;  // plain storage
  quant::XfpMatrix xfp;        // kXfp
};

// Row `row` as float32 into values[0, columns). Plain loops; for references, embeddings and tests.
void DecodeMatrixRow(const Matrix& matrix, int64_t row, float* values);

}  // namespace hproc::kernels
