#include "evals/answer.h"

#include "evals/scoring.h"

namespace hproc::evals {

void AddToTally(const Answer& answer, AccuracyTally& tally) {
  const bool truncated =
      answer.finish == FinishReason::kLength || answer.finish == FinishReason::kContext;
  ++tally.total;
  tally.strict_correct += answer.strict_correct ? 1 : 0;
  tally.flexible_correct += answer.flexible_correct ? 1 : 0;
  tally.invalid += answer.strict == kInvalidExtraction ? 1 : 0;
  tally.truncated += truncated ? 1 : 0;
}

bool TooManyTruncated(const AccuracyTally& tally) { return tally.truncated * 50 > tally.total; }

}  // namespace hproc::evals
