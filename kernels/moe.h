// Routing of tokens to experts, and the small element-wise steps between the products of a feed-forward block.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matmul.h"
#include "kernels/matrix.h"
#include "kernels/norm.h"

namespace hproc::kernels {

// The `top` experts of each row by softmax probability (ties to the lower expert), and their probabilities divided by
// their sum where `normalize`.
struct RouteCall {
  const float* logits = nullptr;  // [rows, experts]
  int64_t rows = 0;
  int64_t experts = 0;
  int64_t top = 0;
  bool normalize = true;
  int32_t* chosen = nullptr;  // [rows, top]
  float* weights = nullptr;   // [rows, top]
};
void Route(const Context& context, const RouteCall& call);

// output = silu(gate) * up, rows of `columns`.
struct SwiGluCall {
  const float* gate = nullptr;
  const float* up = nullptr;
  int64_t input_stride = 0;  // of both
  float* output = nullptr;   // [rows, columns]
  int64_t rows = 0;
  int64_t columns = 0;
};
void SwiGlu(const Context& context, const SwiGluCall& call);

// values[row][head][i] *= sigmoid(gate[row][head][i]): the output gate of Qwen3.5's attention.
struct SigmoidGateCall {
  float* values = nullptr;  // [rows, heads, columns]
  const float* gate = nullptr;
  int64_t gate_row_stride = 0;
  int64_t gate_head_stride = 0;
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t columns = 0;
};
void SigmoidGate(const Context& context, const SigmoidGateCall& call);

// residual[row] += sum over k of weights[row][k] * routed[row * top + k] + sigmoid(shared_gate[row]) * shared[row].
// `routed` or `shared` may be null, and `shared_gate` with them (the gate is then 1). Where there is a `sum`, the result goes there
// and `residual` stays, so that blocks of a device need not wait for each other's reads.
struct CombineCall {
  float* residual = nullptr;     // [rows, columns]
  float* sum = nullptr;          // likewise; overlaps nothing else
  const float* routed = nullptr;  // [rows * top, columns]
  const float* weights = nullptr;  // [rows, top]
  int64_t top = 0;
  const float* shared = nullptr;       // [rows, columns]
  const float* shared_gate = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t columns = 0;

  constexpr float* into() const { return sum != nullptr ? sum : residual; }
};
void Combine(const Context& context, const CombineCall& call);

// The same in double, of partial sums (MatmulCall::sums), without the residual: sums[row] = sum over k of weights[row][k] *
// routed[row * top + k] + sigmoid(shared_gate[row]) * shared[row]. `shared` may be `sums`, or null. Host backends alone.
struct SumExpertsCall {
  double* sums = nullptr;          // [rows, columns]
  const double* routed = nullptr;  // [rows * top, columns]
  const float* weights = nullptr;  // [rows, top]
  int64_t top = 0;
  const double* shared = nullptr;      // [rows, columns]
  const float* shared_gate = nullptr;  // [rows]; null: the gate is 1
  int64_t rows = 0;
  int64_t columns = 0;
};
void SumExperts(const Context& context, const SumExpertsCall& call);

// Combine where it has a residual, then the norm of the rows it gives, which a device does at once.
void CombineAndNorm(const Context& context, const CombineCall& combine, const RmsNormCall& norm);

// The most rows that a device takes at once below.
inline constexpr int64_t kMostProjectedRows = 16;
// Likewise, then products of the normed rows, then Route on the first one's output where there is a route. What a device does in one
// launch for a few rows and products of few rows of plain weights, where the combination has a `sum`.
struct NormAndProjectCall {
  CombineCall combine;
  RmsNormCall norm;
  std::span<const MatmulCall> products;  // whole; at least one, but to a device
  const RouteCall* route = nullptr;
};
void NormAndProject(const Context& context, const NormAndProjectCall& call);

// The shared expert of a layer, which every row goes through.
struct SharedExpert {
  int64_t width = 0;             // 0: there is none
  const Matrix* gate = nullptr;  // [width, columns]
  const Matrix* up = nullptr;    // likewise
  const Matrix* down = nullptr;  // [columns, width]
  const float* weight = nullptr;  // [rows]: its products count the sigmoid of this; null: 1
  // Room for what is in between. What gate and up take may lie where ExpertsCall::routed and `output` do.
  float* gate_output = nullptr;  // [rows, width]
  float* up_output = nullptr;
  Activations hidden;            // [rows, width]
  float* output = nullptr;       // [rows, columns]
};

// A layer's experts, for a device, which knows alone who was chosen. With swiglu_e(x) = silu(gate_e x) * (up_e x),
//
//   output[row] = sum over k of weights[row][k] * down_e swiglu_e(input[row]), e = chosen[row][k],
//                 + the shared expert's
struct ExpertsCall {
  const Matrix* gate_up = nullptr;  // [experts * 2 * width, columns], the gate rows of an expert before its up rows
  const Matrix* down = nullptr;     // [experts * columns, width]
  int64_t experts = 0;
  int64_t width = 0;
  const Activations* input = nullptr;  // [rows, columns]
  int64_t columns = 0;
  int64_t rows = 0;
  int64_t top = 0;
  const int32_t* chosen = nullptr;  // [rows, top]
  const float* weights = nullptr;   // [rows, top]
  SharedExpert shared;
  float* output = nullptr;  // [rows, columns]
  // Room for what is in between.
  Activations hidden;             // [rows * top, width]
  float* routed = nullptr;        // [rows * top, columns]
  int32_t* list_tokens = nullptr;  // [rows * top]
  int32_t* list_rows = nullptr;
};

}  // namespace hproc::kernels
