// Task files: one question a line in the layout of GSM8K, {"question": …, "answer": …}.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "evals/json_lines.h"

namespace hproc::evals {

struct TaskItem {
  std::string question;
  std::string answer;  // the worked solution; its last line is "#### N"
  std::string gold;    // N, cleaned for comparison (scoring.h): "1234" of "#### 1,234"
};

struct TaskFile {
  std::filesystem::path path;
  std::string sha256;  // of the file as it lies on the disk
  std::vector<TaskItem> items;
};

// Errors: those of ReadJsonLines, an empty question, and an answer without a number: no output
// could ever match it, so every model would score as if it were wrong. An answer that is the bare
// number passes.
Result<TaskFile> ReadTaskFile(const std::filesystem::path& path,
                              const JsonLinesLimits& limits = {});

}  // namespace hproc::evals
