// JSON-lines files of text fields: task files and answer files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hproc::evals {

struct JsonLinesLimits {
  int64_t max_file_bytes = int64_t{1} << 30;
  int64_t max_line_bytes = int64_t{4} << 20;
  int64_t max_lines = 1'000'000;  // lines that hold something
};

struct JsonLine {
  int64_t number = 0;               // in the file, from 1
  std::vector<std::string> values;  // of the fields asked for, in that order
};

struct JsonLinesFile {
  std::string sha256;  // of the bytes of the file
  std::vector<JsonLine> lines;
};

// Reads the string fields `fields` of every line, each of which must be an object that has them
// all; other fields are ignored, and so are lines of nothing but white space. Errors: what ReadFile
// refuses, more than the limits allow, text that is not UTF-8, a line that is not JSON or lacks a
// field, no line at all. They name the file and the line.
Result<JsonLinesFile> ReadJsonLines(const std::filesystem::path& path,
                                    std::span<const std::string_view> fields,
                                    const JsonLinesLimits& limits = {});

}  // namespace hproc::evals
