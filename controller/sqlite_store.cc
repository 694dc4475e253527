#include "controller/sqlite_store.h"

#include <utility>

#include "controller/store_rules.h"
#include "controller/study_rows.h"

namespace hproc::controller {

SqliteStore::SqliteStore(Opened opened, Clock clock)
    : name_(std::move(opened.name)),
      file_(std::move(opened.file)),
      clock_(std::move(clock)),
      can_write_(opened.access == Database::Access::kReadWrite),
      lock_(std::move(opened.lock)),
      database_(std::move(opened.database)),
      access_(opened.access) {}

// ---- the frame of every call -------------------------------------------------------------------

template <typename Body>
auto SqliteStore::InTransaction(Transaction::Kind kind, Body body) -> decltype(body()) {
  const std::scoped_lock hold(mutex_);
  try {
    ThawIfWritten();
    Transaction transaction(database_, kind);
    decltype(body()) result = body();
    if (!result.ok()) return Error{name_ + ": " + result.error().message};
    if (kind == Transaction::Kind::kWrite) transaction.Commit();
    return result;
  } catch (const std::exception& error) {  // DatabaseError, and no memory for a result
    return Error{name_ + ": " + error.what()};
  }
}

template <typename Body>
auto SqliteStore::Write(Body body) -> decltype(body()) {
  if (!can_write_) return Error{name_ + ": is open for reading only"};
  return InTransaction(Transaction::Kind::kWrite, std::move(body));
}

template <typename Body>
auto SqliteStore::Read(Body body) -> decltype(body()) {
  return InTransaction(Transaction::Kind::kRead, std::move(body));
}

// A frozen connection does not see what a writer adds. None could be there when it was opened; a
// write-ahead log beside the file says that one has come.
void SqliteStore::ThawIfWritten() {
  if (access_ != Database::Access::kFrozen) return;
  std::filesystem::path log = file_;
  log += "-wal";
  std::error_code code;
  const uintmax_t bytes = std::filesystem::file_size(log, code);
  if (code || bytes == 0) return;
  database_ = Database(file_, Database::Access::kReadOnly);
  access_ = Database::Access::kReadOnly;
}

// ---- studies -----------------------------------------------------------------------------------

Result<Study> SqliteStore::CreateStudy(const StudySpec& spec) {
  return Write([&]() -> Result<Study> {
    if (Result<void> allowed = CheckStudySpec(spec); !allowed) return allowed.error();
    if (ReadStudy(database_, spec.name)) return StudyExists(spec.name);
    Study study;
    study.spec = spec;
    study.created_utc = NowUtc();
    study.id = InsertStudy(database_, spec, study.created_utc);
    return study;
  });
}

Result<std::optional<Study>> SqliteStore::FindStudy(std::string_view name) {
  return Read([&]() -> Result<std::optional<Study>> { return ReadStudy(database_, name); });
}

Result<std::vector<Study>> SqliteStore::ListStudies() {
  return Read([&]() -> Result<std::vector<Study>> { return ReadStudies(database_); });
}

Result<void> SqliteStore::UpdateStudy(int64_t study_id, std::string_view sql,
                                      std::string_view value) {
  return Write([&]() -> Result<void> {
    database_.Prepare(sql).Bind(value, study_id).Run();
    if (database_.RowsChanged() == 0) return NoSuchStudy(study_id);
    return Ok();
  });
}

Result<void> SqliteStore::SetStudyState(int64_t study_id, StudyState state) {
  return UpdateStudy(study_id, "UPDATE studies SET state = ? WHERE id = ?", StudyStateName(state));
}

Result<void> SqliteStore::SetStudyOutcome(int64_t study_id, const std::string& outcome_json) {
  return UpdateStudy(study_id, "UPDATE studies SET outcome_json = ? WHERE id = ?", outcome_json);
}

Result<void> SqliteStore::SetStudyCalibration(int64_t study_id,
                                              const std::string& calibration_json) {
  return UpdateStudy(study_id, "UPDATE studies SET calibration_json = CASE calibration_json WHEN '' THEN ?1 ELSE calibration_json END WHERE id = ?2",
                     calibration_json);
}

Result<void> SqliteStore::SetStudyMeasure(int64_t study_id, const std::string& measure_json) {
  return UpdateStudy(study_id, "UPDATE studies SET measure_json = ? WHERE id = ?", measure_json);
}

// ---- trials ------------------------------------------------------------------------------------

Result<Trial> SqliteStore::AddTrial(int64_t study_id, const NewTrial& plan) {
  return Write([&]() -> Result<Trial> {
    if (!ReadStudyName(database_, study_id)) return NoSuchStudy(study_id);
    if (Result<void> allowed = CheckNewTrial(plan); !allowed) return allowed.error();
    if (const auto holder = ReadPlanHolder(database_, study_id, plan)) {
      return PlanExists(*holder, plan);
    }
    Trial trial;
    trial.number = NextTrialNumber(database_, study_id);
    trial.study_id = study_id;
    trial.plan = plan;
    trial.created_utc = NowUtc();
    trial.id = InsertTrial(database_, trial);
    return trial;
  });
}

Result<int> SqliteStore::StartAttempt(int64_t trial_id, const std::string& log_path) {
  return Write([&]() -> Result<int> {
    const std::optional<TrialHead> head = ReadTrialHead(database_, trial_id);
    if (!head) return NoSuchTrial(trial_id);
    if (Result<void> allowed = CheckMayStart(*head); !allowed) return allowed.error();
    const std::string now = NowUtc();
    EndOpenAttempt(database_, trial_id, InterruptedAttempt(), now);
    Attempt attempt;
    attempt.number = ReadLatestAttempt(database_, trial_id).number + 1;
    attempt.started_utc = now;
    attempt.log_path = log_path;
    InsertAttempt(database_, trial_id, attempt);
    UpdateTrialRunning(database_, trial_id);
    return attempt.number;
  });
}

Result<void> SqliteStore::EndAttempt(int64_t trial_id, int attempt, const Verdict& verdict, GivenAnswers answers) {
  return Write([&]() -> Result<void> {
    const std::optional<TrialHead> head = ReadTrialHead(database_, trial_id);
    if (!head) return NoSuchTrial(trial_id);
    const LatestAttempt latest = ReadLatestAttempt(database_, trial_id);
    if (Result<void> allowed = CheckMayEndAttempt(*head, attempt, latest.number, latest.open);
        !allowed) {
      return allowed;
    }
    EndOpenAttempt(database_, trial_id, verdict, NowUtc());
    if (answers == GivenAnswers::kWithdrawn) DeleteAnswers(database_, trial_id, attempt);
    return Ok();
  });
}

Result<void> SqliteStore::AddAnswers(int64_t trial_id, const std::vector<Answer>& answers) {
  return Write([&]() -> Result<void> {
    const std::optional<TrialHead> head = ReadTrialHead(database_, trial_id);
    if (!head) return NoSuchTrial(trial_id);
    const LatestAttempt latest = ReadLatestAttempt(database_, trial_id);
    if (Result<void> allowed = CheckMayAnswer(*head, latest.open, answers); !allowed) return allowed;
    InsertAnswers(database_, trial_id, latest.number, answers);
    return Ok();
  });
}

Result<void> SqliteStore::FinishTrial(int64_t trial_id, TrialState state, const Verdict& verdict,
                                      const TrialMeasurements& measurements) {
  return Write([&]() -> Result<void> {
    const std::optional<TrialHead> head = ReadTrialHead(database_, trial_id);
    if (!head) return NoSuchTrial(trial_id);
    if (Result<void> allowed = CheckMayFinish(*head, state, verdict); !allowed) return allowed;
    const std::string now = NowUtc();
    EndOpenAttempt(database_, trial_id, verdict, now);
    FinishTrialRows(database_, trial_id, state, verdict, WithoutInfinities(measurements), now);
    return Ok();
  });
}

Result<Trial> SqliteStore::GetTrial(int64_t trial_id) {
  return Read([&]() -> Result<Trial> {
    std::optional<Trial> trial = ReadTrial(database_, trial_id);
    if (!trial) return NoSuchTrial(trial_id);
    return *std::move(trial);
  });
}

Result<std::vector<Trial>> SqliteStore::ListTrials(int64_t study_id, Plans plans) {
  return Read([&]() -> Result<std::vector<Trial>> {
    if (!ReadStudyName(database_, study_id)) return NoSuchStudy(study_id);
    return ReadTrials(database_, study_id, plans);
  });
}

Result<std::vector<Answer>> SqliteStore::ListAnswers(int64_t trial_id) {
  return Read([&]() -> Result<std::vector<Answer>> {
    if (!ReadTrialHead(database_, trial_id)) return NoSuchTrial(trial_id);
    return ReadAnswers(database_, trial_id);
  });
}

}  // namespace hproc::controller
