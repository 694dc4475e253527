#include <vector>

#include "kernels/matmul_backends.h"

namespace hproc::kernels::reference {

void Matmul(std::span<const MatmulCall> calls) {
  for (const MatmulCall& call : calls) {
    const int64_t columns = call.weight->columns;
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t r = 0; r < call.rows; ++r) {
      DecodeMatrixRow(*call.weight, call.first_row + r, row.data());
      for (int64_t i = 0; i < call.tokens; ++i) {
        const int64_t token = call.input_tokens != nullptr ? call.input_tokens[i] : i;
        const int64_t out = call.output_rows != nullptr ? call.output_rows[i] : i;
        const float* x = call.input->values + token * columns;
        double dot = 0;
        for (int64_t c = 0; c < columns; ++c) dot += static_cast<double>(row[static_cast<size_t>(c)]) * static_cast<double>(x[c]);
        if (call.sums != nullptr) {
          call.sums[out * call.output_stride + r] = dot;
        } else {
          call.output[out * call.output_stride + r] = static_cast<float>(dot);
        }
      }
    }
  }
}

}  // namespace hproc::kernels::reference
