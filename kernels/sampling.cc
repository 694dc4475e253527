#include "kernels/sampling.h"

#include <cmath>

#include "kernels/device_backend.h"

namespace hproc::kernels {

void PickGreedy(const Context& context, const GreedyCall& call) {
  if (context.device != nullptr) return context.device->PickGreedy(call);
  for (int64_t r = 0; r < call.rows; ++r) {
    const float* logits = call.logits + r * call.columns;
    GreedyChoice choice;
    for (int64_t c = 0; c < call.columns; ++c) {
      choice.nonfinite += std::isfinite(logits[c]) ? 0 : 1;
      if (logits[c] > logits[choice.token] || std::isnan(logits[choice.token])) choice.token = static_cast<int32_t>(c);
    }
    choice.logit = logits[choice.token];
    if (std::isnan(choice.logit)) choice.token = 0;
    call.choices[r] = choice;
  }
}

}  // namespace hproc::kernels
