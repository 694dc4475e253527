#include "kernels/matrix.h"

#include "base/check.h"
#include "quant/half.h"

namespace hproc::kernels {

void DecodeMatrixRow(const Matrix& matrix, int64_t row, float* values) {
  const int64_t first = row * matrix.columns;
  switch (matrix.storage) {
    case Storage::kFloat32:
      for (int64_t c = 0; c < matrix.columns; ++c) values[c] = static_cast<const float*>(matrix.data)[first + c];
      return;
    case Storage::kFloat16:
      for (int64_t c = 0; c < matrix.columns; ++c) {
        values[c] = quant::HalfToFloat(static_cast<const uint16_t*>(matrix.data)[first + c]);
      }
      return;
    case Storage::kBfloat16:
      for (int64_t c = 0; c < matrix.columns; ++c) {
        values[c] = quant::Bfloat16ToFloat(static_cast<const uint16_t*>(matrix.data)[first + c]);
      }
      return;
    case Storage::kXfp:
      quant::DecodeRow(matrix.xfp, row, {values, static_cast<size_t>(matrix.columns)});
      return;
    case Storage::kDecodeOrder:
      DecodeOrderedRow(matrix.decode, row, {values, static_cast<size_t>(matrix.columns)});
      return;
    case Storage::kInt8: break;
  }
  HPROC_CHECK(false, "no weights are stored so");
}

}  // namespace hproc::kernels
