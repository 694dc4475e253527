#include "kernels/matmul_blas.h"

#include <cblas.h>

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace hproc::kernels::blas {
namespace {

// Rows [begin, end) of one call.
void Compute(const MatmulCall& call, int64_t begin, int64_t end) {
  const int64_t columns = call.weight->columns;
  const int64_t rows = end - begin;
  const float* weight = static_cast<const float*>(call.weight->data) + (call.first_row + begin) * columns;
  const auto n = static_cast<blasint>(columns);
  const auto m = static_cast<blasint>(rows);
  const auto input_of = [&](int64_t i) {
    return call.input->values + (call.input_tokens != nullptr ? call.input_tokens[i] : i) * columns;
  };
  const auto output_of = [&](int64_t i) {
    return call.output + (call.output_rows != nullptr ? call.output_rows[i] : i) * call.output_stride + begin;
  };
  if (call.tokens == 1) {
    cblas_sgemv(CblasRowMajor, CblasNoTrans, m, n, 1, weight, n, input_of(0), 1, 0, output_of(0), 1);
    return;
  }
  if (call.input_tokens == nullptr && call.output_rows == nullptr) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(call.tokens), m, n, 1, input_of(0), n,
                weight, n, 0, output_of(0), static_cast<blasint>(call.output_stride));
    return;
  }
  // Listed tokens are brought together first and taken apart after.
  thread_local std::vector<float> gathered;
  thread_local std::vector<float> products;
  gathered.resize(static_cast<size_t>(call.tokens * columns));
  products.resize(static_cast<size_t>(call.tokens * rows));
  for (int64_t i = 0; i < call.tokens; ++i) std::copy_n(input_of(i), columns, gathered.data() + i * columns);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(call.tokens), m, n, 1, gathered.data(), n,
              weight, n, 0, products.data(), m);
  for (int64_t i = 0; i < call.tokens; ++i) std::copy_n(products.data() + i * rows, rows, output_of(i));
}

void CheckWeights(std::span<const MatmulCall> calls) {
  for (const MatmulCall& call : calls) HPROC_CHECK(call.weight->storage == Storage::kFloat32, "a float32 weight");
}

}  // namespace

void SetThreads(int threads) { openblas_set_num_threads(threads); }

void MatmulInTurn(const Context&, std::span<const MatmulCall> calls) {
  CheckWeights(calls);
  for (const MatmulCall& call : calls) {
    if (call.tokens > 0) Compute(call, 0, call.rows);
  }
}

void MatmulOverPool(const Context& context, std::span<const MatmulCall> calls) {
  CheckWeights(calls);
  struct Piece {
    const MatmulCall* call;
    int64_t begin;
    int64_t end;
  };
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (const MatmulCall& call : calls) total += call.rows * call.weight->columns * call.tokens;
  // Two pieces a thread; below some ten microseconds of work another thread is not worth waking.
  const int64_t piece_cost = std::max<int64_t>(40000, total / (2 * context.pool->size()));
  for (const MatmulCall& call : calls) {
    if (call.tokens == 0) continue;
    const int64_t rows = std::max<int64_t>(8, piece_cost / (call.weight->columns * call.tokens) / 8 * 8);
    for (int64_t begin = 0; begin < call.rows; begin += rows) {
      pieces.push_back({&call, begin, std::min(call.rows, begin + rows)});
    }
  }
  context.pool->ParallelFor(static_cast<int64_t>(pieces.size()), [&pieces](int64_t i, int) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    Compute(*piece.call, piece.begin, piece.end);
  });
}

}  // namespace hproc::kernels::blas
