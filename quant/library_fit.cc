#include "quant/library_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "quant/half.h"

namespace hproc::quant {
namespace {

constexpr int kClusterSteps = 12;

double RootMeanSquare(std::span<const float> values) {
  double square = 0;
  for (float v : values) square += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(square / static_cast<double>(values.size()));
}

// The feature of a group that `fitter` holds.
GroupFeature FeatureOf(ChannelFitter& fitter, double rms) {
  GroupFeature feature{};
  if (!(rms > 0)) return feature;
  fitter.Begin(kFeatureLevels, Centroids::kInt8);
  fitter.Next();
  for (size_t i = 0; i < feature.size(); ++i) feature[i] = static_cast<float>(fitter.centers()[i] / rms);
  return feature;
}

double Spread(const GroupFeature& feature) { return static_cast<double>(feature[3]) - static_cast<double>(feature[0]); }

// First index of the ascending values with values[i] >= threshold. Without branches: a codebook asks for up to 63 of them
// in a row, none of which can be foretold.
size_t LowerBound(const float* values, size_t size, float threshold) {
  size_t at = 0;
  while (size > 1) {
    const size_t half = size / 2;
    at += half * static_cast<size_t>(values[at + half - 1] < threshold);
    size -= half;
  }
  return at + static_cast<size_t>(size == 1 && values[at] < threshold);
}

}  // namespace

std::vector<int64_t> LibrarySampleRows(int64_t rows, int64_t columns) {
  const int64_t wanted = std::max<int64_t>(1, kLibrarySampleGroups / GroupsPerRow(columns));
  const int64_t count = std::min(rows, wanted);
  std::vector<int64_t> sample;
  sample.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) sample.push_back(i * rows / count);
  return sample;
}

LibraryClusters TrainClusters(std::span<const float> sample, int64_t columns, bool group_scales) {
  HPROC_CHECK(columns > 0 && sample.size() % static_cast<size_t>(columns) == 0, "whole rows");
  struct Group {
    std::span<const float> values;
    double rms;
    GroupFeature feature;
  };
  std::vector<Group> groups;
  ChannelFitter fitter;
  for (size_t row = 0; row < sample.size(); row += static_cast<size_t>(columns)) {
    const std::span<const float> channel = sample.subspan(row, static_cast<size_t>(columns));
    const double channel_rms = RootMeanSquare(channel);
    for (size_t begin = 0; begin < channel.size(); begin += kGroupColumns) {
      const std::span<const float> values =
          channel.subspan(begin, std::min<size_t>(kGroupColumns, channel.size() - begin));
      const double rms = group_scales ? RootMeanSquare(values) : channel_rms;
      if (!(rms > 0)) continue;
      fitter.Reset(values);
      groups.push_back({values, rms, FeatureOf(fitter, rms)});
    }
  }
  LibraryClusters clusters;
  clusters.group_scales = group_scales;
  if (groups.empty()) return clusters;  // a matrix of zeros: any codebook gives it back
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return Spread(a.feature) < Spread(b.feature); });

  for (size_t i = 0; i < clusters.centers.size(); ++i) {
    clusters.centers[i] = groups[(2 * i + 1) * groups.size() / (2 * clusters.centers.size())].feature;
  }
  std::vector<size_t> cluster_of(groups.size(), 0);
  for (int step = 0; step < kClusterSteps; ++step) {
    bool moved = false;
    for (size_t g = 0; g < groups.size(); ++g) {
      size_t best = 0;
      double best_distance = std::numeric_limits<double>::infinity();
      for (size_t c = 0; c < clusters.centers.size(); ++c) {
        const double distance = FeatureDistance(groups[g].feature.data(), clusters.centers[c].data());
        if (distance < best_distance) {
          best_distance = distance;
          best = c;
        }
      }
      moved = moved || best != cluster_of[g];
      cluster_of[g] = best;
    }
    if (!moved && step > 0) break;
    std::array<std::array<double, 4>, kLibrarySize> sums{};
    std::array<int, kLibrarySize> counts{};
    for (size_t g = 0; g < groups.size(); ++g) {
      for (size_t i = 0; i < 4; ++i) sums[cluster_of[g]][i] += static_cast<double>(groups[g].feature[i]);
      ++counts[cluster_of[g]];
    }
    for (size_t c = 0; c < clusters.centers.size(); ++c) {
      if (counts[c] == 0) continue;
      for (size_t i = 0; i < 4; ++i) clusters.centers[c][i] = static_cast<float>(sums[c][i] / counts[c]);
    }
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<float>& pool = clusters.pooled[cluster_of[g]];
    for (float v : groups[g].values) pool.push_back(static_cast<float>(static_cast<double>(v) / groups[g].rms));
  }
  for (std::vector<float>& pool : clusters.pooled) std::sort(pool.begin(), pool.end());
  return clusters;
}

