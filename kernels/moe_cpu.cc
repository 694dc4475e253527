#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/for_rows.h"
#include "kernels/moe_backends.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/moe_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first
#include "hwy/highway.h"
#include "kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

void SwiGluRows(const SwiGluCall& call, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float* gate = call.gate + r * call.input_stride;
    const float* up = call.up + r * call.input_stride;
    OverRowAlike<2>(call.columns, {gate, up}, call.output + r * call.columns,
                    [](const VecF (&v)[2]) HWY_ATTR { return Silu(v[0]) * v[1]; });
  }
}

void SigmoidGateRows(const SigmoidGateCall& call, int64_t begin, int64_t end) {
  const TagF d;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t h = 0; h < call.heads; ++h) {
      float* values = call.values + (r * call.heads + h) * call.columns;
      const float* gate = call.gate + r * call.gate_row_stride + h * call.gate_head_stride;
      OverRow(
          call.columns,
          [&](int64_t i) HWY_ATTR {
            hn::StoreU(hn::LoadU(d, values + i) * Sigmoid(hn::LoadU(d, gate + i)), d, values + i);
          },
          [&](int64_t i) { values[i] *= ScalarSigmoid(gate[i]); });
    }
  }
}

void CombineRows(const CombineCall& call, int64_t begin, int64_t end) {
  const TagF d;
  for (int64_t r = begin; r < end; ++r) {
    float* residual = call.into() + r * call.columns;
    if (call.sum != nullptr) std::copy_n(call.residual + r * call.columns, call.columns, residual);
    const auto add = [&](const float* values, float weight) HWY_ATTR {
      const auto weights = hn::Set(d, weight);
      OverRow(
          call.columns,
          [&](int64_t i) HWY_ATTR {
            hn::StoreU(hn::MulAdd(weights, hn::LoadU(d, values + i), hn::LoadU(d, residual + i)), d, residual + i);
          },
          [&](int64_t i) { residual[i] += weight * values[i]; });
    };
    for (int64_t k = 0; call.routed != nullptr && k < call.top; ++k) {
      add(call.routed + (r * call.top + k) * call.columns, call.weights[r * call.top + k]);
    }
    if (call.shared != nullptr) {
      add(call.shared + r * call.columns, call.shared_gate != nullptr ? ScalarSigmoid(call.shared_gate[r]) : 1.0f);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hproc::kernels {
HWY_EXPORT(SwiGluRows);
HWY_EXPORT(SigmoidGateRows);
HWY_EXPORT(CombineRows);

namespace cpu {

void Route(const Context& context, const RouteCall& call) {
  ForRows(context, call.rows, 8 * call.experts, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order(static_cast<size_t>(call.experts));
    for (int64_t r = begin; r < end; ++r) {
      const float* logits = call.logits + r * call.experts;
      for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
      // NaN goes last, so that the order is one whatever the logits hold.
      const auto before = [&](int32_t a, int32_t b) {
        const bool a_nan = std::isnan(logits[a]);
        const bool b_nan = std::isnan(logits[b]);
        if (a_nan != b_nan) return b_nan;
        return !a_nan && logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
      };
      std::partial_sort(order.begin(), order.begin() + call.top, order.end(), before);
      // softmax over all, divided by the chosen ones' sum: the sum over all cancels when normalizing.
      const float largest = logits[order[0]];
      float sum = 0;
      if (call.normalize) {
        for (int64_t k = 0; k < call.top; ++k) sum += std::exp(logits[order[static_cast<size_t>(k)]] - largest);
      } else {
        for (int64_t e = 0; e < call.experts; ++e) sum += std::exp(logits[e] - largest);
      }
      for (int64_t k = 0; k < call.top; ++k) {
        const int32_t expert = order[static_cast<size_t>(k)];
        call.chosen[r * call.top + k] = expert;
        call.weights[r * call.top + k] = std::exp(logits[expert] - largest) / sum;
      }
    }
  });
}

void SwiGlu(const Context& context, const SwiGluCall& call) {
  ForRows(context, call.rows, 8 * call.columns,
          [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(SwiGluRows)(call, begin, end); });
}

void SigmoidGate(const Context& context, const SigmoidGateCall& call) {
  ForRows(context, call.rows, 8 * call.heads * call.columns,
          [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(SigmoidGateRows)(call, begin, end); });
}

void Combine(const Context& context, const CombineCall& call) {
  ForRows(context, call.rows, (call.top + 1) * call.columns,
          [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(CombineRows)(call, begin, end); });
}

}  // namespace cpu
}  // namespace hproc::kernels
#endif  // HWY_ONCE
