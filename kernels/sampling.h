// From logits to a token where nothing is drawn.
#pragma once

#include <cstdint>

#include "kernels/context.h"

namespace hproc::kernels {

struct GreedyChoice {
  int32_t token = 0;      // the highest logit, the lowest id on a tie; 0 where none is a number
  int32_t nonfinite = 0;  // NaN and infinite values among the row's logits
  float logit = 0;        // of the token; NaN where none is a number
};

struct GreedyCall {
  const float* logits = nullptr;  // [rows, columns]
  int64_t rows = 0;
  int64_t columns = 0;
  GreedyChoice* choices = nullptr;  // [rows]
};
void PickGreedy(const Context& context, const GreedyCall& call);

}  // namespace hproc::kernels
