// A library of codebooks shared by one matrix (XFP's V2a): 32 codebooks, an index per group of 128 columns, one scale
// per channel (or per group).
//
//     w'[j] = scale * (library[index of j's group][code[j]] + outlier[j])
//
// Rows shorter than a group pay for their own codebook with V2 (K = 8 in a row of 128: 0.6 bits a weight); a library
// costs them a byte. How the library is made, all from a sample of the matrix's rows, so that a pass over a large matrix
// trains nothing:
//
//   1. Each sampled group is divided by its channel's root mean square (its own, with group scales) and described by the
//      four centroids of its best four-level codebook: spread, skew and weight of the tails in four numbers.
//   2. k-means in that space makes 32 clusters, ordered by spread.
//   3. For each K, Lloyd's algorithm over the pooled values of a cluster gives its codebook, rounded to int8 (or fp16)
//      in one unit for the whole library.
//
// A group is then coded with the best of the few codebooks whose cluster is nearest to it, by squared error; the scale
// is the least-squares one. Outliers are the columns with the largest errors, in order.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/channel_fit.h"
#include "quant/library_code.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

// The clusters of one matrix; serves every K.
struct LibraryClusters {
  std::array<GroupFeature, kLibrarySize> centers{};
  std::array<std::vector<float>, kLibrarySize> pooled;  // values of the sampled groups, normalized
  bool group_scales = false;
};

// One library: codebooks in units of `unit` times the channel's (or group's) root mean square.
struct Library {
  int levels = 0;
  Centroids centroids = Centroids::kInt8;
  double unit = 0;
  std::array<std::array<float, kMaxLevels>, kLibrarySize> codebooks{};  // as stored: whole numbers, or fp16 values
};

// Rows to sample from a matrix of `rows`: at most kLibrarySampleGroups groups' worth, evenly spaced, ascending.
inline constexpr int kLibrarySampleGroups = 2048;
std::vector<int64_t> LibrarySampleRows(int64_t rows, int64_t columns);

// `sample` holds whole rows of `columns` values, finite. Deterministic.
LibraryClusters TrainClusters(std::span<const float> sample, int64_t columns, bool group_scales);
Library TrainLibrary(const LibraryClusters& clusters, int levels, Centroids centroids);

// What V2a needs of a channel beside codes and outliers.
struct LibraryCode {
  std::vector<uint8_t> indices;  // [groups]
  std::vector<uint16_t> scales;  // bfloat16, [1] or [groups]
  int outliers = 0;
  double cosine = 1;
  double norm_ratio = 1;
};

// The counterpart of ChannelFitter for a library: same calls, same meaning. Thread-compatible.
class LibraryFitter {
 public:
  // `clusters` must outlive the fitter.
  explicit LibraryFitter(const LibraryClusters& clusters) : clusters_(&clusters) {}

  void Reset(std::span<const float> channel);
  // Codes the whole channel without outliers; `library` must be of the fitter's clusters and outlive the fits.
  void Begin(const Library& library);
  bool Next();
  bool FitToFloor(const Library& library, double floor);
  const LibraryCode& code() const { return code_; }
  void Encode(EncodedChannel& encoded) const;

 private:
  using Borders = std::array<uint8_t, kMaxLevels + 1>;  // where the levels of a sorted group begin, and its end

  Borders BordersOf(int64_t group, uint8_t book, double scale) const;
  GroupProducts ProductsOf(int64_t group, uint8_t book, const Borders& borders) const;
  void AssignCodes();  // columns: their codes, and the largest errors
  double ScaleOf(int64_t group) const;
  int64_t GroupBegin(int64_t group) const { return group * kGroupColumns; }
  int64_t GroupEnd(int64_t group) const;

  const LibraryClusters* clusters_;
  const Library* library_ = nullptr;
  std::span<const float> channel_;
  std::vector<int> counts_;
  int64_t counts_columns_ = -1;
  double square_ = 0;                // ||w||^2
  std::vector<double> rms_;          // [1] or [groups]
  ChannelFitter group_fitter_;
  std::vector<float> sorted_;        // each group sorted
  std::vector<uint32_t> order_;      // the columns of sorted_, from 0 in every group
  std::vector<double> sum_;          // prefix sums within groups, one more entry a group
  std::vector<double> group_square_;  // [groups] sums of squares
  std::vector<std::array<uint8_t, kNearestClusters>> nearest_;  // [groups] clusters worth trying

  size_t next_count_ = 0;
  std::vector<Borders> borders_;     // [groups]
  std::vector<uint8_t> codes_;       // by column
  std::vector<double> errors_;       // by column
  std::vector<uint32_t> by_error_;   // the columns that may become outliers, largest error first
  double dot_ = 0;                   // <w, w'> and ||w'||^2 with the outliers taken so far
  double code_square_ = 0;
  LibraryCode code_;
};

}  // namespace hproc::quant
