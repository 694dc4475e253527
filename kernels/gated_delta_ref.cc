#include <cmath>
#include <vector>

#include "kernels/gated_delta_backends.h"

namespace hproc::kernels::reference {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Softplus(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }

void Normalize(float* values, int64_t size, double factor) {
  double square = 1e-6;
  for (int64_t i = 0; i < size; ++i) square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  for (int64_t i = 0; i < size; ++i) values[i] = static_cast<float>(values[i] * factor / std::sqrt(square));
}

}  // namespace

void CausalConvSilu(const CausalConvCall& call) {
  const int64_t history = call.kernel - 1;
  std::vector<float> weight(static_cast<size_t>(call.channels * call.kernel));
  DecodeMatrixRow(*call.weight, 0, weight.data());
  for (const SequenceRun& run : call.runs) {
    for (int64_t c = 0; c < call.channels; ++c) {
      float* state = call.state + (run.slot * call.channels + c) * history;
      std::vector<double> inputs(state, state + history);
      for (int64_t t = 0; t < run.tokens; ++t) {
        float& value = call.values[(run.first_row + t) * call.channels + c];
        inputs.push_back(value);
        double sum = 0;
        for (int64_t k = 0; k < call.kernel; ++k) {
          sum += static_cast<double>(weight[static_cast<size_t>(c * call.kernel + k)]) * inputs[static_cast<size_t>(t + k)];
        }
        value = static_cast<float>(sum * Sigmoid(sum));
      }
      for (int64_t k = 0; k < history; ++k) state[k] = static_cast<float>(inputs[inputs.size() - static_cast<size_t>(history - k)]);
    }
  }
}

void GatedDeltaRule(const DeltaRuleCall& call) {
  const int64_t keys = call.key_heads * call.key_dim;
  const int64_t row_size = 2 * keys + call.value_heads * call.value_dim;
  std::vector<float> a_log(static_cast<size_t>(call.value_heads));
  std::vector<float> dt_bias(static_cast<size_t>(call.value_heads));
  DecodeMatrixRow(*call.a_log, 0, a_log.data());
  DecodeMatrixRow(*call.dt_bias, 0, dt_bias.data());
  const int64_t shared = call.value_heads / call.key_heads;
  for (const SequenceRun& run : call.runs) {
    for (int64_t row = run.first_row; row < run.first_row + run.tokens; ++row) {
      float* qkv = call.qkv + row * row_size;
      for (int64_t h = 0; h < call.key_heads; ++h) {
        Normalize(qkv + h * call.key_dim, call.key_dim, 1 / std::sqrt(static_cast<double>(call.key_dim)));
        Normalize(qkv + keys + h * call.key_dim, call.key_dim, 1);
      }
      for (int64_t h = 0; h < call.value_heads; ++h) {
        const float* q = qkv + h / shared * call.key_dim;
        const float* k = qkv + keys + h / shared * call.key_dim;
        const float* v = qkv + 2 * keys + h * call.value_dim;
        const auto head = static_cast<size_t>(h);
        const double decay = std::exp(-std::exp(static_cast<double>(a_log[head])) *
                                      Softplus(call.a[row * call.value_heads + h] + static_cast<double>(dt_bias[head])));
        const double beta = Sigmoid(call.b[row * call.value_heads + h]);
        float* state = call.state + (run.slot * call.value_heads + h) * call.key_dim * call.value_dim;
        float* out = call.output + (row * call.value_heads + h) * call.value_dim;
        for (int64_t j = 0; j < call.value_dim; ++j) {
          double remembered = 0;
          for (int64_t i = 0; i < call.key_dim; ++i) remembered += decay * state[i * call.value_dim + j] * k[i];
          const double delta = beta * (v[j] - remembered);
          double sum = 0;
          for (int64_t i = 0; i < call.key_dim; ++i) {
            float& s = state[i * call.value_dim + j];
            s = static_cast<float>(decay * s + k[i] * delta);
            sum += static_cast<double>(s) * q[i];
          }
          out[j] = static_cast<float>(sum);
        }
      }
    }
  }
}

}  // namespace hproc::kernels::reference
