// The rules of store.h that hold wherever a study is kept. Every implementation asks here before it
// writes, so that all refuse the same things in the same words; the schema repeats the ones on
// frozen rows as triggers, against bugs and hand-written SQL.
//
// Pure functions. The errors name the study and the trial, and the implementation puts the file
// before them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "controller/study.h"

namespace hproc::controller {

// What a refusal has to know of a trial.
struct TrialHead {
  std::string study_name;
  int number = 0;
  TrialState state = TrialState::kWaiting;
};

// complete, infeasible or failed.
bool IsFinished(TrialState state);

// The name is printable, every text is UTF-8 (it is kept as JSON), every bound is a number.
Result<void> CheckStudySpec(const StudySpec& spec);
// Floors and rates are numbers, bytes are not negative.
Result<void> CheckNewTrial(const NewTrial& trial);

Result<void> CheckMayStart(const TrialHead& trial);
// `latest` is the number of the trial's latest attempt (0: none), `open` whether that one still
// runs.
Result<void> CheckMayEndAttempt(const TrialHead& trial, int attempt, int latest, bool open);
// `open`: whether an attempt runs, whose answers they would be.
Result<void> CheckMayAnswer(const TrialHead& trial, bool open, const std::vector<Answer>& answers);
// complete goes with no reason, infeasible with out_of_memory or garbage_output, failed with the
// others.
Result<void> CheckMayFinish(const TrialHead& trial, TrialState state, const Verdict& verdict);

// Every number that is not finite becomes NaN, which SQL and JSON write as null: an infinity would
// poison each sum and mean it enters.
TrialMeasurements WithoutInfinities(TrialMeasurements measured);

// How an attempt ends that was still open when its trial got another: its controller died.
Verdict InterruptedAttempt();

// Refusals that need no check, only words.
Error NoSuchStudy(int64_t study_id);
Error NoSuchTrial(int64_t trial_id);
Error StudyExists(std::string_view name);
Error PlanExists(const TrialHead& holder, const NewTrial& wanted);

}  // namespace hproc::controller
