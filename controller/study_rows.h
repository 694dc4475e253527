// The study's structs as rows of schema/, both ways. SQL for the tables stands here and in
// sqlite_store.cc alone.
//
// Internal to the SQLite store: everything throws DatabaseError, nothing opens a transaction (the
// caller's rule holds several of these together).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/database.h"
#include "controller/store.h"
#include "controller/store_rules.h"
#include "controller/study.h"

namespace hproc::controller {

// ---- studies ----
int64_t InsertStudy(Database& database, const StudySpec& spec, std::string_view created_utc);
std::vector<Study> ReadStudies(Database& database);  // oldest first
std::optional<Study> ReadStudy(Database& database, std::string_view name);
std::optional<std::string> ReadStudyName(Database& database, int64_t study_id);

// ---- trials ----
int64_t InsertTrial(Database& database, const Trial& trial);  // new: state waiting, id ignored
std::vector<Trial> ReadTrials(Database& database, int64_t study_id, Plans plans);  // by number
std::optional<Trial> ReadTrial(Database& database, int64_t trial_id);
std::optional<TrialHead> ReadTrialHead(Database& database, int64_t trial_id);
// The trial of the study, not failed, that has this kind and plan.
std::optional<TrialHead> ReadPlanHolder(Database& database, int64_t study_id, const NewTrial& plan);
int NextTrialNumber(Database& database, int64_t study_id);

void UpdateTrialRunning(Database& database, int64_t trial_id);
// Measurements first, the state last: from then on the rows are frozen.
void FinishTrialRows(Database& database, int64_t trial_id, TrialState state, const Verdict& verdict,
                     const TrialMeasurements& measured, std::string_view finished_utc);

// ---- attempts ----
struct LatestAttempt {
  int number = 0;  // 0: none
  bool open = false;
};
LatestAttempt ReadLatestAttempt(Database& database, int64_t trial_id);
void InsertAttempt(Database& database, int64_t trial_id, const Attempt& attempt);
// The open one, if there is one.
void EndOpenAttempt(Database& database, int64_t trial_id, const Verdict& verdict,
                    std::string_view ended_utc);

// ---- answers ----
void InsertAnswers(Database& database, int64_t trial_id, int attempt, const std::vector<Answer>& answers);
void DeleteAnswers(Database& database, int64_t trial_id, int attempt);
std::vector<Answer> ReadAnswers(Database& database, int64_t trial_id);  // by stage, question, seed

}  // namespace hproc::controller