Library TrainLibrary(const LibraryClusters& clusters, int levels, Centroids centroids) {
  Library library;
  library.levels = levels;
  library.centroids = centroids;
  ChannelFitter fitter;
  double largest = 0;
  for (size_t c = 0; c < clusters.pooled.size(); ++c) {
    if (clusters.pooled[c].empty()) continue;
    fitter.Reset(clusters.pooled[c]);
    fitter.Begin(levels, centroids);
    fitter.Next();
    for (size_t k = 0; k < static_cast<size_t>(levels); ++k) {
      library.codebooks[c][k] = static_cast<float>(fitter.centers()[k]);
      largest = std::max(largest, std::abs(fitter.centers()[k]));
    }
    // An empty cluster keeps the center it had, wherever its neighbours have gone; codes need ascending ones.
    std::sort(library.codebooks[c].begin(), library.codebooks[c].begin() + levels);
  }
  library.unit = largest > 0 ? largest / kLargestInt8 : 1;
  for (size_t c = 0; c < clusters.pooled.size(); ++c) {
    for (size_t k = 0; k < static_cast<size_t>(levels); ++k) {
      const double in_units = static_cast<double>(library.codebooks[c][k]) / library.unit;
      library.codebooks[c][k] = RoundCentroid(in_units, centroids);
    }
  }
  return library;
}

int64_t LibraryFitter::GroupEnd(int64_t group) const {
  return std::min<int64_t>((group + 1) * kGroupColumns, static_cast<int64_t>(channel_.size()));
}

double LibraryFitter::ScaleOf(int64_t group) const {
  const size_t i = code_.scales.size() == 1 ? 0 : static_cast<size_t>(group);
  return Bfloat16ToFloat(code_.scales[i]);
}

void LibraryFitter::Reset(std::span<const float> channel) {
  HPROC_CHECK(!channel.empty(), "columns of a channel");
  channel_ = channel;
  const auto columns = static_cast<int64_t>(channel.size());
  const int64_t groups = GroupsPerRow(columns);
  if (counts_columns_ != columns) {
    counts_ = OutlierCounts(columns);
    counts_columns_ = columns;
  }
  rms_.assign(clusters_->group_scales ? static_cast<size_t>(groups) : 1, RootMeanSquare(channel));
  square_ = 0;
  for (float v : channel) square_ += static_cast<double>(v) * static_cast<double>(v);
  sorted_.clear();
  order_.clear();
  sum_.clear();
  group_square_.clear();
  nearest_.resize(static_cast<size_t>(groups));
  uint32_t empty = 0;
  for (size_t i = 0; i < clusters_->pooled.size(); ++i) {
    if (clusters_->pooled[i].empty()) empty |= uint32_t{1} << i;
  }
  ChannelFitter& fitter = group_fitter_;
  for (int64_t g = 0; g < groups; ++g) {
    const std::span<const float> values =
        channel.subspan(static_cast<size_t>(GroupBegin(g)), static_cast<size_t>(GroupEnd(g) - GroupBegin(g)));
    if (clusters_->group_scales) rms_[static_cast<size_t>(g)] = RootMeanSquare(values);
    fitter.Reset(values);
    const GroupFeature feature = FeatureOf(fitter, rms_[clusters_->group_scales ? static_cast<size_t>(g) : 0]);
    sorted_.insert(sorted_.end(), fitter.sorted().begin(), fitter.sorted().end());
    order_.insert(order_.end(), fitter.order().begin(), fitter.order().end());
    sum_.insert(sum_.end(), fitter.sums().begin(), fitter.sums().end());
    group_square_.push_back(fitter.moments().square);
    NearestClusters(feature.data(), clusters_->centers[0].data(), empty, nearest_[static_cast<size_t>(g)].data());
  }
}

