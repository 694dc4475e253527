#include "quant/round_to_nearest.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::quant {
namespace {

constexpr double kLowest = kInt4Lowest;
constexpr double kHighest = kInt4Lowest + kInt4Levels - 1;

// bfloat16, as stored.
uint16_t ScaleOf(std::span<const float> group) {
  float extreme = 0;
  for (float w : group) {
    if (std::abs(w) > std::abs(extreme)) extreme = w;
  }
  return extreme == 0 ? 0 : FloatToBfloat16(extreme / static_cast<float>(kInt4Lowest));
}

}  // namespace

Library Int4Library() {
  Library library;
  library.levels = kInt4Levels;
  library.centroids = Centroids::kInt8;
  library.unit = 1;
  for (int level = 0; level < kInt4Levels; ++level) {
    library.codebooks[0][static_cast<size_t>(level)] = static_cast<float>(kInt4Lowest + level);
  }
  return library;
}

void RoundToNearest(std::span<const float> row, RoundedRow& rounded) {
  HPROC_CHECK(!row.empty(), "columns of a row");
  rounded.codes.resize(row.size());
  rounded.scales.clear();
  double dot = 0;
  double square = 0;
  double rounded_square = 0;
  for (size_t begin = 0; begin < row.size(); begin += kGroupColumns) {
    const size_t end = std::min(row.size(), begin + kGroupColumns);
    rounded.scales.push_back(ScaleOf(row.subspan(begin, end - begin)));
    const auto scale = static_cast<double>(Bfloat16ToFloat(rounded.scales.back()));
    for (size_t c = begin; c < end; ++c) {
      const auto w = static_cast<double>(row[c]);
      const double level = scale == 0 ? 0 : std::clamp(std::nearbyint(w / scale), kLowest, kHighest);
      rounded.codes[c] = static_cast<uint8_t>(static_cast<int>(level) - kInt4Lowest);
      dot += w * scale * level;
      square += w * w;
      rounded_square += scale * level * scale * level;
    }
  }
  rounded.cosine = 1;
  rounded.norm_ratio = 1;
  if (square == 0) return;
  rounded.norm_ratio = std::sqrt(rounded_square / square);
  rounded.cosine = rounded_square > 0 ? std::min(1.0, dot / std::sqrt(rounded_square * square)) : 0;
}

}  // namespace hproc::quant
