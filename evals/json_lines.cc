#include "evals/json_lines.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/sha256.h"
#include "base/utf8.h"

namespace hproc::evals {
namespace {

// The fields of one line, or what is wrong with it.
Result<std::vector<std::string>> ParseLine(std::string_view line,
                                           std::span<const std::string_view> fields) {
  if (const std::optional<size_t> offset = FindInvalidUtf8(line)) {
    return Error{"not UTF-8 (byte " + std::to_string(*offset + 1) + ")"};
  }
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::parse_error& error) {
    // Not its own message: that one quotes the token it stumbled over, which may be the whole line.
    return Error{"not JSON (byte " + std::to_string(error.byte) + ")"};
  }
  if (!object.is_object()) return Error{"not a JSON object"};
  std::vector<std::string> values;
  values.reserve(fields.size());
  for (const std::string_view field : fields) {
    const auto it = object.find(std::string(field));
    if (it == object.end()) return Error{"no field \"" + std::string(field) + "\""};
    if (!it->is_string()) return Error{"field \"" + std::string(field) + "\" is not a string"};
    values.push_back(std::move(it->get_ref<std::string&>()));
  }
  return values;
}

}  // namespace

Result<JsonLinesFile> ReadJsonLines(const std::filesystem::path& path,
                                    std::span<const std::string_view> fields,
                                    const JsonLinesLimits& limits) {
  const Result<std::string> content = ReadFile(path, limits.max_file_bytes);
  if (!content.ok()) return content.error();

  JsonLinesFile file;
  file.sha256 = Sha256Hex(*content);
  std::string_view rest = *content;
  int64_t number = 0;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto complain = [&](const std::string& what) {
      return Error{path.string() + ": line " + std::to_string(number) + ": " + what};
    };
    if (std::ssize(line) > limits.max_line_bytes) {
      return complain(std::to_string(line.size()) + " bytes, more than the " +
                      std::to_string(limits.max_line_bytes) + " allowed");
    }
    if (std::ssize(file.lines) == limits.max_lines) {
      return complain("more than the " + std::to_string(limits.max_lines) + " lines allowed");
    }
    Result<std::vector<std::string>> values = ParseLine(line, fields);
    if (!values.ok()) return complain(values.error().message);
    file.lines.push_back({.number = number, .values = *std::move(values)});
  }
  if (file.lines.empty()) return Error{path.string() + ": holds no line"};
  return file;
}

}  // namespace hproc::evals
