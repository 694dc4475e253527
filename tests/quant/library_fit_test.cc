#include "quant/library_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/half.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

struct Trained {
  LibraryClusters clusters;
  std::vector<Library> libraries;  // by kLevelCounts
};

Trained Train(const std::vector<float>& rows, int64_t columns, bool group_scales) {
  Trained trained;
  std::vector<float> sample;
  for (int64_t r : LibrarySampleRows(static_cast<int64_t>(rows.size()) / columns, columns)) {
    sample.insert(sample.end(), rows.begin() + r * columns, rows.begin() + (r + 1) * columns);
  }
  trained.clusters = TrainClusters(sample, columns, group_scales);
  for (int levels : kLevelCounts) trained.libraries.push_back(TrainLibrary(trained.clusters, levels, Centroids::kInt8));
  return trained;
}

TEST(LibrarySampleRows, AreEvenlySpacedAndAtMostTheSampleSize) {
  EXPECT_EQ(LibrarySampleRows(3, 384), std::vector<int64_t>({0, 1, 2}));
  const std::vector<int64_t> rows = LibrarySampleRows(4096, 384);
  EXPECT_EQ(rows.size(), 682u);
  EXPECT_EQ(rows.front(), 0);
  EXPECT_LT(rows.back(), 4096);
}

TEST(LibraryFitter, ReportsTheCosineOfWhatIsStored) {
  for (bool group_scales : {false, true}) {
    for (int64_t columns : {40, 128, 300}) {
      const std::vector<float> rows = RandomRows(60, columns, 3, 0.01);
      const Trained trained = Train(rows, columns, group_scales);
      LibraryFitter fitter(trained.clusters);
      for (const Library& library : trained.libraries) {
        const std::span<const float> row = std::span(rows).subspan(static_cast<size_t>(columns), static_cast<size_t>(columns));
        fitter.Reset(row);
        fitter.Begin(library);
        while (fitter.Next()) {
          EncodedChannel encoded;
          fitter.Encode(encoded);
          double dot = 0;
          double square = 0;
          double original = 0;
          for (size_t j = 0; j < row.size(); ++j) {
            const size_t group = j / kGroupColumns;
            double value = library.codebooks[fitter.code().indices[group]][encoded.codes[j]];
            for (size_t i = 0; i < encoded.outlier_columns.size(); ++i) {
              if (encoded.outlier_columns[i] == j) value += HalfToFloat(encoded.outlier_values[i]);
            }
            value *= Bfloat16ToFloat(fitter.code().scales[group_scales ? group : 0]);
            dot += value * static_cast<double>(row[j]);
            square += value * value;
            original += static_cast<double>(row[j]) * static_cast<double>(row[j]);
          }
          EXPECT_NEAR(dot / std::sqrt(square * original), fitter.code().cosine, 1e-12);
          EXPECT_NEAR(std::sqrt(square / original), fitter.code().norm_ratio, 1e-12);
        }
      }
    }
  }
}

TEST(LibraryFitter, MoreOutliersNeverLowerTheCosine) {
  const std::vector<float> rows = RandomRows(60, 384, 4, 0.02);
  const Trained trained = Train(rows, 384, false);
  LibraryFitter fitter(trained.clusters);
  fitter.Reset(std::span(rows).first(384));
  for (const Library& library : trained.libraries) {
    fitter.Begin(library);
    double last = 0;
    while (fitter.Next()) {
      EXPECT_GE(fitter.code().cosine, last - 1e-6);  // the fp16 residual may lose what the last error gained
      last = fitter.code().cosine;
    }
  }
}

TEST(LibraryFitter, ServesShortRowsAlmostAsWellAsTheirOwnCodebooks) {
  // 128 columns: V2 spends K + 2 bytes a row, a library 3.
  const std::vector<float> rows = RandomRows(400, 128, 5);
  const Trained trained = Train(rows, 128, false);
  LibraryFitter library_fitter(trained.clusters);
  ChannelFitter channel_fitter;
  for (size_t l : {size_t{2}, size_t{4}}) {  // K = 4 and 8
    double library_deficit = 0;
    double channel_deficit = 0;
    for (size_t r = 0; r < 400; ++r) {
      const std::span<const float> row = std::span(rows).subspan(r * 128, 128);
      library_fitter.Reset(row);
      library_fitter.Begin(trained.libraries[l]);
      library_fitter.Next();
      library_deficit += 1 - library_fitter.code().cosine;
      channel_fitter.Reset(row);
      channel_fitter.Begin(kLevelCounts[l], Centroids::kInt8);
      channel_fitter.Next();
      channel_deficit += 1 - channel_fitter.code().cosine;
    }
    EXPECT_LT(library_deficit, 1.25 * channel_deficit) << kLevelCounts[l];
  }
}

