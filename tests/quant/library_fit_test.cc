#include "quant/library_fit.h"

#include <gtest/gtest.h>

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
