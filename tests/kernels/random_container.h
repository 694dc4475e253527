// XFP containers of random bits: every code, centroid and scale drawn, not fitted. Fast to make at any size, and no code
// is likelier than another.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "quant/half.h"
#include "quant/xfp_matrix.h"

namespace hproc::kernels {

struct RandomContainer {
  // `outliers_a_row` each, fewer in row 0 and (where there are rows enough) none in row 3; row 1 is all zeros. Codebooks ascend, as
  // fitted ones do, where `ascending`.
  RandomContainer(int64_t rows, int64_t columns, const quant::XfpFormat& format, int outliers_a_row, uint32_t seed,
                  bool ascending = false) {
    std::mt19937 random(seed);
    const int64_t outliers_of_first = outliers_a_row / 2;
    const auto outliers_of = [&](int64_t r) -> int64_t {
      return r == 0 ? outliers_of_first : r == 1 || r == 3 ? 0 : outliers_a_row;
    };
    int64_t outliers = 0;
    for (int64_t r = 0; r < rows; ++r) outliers += outliers_of(r);
    const quant::XfpLayout layout = quant::LayoutOf(rows, columns, format, outliers);
    bytes.resize(static_cast<size_t>(layout.total_bytes) + 64);
    auto* at = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64);
    const auto section = [&](int64_t offset) { return reinterpret_cast<uint8_t*>(at + offset); };

    std::vector<uint8_t> codes(static_cast<size_t>(columns));
    const int64_t row_bytes = quant::CodeBytesPerRow(columns, format.levels);
    for (int64_t r = 0; r < rows; ++r) {
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % static_cast<unsigned>(format.levels));
      quant::PackRow(codes, format.levels, {section(layout.codes) + r * row_bytes, static_cast<size_t>(row_bytes)});
    }
    const bool library = format.mode == quant::Mode::kV2a;
    const int64_t books = library ? quant::kLibrarySize : rows;
    for (int64_t i = 0; i < books * format.levels; ++i) {
      section(layout.codebooks)[i] = static_cast<uint8_t>(static_cast<int>(random() % 255) - 127);
    }
    auto* const levels = reinterpret_cast<int8_t*>(section(layout.codebooks));
    for (int64_t i = 0; ascending && i < books; ++i) std::sort(levels + i * format.levels, levels + (i + 1) * format.levels);
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = r == 1 ? 0.0f : 0.001f + static_cast<float>(random() % 1000) * 1e-5f;
      const uint16_t stored = quant::FloatToBfloat16(scale);
      std::memcpy(section(layout.scales) + r * 2, &stored, 2);
    }
    for (int64_t i = 0; library && i < rows * quant::GroupsPerRow(columns); ++i) {
      section(layout.indices)[i] = static_cast<uint8_t>(random() % quant::kLibrarySize);
    }
    uint32_t next = 0;
    for (int64_t r = 0; outliers > 0 && r < rows; ++r) {
      if (r % quant::kOutlierRowBlock == 0)
        std::memcpy(section(layout.outlier_starts) + r / quant::kOutlierRowBlock * 4, &next, 4);
      const auto count = static_cast<uint16_t>(outliers_of(r));
      std::memcpy(section(layout.outlier_counts) + r * quant::OutlierCountBytes(columns), &count,
                  static_cast<size_t>(quant::OutlierCountBytes(columns)));
      std::vector<uint32_t> chosen;
      while (chosen.size() < count) {
        const auto column = static_cast<uint32_t>(random() % static_cast<uint64_t>(columns));
        if (std::ranges::find(chosen, column) == chosen.end()) chosen.push_back(column);
      }
      std::ranges::sort(chosen);
      for (const uint32_t column : chosen) {
        std::memcpy(section(layout.outlier_columns) + next * static_cast<uint32_t>(quant::OutlierColumnBytes(columns)),
                    &column, static_cast<size_t>(quant::OutlierColumnBytes(columns)));
        const uint16_t value = quant::FloatToHalf(static_cast<float>(static_cast<int>(random() % 2000) - 1000));
        std::memcpy(section(layout.outlier_values) + next * 2, &value, 2);
        ++next;
      }
    }
    view = quant::ViewOf(rows, columns, format, outliers, {at, static_cast<size_t>(layout.total_bytes)});
  }
  RandomContainer(const RandomContainer&) = delete;
  RandomContainer& operator=(const RandomContainer&) = delete;

  std::vector<std::byte> bytes;
  quant::XfpMatrix view;
};

}  // namespace hproc::kernels