// The steps of quant/library_code.h one by one, as GPU threads run them, with their search: no bit may differ.
TEST(LibraryFitter, GivesTheBitsOfTheSharedSteps) {
  struct Group {
    std::vector<float> values;
    std::vector<double> sums{0};
    double square = 0;
    std::array<uint8_t, kNearestClusters> nearest{};
    int columns() const { return static_cast<int>(values.size()); }
    float Value(int i) const { return values[static_cast<size_t>(i)]; }
    double Sum(int i) const { return sums[static_cast<size_t>(i)]; }
  };
  struct GroupRef {  // CodebookFit copies its channel
    const Group* group = nullptr;
    int columns() const { return group->columns(); }
    float Value(int i) const { return group->Value(i); }
    double Sum(int i) const { return group->Sum(i); }
  };
  for (const int64_t columns : {40, 128, 300, 1024}) {
    std::vector<float> rows = RandomRows(40, columns, 9, 0.01);
    for (size_t i = 0; i < rows.size(); i += 7) rows[i] = std::round(rows[i] * 64) / 64;  // ties, and zeros of both signs
    const Trained trained = Train(rows, columns, false);
    uint32_t empty = 0;
    for (size_t c = 0; c < kLibrarySize; ++c) empty |= trained.clusters.pooled[c].empty() ? uint32_t{1} << c : 0;
    LibraryFitter fitter(trained.clusters);  // goes from row to row
    for (size_t r = 0; r < 40; ++r) {
      const auto row = std::span(rows).subspan(r * static_cast<size_t>(columns), static_cast<size_t>(columns));
      double row_square = 0;
      for (float v : row) row_square += static_cast<double>(v) * static_cast<double>(v);
      const double rms = std::sqrt(row_square / static_cast<double>(columns));
      std::vector<Group> groups;
      for (size_t begin = 0; begin < row.size(); begin += kGroupColumns) {
        Group& group = groups.emplace_back();
        const auto values = row.subspan(begin, std::min<size_t>(kGroupColumns, row.size() - begin));
        group.values.assign(values.begin(), values.end());
        std::sort(group.values.begin(), group.values.end());
        for (float v : group.values) {
          group.sums.push_back(group.sums.back() + static_cast<double>(v));
          group.square += static_cast<double>(v) * static_cast<double>(v);
        }
        CodebookFit<GroupRef, kFeatureLevels> fit;
        fit.Begin({&group}, {group.sums.back(), group.square}, kFeatureLevels, Centroids::kInt8,
                  StartOf(kFeatureLevels).data());
        fit.FitFirst(0, 0);
        GroupFeature feature;
        FeatureOf(fit, rms, feature.data());
        NearestClusters(feature.data(), trained.clusters.centers[0].data(), empty, group.nearest.data());
      }
      fitter.Reset(row);
      for (const Library& library : trained.libraries) {
        uint16_t scale = RoundScale(rms * library.unit);
        std::vector<uint8_t> books;
        GroupProducts all;
        for (const Group& group : groups) {
          const double value = Bfloat16ToFloat(scale);
          const ChosenCodebook chosen = ChooseCodebook(group.square, group.nearest.data(), value, [&](uint8_t book) {
            return ProductsOf(group, library.codebooks[book].data(), library.levels, value);
          });
          books.push_back(chosen.book);
          all.dot += chosen.products.dot;
          all.square += chosen.products.square;
        }
        if (all.square > 0 && all.dot > 0) scale = RoundScale(all.dot / all.square);
        all = {};
        for (size_t g = 0; g < groups.size(); ++g) {
          const GroupProducts products =
              ProductsOf(groups[g], library.codebooks[books[g]].data(), library.levels, Bfloat16ToFloat(scale));
          all.dot += products.dot;
          all.square += products.square;
        }
        const double value = Bfloat16ToFloat(scale);
        const double code_square = value * value * all.square;
        fitter.Begin(library);
        ASSERT_TRUE(fitter.Next());
        ASSERT_EQ(fitter.code().indices, books);
        ASSERT_EQ(fitter.code().scales[0], scale);
        ASSERT_EQ(fitter.code().norm_ratio, std::sqrt(code_square / row_square));
        ASSERT_EQ(fitter.code().cosine, std::min(1.0, value * all.dot / std::sqrt(code_square * row_square)));
      }
    }
  }
}

TEST(LibraryFitter, ZeroChannelsAndZeroMatricesAreExact) {
  std::vector<float> rows = RandomRows(20, 128, 6);
  std::fill(rows.begin(), rows.begin() + 128, 0.0f);
  for (const std::vector<float>& matrix : {rows, std::vector<float>(20 * 128, 0.0f)}) {
    const Trained trained = Train(matrix, 128, false);
    LibraryFitter fitter(trained.clusters);
    fitter.Reset(std::span(matrix).first(128));
    ASSERT_TRUE(fitter.FitToFloor(trained.libraries[2], 1.0));
    EXPECT_EQ(fitter.code().outliers, 0);
    EXPECT_EQ(fitter.code().scales[0], 0);
  }
}

}  // namespace
}  // namespace hproc::quant
