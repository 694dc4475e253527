// An answered question and the sums over many. Plain data.
#pragma once

#include <string>

#include "evals/generator.h"

namespace hproc::evals {

// One question answered by one trial. `question` is the index in the task file, not in the order.
struct Answer {
  std::string stage;  // "probe", "smoke", "screen", "full"
  int question = 0;
  int seed = 0;
  std::string prompt_sha256;
  std::string text;
  std::string strict;  // cleaned extraction; "[invalid]" where there is none
  std::string flexible;
  bool strict_correct = false;
  bool flexible_correct = false;
  FinishReason finish = FinishReason::kEndToken;
  int prompt_tokens = 0;
  int generated_tokens = 0;

  bool operator==(const Answer&) const = default;
};

// Sums over a trial's task answers (probes left out).
struct AccuracyTally {
  int total = 0;
  int strict_correct = 0;
  int flexible_correct = 0;
  int invalid = 0;    // no strict extraction
  int truncated = 0;  // ended by length or context
  // False: stopped early; decides acceptance only and is never shown as accuracy.
  bool all_questions = false;

  bool operator==(const AccuracyTally&) const = default;
};

// Adds one answer; all_questions stays as it is.
void AddToTally(const Answer& answer, AccuracyTally& tally);

// More than 2 % of the answers were cut short: the accuracy then measures the budget, not the
// model, and is flagged.
bool TooManyTruncated(const AccuracyTally& tally);

}  // namespace hproc::evals
