// From logits to the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "evals/generator.h"

namespace hproc::worker {

// NaN and infinite values among `logits`.
int64_t CountNonFinite(std::span<const float> logits);

// One sequence's choice of tokens. The draws depend on the parameters and the logits alone, not on what else is in the
// batch. Thread-compatible.
class Sampler {
 public:
  explicit Sampler(const evals::SamplingParams& params) : params_(params), random_(params.seed) {}

  // Greedy at temperature 0: the highest logit, the lower id on a tie. Else softmax(logits / temperature) cut to the
  // top_k most likely tokens and then to the fewest that hold top_p of the probability. `logits` must be finite.
  int32_t Next(std::span<const float> logits);

 private:
  evals::SamplingParams params_;
  std::mt19937_64 random_;
  std::vector<std::pair<float, int32_t>> candidates_;  // scratch
};

}  // namespace hproc::worker