LibraryFitter::Borders LibraryFitter::BordersOf(int64_t group, uint8_t book, double scale) const {
  const auto begin = static_cast<size_t>(GroupBegin(group));
  const auto size = static_cast<size_t>(GroupEnd(group)) - begin;
  const std::array<float, kMaxLevels>& codebook = library_->codebooks[book];
  const auto levels = static_cast<size_t>(library_->levels);
  Borders borders;
  borders[0] = 0;
  for (size_t k = 1; k < levels; ++k) {
    const float threshold = CodeThreshold(scale, codebook[k - 1], codebook[k]);
    borders[k] = static_cast<uint8_t>(LowerBound(sorted_.data() + begin, size, threshold));
  }
  borders[levels] = static_cast<uint8_t>(size);
  return borders;
}

GroupProducts LibraryFitter::ProductsOf(int64_t group, uint8_t book, const Borders& borders) const {
  const std::array<float, kMaxLevels>& codebook = library_->codebooks[book];
  const double* sums = sum_.data() + GroupBegin(group) + group;  // one more entry a group
  GroupProducts products;
  for (size_t k = 0; k < static_cast<size_t>(library_->levels); ++k) {
    products.Add(static_cast<double>(codebook[k]), borders[k + 1] - borders[k], sums[borders[k + 1]] - sums[borders[k]]);
  }
  return products;
}

void LibraryFitter::AssignCodes() {
  codes_.resize(channel_.size());
  errors_.resize(channel_.size());
  by_error_.resize(channel_.size());
  for (size_t g = 0; g < borders_.size(); ++g) {
    const std::array<float, kMaxLevels>& codebook = library_->codebooks[code_.indices[g]];
    const double scale = ScaleOf(static_cast<int64_t>(g));
    const size_t begin = g * kGroupColumns;
    // How many levels begin at each place: a running sum gives the levels without a branch, where a loop over segments
    // of two or three values would miss one a level.
    std::array<uint8_t, kGroupColumns + 1> begins{};
    std::array<double, kMaxLevels> centers;
    for (size_t k = 0; k < static_cast<size_t>(library_->levels); ++k) {
      centers[k] = scale * static_cast<double>(codebook[k]);
      if (k > 0) ++begins[borders_[g][k]];
    }
    uint8_t level = 0;
    for (size_t i = 0; i < borders_[g][static_cast<size_t>(library_->levels)]; ++i) {
      level = static_cast<uint8_t>(level + begins[i]);
      const size_t column = begin + order_[begin + i];
      codes_[column] = level;
      errors_[column] = std::abs(static_cast<double>(sorted_[begin + i]) - centers[level]);
    }
  }
  // Ties go to the lower column.
  const auto most = static_cast<std::ptrdiff_t>(counts_.back());
  std::iota(by_error_.begin(), by_error_.end(), 0u);
  std::partial_sort(by_error_.begin(), by_error_.begin() + most, by_error_.end(), [&](uint32_t a, uint32_t b) {
    return errors_[a] != errors_[b] ? errors_[a] > errors_[b] : a < b;
  });
  by_error_.resize(static_cast<size_t>(most));
}

