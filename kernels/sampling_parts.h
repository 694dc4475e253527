// The whole numbers behind kernels/sampling.h, the same on hosts and devices.
#pragma once

#include <cstdint>

namespace hproc::kernels {

inline constexpr int kWeightOctaves = 40;
inline constexpr uint64_t kWeightOne = uint64_t{1} << kWeightOctaves;  // the highest logit's
inline constexpr double kLargestDrawScale = 1e300;

// 2^-(distance / 2^32) in units of 2^-40. The power of the fraction f is 1 - f (ln 2 - f (ln 2^2 / 2! - …)), nine terms, whose error
// is below 2^-26 of it; terms in units of 2^-32.
constexpr uint64_t WeightOfDistance(uint64_t distance) {
  const uint64_t octaves = distance >> 32;
  if (octaves > kWeightOctaves) return 0;
  constexpr uint32_t kTerms[] = {2977044472u, 1031764991u, 238388332u, 41309550u, 5726720u, 661577u, 65510u, 5676u, 437u};
  const uint64_t fraction = distance & 0xFFFFFFFFu;
  uint64_t sum = 0;
  for (int i = 8; i >= 0; --i) sum = kTerms[i] - ((sum * fraction) >> 32);
  const uint64_t power = (uint64_t{1} << 32) - ((sum * fraction) >> 32);
  return (power << (kWeightOctaves - 32)) >> octaves;
}

// Of finite logits.
constexpr uint64_t WeightOf(float logit, float highest, double scale) {
  const double distance = (static_cast<double>(highest) - static_cast<double>(logit)) * scale;
  if (!(distance < static_cast<double>(kWeightOctaves + 1) * 4294967296.0)) return 0;
  return WeightOfDistance(static_cast<uint64_t>(distance));
}

// Orders candidates: the higher logit is the larger, of equal logits (0 and -0 are) the lower id. `bits` are the logit's.
constexpr uint64_t CandidateKey(uint32_t bits, uint32_t id) {
  if (bits == 0x80000000u) bits = 0;
  const uint32_t order = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{order} << 32 | static_cast<uint32_t>(~id);
}

// The least sum of weights that makes `share` of `total`, one unit at least.
constexpr uint64_t WeightShare(double share, uint64_t total) {
  const double exact = share * static_cast<double>(total);
  if (!(exact < static_cast<double>(total))) return total;
  if (!(exact > 1)) return 1;
  const auto floor = static_cast<uint64_t>(exact);
  return static_cast<double>(floor) < exact ? floor + 1 : floor;
}

// The upper 64 of the 128 bits of a product.
constexpr uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  const uint64_t a_low = a & 0xFFFFFFFFu, a_high = a >> 32, b_low = b & 0xFFFFFFFFu, b_high = b >> 32;
  const uint64_t middle = a_high * b_low + (a_low * b_low >> 32);
  const uint64_t other = a_low * b_high + (middle & 0xFFFFFFFFu);
  return a_high * b_high + (middle >> 32) + (other >> 32);
}

}  // namespace hproc::kernels
