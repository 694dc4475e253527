#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/for_rows.h"
#include "kernels/gated_delta_backends.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_delta_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first
#include "hwy/highway.h"
#include "kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

// Channels [begin, end) of one run. `weight` is [kernel][channels] here, so that channels stand side by side.
void ConvChannels(const CausalConvCall& call, const SequenceRun& run, const float* weight, int64_t begin, int64_t end) {
  const TagF d;
  const int64_t history = call.kernel - 1;
  // The last `history` inputs of every channel, [history][channels of the range], oldest first.
  thread_local std::vector<float> inputs;
  const int64_t width = end - begin;
  inputs.resize(static_cast<size_t>(history * width));
  float* state = call.state + (run.slot * call.channels + begin) * history;
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t k = 0; k < history; ++k) inputs[static_cast<size_t>(k * width + c)] = state[c * history + k];
  }
  for (int64_t t = 0; t < run.tokens; ++t) {
    float* row = call.values + (run.first_row + t) * call.channels + begin;
    // Row k of the window is inputs[(oldest + k) % history]; the newest is the row itself.
    const int64_t oldest = history > 0 ? t % history : 0;
    const auto input_of = [&](int64_t k) { return inputs.data() + (oldest + k) % history * width; };
    OverRow(
        width,
        [&](int64_t i) HWY_ATTR {
          const auto newest = hn::LoadU(d, row + i);
          auto sum = newest * hn::LoadU(d, weight + history * call.channels + begin + i);
          for (int64_t k = 0; k < history; ++k) {
            sum = hn::MulAdd(hn::LoadU(d, input_of(k) + i), hn::LoadU(d, weight + k * call.channels + begin + i), sum);
          }
          if (history > 0) hn::StoreU(newest, d, input_of(0) + i);  // the oldest leaves, the newest takes its place
          hn::StoreU(Silu(sum), d, row + i);
        },
        [&](int64_t i) HWY_ATTR {
          // In a register as well: which of a model's channels come last depends on the rank.
          const auto newest = hn::Set(d, row[i]);
          auto sum = newest * hn::Set(d, weight[history * call.channels + begin + i]);
          for (int64_t k = 0; k < history; ++k) {
            sum = hn::MulAdd(hn::Set(d, input_of(k)[i]), hn::Set(d, weight[k * call.channels + begin + i]), sum);
          }
          if (history > 0) input_of(0)[i] = row[i];
          row[i] = hn::GetLane(Silu(sum));
        });
  }
  for (int64_t k = 0; k < history; ++k) {
    const float* from = inputs.data() + (run.tokens + k) % history * width;
    for (int64_t c = 0; c < width; ++c) state[c * history + k] = from[c];
  }
}

void NormalizeInPlace(float* values, int64_t size, float factor) {
  const TagF d;
  const float scale = factor / std::sqrt(SumOfSquares(values, size) + 1e-6f);
  const auto scales = hn::Set(d, scale);
  OverRow(
      size, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::LoadU(d, values + i) * scales, d, values + i); },
      [&](int64_t i) { values[i] *= scale; });
}

// One token of one head. state [key_dim][value_dim]; `delta` is scratch of value_dim. kColumns registers of the value
// dimension are kept in flight at once.
template <int kColumns>
HWY_INLINE void DeltaStepColumns(const float* HWY_RESTRICT q, const float* HWY_RESTRICT k, const float* HWY_RESTRICT v,
                                 float decay, float beta, int64_t key_dim, int64_t value_dim, float* HWY_RESTRICT state,
                                 float* HWY_RESTRICT out) {
  const TagF d;
  const size_t lanes = hn::Lanes(d);
  VecF remembered[kColumns];
  for (int c = 0; c < kColumns; ++c) remembered[c] = hn::Zero(d);
  for (int64_t i = 0; i < key_dim; ++i) {
    const auto ki = hn::Set(d, k[i]);
    for (int c = 0; c < kColumns; ++c) {
      remembered[c] = hn::MulAdd(ki, hn::LoadU(d, state + i * value_dim + static_cast<int64_t>(lanes) * c), remembered[c]);
    }
  }
  const auto decays = hn::Set(d, decay);
  const auto betas = hn::Set(d, beta);
  VecF delta[kColumns];
  VecF sums[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    const auto value = hn::LoadU(d, v + static_cast<int64_t>(lanes) * c);
    delta[c] = betas * hn::NegMulAdd(decays, remembered[c], value);
    sums[c] = hn::Zero(d);
  }
  for (int64_t i = 0; i < key_dim; ++i) {
    const auto ki = hn::Set(d, k[i]);
    const auto qi = hn::Set(d, q[i]);
    for (int c = 0; c < kColumns; ++c) {
      float* at = state + i * value_dim + static_cast<int64_t>(lanes) * c;
      const auto next = hn::MulAdd(ki, delta[c], decays * hn::LoadU(d, at));
      hn::StoreU(next, d, at);
      sums[c] = hn::MulAdd(qi, next, sums[c]);
    }
  }
  for (int c = 0; c < kColumns; ++c) hn::StoreU(sums[c], d, out + static_cast<int64_t>(lanes) * c);
}

