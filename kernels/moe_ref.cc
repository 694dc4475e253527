#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/moe_backends.h"

namespace hproc::kernels::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

void Route(const RouteCall& call) {
  for (int64_t r = 0; r < call.rows; ++r) {
    const float* logits = call.logits + r * call.experts;
    const double largest = *std::max_element(logits, logits + call.experts);
    std::vector<double> probabilities(static_cast<size_t>(call.experts));
    double sum = 0;
    for (int64_t e = 0; e < call.experts; ++e) {
      sum += probabilities[static_cast<size_t>(e)] = std::exp(static_cast<double>(logits[e]) - largest);
    }
    std::vector<bool> taken(static_cast<size_t>(call.experts), false);
    double chosen_sum = 0;
    for (int64_t k = 0; k < call.top; ++k) {
      size_t best = taken.size();
      for (size_t e = 0; e < taken.size(); ++e) {
        if (!taken[e] && (best == taken.size() || logits[e] > logits[best])) best = e;
      }
      taken[best] = true;
      call.chosen[r * call.top + k] = static_cast<int32_t>(best);
      call.weights[r * call.top + k] = static_cast<float>(probabilities[best] / sum);
      chosen_sum += probabilities[best] / sum;
    }
    if (!call.normalize) continue;
    for (int64_t k = 0; k < call.top; ++k) {
      float& weight = call.weights[r * call.top + k];
      weight = static_cast<float>(weight / chosen_sum);
    }
  }
}

void SwiGlu(const SwiGluCall& call) {
  for (int64_t r = 0; r < call.rows; ++r) {
    for (int64_t c = 0; c < call.columns; ++c) {
      const double gate = call.gate[r * call.input_stride + c];
      call.output[r * call.columns + c] = static_cast<float>(gate * Sigmoid(gate) * call.up[r * call.input_stride + c]);
    }
  }
}

void SigmoidGate(const SigmoidGateCall& call) {
  for (int64_t r = 0; r < call.rows; ++r) {
    for (int64_t h = 0; h < call.heads; ++h) {
      float* values = call.values + (r * call.heads + h) * call.columns;
      const float* gate = call.gate + r * call.gate_row_stride + h * call.gate_head_stride;
      for (int64_t c = 0; c < call.columns; ++c) values[c] = static_cast<float>(values[c] * Sigmoid(gate[c]));
    }
  }
}

void Combine(const CombineCall& call) {
  for (int64_t r = 0; r < call.rows; ++r) {
    const double gate = call.shared_gate != nullptr ? Sigmoid(call.shared_gate[r]) : 1;
    for (int64_t c = 0; c < call.columns; ++c) {
      double sum = call.residual[r * call.columns + c];
      for (int64_t k = 0; call.routed != nullptr && k < call.top; ++k) {
        sum += static_cast<double>(call.weights[r * call.top + k]) * call.routed[(r * call.top + k) * call.columns + c];
      }
      if (call.shared != nullptr) sum += gate * call.shared[r * call.columns + c];
      call.into()[r * call.columns + c] = static_cast<float>(sum);
    }
  }
}

}  // namespace hproc::kernels::reference
