// Generator: all that an evaluation knows of a model. The engine implements it in the worker; the controller's end of
// the worker protocol implements it across a process boundary; tests implement it with canned answers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace hproc::evals {

// temperature 0 is greedy: the highest logit, the lowest token id on a tie; the other fields are then unused.
struct SamplingParams {
  double temperature = 0;
  int top_k = 0;     // 0: off
  double top_p = 1;  // 1: off
  uint64_t seed = 0;  // draw n of a sequence is Philox4x32-10 of (seed, n), on every backend: kernels/sampling.h

  bool operator==(const SamplingParams&) const = default;
};

struct GenerationRequest {
  int64_t id = 0;                 // chosen by the caller, comes back with the completion
  std::string prompt;             // UTF-8, tokenized as it stands: no template, no begin-of-text token added
  int max_new_tokens = 256;       // >= 1
  std::vector<std::string> stop;  // the text ends before the first occurrence of any of these
  SamplingParams sampling;
};

enum class FinishReason {
  kEndToken,   // the model produced one of its end tokens
  kStopText,   // one of the request's stop strings appeared
  kLength,     // max_new_tokens reached: the answer is truncated
  kContext,    // the context was full: truncated too
  kNonFinite,  // a logit was NaN or infinite: generation cannot go on
  kCancelled,  // the caller asked to stop before this one was done
};

// The words of the store and the reports; the worker protocol uses the same.
inline constexpr std::array<std::pair<FinishReason, std::string_view>, 6> kFinishReasonNames{{
    {FinishReason::kEndToken, "end_token"},
    {FinishReason::kStopText, "stop_text"},
    {FinishReason::kLength, "length"},
    {FinishReason::kContext, "context"},
    {FinishReason::kNonFinite, "nonfinite"},
    {FinishReason::kCancelled, "cancelled"},
}};

constexpr std::string_view FinishReasonName(FinishReason reason) {
  for (const auto& [known, name] : kFinishReasonNames) {
    if (known == reason) return name;
  }
  return "?";
}

constexpr std::optional<FinishReason> FinishReasonFromName(std::string_view name) {
  for (const auto& [reason, known] : kFinishReasonNames) {
    if (known == name) return reason;
  }
  return std::nullopt;
}

struct Completion {
  int64_t id = 0;
  std::string text;                // what was generated, cut before the stop string, end token left out
  std::vector<int32_t> token_ids;  // everything generated, before any cut; the end token left out
  int prompt_tokens = 0;
  FinishReason finish = FinishReason::kEndToken;
  int64_t nonfinite_logits = 0;  // NaN or infinite logits seen over all steps of this request
};

// Thread-compatible: one Generate at a time.
class Generator {
 public:
  virtual ~Generator() = default;

  // Runs all requests, several at a time where the generator can, and hands over each completion as it ends, in any
  // order, from the calling thread. When `on_completion` returns false the requests still open are dropped and
  // Generate returns. An error means that the model behind the generator is gone or broken, not that an answer is bad.
  virtual Result<void> Generate(std::span<const GenerationRequest> requests,
                                const std::function<bool(Completion)>& on_completion) = 0;
};

}  // namespace hproc::evals
