#include "evals/task_file.h"

#include <array>
#include <string_view>
#include <utility>

#include "evals/scoring.h"

namespace hproc::evals {
namespace {

// Whether an extraction can equal it: extractions, cleaned, hold digits, points and a leading minus
// only.
bool IsNumber(std::string_view gold) {
  if (gold.starts_with('-')) gold.remove_prefix(1);
  return gold.find_first_of("0123456789") != std::string_view::npos &&
         gold.find_first_not_of("0123456789.") == std::string_view::npos;
}

}  // namespace

Result<TaskFile> ReadTaskFile(const std::filesystem::path& path, const JsonLinesLimits& limits) {
  constexpr std::array<std::string_view, 2> kFields{"question", "answer"};
  Result<JsonLinesFile> file = ReadJsonLines(path, kFields, limits);
  if (!file.ok()) return file.error();

  TaskFile tasks{.path = path, .sha256 = file->sha256, .items = {}};
  tasks.items.reserve(file->lines.size());
  for (JsonLine& line : file->lines) {
    TaskItem item{
        .question = std::move(line.values[0]), .answer = std::move(line.values[1]), .gold = {}};
    item.gold = CleanAnswer(item.answer);
    const std::string place = path.string() + ": line " + std::to_string(line.number) + ": ";
    if (item.question.empty()) return Error{place + "the question is empty"};
    if (!IsNumber(item.gold)) return Error{place + "the answer has no number after \"#### \""};
    tasks.items.push_back(std::move(item));
  }
  return tasks;
}

}  // namespace hproc::evals
