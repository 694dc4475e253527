#include "evals/gsm8k.h"

#include <utility>

#include "base/check.h"
#include "base/sha256.h"
#include "evals/python_random.h"

namespace hproc::evals {

std::string Gsm8kQuestion(std::string_view question) {
  return "Question: " + std::string(question) + "\nAnswer:";
}

Result<Gsm8kTask> Gsm8kTask::Create(TaskFile tasks, TaskFile shot_pool, int shots) {
  if (shots < 0) return Error{"the number of shots is negative"};
  if (shots > std::ssize(shot_pool.items)) {
    return Error{shot_pool.path.string() + ": has " + std::to_string(shot_pool.items.size()) +
                 " items, fewer than " + std::to_string(shots) + " shots"};
  }
  return Gsm8kTask(std::move(tasks), std::move(shot_pool), shots);
}

Gsm8kTask::Gsm8kTask(TaskFile tasks, TaskFile shot_pool, int shots)
    : tasks_(std::move(tasks)), shot_pool_(std::move(shot_pool)), shots_(shots) {
  if (shots_ == 0) return;
  PythonRandom random(kGsm8kShotSeed);
  shot_indices_.reserve(tasks_.items.size() * static_cast<size_t>(shots_));
  for (int question = 0; question < size(); ++question) {
    const std::vector<int> drawn = random.Sample(static_cast<int>(shot_pool_.items.size()), shots_);
    shot_indices_.insert(shot_indices_.end(), drawn.begin(), drawn.end());
  }
}

const TaskItem& Gsm8kTask::item(int question) const {
  HPROC_CHECK(question >= 0 && question < size(), "no such question");
  return tasks_.items[static_cast<size_t>(question)];
}

std::span<const int> Gsm8kTask::ShotIndices(int question) const {
  HPROC_CHECK(question >= 0 && question < size(), "no such question");
  return std::span(shot_indices_)
      .subspan(static_cast<size_t>(question) * static_cast<size_t>(shots_),
               static_cast<size_t>(shots_));
}

std::string Gsm8kTask::Prompt(int question) const {
  std::string prompt;
  for (const int index : ShotIndices(question)) {
    const TaskItem& shot = shot_pool_.items[static_cast<size_t>(index)];
    prompt += Gsm8kQuestion(shot.question) + " " + shot.answer + "\n\n";
  }
  return prompt + Gsm8kQuestion(item(question).question);
}

std::string Gsm8kTask::PromptsSha256() const {
  Sha256 digest;
  for (int question = 0; question < size(); ++question) {
    digest.Update(Prompt(question));
    digest.Update(std::string_view("\0", 1));
  }
  return digest.FinishHex();
}

Result<Gsm8kTask> ReadGsm8kTask(const std::filesystem::path& tasks_path,
                                const std::filesystem::path& shots_path, int shots) {
  Result<TaskFile> tasks = ReadTaskFile(tasks_path);
  if (!tasks.ok()) return tasks.error();
  if (shots == 0) return Gsm8kTask::Create(*std::move(tasks), {}, 0);
  Result<TaskFile> pool = ReadTaskFile(shots_path);
  if (!pool.ok()) return pool.error();
  return Gsm8kTask::Create(*std::move(tasks), *std::move(pool), shots);
}

}  // namespace hproc::evals
