// The closed sets of words on the wire, each beside its enum; shared by the encoder and the decoder
// alone.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "worker/protocol.h"

namespace hproc::worker {

template <typename Enum, size_t kCount>
using WordTable = std::array<std::pair<Enum, std::string_view>, kCount>;

inline constexpr WordTable<Phase, kPhaseCount> kPhaseWords{{
    {Phase::kInit, "init"},
    {Phase::kMeasure, "measure"},
    {Phase::kLoad, "load"},
    {Phase::kCache, "cache"},
    {Phase::kWarmup, "warmup"},
    {Phase::kGenerate, "generate"},
    {Phase::kThroughput, "throughput"},
}};

inline constexpr WordTable<ErrorKind, 8> kErrorKindWords{{
    {ErrorKind::kBadJob, "bad_job"},
    {ErrorKind::kBadCheckpoint, "bad_checkpoint"},
    {ErrorKind::kLoaderFault, "loader_fault"},
    {ErrorKind::kHostOutOfMemory, "host_out_of_memory"},
    {ErrorKind::kContaminated, "contaminated"},
    {ErrorKind::kDeviceLost, "device_lost"},
    {ErrorKind::kRankLost, "rank_lost"},
    {ErrorKind::kInternal, "internal"},
}};

// These two enums belong to evals/, which knows nothing of the wire; their words there may differ.
inline constexpr WordTable<evals::FinishReason, 6> kFinishWords{{
    {evals::FinishReason::kEndToken, "end_token"},
    {evals::FinishReason::kStopText, "stop_text"},
    {evals::FinishReason::kLength, "length"},
    {evals::FinishReason::kContext, "context"},
    {evals::FinishReason::kNonFinite, "nonfinite"},
    {evals::FinishReason::kCancelled, "cancelled"},
}};

inline constexpr WordTable<evals::ThroughputKind, 3> kThroughputWords{{
    {evals::ThroughputKind::kPrefill, "prefill"},
    {evals::ThroughputKind::kShortDecode, "short_decode"},
    {evals::ThroughputKind::kLongDecode, "long_decode"},
}};

// Empty for a value outside the table, which is a bug.
template <typename Enum, size_t kCount>
constexpr std::string_view WordOf(const WordTable<Enum, kCount>& table, Enum value) {
  for (const auto& [known, word] : table) {
    if (known == value) return word;
  }
  return {};
}

template <typename Enum, size_t kCount>
constexpr std::optional<Enum> FromWord(const WordTable<Enum, kCount>& table,
                                       std::string_view word) {
  for (const auto& [value, known] : table) {
    if (known == word) return value;
  }
  return std::nullopt;
}

}  // namespace hproc::worker
