#include "evals/throughput.h"

#include <algorithm>
#include <cmath>

namespace hproc::evals {
namespace {

// The lengths of a run that fit the context.
struct Lengths {
  int prompt = 0;
  int short_decode = 0;
  int long_decode = 0;
};

Result<Lengths> FitLengths(const ThroughputSpec& spec, int context) {
  if (spec.prompt_tokens < 1 || spec.short_decode_tokens < 1 || spec.long_decode_tokens < 1 ||
      spec.batch < 1 || spec.repetitions < 1 || spec.warmups < 0) {
    return Error{"throughput: lengths, batch and repetitions are at least 1, warmups at least 0"};
  }
  if (context < 2) {
    return Error{"throughput: a context of " + std::to_string(context) +
                 " tokens holds no prompt and no answer beside each other"};
  }
  Lengths lengths;
  lengths.short_decode = std::min(spec.short_decode_tokens, context / 2);
  lengths.long_decode = std::min(spec.long_decode_tokens, context / 2);
  lengths.prompt =
      std::min(spec.prompt_tokens, context - std::max(lengths.short_decode, lengths.long_decode));
  return lengths;
}

// A duration that a rate can be computed from.
Result<double> Timed(ThroughputKind kind, const Result<double>& seconds) {
  if (!seconds.ok() || (std::isfinite(*seconds) && *seconds > 0)) return seconds;
  return Error{"throughput: " + std::string(ThroughputKindName(kind)) + " took " +
               std::to_string(*seconds) + " seconds"};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

std::string_view ThroughputKindName(ThroughputKind kind) {
  switch (kind) {
    case ThroughputKind::kPrefill:
      return "prefill";
    case ThroughputKind::kShortDecode:
      return "short_decode";
    case ThroughputKind::kLongDecode:
      return "long_decode";
  }
  return "?";
}

Result<std::vector<ThroughputSample>> RunThroughput(const ThroughputSpec& spec, TimedModel& model) {
  const Result<Lengths> lengths = FitLengths(spec, model.context());
  if (!lengths.ok()) return lengths.error();

  std::vector<ThroughputSample> samples;
  for (int round = -spec.warmups; round < spec.repetitions; ++round) {
    // Each decode starts behind a prompt of the same length, so that both read caches of comparable
    // size.
    for (const ThroughputKind decode :
         {ThroughputKind::kShortDecode, ThroughputKind::kLongDecode}) {
      const bool is_long = decode == ThroughputKind::kLongDecode;
      const int decode_tokens = is_long ? lengths->long_decode : lengths->short_decode;
      const Result<double> prefill_seconds =
          Timed(ThroughputKind::kPrefill, model.Prefill(spec.batch, lengths->prompt));
      if (!prefill_seconds.ok()) return prefill_seconds.error();
      const Result<double> decode_seconds = Timed(decode, model.Decode(spec.batch, decode_tokens));
      if (!decode_seconds.ok()) return decode_seconds.error();
      if (round < 0) continue;
      if (!is_long) {
        samples.push_back({.kind = ThroughputKind::kPrefill,
                           .repetition = round,
                           .tokens = lengths->prompt * spec.batch,
                           .batch = spec.batch,
                           .seconds = *prefill_seconds});
      }
      samples.push_back({.kind = decode,
                         .repetition = round,
                         .tokens = decode_tokens * spec.batch,
                         .batch = spec.batch,
                         .seconds = *decode_seconds});
    }
  }
  return samples;
}

std::vector<ThroughputSummary> SummarizeThroughput(std::span<const ThroughputSample> samples) {
  std::vector<ThroughputSummary> summaries;
  for (const ThroughputKind kind :
       {ThroughputKind::kPrefill, ThroughputKind::kShortDecode, ThroughputKind::kLongDecode}) {
    ThroughputSummary summary{.kind = kind};
    std::vector<double> rates;
    for (const ThroughputSample& sample : samples) {
      // Samples come back from a store or a pipe; one without a duration has no rate.
      if (sample.kind != kind || !(sample.seconds > 0)) continue;
      rates.push_back(sample.tokens / sample.seconds);
      summary.tokens = sample.tokens;
      summary.batch = sample.batch;
    }
    if (rates.empty()) continue;
    const auto n = static_cast<double>(rates.size());
    double sum = 0;
    for (const double rate : rates) sum += rate;
    double squares = 0;
    for (const double rate : rates) squares += (rate - sum / n) * (rate - sum / n);
    summary.repetitions = static_cast<int>(rates.size());
    summary.mean_tok_per_s = sum / n;
    summary.sd_tok_per_s = rates.size() < 2 ? 0 : std::sqrt(squares / (n - 1));
    summary.median_tok_per_s = Median(rates);
    summaries.push_back(summary);
  }
  return summaries;
}

}  // namespace hproc::evals
