#include "worker/sampler.h"

namespace hproc::worker {

kernels::Draw Sampler::NextDraw() {
  return kernels::DrawOf(params_.temperature, params_.top_k, params_.top_p, params_.seed, draws_++);
}

int32_t Sampler::Next(std::span<const float> logits) {
  const kernels::Draw draw = NextDraw();
  kernels::TokenChoice choice;
  kernels::DrawTokensOnHost({.logits = logits.data(), .rows = 1, .columns = static_cast<int64_t>(logits.size()), .draws = &draw,
                             .choices = &choice});
  return choice.token;
}

}  // namespace hproc::worker
