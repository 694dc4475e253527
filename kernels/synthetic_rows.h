// Rows of random weights: stretches of one long sequence of normal deviates, one in 512 of them four times as large, under a
// scale of their own. The host and a device make the same bits: what a row is follows from its number by integers, products and
// additions whose roundings no order of evaluation changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hproc::kernels {

// A matrix of random weights.
struct SyntheticTensor {
  uint64_t seed = 0;
  int64_t columns = 0;
  float usual_scale = 1;  // rows' scales are 0.7 to 1.4 times it

  bool operator==(const SyntheticTensor&) const = default;
};

inline constexpr int64_t kSyntheticDeviates = int64_t{1} << 20;
inline constexpr int64_t kSyntheticDeviateBytes = 2 * kSyntheticDeviates * static_cast<int64_t>(sizeof(float));

// The sequence, twice, so that a stretch of up to kSyntheticDeviates never wraps. Made at the first call.
std::span<const float> SyntheticDeviates();

// Value c of a row is deviates[first + c % kSyntheticDeviates] * scale as bfloat16.
struct SyntheticRow {
  float scale = 0;
  int32_t first = 0;
};
constexpr SyntheticRow SyntheticRowOf(const SyntheticTensor& tensor, int64_t row) {
  // splitmix64 (Steele, Lea and Flood 2014).
  uint64_t x = (tensor.seed ^ static_cast<uint64_t>(row)) + 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  x ^= x >> 31;
  // The quotient is exact: to fuse it with the addition changes nothing.
  return {.scale = tensor.usual_scale * (0.7f + 0.7f * static_cast<float>(x & 0xFFFF) / 65536),
          .first = static_cast<int32_t>((x >> 16) % kSyntheticDeviates)};
}

// Rows [first_row, first_row + rows) as bfloat16, on the host. Thread-safe.
void FillSyntheticRows(const SyntheticTensor& tensor, int64_t first_row, int64_t rows, std::span<std::byte> out);

}  // namespace hproc::kernels
