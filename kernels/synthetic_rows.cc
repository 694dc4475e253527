#include "kernels/synthetic_rows.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::kernels {

// Box and Muller's, since the library's distributions differ between libraries.
std::span<const float> SyntheticDeviates() {
  static const std::vector<float> deviates = [] {
    constexpr auto kCount = static_cast<size_t>(kSyntheticDeviates);
    std::vector<float> values(2 * kCount);
    std::mt19937_64 random(20605);
    const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
    for (size_t i = 0; i < kCount; ++i) {
      const double deviate = std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
      values[i] = values[kCount + i] = static_cast<float>(random() % 512 == 0 ? 4 * deviate : deviate);
    }
    return values;
  }();
  return deviates;
}

void FillSyntheticRows(const SyntheticTensor& tensor, int64_t first_row, int64_t rows, std::span<std::byte> bytes) {
  HPROC_CHECK(static_cast<int64_t>(bytes.size()) == rows * tensor.columns * 2, "room for the rows");
  const float* deviates = SyntheticDeviates().data();
  auto* out = reinterpret_cast<uint16_t*>(bytes.data());
  for (int64_t r = first_row; r < first_row + rows; ++r) {
    const SyntheticRow row = SyntheticRowOf(tensor, r);
    const float* values = deviates + row.first;
    for (int64_t c = 0; c < tensor.columns; c += kSyntheticDeviates) {
      const int64_t count = std::min(kSyntheticDeviates, tensor.columns - c);
      for (int64_t i = 0; i < count; ++i) out[c + i] = quant::FloatToBfloat16(values[i] * row.scale);
    }
    out += tensor.columns;
  }
}

}  // namespace hproc::kernels
