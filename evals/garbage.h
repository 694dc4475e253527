// Garbage detection: does a model talk sense? Sense is not accuracy: a model that reasons badly in
// fluent sentences is sensible, and how accurate it is the task says.
//
// Judged are the completions of a set of probes (probes.h). Rules on the single completion:
//
// - nonfinite_logits: a NaN or an infinity anywhere; no other rule is asked then
// - hard_loop: a period of 1 to 128 tokens, four copies, 64 tokens (token_loops.h)
// - repeated_phrases: four tokens in a row, three of them distinct, more than 12 times in 256
// - few_distinct_tokens: less than 10 % distinct tokens among 200
// - replacement_characters: 2 % of the text, and at least 3, are U+FFFD or broken UTF-8
// - control_characters: 2 % of the text, and at least 3, are control characters
// - unexpected_script: 20 % of the letters, and at least 8, are of scripts foreign to the reference
// - empty: nothing but white space
//
// Rules on all completions together, each relative to the reference:
//
// - never_stops: no completion ended by itself, where half of the reference's did
// - no_numbers: of the answers that ask for a number, fewer than a quarter as many hold one
// - nothing_right: none of them (of eight or more) is right, where a quarter of the reference's
//   were. This is the rule that word salad breaks, which neither loops nor lacks digits. It stands
//   for accuracy only where there is next to none: a model that gets one in six right passes 16
//   such probes nineteen times in twenty
// - hardly_any_right: so few that a model half as good as the reference would get no more one time
//   in twenty. One lucky answer of word salad must not make sense of it; whether it is that, the
//   task decides
//
// The reference is a point that is known to be healthy: the one with the highest floors that fits.
// Healthy models break some of these rules (a small model loops when it is asked what it was not
// trained on, a thinking model loops under greedy decoding), so what the reference does sets what
// is asked of the others: see CalibrateGarbage. A reference that is itself garbage under no
// calibration is a fault of the loader, not a boundary.
//
// Pure functions, thread-safe.
#pragma once

#include <array>
#include <bitset>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "evals/probes.h"
#include "evals/scripts.h"

namespace hproc::evals {

enum class GarbageRule {
  kNone,
  kNonFinite,
  kHardLoop,
  kRepeatedPhrases,
  kFewDistinctTokens,
  kReplacementCharacters,
  kControlCharacters,
  kUnexpectedScript,
  kEmpty,
  kNeverStops,
  kNoNumbers,
  kNothingRight,
  kHardlyAnyRight,
};
inline constexpr int kGarbageRuleCount = 13;
std::string_view GarbageRuleName(GarbageRule rule);  // "none", "nonfinite_logits", …
std::optional<GarbageRule> GarbageRuleFromName(std::string_view name);

// What the reference tells about healthy output. The default is no knowledge: every rule on single
// completions is in force but unexpected_script, and the rules relative to the reference are not.
struct GarbageCalibration {
  int probes = 0;  // answered by the reference; 0: no reference
  // [kind, rule]: not asked of probes of that kind, since the reference breaks the rule on over a
  // quarter of them.
  std::array<std::bitset<kGarbageRuleCount>, kProbeKindCount> disabled{};
  double failing_share = 0;  // of the probes: the reference breaks a rule still in force
  // Those with 1 % or more of the letters of its prompts and answers; none: unknown.
  std::bitset<kScriptCount> scripts{};
  double stop_rate = 0;    // of all its completions: ended by an end token or a stop text
  double number_rate = 0;  // of those that ask for a number: hold one at all
  double strict_rate = 0;  // … hold "#### N"
  double right_rate = 0;   // … hold the right one, by flexible extract

  bool operator==(const GarbageCalibration&) const = default;
};

// A reference that gets fewer right says nothing about models that get none right.
inline constexpr double kReferenceRightRate = 0.25;

GarbageCalibration CalibrateGarbage(std::span<const ProbeResult> reference);

// For the store. Parsing refuses what ToJson would not have written.
std::string GarbageCalibrationToJson(const GarbageCalibration& calibration);
Result<GarbageCalibration> GarbageCalibrationFromJson(std::string_view json);

enum class GarbageVerdict {
  kSensible,
  kSuspect,  // worse than the reference, but not by enough to say so; the task decides
  kGarbage,
};
std::string_view GarbageVerdictName(GarbageVerdict verdict);  // "sensible", "suspect", "garbage"

// One rule that one completion broke.
struct GarbageFinding {
  int probe = 0;  // index among the results judged
  GarbageRule rule = GarbageRule::kNone;
  std::string detail;  // "period 5, 51 copies from token 82"
};

struct GarbageJudgement {
  GarbageVerdict verdict = GarbageVerdict::kSensible;
  GarbageRule rule = GarbageRule::kNone;  // that decided; of several the one most completions broke
  int probe = -1;                         // whose transcript shows it; -1 where sensible
  // One line: "hard_loop: 14 of 22 probes fail (11 are garbage); probe 3: …"; empty where sensible.
  std::string message;
  int probes = 0;
  int failing = 0;                       // that break at least one rule on single completions
  std::vector<GarbageFinding> findings;  // by probe, then by rule
};

// Garbage: a non-finite logit; at least half of the probes fail, and beyond that as many as of the
// reference's did (but all of them are always enough); never_stops, no_numbers or nothing_right.
// Suspect: one in ten probes fails, at least one, beyond those of the reference; fewer than half as
// many answers hold "#### N"; hardly_any_right; nothing is right, and there is no reference or one that got less than
// a quarter right. The last is how a loader that mixes up tensors shows when the reference itself
// is judged. Sensible for an empty list of results.
GarbageJudgement JudgeGarbage(std::span<const ProbeResult> results,
                              const GarbageCalibration& calibration);

// The rules on one completion, as JudgeGarbage asks them.
std::vector<GarbageFinding> CheckCompletion(const ProbeResult& result, int index,
                                            const GarbageCalibration& calibration);

}  // namespace hproc::evals
