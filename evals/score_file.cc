#include "evals/score_file.h"

#include <array>
#include <string_view>

#include "evals/gsm8k.h"
#include "evals/scoring.h"

namespace hproc::evals {

Result<FileScore> ScoreFile(const std::filesystem::path& path, const JsonLinesLimits& limits) {
  constexpr std::array<std::string_view, 2> kFields{"answer", "output"};
  const Result<JsonLinesFile> file = ReadJsonLines(path, kFields, limits);
  if (!file.ok()) return file.error();

  FileScore sum;
  for (const JsonLine& line : file->lines) {
    const AnswerScore score = ScoreAnswer(line.values[0], CutAtStop(line.values[1], kGsm8kStops));
    ++sum.total;
    sum.strict += score.strict_correct ? 1 : 0;
    sum.flexible += score.flexible_correct ? 1 : 0;
    sum.invalid += score.strict == kInvalidExtraction ? 1 : 0;
  }
  return sum;
}

}  // namespace hproc::evals
