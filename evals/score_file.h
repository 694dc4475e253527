// Scores a file of answers: what `hproc score` does.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "evals/json_lines.h"

namespace hproc::evals {

struct FileScore {
  int total = 0;
  int strict = 0;    // right by strict match
  int flexible = 0;  // right by flexible extract
  int invalid = 0;   // without a strict extraction

  bool operator==(const FileScore&) const = default;
};

// Lines {"answer": gold, "output": model text}. The gold is a worked solution or the bare number.
// The text is cut at the stops of GSM8K first (gsm8k.h), as a harness does while it generates; a
// text that was cut already stays as it is. Errors: those of ReadJsonLines.
Result<FileScore> ScoreFile(const std::filesystem::path& path, const JsonLinesLimits& limits = {});

}  // namespace hproc::evals
