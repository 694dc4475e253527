// SqliteStore: a Store over one connection to one study file. Made by OpenSqliteStore (store.h),
// which has locked, looked through and migrated the file; here are the transactions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/clock.h"
#include "controller/database.h"
#include "controller/file_lock.h"
#include "controller/store.h"

namespace hproc::controller {

class SqliteStore final : public Store {
 public:
  struct Opened {
    std::string name;              // the path as the caller gave it, for messages
    std::filesystem::path file;    // the file itself, symbolic links resolved
    std::optional<FileLock> lock;  // where it may be written
    Database database;
    Database::Access access;
  };

  SqliteStore(Opened opened, Clock clock);

  Result<Study> CreateStudy(const StudySpec& spec) override;
  Result<std::optional<Study>> FindStudy(std::string_view name) override;
  Result<std::vector<Study>> ListStudies() override;
  Result<void> SetStudyState(int64_t study_id, StudyState state) override;
  Result<void> SetStudyOutcome(int64_t study_id, const std::string& outcome_json) override;
  Result<void> SetStudyMeasure(int64_t study_id, const std::string& measure_json) override;
  Result<void> SetStudyCalibration(int64_t study_id,
                                   const std::string& calibration_json) override;

  Result<Trial> AddTrial(int64_t study_id, const NewTrial& trial) override;
  Result<int> StartAttempt(int64_t trial_id, const std::string& log_path) override;
  Result<void> EndAttempt(int64_t trial_id, int attempt, const Verdict& verdict, GivenAnswers answers) override;
  Result<void> AddAnswers(int64_t trial_id, const std::vector<Answer>& answers) override;
  Result<void> FinishTrial(int64_t trial_id, TrialState state, const Verdict& verdict,
                           const TrialMeasurements& measurements) override;

  Result<Trial> GetTrial(int64_t trial_id) override;
  Result<std::vector<Trial>> ListTrials(int64_t study_id, Plans plans) override;
  Result<std::vector<Answer>> ListAnswers(int64_t trial_id) override;

 private:
  // Run `body` under the mutex and in one transaction; Write commits what it did where it returned
  // a value. An error of the rules and one of SQLite come out alike, with the file's name before
  // them.
  template <typename Body>
  auto Write(Body body) -> decltype(body());
  template <typename Body>
  auto Read(Body body) -> decltype(body());
  template <typename Body>
  auto InTransaction(Transaction::Kind kind, Body body) -> decltype(body());

  Result<void> UpdateStudy(int64_t study_id, std::string_view sql, std::string_view value);
  void ThawIfWritten();
  std::string NowUtc() const { return FormatUtc(clock_()); }

  const std::string name_;
  const std::filesystem::path file_;
  const Clock clock_;
  const bool can_write_;
  std::mutex mutex_;
  std::optional<FileLock> lock_;  // before the connection: released after it is closed
  Database database_;
  Database::Access access_;
};

}  // namespace hproc::controller
