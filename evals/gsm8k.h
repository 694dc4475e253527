// GSM8K prompts, to the byte.
//
// Source: lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml, version 3.0, run by one process without a
// chat template:
//
//   Question: {question of shot 1}\nAnswer: {worked solution of shot 1}\n\n
//   …
//   Question: {question}\nAnswer:
//
// No white space follows the last colon; the solutions keep their <<48/2=24>> marks and their last
// line, "#### N". The shots of the documents are drawn one document after the other,
// `random.Random(1234).sample(pool, shots)` each time from ONE generator, so every question has
// shots of its own, and they depend on its index in the file but not on the order or the number of
// the questions asked. With 0 shots only the last line is left; the embedded wordmath model is
// asked so.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "evals/task_file.h"

namespace hproc::evals {

// The answer ends before the first of these. The harness sets no length; its default of 256 tokens
// cuts models that think before they answer, so the length is the protocol's (eval_protocol.h).
inline constexpr std::array<std::string_view, 3> kGsm8kStops{"Question:", "</s>", "<|im_end|>"};
inline constexpr uint64_t kGsm8kShotSeed = 1234;

// "Question: {question}\nAnswer:"
std::string Gsm8kQuestion(std::string_view question);

// The questions of a task file with their prompts. Immutable, so thread-safe.
class Gsm8kTask {
 public:
  // Draws `shots` shots a question from `shot_pool`, which is unused with 0 shots. An error: more
  // shots than the pool has, or less than 0.
  static Result<Gsm8kTask> Create(TaskFile tasks, TaskFile shot_pool, int shots);

  int size() const { return static_cast<int>(tasks_.items.size()); }
  int shots() const { return shots_; }
  const TaskFile& tasks() const { return tasks_; }
  const TaskFile& shot_pool() const { return shot_pool_; }
  const TaskItem& item(int question) const;

  // Indices in the shot pool, in the order of the prompt.
  std::span<const int> ShotIndices(int question) const;
  std::string Prompt(int question) const;

  // Of all prompts in the order of the file, each followed by a NUL: two tasks with one digest ask
  // the same.
  std::string PromptsSha256() const;

 private:
  Gsm8kTask(TaskFile tasks, TaskFile shot_pool, int shots);

  TaskFile tasks_;
  TaskFile shot_pool_;
  int shots_;
  std::vector<int> shot_indices_;  // [questions, shots]
};

// Reads both files; `shots_path` is not looked at with 0 shots.
Result<Gsm8kTask> ReadGsm8kTask(const std::filesystem::path& tasks_path,
                                const std::filesystem::path& shots_path, int shots);

}  // namespace hproc::evals