void LibraryFitter::Begin(const Library& library) {
  library_ = &library;
  next_count_ = 0;
  const auto columns = static_cast<int64_t>(channel_.size());
  const int64_t groups = GroupsPerRow(columns);
  code_ = LibraryCode{};
  code_.indices.assign(static_cast<size_t>(groups), 0);
  code_.scales.resize(rms_.size());
  for (size_t i = 0; i < rms_.size(); ++i) code_.scales[i] = RoundScale(rms_[i] * library.unit);
  borders_.resize(static_cast<size_t>(groups));
  codes_.assign(channel_.size(), 0);
  by_error_.clear();
  dot_ = code_square_ = 0;
  if (square_ == 0) return;

  std::vector<double> dots(rms_.size(), 0);
  std::vector<double> squares(rms_.size(), 0);
  const auto slot_of = [&](int64_t g) { return rms_.size() == 1 ? size_t{0} : static_cast<size_t>(g); };
  for (int64_t g = 0; g < groups; ++g) {
    const auto i = static_cast<size_t>(g);
    const double scale = ScaleOf(g);
    const ChosenCodebook chosen =
        ChooseCodebook(group_square_[i], nearest_[i].data(), scale,
                       [&](uint8_t book) { return ProductsOf(g, book, BordersOf(g, book, scale)); });
    code_.indices[i] = chosen.book;
    dots[slot_of(g)] += chosen.products.dot;
    squares[slot_of(g)] += chosen.products.square;
  }
  // The least-squares scale for the codes that this scale gives, then the codes for that scale.
  for (size_t i = 0; i < rms_.size(); ++i) {
    if (squares[i] > 0 && dots[i] > 0) code_.scales[i] = RoundScale(dots[i] / squares[i]);
  }
  std::fill(dots.begin(), dots.end(), 0.0);
  std::fill(squares.begin(), squares.end(), 0.0);
  for (int64_t g = 0; g < groups; ++g) {
    const auto i = static_cast<size_t>(g);
    borders_[i] = BordersOf(g, code_.indices[i], ScaleOf(g));
    const GroupProducts products = ProductsOf(g, code_.indices[i], borders_[i]);
    dots[slot_of(g)] += products.dot;
    squares[slot_of(g)] += products.square;
  }
  for (size_t i = 0; i < rms_.size(); ++i) {
    const double scale = Bfloat16ToFloat(code_.scales[i]);
    dot_ += scale * dots[i];
    code_square_ += scale * scale * squares[i];
  }
  AssignCodes();
}

bool LibraryFitter::Next() {
  if (next_count_ >= counts_.size()) return false;
  if (square_ == 0) {
    next_count_ = counts_.size();
    code_.cosine = code_.norm_ratio = 1;
    std::fill(code_.scales.begin(), code_.scales.end(), uint16_t{0});
    return true;
  }
  const int wanted = counts_[next_count_];
  for (; code_.outliers < wanted; ++code_.outliers) {
    const uint32_t column = by_error_[static_cast<size_t>(code_.outliers)];
    const int64_t group = column / kGroupColumns;
    const double scale = ScaleOf(group);
    const auto center =
        static_cast<double>(library_->codebooks[code_.indices[static_cast<size_t>(group)]][codes_[column]]);
    const auto value = static_cast<double>(channel_[column]);
    const double given_back = scale * (center + HalfToFloat(OutlierResidual(value, scale, center)));
    dot_ += (given_back - scale * center) * value;
    code_square_ += given_back * given_back - scale * center * scale * center;
  }
  code_.norm_ratio = std::sqrt(code_square_ / square_);
  code_.cosine = code_square_ > 0 ? std::min(1.0, dot_ / std::sqrt(code_square_ * square_)) : 0;
  ++next_count_;
  return true;
}

bool LibraryFitter::FitToFloor(const Library& library, double floor) {
  Begin(library);
  while (Next()) {
    if (code_.cosine >= floor) return true;
  }
  return false;
}

void LibraryFitter::Encode(EncodedChannel& encoded) const {
  encoded.codes = codes_;
  encoded.outlier_columns.assign(by_error_.begin(), by_error_.begin() + code_.outliers);
  std::sort(encoded.outlier_columns.begin(), encoded.outlier_columns.end());
  encoded.outlier_values.clear();
  for (uint32_t column : encoded.outlier_columns) {
    const int64_t group = column / kGroupColumns;
    const auto center =
        static_cast<double>(library_->codebooks[code_.indices[static_cast<size_t>(group)]][codes_[column]]);
    encoded.outlier_values.push_back(OutlierResidual(static_cast<double>(channel_[column]), ScaleOf(group), center));
  }
}

}  // namespace hproc::quant
