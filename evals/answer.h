// An answered question and the sums over many. Plain data.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "evals/generator.h"
#include "evals/statistics.h"

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
  std::vector<int> strict_by_seed;  // strict_correct seed by seed, in the order in which they were asked
  int64_t strict_squares = 0;       // over the questions, the square of how many seeds answered it right
  // False: stopped early; decides acceptance only and is never shown as accuracy.
  bool all_questions = false;

  bool operator==(const AccuracyTally&) const = default;
};

// Counts answers, each (question, seed) at most once, a seed's all in a row. all_questions stays false.
class AccuracyCounter {
 public:
  void Add(const Answer& answer);
  const AccuracyTally& tally() const { return tally_; }

 private:
  AccuracyTally tally_;
  std::vector<int> seeds_;
  std::map<int, int> right_;  // question: seeds that answered it right
};

// 95 % interval of the strict-match rate of a tally of all questions. With one seed Wilson's. With several the answers to a
// question are not independent of each other: the variance is that of the questions' means (Miller 2024, arXiv 2411.00640,
// clustered standard errors), and the interval is Wilson's for as many independent answers as would have that variance,
// between the number of questions and the number of answers (Korn and Graubard 1998).
Interval AccuracyInterval(const AccuracyTally& tally);

// More than 2 % of the answers were cut short: the accuracy then measures the budget, not the
// model, and is flagged.
bool TooManyTruncated(const AccuracyTally& tally);

}  // namespace hproc::evals
