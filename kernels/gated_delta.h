// The gated delta net's two sequential parts: a short causal convolution and the gated delta rule.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matmul.h"
#include "kernels/matrix.h"
#include "kernels/norm.h"
#include "kernels/sequence.h"

namespace hproc::kernels {

// x[t][c] = silu(sum over k of weight[c][k] * x[t - (kernel - 1) + k][c]) for every channel c, in place. The inputs
// before the pass come from the slot's state and the last kernel - 1 inputs go back into it.
struct CausalConvCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;         // of all runs
  float* values = nullptr;  // [rows, channels]
  int64_t channels = 0;
  int64_t kernel = 0;              // >= 1
  const Matrix* weight = nullptr;  // [1, channels * kernel], plain storage
  float* state = nullptr;          // [slot][channels][kernel - 1], oldest first
};
void CausalConvSilu(const Context& context, const CausalConvCall& call);

// The gated delta rule (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks"), one head after the other, token by
// token. With q and k normalized to length 1 (epsilon 1e-6 under the root), q scaled by key_dim^-0.5,
//
//   g = exp(-exp(A_log) * softplus(a + dt_bias))      beta = sigmoid(b)
//   S = g * S                                          S [key_dim, value_dim]
//   S = S + k (beta * (v - S^T k))^T
//   o = S^T q
//
// Value head h uses key head h / (value_heads / key_heads).
struct DeltaRuleCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;  // of all runs
  // [rows, 2 * key_heads * key_dim + value_heads * value_dim]: queries, keys, values after the convolution. What is left of
  // the queries and keys is the backend's own: the host's normalize them in place.
  float* qkv = nullptr;
  const float* a = nullptr;  // [rows, value_heads]
  const float* b = nullptr;  // [rows, value_heads]
  const Matrix* a_log = nullptr;    // [1, value_heads]
  const Matrix* dt_bias = nullptr;  // [1, value_heads]
  int64_t key_heads = 0;
  int64_t value_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  float* state = nullptr;   // [slot][value_heads][key_dim][value_dim]
  float* output = nullptr;  // [rows, value_heads * value_dim]
};
void GatedDeltaRule(const Context& context, const DeltaRuleCall& call);

// The whole block but its last projection, one after the other; a device does in fewer steps what needs no more.
struct GatedDeltaCall {
  std::span<const MatmulCall> projections;  // queries, keys and values; the gate; a and b, unless they are there already
  CausalConvCall convolution;               // of the first
  DeltaRuleCall rule;
  GatedRmsNormCall norm;  // of the rule's output, by the second
};
void GatedDeltaNet(const Context& context, const GatedDeltaCall& call);

}  // namespace hproc::kernels
