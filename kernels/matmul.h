// Matrix products of activations with stored weights: y[t] = W x[t] for a few rows of W and a few tokens t.
//
// All that multiplies weights goes through here: projections, the head, and routed experts, which are row ranges of one
// matrix with a list of tokens each. Several products that are ready at the same time are passed together and share one
// parallel loop.
//
// Arithmetic of the CPU backend. Packed codes are expanded a few rows at a time into a tile that stays in cache, never
// into a matrix. int8 centroids are multiplied with activations rounded to 14 bits and sign (one scale a token; the
// error is below 1e-4 of the token's largest value) and summed as integers, so the result of a (row, token) pair is the same bits whatever
// else is in the batch. With group scales the whole numbers of each group are added up in float32. Plain storage, fp16
// centroids and group scales with outliers are multiplied in float32. All in an order that depends on the column count alone.
//
// Rows that are cut among ranks of tensor parallelism (quant::ColumnCut) give partial sums, MatmulCall::sums, which are added
// up in double: whole numbers times the token's scale, which all ranks take from the largest value of the whole token
// (LargestMagnitudes, then the ranks' maximum), and products of float32. What is left out is below 2^-50 of the sum, so that the
// float32 it is rounded to in the end is the same for any number of ranks but where 2^-24 happens to be halved so closely; and
// activations, whose rounding to 14 bits would make 1e-4 of the last bit's difference, round alike.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace hproc::kernels {

// Rounded activations hold at most this in magnitude: 127 * 16383 * 1024 columns stay below 2^31.
inline constexpr int kQuantizedActivationMax = 16383;
inline constexpr int64_t kIntegerColumns = 1024;

// Rows of rounded activations are padded with zeros to a multiple of this.
inline constexpr int64_t kActivationPadding = quant::kUnitColumns;
constexpr int64_t PaddedColumns(int64_t columns) {
  return (columns + kActivationPadding - 1) / kActivationPadding * kActivationPadding;
}

// Activations [tokens, columns] in float32 and, once rounded, as whole numbers. A view of workspace memory. A device rounds in a
// form of its own, with a padding of its own.
struct Activations {
  int64_t tokens = 0;
  int64_t columns = 0;
  float* values = nullptr;       // [tokens, columns]
  int16_t* quantized = nullptr;  // [tokens, PaddedColumns(columns)]
  float* scales = nullptr;       // [tokens]: values = scale * quantized
  bool rounded = false;          // whether quantized and scales hold what is in values
};

// Fills `quantized` and `scales` from `values`. Not needed where every weight is plain; the reference backend ignores it, and so
// does a device, which rounds what it needs as it is made or read. Non-finite values round to zero with a non-finite scale, so that
// they show in the output.
void QuantizeActivations(const Context& context, const Activations& activations);
// In two steps: the largest magnitude of each token, NaN where a value is not finite, into largest [tokens]; and the rounding,
// where `largest` may be of more columns than these. Host backends alone.
void LargestMagnitudes(const Context& context, const Activations& activations, float* largest);
void QuantizeActivations(const Context& context, const Activations& activations, const float* largest);

// One product: output[o(i)][r - first_row] = dot(weight row r, input token t(i)) for r in [first_row, first_row + rows)
// and i in [0, tokens), where t(i) = input_tokens ? input_tokens[i] : i and o(i) likewise.
struct MatmulCall {
  const Matrix* weight = nullptr;
  int64_t first_row = 0;
  int64_t rows = 0;
  const Activations* input = nullptr;
  int64_t tokens = 0;
  const int32_t* input_tokens = nullptr;
  const int32_t* output_rows = nullptr;
  float* output = nullptr;
  int64_t output_stride = 0;  // in values
  double* sums = nullptr;     // where set, takes the place of `output`; host backends alone
};

// The whole matrix times all tokens; output [tokens, weight.rows].
MatmulCall WholeProduct(const Matrix& weight, const Activations& input, float* output);

// values[r] += bias for `rows` rows of bias->columns.
struct BiasCall {
  const Matrix* bias = nullptr;  // [1, columns], plain storage
  float* values = nullptr;       // [rows, columns]
  int64_t rows = 0;
};
void AddBias(const Context& context, const BiasCall& call);

// Outputs of different calls must not overlap. On a device: whole products alone. Inputs with XFP weights must be rounded before.
void Matmul(const Context& context, std::span<const MatmulCall> calls);

}  // namespace hproc::kernels
