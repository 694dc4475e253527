// Cosine floors: what an operator turns, and the lattice on which they live.
#pragma once

#include <cstdint>
#include <string_view>

namespace hproc::quant {

// Which floor a tensor answers to. strict: attention, gated delta net, shared experts, dense MLPs. lazy: routed
// experts. head: lm_head. kept: stored as the checkpoint has it (norms, router and gate rows, conv, biases, A_log,
// dt_bias, embeddings).
enum class Family { kStrict, kLazy, kHead, kKept };
inline constexpr int kFamilyCount = 4;
std::string_view FamilyName(Family family);  // "strict", "lazy", "head", "kept"

// The least cosine similarity between a channel and what its codes give back, for every channel of the family.
// In (0, 1]; 1 is met only by keeping the checkpoint's own 16 (or 32) bits.
struct Floors {
  double strict = 1;
  double lazy = 1;
  double head = 0.999;

  bool operator==(const Floors&) const = default;
};

// Floors are compared, searched and digested as indices of one fixed ladder of short decimals, about 5 % apart in
// 1 - floor: 0.500 to 0.900 in steps of 0.005, to 0.99 by 0.0005, to 0.999 by 0.00005, to 0.9999 by 0.000005, then 1.
// A floor between two rungs is raised to the next, so a promise is never weakened.
inline constexpr int kLadderSize = 80 + 180 + 180 + 181 + 1;

// index in [0, kLadderSize), lowest floor first.
double LadderFloor(int index);

// The lowest rung that is >= floor; 0 for floors below the ladder. floor in (0, 1].
int LadderIndex(double floor);

}  // namespace hproc::quant
