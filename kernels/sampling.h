// From logits to a token: the likeliest, or one that is drawn.
//
// Drawing is whole numbers throughout, so that a row's token is the same on every backend, whatever the order of additions:
//
//   weight of a logit  2^-((highest - logit) / (temperature ln 2)), in units of 2^-40 (sampling_parts.h); its exponent in double, which
//                      rounds alike everywhere, its power by whole numbers; nothing beyond 40 octaves
//   kept               the first top_k of the order by logit, highest first, the lower id first among equals; of these, the fewest from
//                      the front whose weights make top_p of their sum, one at least
//   drawn              with r = random * (sum of the weights kept) / 2^64 rounded down: the first id, in the order of ids, up to which
//                      the weights kept add up to more than r
//
// The random numbers are counted, not carried on: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of
// the seed and of which draw of its sequence it is. So a sequence's draws do not depend on what else is in a batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/context.h"

namespace hproc::kernels {

struct TokenChoice {
  int32_t token = 0;      // 0 where none is a number
  int32_t nonfinite = 0;  // NaN and infinite values among the row's logits
  float logit = 0;        // of the token; NaN where none is a number
};

// The highest logit, the lowest id on a tie.
struct GreedyCall {
  const float* logits = nullptr;  // [rows, columns]
  int64_t rows = 0;
  int64_t columns = 0;
  TokenChoice* choices = nullptr;  // [rows]
};
void PickGreedy(const Context& context, const GreedyCall& call);

// How a row's token is drawn.
struct Draw {
  double scale = 0;     // 2^32 / (temperature ln 2); 0: the highest logit instead
  double top_p = 1;     // 1 and above: off
  uint64_t random = 0;  // 64 random bits
  int32_t top_k = 0;    // 0 and below: off
  int32_t padding = 0;
};
// The draw with number `index` of a sequence with this seed. Temperature 0 and below is the highest logit.
Draw DrawOf(double temperature, int top_k, double top_p, uint64_t seed, uint64_t index);

// Rows with logits that are not finite are greedy, and tell how many.
struct DrawCall {
  const float* logits = nullptr;  // [rows, columns]
  int64_t rows = 0;
  int64_t columns = 0;             // below 2^23
  const Draw* draws = nullptr;     // [rows]
  TokenChoice* choices = nullptr;  // [rows]
};
void DrawTokens(const Context& context, const DrawCall& call);
// What the host backends do, on one thread.
void DrawTokensOnHost(const DrawCall& call);

// The first two words, the first the lower, of Philox4x32-10 with this key and counter.
uint64_t PhiloxBits(uint64_t key, uint64_t counter);

}  // namespace hproc::kernels
