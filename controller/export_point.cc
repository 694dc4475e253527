#include "controller/export_point.h"

#include "controller/clock.h"
#include "controller/tuner.h"

namespace hproc::controller {

bool IsExportable(const Trial& trial) {
  return trial.plan.kind == TrialKind::kPoint && trial.state == TrialState::kComplete &&
         trial.measured.accuracy.all_questions;
}

Result<OperatingPoint> ExportPoint(Store& store, const Study& study, const std::vector<Trial>& trials, int number) {
  const Trial& trial = trials[static_cast<size_t>(number)];
  const Result<StudyQuestions> questions = LoadQuestions(study.spec.eval);
  if (!questions.ok()) return questions.error();
  const Result<std::vector<Answer>> answers = store.ListAnswers(trial.id);
  if (!answers.ok()) return answers.error();
  return MakeOperatingPoint(study, trials, trial, *answers, questions->order, FormatUtc(SystemClock()()));
}

}  // namespace hproc::controller
