#include "evals/garbage.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <utility>

#include "evals/scoring.h"
#include "evals/statistics.h"
#include "evals/token_loops.h"

namespace hproc::evals {
namespace {

constexpr int kMaxPhraseRepeats =
    12;  // people reach 10 where a solution is all figures, a token a digit
constexpr double kMinDistinctRatio = 0.1;
constexpr double kMaxBrokenShare = 0.02;  // replacement and control characters
constexpr int kMinBroken = 3;
constexpr double kMaxUnexpectedShare = 0.2;
constexpr int kMinUnexpected = 8;

constexpr double kFailingShare = 0.5;     // of the probes, beyond the reference's: garbage
constexpr double kSuspectShare = 0.1;     // likewise: suspect
constexpr double kDisablingShare = 0.25;  // of the reference's probes of one kind that break a rule
constexpr double kScriptShare = 0.01;
constexpr int kMinProbesForRates = 4;   // below that a rate of 0 says little
constexpr int kMinProbesForRight = 8;   // 0 of 8 is still 1 in 10 at a rate of 1 in 4
constexpr double kReferenceRate = 0.5;  // a reference below it does not show what a rule asks for
constexpr double kGarbageRateRatio = 0.25;
constexpr double kSuspectRateRatio = 0.5;
constexpr double kHardlyAnyRight = 0.05;  // odds of a model half as good as the reference

std::string Percent(double share) {
  char text[16];
  std::snprintf(text, sizeof(text), "%.1f %%", 100 * share);
  return text;
}

bool WasCutOff(FinishReason finish) {
  return finish == FinishReason::kLength || finish == FinishReason::kContext ||
         finish == FinishReason::kCancelled;
}

bool StoppedByItself(FinishReason finish) {
  return finish == FinishReason::kEndToken || finish == FinishReason::kStopText;
}

// The text without a character that the cut fell into: half of one is no sign of anything.
std::string_view WithoutHalfCharacter(const Completion& completion) {
  std::string_view text = completion.text;
  if (!WasCutOff(completion.finish)) return text;
  if (text.ends_with("\xEF\xBF\xBD")) return text.substr(0, text.size() - 3);
  // What is broken within the last three bytes and reaches to the end.
  for (size_t bytes = 1; bytes <= 3 && bytes <= text.size(); ++bytes) {
    const std::string_view tail = text.substr(text.size() - bytes);
    const bool is_lead = (static_cast<unsigned char>(tail[0]) & 0xC0) == 0xC0;
    if (is_lead &&
        static_cast<size_t>(std::countl_one(static_cast<unsigned char>(tail[0]))) > bytes) {
      return text.substr(0, text.size() - bytes);
    }
  }
  return text;
}

bool AsksForANumber(const ProbeResult& result) { return result.probe.kind != ProbeKind::kGeneral; }

bool HoldsADigit(std::string_view text) {
  return text.find_first_of("0123456789") != std::string_view::npos;
}

// What the rules on all completions together look at.
struct Rates {
  int probes = 0;
  int asked_for_number = 0;
  double stop_rate = 0;
  double number_rate = 0;
  double strict_rate = 0;
  double right_rate = 0;
};

Rates MeasureRates(std::span<const ProbeResult> results) {
  Rates rates;
  int stopped = 0;
  int with_number = 0;
  int with_strict = 0;
  int right = 0;
  for (const ProbeResult& result : results) {
    ++rates.probes;
    stopped += StoppedByItself(result.completion.finish) ? 1 : 0;
    if (!AsksForANumber(result)) continue;
    ++rates.asked_for_number;
    const std::string_view text = result.completion.text;
    with_number += HoldsADigit(ExtractFlexible(text).value_or("")) ? 1 : 0;
    with_strict += ExtractStrict(text).has_value() ? 1 : 0;
    right += ScoreAnswer(result.probe.answer, text).flexible_correct ? 1 : 0;
  }
  const auto rate = [](int part, int whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / whole;
  };
  rates.stop_rate = rate(stopped, rates.probes);
  rates.number_rate = rate(with_number, rates.asked_for_number);
  rates.strict_rate = rate(with_strict, rates.asked_for_number);
  rates.right_rate = rate(right, rates.asked_for_number);
  return rates;
}

// Collects what one completion breaks, less what the calibration took out of force.
class Findings {
 public:
  Findings(int probe, const std::bitset<kGarbageRuleCount>& disabled)
      : probe_(probe), disabled_(disabled) {}

