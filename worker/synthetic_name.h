// How a model of random weights (worker/synthetic.h) is named.
#pragma once

#include <string>
#include <string_view>

namespace hproc::worker {

inline constexpr std::string_view kSyntheticPrefix = "synthetic:";

// The path behind "synthetic:"; empty where `model` is a folder.
inline std::string SyntheticConfig(const std::string& model) {
  return model.starts_with(kSyntheticPrefix) ? model.substr(kSyntheticPrefix.size()) : std::string();
}
inline std::string SyntheticModel(const std::string& config) { return std::string(kSyntheticPrefix) + config; }

}  // namespace hproc::worker
