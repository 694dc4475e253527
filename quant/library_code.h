// The arithmetic of coding one group of columns with a library of codebooks: the steps behind LibraryFitter
// (quant/library_fit.h, which says what they add up to), written once for the host and for CUDA threads. Both give the
// same bits; see quant/codebook_fit.h.
//
// A group is a sorted channel in CodebookFit's sense: columns(), Value(i) ascending, Sum(i). With it the products of a
// group and its codes follow from the borders between the codes, without a pass over the values.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "base/host_device.h"
#include "quant/codebook_fit.h"

namespace hproc::quant {

inline constexpr int kNearestClusters = 3;  // codebooks tried for a group
inline constexpr int kFeatureLevels = 4;
using GroupFeature = std::array<float, kFeatureLevels>;

HPROC_HOST_DEVICE inline uint16_t RoundScale(double scale) { return FloatToBfloat16(static_cast<float>(scale)); }

// The four centroids of the group's best four-level codebook over `rms`; `fit` has been fitted to it.
template <typename Fit>
HPROC_HOST_DEVICE void FeatureOf(const Fit& fit, double rms, float* feature) {
  for (int i = 0; i < kFeatureLevels; ++i) feature[i] = rms > 0 ? static_cast<float>(fit.centers()[i] / rms) : 0.0f;
}

HPROC_HOST_DEVICE inline double FeatureDistance(const float* a, const float* b) {
  double distance = 0;
  for (int i = 0; i < kFeatureLevels; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    distance += d * d;
  }
  return distance;
}

// The clusters nearest to a feature, nearest first, ties to the lower index. `centers` [kLibrarySize][kFeatureLevels];
// bit c of `empty` leaves cluster c to the end.
HPROC_HOST_DEVICE inline void NearestClusters(const float* feature, const float* centers, uint32_t empty,
                                              uint8_t* nearest) {
  double distances[kNearestClusters];
  for (int c = 0; c < kLibrarySize; ++c) {
    const double distance = (empty >> c & 1) != 0 ? std::numeric_limits<double>::infinity()
                                                  : FeatureDistance(feature, centers + c * kFeatureLevels);
    int at = c < kNearestClusters ? c : kNearestClusters;  // one past the last: there is no room yet
    for (; at > 0 && distance < distances[at - 1]; --at) {
      if (at == kNearestClusters) continue;  // the last falls out
      distances[at] = distances[at - 1];
      nearest[at] = nearest[at - 1];
    }
    if (at == kNearestClusters) continue;
    distances[at] = distance;
    nearest[at] = static_cast<uint8_t>(c);
  }
}

// Calls visit(k, begin, end) for every code: the sorted values [begin, end) get it under `scale`.
template <typename Group, typename Visit>
HPROC_HOST_DEVICE void ForEachCode(const Group& group, const float* codebook, int levels, double scale, Visit&& visit) {
  const int size = group.columns();
  int begin = 0;
  for (int k = 0; k < levels; ++k) {
    int end = size;
    if (k + 1 < levels) {
      end = LowerBoundNear(group, begin, size, begin + (size - begin) / (levels - k),
                           CodeThreshold(scale, codebook[k], codebook[k + 1]));
    }
    visit(k, begin, end);
    begin = end;
  }
}

// <w, q> and ||q||^2 of the group's values w and their centroids q, in units of the scale.
struct GroupProducts {
  double dot = 0;
  double square = 0;

  // For `count` values that come to `sum`, all given back as `center`. None at all change nothing.
  HPROC_HOST_DEVICE void Add(double center, int count, double sum) {
    dot += center * sum;
    square += center * center * static_cast<double>(count);
  }
};
template <typename Group>
HPROC_HOST_DEVICE GroupProducts ProductsOf(const Group& group, const float* codebook, int levels, double scale) {
  GroupProducts products;
  double before = 0;
  ForEachCode(group, codebook, levels, scale, [&](int k, int begin, int end) {
    if (end == begin) return;
    const double sum = group.Sum(end);
    products.Add(static_cast<double>(codebook[k]), end - begin, sum - before);
    before = sum;
  });
  return products;
}

// The best of the `nearest` codebooks by squared error, and the products with it: products_of(book) under `scale`. `square`:
// of the group's values.
struct ChosenCodebook {
  uint8_t book = 0;
  GroupProducts products;
};
template <typename Products>
HPROC_HOST_DEVICE ChosenCodebook ChooseCodebook(double square, const uint8_t* nearest, double scale,
                                                const Products& products_of) {
  double best_error = std::numeric_limits<double>::infinity();
  ChosenCodebook best;
  for (int i = 0; i < kNearestClusters; ++i) {
    const GroupProducts products = products_of(nearest[i]);
    const double error = square + scale * (scale * products.square - 2 * products.dot);
    if (error < best_error) {
      best_error = error;
      best = {nearest[i], products};
    }
  }
  return best;
}

}  // namespace hproc::quant
