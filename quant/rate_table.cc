#include "quant/rate_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "quant/channel_fit.h"

namespace hproc::quant {
const RateStep& Candidate::StepAt(int ladder_index) const {
  HPROC_CHECK(!steps.empty() && ladder_index >= 0 && ladder_index <= highest, "a floor the candidate cannot reach");
  const auto after = std::upper_bound(steps.begin(), steps.end(), ladder_index,
                                      [](int index, const RateStep& step) { return index < step.ladder_index; });
  return *(after - 1);
}

RungSums::RungSums() : outliers(kLadderSize + 1, 0), deficits(kLadderSize + 1, 0), min_cosine(kLadderSize, 2.0f) {}

void RungSums::Add(const RungSums& other) {
  for (size_t i = 0; i < outliers.size(); ++i) {
    outliers[i] += other.outliers[i];
    deficits[i] += other.deficits[i];
  }
  for (size_t i = 0; i < min_cosine.size(); ++i) min_cosine[i] = std::min(min_cosine[i], other.min_cosine[i]);
  highest = std::min(highest, other.highest);
}

TensorRateBuilder::Accumulator::Accumulator(size_t formats) : formats_(formats) {}
TensorRateBuilder::Accumulator::~Accumulator() = default;

TensorRateBuilder::TensorRateBuilder(TensorSpec spec, const RateOptions& options, std::span<const float> sample)
    : spec_(std::move(spec)) {
  HPROC_CHECK(spec_.family != Family::kKept, "kept tensors have no rates");
  if (options.v2a) clusters_ = TrainClusters(sample, spec_.columns, options.group_scales);
  for (int levels : kLevelCounts) {
    if (options.v2) {
      formats_.push_back({.mode = Mode::kV2, .levels = levels, .centroids = options.centroids, .group_scales = false});
      libraries_.emplace_back();
    }
    if (options.v2a) {
      formats_.push_back({.mode = Mode::kV2a, .levels = levels, .centroids = options.centroids,
                          .group_scales = options.group_scales});
      libraries_.emplace_back(TrainLibrary(clusters_, levels, options.centroids));
    }
  }
}

std::unique_ptr<TensorRateBuilder::Accumulator> TensorRateBuilder::MakeAccumulator() const {
  return std::unique_ptr<Accumulator>(new Accumulator(formats_.size()));
}

void TensorRateBuilder::AddRows(std::span<const float> values, Accumulator& accumulator) const {
  ChannelFitter channel_fitter;
  LibraryFitter library_fitter(clusters_);
  const auto columns = static_cast<size_t>(spec_.columns);
  HPROC_CHECK(values.size() % columns == 0, "whole rows");
  for (size_t begin = 0; begin < values.size(); begin += columns) {
    const std::span<const float> row = values.subspan(begin, columns);
    channel_fitter.Reset(row);
    library_fitter.Reset(row);
    for (size_t f = 0; f < formats_.size(); ++f) {
      RungSums& sums = accumulator.formats_[f];
      // Walks the outlier counts; each serves the rungs above the last one served, up to the cosine it reaches.
      int rung = 0;
      int64_t last_outliers = 0;
      int64_t last_deficit = 0;
      const auto walk = [&](auto& fitter) {
        while (rung <= sums.highest && fitter.Next()) {
          const double cosine = fitter.code().cosine;
          const int64_t outliers = fitter.code().outliers;
          if (cosine < LadderFloor(rung)) continue;
          const auto deficit = static_cast<int64_t>(std::llround((1 - cosine) / kDeficitUnit));
          const auto at = static_cast<size_t>(rung);
          sums.outliers[at] += outliers - last_outliers;
          sums.deficits[at] += deficit - last_deficit;
          last_outliers = outliers;
          last_deficit = deficit;
          for (; rung < kLadderSize && cosine >= LadderFloor(rung); ++rung) {
            float& least = sums.min_cosine[static_cast<size_t>(rung)];
            least = std::min(least, static_cast<float>(cosine));
          }
        }
      };
      if (formats_[f].mode == Mode::kV2) {
        channel_fitter.Begin(formats_[f].levels, formats_[f].centroids);
        walk(channel_fitter);
      } else {
        library_fitter.Begin(*libraries_[f]);
        walk(library_fitter);
      }
      sums.highest = std::min(sums.highest, rung - 1);
    }
  }
}

TensorRates TensorRateBuilder::Finish(std::span<const std::unique_ptr<Accumulator>> accumulators) const {
  std::vector<RungSums> sums(formats_.size());
  for (const auto& part : accumulators) {
    for (size_t f = 0; f < sums.size(); ++f) sums[f].Add(part->formats_[f]);
  }
  return Finish(sums);
}

TensorRates TensorRateBuilder::Finish(std::span<const RungSums> sums) const {
  HPROC_CHECK(sums.size() == formats_.size(), "sums of every format");
  TensorRates rates;
  rates.spec = spec_;
  for (size_t f = 0; f < formats_.size(); ++f) {
    Candidate candidate;
    candidate.format = formats_[f];
    candidate.highest = sums[f].highest;
    int64_t outliers = 0;
    int64_t deficit = 0;
    for (int rung = 0; rung <= candidate.highest; ++rung) {
      const auto at = static_cast<size_t>(rung);
      outliers += sums[f].outliers[at];
      deficit += sums[f].deficits[at];
      const float least = std::min(1.0f, sums[f].min_cosine[at]);
      const RateStep step{.ladder_index = rung, .outliers = outliers, .min_cosine = least,
                          .mean_deficit = static_cast<double>(deficit) * kDeficitUnit / static_cast<double>(spec_.rows)};
      if (candidate.steps.empty() || candidate.steps.back().outliers != outliers ||
          candidate.steps.back().min_cosine != least) {
        candidate.steps.push_back(step);
      }
    }
    if (candidate.highest >= 0) rates.candidates.push_back(std::move(candidate));
  }
  return rates;
}

bool HasRatesOf(const RateTable& table, Mode mode) {
  bool is_quantized = false;
  for (const TensorRates& rates : table.tensors) {
    for (const Candidate& candidate : rates.candidates) {
      if (candidate.format.mode == mode) return true;
    }
    is_quantized = is_quantized || rates.spec.family != Family::kKept;
  }
  return !is_quantized;
}

void AddRates(RateTable& table, RateTable more) {
  HPROC_CHECK(table.fingerprint == more.fingerprint && table.tensors.size() == more.tensors.size(), "tables of one checkpoint");
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    std::vector<Candidate>& candidates = table.tensors[i].candidates;
    HPROC_CHECK(table.tensors[i].spec == more.tensors[i].spec, "tables of the same tensors");
    for (Candidate& candidate : more.tensors[i].candidates) candidates.push_back(std::move(candidate));
    // As TensorRateBuilder has them.
    std::ranges::stable_sort(candidates, {}, [](const Candidate& c) { return std::pair(c.format.levels, c.format.mode); });
  }
}

}  // namespace hproc::quant
