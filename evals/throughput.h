// Throughput of a loaded model: prefill, short decode and long decode, each apart, repeated, with its spread.
//
// The runs are timed where the model is (no pipe in between): the worker implements TimedModel, RunThroughput drives it
// and returns raw samples, the controller keeps those and summarizes. Time to first token is prefill, never part of
// decode. Rows carry what llama-bench calls pp and tg.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace hproc::evals {

struct ThroughputSpec {
  int prompt_tokens = 512;  // cut to the context less the longest decode, which is cut to half of the context
  int short_decode_tokens = 32;
  int long_decode_tokens = 256;
  int batch = 1;        // sequences decoded together
  int repetitions = 5;  // counted ones
  int warmups = 1;      // not counted

  bool operator==(const ThroughputSpec&) const = default;
};

enum class ThroughputKind { kPrefill, kShortDecode, kLongDecode };

inline constexpr std::array<std::pair<ThroughputKind, std::string_view>, 3> kThroughputKindNames{{
    {ThroughputKind::kPrefill, "prefill"},
    {ThroughputKind::kShortDecode, "short_decode"},
    {ThroughputKind::kLongDecode, "long_decode"},
}};

constexpr std::string_view ThroughputKindName(ThroughputKind kind) {
  for (const auto& [known, name] : kThroughputKindNames) {
    if (known == kind) return name;
  }
  return "?";
}

constexpr std::optional<ThroughputKind> ThroughputKindFromName(std::string_view name) {
  for (const auto& [kind, known] : kThroughputKindNames) {
    if (known == name) return kind;
  }
  return std::nullopt;
}

struct ThroughputSample {
  ThroughputKind kind{};
  int repetition = 0;
  int tokens = 0;  // over all sequences of the batch
  int batch = 1;
  double seconds = 0;
};

// Thread-compatible.
class TimedModel {
 public:
  virtual ~TimedModel() = default;
  virtual int context() const = 0;  // tokens a sequence may hold

  // Empties all sequences, then prefills `batch` of them with `tokens` arbitrary tokens each; wall seconds.
  virtual Result<double> Prefill(int batch, int tokens) = 0;
  // Decodes `tokens` further tokens in each of the `batch` sequences; wall seconds.
  virtual Result<double> Decode(int batch, int tokens) = 0;
};

// Prefill, short decode, prefill again, long decode, `repetitions` times over after `warmups`. The second prefill only
// restores the length at which decoding starts and gives no sample: one sample a kind and repetition. Errors: those of
// the model, a duration that is not positive, a context below 2 tokens.
Result<std::vector<ThroughputSample>> RunThroughput(const ThroughputSpec& spec, TimedModel& model);

struct ThroughputSummary {
  ThroughputKind kind{};
  int repetitions = 0;
  int tokens = 0;  // per repetition
  int batch = 1;
  double mean_tok_per_s = 0;
  double sd_tok_per_s = 0;  // sample standard deviation; 0 for one repetition
  double median_tok_per_s = 0;
};

// One summary per kind that occurs, in the order of the enum.
std::vector<ThroughputSummary> SummarizeThroughput(std::span<const ThroughputSample> samples);

}  // namespace hproc::evals