  void Add(GarbageRule rule, std::string detail) {
    if (disabled_.test(static_cast<size_t>(rule))) return;
    list_.push_back({.probe = probe_, .rule = rule, .detail = std::move(detail)});
  }
  std::vector<GarbageFinding> Take() { return std::move(list_); }

 private:
  int probe_;
  std::bitset<kGarbageRuleCount> disabled_;
  std::vector<GarbageFinding> list_;
};

void CheckTokens(const Completion& completion, Findings& findings) {
  const TokenLoop loop = FindTokenLoop(completion.token_ids, WasCutOff(completion.finish));
  if (loop.period > 0) {
    findings.Add(GarbageRule::kHardLoop, "period " + std::to_string(loop.period) + ", " +
                                             std::to_string(loop.copies()) + " copies from token " +
                                             std::to_string(loop.start));
  }
  if (const int repeats = MaxPhraseRepeats(completion.token_ids); repeats > kMaxPhraseRepeats) {
    findings.Add(GarbageRule::kRepeatedPhrases, "one phrase of four tokens " +
                                                    std::to_string(repeats) + " times in " +
                                                    std::to_string(kPhraseWindow));
  }
  if (const double ratio = MinDistinctRatio(completion.token_ids); ratio < kMinDistinctRatio) {
    findings.Add(GarbageRule::kFewDistinctTokens,
                 Percent(ratio) + " distinct tokens among " + std::to_string(kDistinctWindow));
  }
}

void CheckText(const Completion& completion, const std::bitset<kScriptCount>& scripts,
               Findings& findings) {
  const std::string_view text = WithoutHalfCharacter(completion);
  const CharacterCounts counts = CountCharacters(text);
  const auto share_of = [](int64_t part, int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  const double replacement = share_of(counts.replacement, counts.total);
  if (counts.replacement >= kMinBroken && replacement >= kMaxBrokenShare) {
    findings.Add(GarbageRule::kReplacementCharacters, Percent(replacement) + " of the characters");
  }
  const double control = share_of(counts.control, counts.total);
  if (counts.control >= kMinBroken && control >= kMaxBrokenShare) {
    findings.Add(GarbageRule::kControlCharacters, Percent(control) + " of the characters");
  }
  if (scripts.any()) {
    int64_t unexpected = 0;
    for (size_t script = 0; script < kScriptCount; ++script) {
      if (!scripts.test(script)) unexpected += counts.by_script[script];
    }
    const double share = share_of(unexpected, counts.letters);
    if (unexpected >= kMinUnexpected && share >= kMaxUnexpectedShare) {
      findings.Add(GarbageRule::kUnexpectedScript, Percent(share) + " of the letters");
    }
  }
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    findings.Add(GarbageRule::kEmpty,
                 "nothing after " + std::to_string(completion.token_ids.size()) + " tokens");
  }
}

int CountFailing(std::span<const GarbageFinding> findings) {
  int failing = 0;
  int last = -1;
  for (const GarbageFinding& finding : findings) {
    if (finding.probe != last) ++failing;
    last = finding.probe;
  }
  return failing;
}

// The rule most completions broke, the first of the enum on a tie, and the first of them.
const GarbageFinding& MostFrequent(std::span<const GarbageFinding> findings) {
  std::array<int, kGarbageRuleCount> counts{};
  for (const GarbageFinding& finding : findings) ++counts[static_cast<size_t>(finding.rule)];
  const auto rule =
      static_cast<GarbageRule>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  return *std::find_if(findings.begin(), findings.end(),
                       [rule](const GarbageFinding& finding) { return finding.rule == rule; });
}

int Share(double share, int probes) { return static_cast<int>(std::ceil(share * probes - 1e-9)); }

// What a rule on all completions together finds.
struct Overall {
  GarbageVerdict verdict = GarbageVerdict::kSensible;
  GarbageRule rule = GarbageRule::kNone;
  std::string detail;
};

// How likely `right` or fewer of `total` are where each is with probability `rate`, in (0, 1).
double AtMost(int right, int total, double rate) {
  double sum = 0;
  for (int k = 0; k <= right; ++k) {
    sum += std::exp(LogChoose(total, k) + k * std::log(rate) + (total - k) * std::log1p(-rate));
  }
  return sum;
}

Overall CheckRates(const Rates& rates, const GarbageCalibration& reference) {
  if (rates.probes >= kMinProbesForRates && reference.stop_rate >= kReferenceRate &&
      rates.stop_rate == 0) {
    return {GarbageVerdict::kGarbage, GarbageRule::kNeverStops,
            "no completion ended by itself, " + Percent(reference.stop_rate) +
                " of the reference's did"};
  }
  if (rates.asked_for_number < kMinProbesForRates) return {};
  const auto below = [](double rate, double ratio, double reference_rate) {
    return reference_rate >= kReferenceRate && rate < ratio * reference_rate;
  };
  if (below(rates.number_rate, kGarbageRateRatio, reference.number_rate)) {
    return {GarbageVerdict::kGarbage, GarbageRule::kNoNumbers,
            Percent(rates.number_rate) + " of the answers hold a number, " +
                Percent(reference.number_rate) + " of the reference's"};
  }
  if (rates.asked_for_number >= kMinProbesForRight && rates.right_rate == 0) {
    const std::string detail =
        "none of " + std::to_string(rates.asked_for_number) + " answers is right";
    if (reference.right_rate >= kReferenceRightRate) {
      return {GarbageVerdict::kGarbage, GarbageRule::kNothingRight,
              detail + ", " + Percent(reference.right_rate) + " of the reference's are"};
    }
    if (reference.probes == 0 || reference.right_rate > 0) {
      return {GarbageVerdict::kSuspect, GarbageRule::kNothingRight, detail};
    }
  }
  if (rates.asked_for_number >= kMinProbesForRight && reference.right_rate >= kReferenceRightRate) {
    const int right = static_cast<int>(std::lround(rates.right_rate * rates.asked_for_number));
    if (AtMost(right, rates.asked_for_number, reference.right_rate * kSuspectRateRatio) < kHardlyAnyRight) {
      return {GarbageVerdict::kSuspect, GarbageRule::kHardlyAnyRight,
              std::to_string(right) + " of " + std::to_string(rates.asked_for_number) + " answers are right, " +
                  Percent(reference.right_rate) + " of the reference's are"};
    }
  }
  if (below(rates.strict_rate, kSuspectRateRatio, reference.strict_rate)) {
    return {GarbageVerdict::kSuspect, GarbageRule::kNoNumbers,
            Percent(rates.strict_rate) + " of the answers hold \"#### N\", " +
                Percent(reference.strict_rate) + " of the reference's"};
  }
  return {};
}

}  // namespace

std::string_view GarbageRuleName(GarbageRule rule) {
  constexpr std::array<std::string_view, kGarbageRuleCount> kNames{"none",
                                                                   "nonfinite_logits",
                                                                   "hard_loop",
                                                                   "repeated_phrases",
                                                                   "few_distinct_tokens",
                                                                   "replacement_characters",
                                                                   "control_characters",
                                                                   "unexpected_script",
                                                                   "empty",
                                                                   "never_stops",
                                                                   "no_numbers",
                                                                   "nothing_right",
                                                                   "hardly_any_right"};
  return kNames[static_cast<size_t>(rule)];
}

std::optional<GarbageRule> GarbageRuleFromName(std::string_view name) {
  for (int i = 0; i < kGarbageRuleCount; ++i) {
    const auto rule = static_cast<GarbageRule>(i);
    if (GarbageRuleName(rule) == name) return rule;
  }
  return std::nullopt;
}

std::string_view GarbageVerdictName(GarbageVerdict verdict) {
  switch (verdict) {
    case GarbageVerdict::kSensible:
      return "sensible";
    case GarbageVerdict::kSuspect:
      return "suspect";
    case GarbageVerdict::kGarbage:
      return "garbage";
  }
  return "?";
}

std::vector<GarbageFinding> CheckCompletion(const ProbeResult& result, int index,
                                            const GarbageCalibration& calibration) {
  const Completion& completion = result.completion;
  Findings findings(index, calibration.disabled[static_cast<size_t>(result.probe.kind)]);
  if (completion.nonfinite_logits > 0 || completion.finish == FinishReason::kNonFinite) {
    findings.Add(GarbageRule::kNonFinite, std::to_string(completion.nonfinite_logits) + " logits");
    return findings.Take();
  }
  CheckTokens(completion, findings);
  CheckText(completion, calibration.scripts, findings);
  return findings.Take();
}

GarbageCalibration CalibrateGarbage(std::span<const ProbeResult> reference) {
  GarbageCalibration calibration;
  if (reference.empty()) return calibration;
  calibration.probes = static_cast<int>(reference.size());

  CharacterCounts written;
  for (const ProbeResult& result : reference) {
    for (const std::string_view text :
         {std::string_view(result.probe.prompt), WithoutHalfCharacter(result.completion)}) {
      const CharacterCounts counts = CountCharacters(text);
      written.letters += counts.letters;
      for (size_t script = 0; script < kScriptCount; ++script)
        written.by_script[script] += counts.by_script[script];
    }
  }
  for (size_t script = 0; script < kScriptCount; ++script) {
    const auto letters = static_cast<double>(written.by_script[script]);
    if (letters > 0 && letters >= kScriptShare * static_cast<double>(written.letters))
      calibration.scripts.set(script);
  }

  const auto check_all = [&] {
    std::vector<GarbageFinding> findings;
    for (size_t i = 0; i < reference.size(); ++i) {
      for (GarbageFinding& finding :
           CheckCompletion(reference[i], static_cast<int>(i), calibration)) {
        findings.push_back(std::move(finding));
      }
    }
    return findings;
  };
  std::array<int, kProbeKindCount> asked{};
  for (const ProbeResult& result : reference) ++asked[static_cast<size_t>(result.probe.kind)];
  std::array<std::array<int, kGarbageRuleCount>, kProbeKindCount> broken{};
  for (const GarbageFinding& finding : check_all()) {
    const ProbeKind kind = reference[static_cast<size_t>(finding.probe)].probe.kind;
    ++broken[static_cast<size_t>(kind)][static_cast<size_t>(finding.rule)];
  }
  for (size_t kind = 0; kind < kProbeKindCount; ++kind) {
    for (size_t rule = 0; rule < kGarbageRuleCount; ++rule) {
      if (static_cast<GarbageRule>(rule) == GarbageRule::kNonFinite) continue;  // never healthy
      if (broken[kind][rule] > kDisablingShare * asked[kind]) calibration.disabled[kind].set(rule);
    }
  }
  calibration.failing_share =
      static_cast<double>(CountFailing(check_all())) / static_cast<double>(reference.size());

  const Rates rates = MeasureRates(reference);
  calibration.stop_rate = rates.stop_rate;
  calibration.number_rate = rates.number_rate;
  calibration.strict_rate = rates.strict_rate;
  calibration.right_rate = rates.right_rate;
  return calibration;
}

GarbageJudgement JudgeGarbage(std::span<const ProbeResult> results,
                              const GarbageCalibration& calibration) {
  GarbageJudgement judgement;
  judgement.probes = static_cast<int>(results.size());
  for (int i = 0; i < judgement.probes; ++i) {
    for (GarbageFinding& finding :
         CheckCompletion(results[static_cast<size_t>(i)], i, calibration)) {
      judgement.findings.push_back(std::move(finding));
    }
  }
  judgement.failing = CountFailing(judgement.findings);
  if (results.empty()) return judgement;

  const auto decide = [&judgement](GarbageVerdict verdict, GarbageRule rule, int probe,
                                   const std::string& detail) {
    judgement.verdict = verdict;
    judgement.rule = rule;
    judgement.probe = probe;
    judgement.message = std::string(GarbageRuleName(rule)) + ": " + detail;
    return judgement;
  };
  const auto shown = [](const GarbageFinding& finding) {
    return "probe " + std::to_string(finding.probe) + ": " + finding.detail;
  };

  const auto nonfinite =
      std::find_if(judgement.findings.begin(), judgement.findings.end(),
                   [](const GarbageFinding& f) { return f.rule == GarbageRule::kNonFinite; });
  if (nonfinite != judgement.findings.end()) {
    return decide(GarbageVerdict::kGarbage, GarbageRule::kNonFinite, nonfinite->probe,
                  shown(*nonfinite));
  }

  const int expected = Share(calibration.failing_share, judgement.probes);
  const int garbage_from =
      std::min(judgement.probes, Share(kFailingShare, judgement.probes) + expected);
  const int suspect_from = expected + std::max(1, Share(kSuspectShare, judgement.probes));
  const auto decide_by_count = [&](GarbageVerdict verdict) {
    const GarbageFinding& finding = MostFrequent(judgement.findings);
    return decide(verdict, finding.rule, finding.probe,
                  std::to_string(judgement.failing) + " of " + std::to_string(judgement.probes) +
                      " probes fail (" + std::to_string(garbage_from) + " are garbage); " +
                      shown(finding));
  };
  if (judgement.failing >= garbage_from) return decide_by_count(GarbageVerdict::kGarbage);
  const Overall overall = CheckRates(MeasureRates(results), calibration);
  if (overall.verdict == GarbageVerdict::kGarbage)
    return decide(overall.verdict, overall.rule, 0, overall.detail);
  if (judgement.failing >= suspect_from) return decide_by_count(GarbageVerdict::kSuspect);
  if (overall.verdict == GarbageVerdict::kSuspect)
    return decide(overall.verdict, overall.rule, 0, overall.detail);
  return judgement;
}

}  // namespace hproc::evals
