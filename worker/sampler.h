// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>

#include "evals/generator.h"
#include "kernels/sampling.h"

namespace hproc::worker {

// One sequence's choice of tokens. The draws depend on the parameters and the logits alone, not on what else is in the
// batch. Thread-compatible.
class Sampler {
 public:
  explicit Sampler(const evals::SamplingParams& params) : params_(params) {}

  // The next token's, for whoever has the logits: greedy at temperature 0, the highest logit, the lower id on a tie; else
  // softmax(logits / temperature) cut to the top_k most likely tokens and then to the fewest that hold top_p of the probability.
  kernels::Draw NextDraw();
  // The next token of `logits`, which must be finite.
  int32_t Next(std::span<const float> logits);

 private:
  evals::SamplingParams params_;
  uint64_t draws_ = 0;
};

}  // namespace hproc::worker
