#include "worker/synthetic.h"

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::worker {
namespace {

constexpr size_t kDeviates = size_t{1} << 20;

// Box and Muller's, since the library's distributions differ between libraries. Doubled, so that a row never wraps.
const std::vector<float>& Deviates() {
  static const std::vector<float> deviates = [] {
    std::vector<float> values(2 * kDeviates);
    std::mt19937_64 random(20605);
    const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
    for (size_t i = 0; i < kDeviates; ++i) {
      const double deviate = std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
      values[i] = values[kDeviates + i] = static_cast<float>(random() % 512 == 0 ? 4 * deviate : deviate);
    }
    return values;
  }();
  return deviates;
}

// splitmix64 (Steele, Lea and Flood 2014).
uint64_t Mixed(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t SeedOf(const std::string& name) {
  uint64_t seed = 0xCBF29CE484222325;  // FNV-1a
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return seed;
}

}  // namespace

void SyntheticRows(const quant::TensorSpec& spec, int64_t first_row, int64_t rows, std::span<std::byte> bytes) {
  HPROC_CHECK(spec.bytes_per_value == 2 && static_cast<int64_t>(bytes.size()) == rows * spec.columns * 2, "room for the rows");
  const std::vector<float>& deviates = Deviates();
  const uint64_t seed = SeedOf(spec.name);
  const float usual = spec.rows == 1 ? 0.02f : 1 / std::sqrt(static_cast<float>(spec.columns));
  auto* out = reinterpret_cast<uint16_t*>(bytes.data());
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    const uint64_t random = Mixed(seed ^ static_cast<uint64_t>(row));
    const float scale = usual * (0.7f + 0.7f * static_cast<float>(random & 0xFFFF) / 65536);
    const auto places = static_cast<int64_t>(kDeviates);
    auto from = static_cast<int64_t>((random >> 16) % kDeviates);
    for (int64_t c = 0; c < spec.columns; c += places) {
      const int64_t count = std::min(places, spec.columns - c);
      const float* values = deviates.data() + from;
      for (int64_t i = 0; i < count; ++i) out[c + i] = quant::FloatToBfloat16(values[i] * scale);
    }
    out += spec.columns;
  }
}

}  // namespace hproc::worker
