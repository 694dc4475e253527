#include "worker/sampler.h"

#include <algorithm>
#include <cmath>

namespace hproc::worker {

int64_t CountNonFinite(std::span<const float> logits) {
  int64_t count = 0;
  for (float l : logits) count += std::isfinite(l) ? 0 : 1;
  return count;
}

int32_t Sampler::Next(std::span<const float> logits) {
  if (params_.temperature <= 0) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  const auto likelier = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    const auto end = candidates_.begin() + params_.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(), likelier);
    candidates_.erase(end, candidates_.end());
  } else {
    std::sort(candidates_.begin(), candidates_.end(), likelier);
  }
  const double highest = candidates_.front().first;
  double total = 0;
  for (auto& candidate : candidates_) {
    candidate.first = static_cast<float>(std::exp((static_cast<double>(candidate.first) - highest) / params_.temperature));
    total += candidate.first;
  }
  double kept = total;
  if (params_.top_p < 1) {
    kept = 0;
    size_t count = 0;
    while (count < candidates_.size() && kept < params_.top_p * total) kept += candidates_[count++].first;
    candidates_.resize(std::max<size_t>(count, 1));
  }
  // 53 random bits; std::uniform_real_distribution differs between libraries.
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * kept;
  for (const auto& candidate : candidates_) {
    left -= candidate.first;
    if (left < 0) return candidate.second;
  }
  return candidates_.back().second;
}

}  // namespace hproc::worker