void DeltaStep(const float* q, const float* k, const float* v, float decay, float beta, int64_t key_dim,
               int64_t value_dim, float* state, float* out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  int64_t j = 0;
  for (; j + 4 * lanes <= value_dim; j += 4 * lanes) {
    DeltaStepColumns<4>(q, k, v + j, decay, beta, key_dim, value_dim, state + j, out + j);
  }
  for (; j + lanes <= value_dim; j += lanes) {
    DeltaStepColumns<1>(q, k, v + j, decay, beta, key_dim, value_dim, state + j, out + j);
  }
  for (; j < value_dim; ++j) {
    float remembered = 0;
    for (int64_t i = 0; i < key_dim; ++i) remembered += k[i] * state[i * value_dim + j];
    const float delta = beta * (v[j] - decay * remembered);
    float sum = 0;
    for (int64_t i = 0; i < key_dim; ++i) {
      float& s = state[i * value_dim + j];
      s = decay * s + k[i] * delta;
      sum += q[i] * s;
    }
    out[j] = sum;
  }
}

// All tokens of a run, for the value heads that share key head `key_head`.
void DeltaHead(const DeltaRuleCall& call, const SequenceRun& run, const float* a_log, const float* dt_bias,
               int64_t key_head) {
  const int64_t keys = call.key_heads * call.key_dim;
  const int64_t row_size = 2 * keys + call.value_heads * call.value_dim;
  const int64_t shared = call.value_heads / call.key_heads;
  for (int64_t row = run.first_row; row < run.first_row + run.tokens; ++row) {
    float* q = call.qkv + row * row_size + key_head * call.key_dim;
    float* k = q + keys;
    NormalizeInPlace(q, call.key_dim, 1.0f / std::sqrt(static_cast<float>(call.key_dim)));
    NormalizeInPlace(k, call.key_dim, 1);
    for (int64_t h = key_head * shared; h < (key_head + 1) * shared; ++h) {
      const float x = call.a[row * call.value_heads + h] + dt_bias[h];
      const float softplus = x > 20 ? x : std::log1p(std::exp(x));
      const float decay = std::exp(-std::exp(a_log[h]) * softplus);
      const float beta = ScalarSigmoid(call.b[row * call.value_heads + h]);
      DeltaStep(q, k, call.qkv + row * row_size + 2 * keys + h * call.value_dim, decay, beta, call.key_dim,
                call.value_dim, call.state + (run.slot * call.value_heads + h) * call.key_dim * call.value_dim,
                call.output + (row * call.value_heads + h) * call.value_dim);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hproc::kernels {
HWY_EXPORT(ConvChannels);
HWY_EXPORT(DeltaHead);

namespace cpu {

void CausalConvSilu(const Context& context, const CausalConvCall& call) {
  // [channels][kernel] to [kernel][channels].
  thread_local std::vector<float> stored;
  thread_local std::vector<float> weight;
  stored.resize(static_cast<size_t>(call.channels * call.kernel));
  weight.resize(stored.size());
  DecodeMatrixRow(*call.weight, 0, stored.data());
  for (int64_t c = 0; c < call.channels; ++c) {
    for (int64_t k = 0; k < call.kernel; ++k) {
      weight[static_cast<size_t>(k * call.channels + c)] = stored[static_cast<size_t>(c * call.kernel + k)];
    }
  }
  const float* weights = weight.data();
  // Channels are handed out in whole registers: how many threads a pass is worth depends on its tokens, and a channel that
  // is in a register in one pass and in the rest of a range in the next would not get the same bits in both.
  constexpr int64_t kGroup = 64;
  const int64_t groups = (call.channels + kGroup - 1) / kGroup;
  for (const SequenceRun& run : call.runs) {
    ForRows(context, groups, kGroup * run.tokens * (2 * call.kernel + 8), [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(ConvChannels)(call, run, weights, begin * kGroup, std::min(call.channels, end * kGroup));
    });
  }
}

void GatedDeltaRule(const Context& context, const DeltaRuleCall& call) {
  std::vector<float> a_log(static_cast<size_t>(call.value_heads));
  std::vector<float> dt_bias(static_cast<size_t>(call.value_heads));
  DecodeMatrixRow(*call.a_log, 0, a_log.data());
  DecodeMatrixRow(*call.dt_bias, 0, dt_bias.data());
  const auto tasks = static_cast<int64_t>(call.runs.size()) * call.key_heads;
  context.pool->ParallelFor(tasks, [&](int64_t i, int) {
    HWY_DYNAMIC_DISPATCH(DeltaHead)
    (call, call.runs[static_cast<size_t>(i / call.key_heads)], a_log.data(), dt_bias.data(), i % call.key_heads);
  });
}

}  // namespace cpu
}  // namespace hproc::kernels
#endif  // HWY_ONCE
