// Seeded rows with the statistics that matter to a quantizer.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace hproc::quant {

// Gaussian rows of different spread; with `outlier_share` of the values ten times as large.
inline std::vector<float> RandomRows(int64_t rows, int64_t columns, uint32_t seed, double outlier_share = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<float> values;
  values.reserve(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r) {
    const float spread = 0.02f * (1.0f + static_cast<float>(r % 5));
    for (int64_t c = 0; c < columns; ++c) {
      const float value = spread * normal(random);
      values.push_back(uniform(random) < outlier_share ? 10 * value : value);
    }
  }
  return values;
}

}  // namespace hproc::quant
