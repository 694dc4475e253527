// Store: the one place where a study lives.
//
// Contract, kept by every implementation and tested by one suite over all of them
// (tests/controller/store_contract.h):
//  - One Store object writes a file at a time. OpenSqliteStore takes an exclusive lock beside the
//    file for as long as it lives; a second one gets an error that names the file and says that
//    another controller holds it. The kernel releases the lock when the process dies, however it
//    dies. Any number of read-only stores may be open meanwhile.
//  - A call that returns has happened: it survives kill -9 of every process, and a power cut up to
//    what the disk keeps of its promises. A call that fails has changed nothing.
//  - Trials move waiting → running → complete | infeasible | failed, never back. A finished trial,
//    its answers and its measurements never change again; an attempt to change them is an error
//    that names the trial.
//  - FinishTrial writes state, verdict and measurements in one transaction. AddAnswers is one
//    transaction too; an answer already there (same stage, question and seed) is left as it is, so
//    that a resumed trial may send it again. An attempt's end and the withdrawal of its answers are one.
//  - Within a study at most one trial that is not failed has a given (kind, plan digest).
//  - Reads see every write that returned before them, and each read is of one moment: a trial's
//    state, attempts and measurements belong together, and so do the trials of a list.
//  - Errors are values: a full disk, a file that is not a database or of a newer schema, a
//    read-only folder. The message names the file. Nothing throws.
//  - Thread-safe: any thread may call; calls are serialized.
//  - Text comes back byte for byte, NULs and broken UTF-8 included; only the spec, which is kept as
//    JSON, must be UTF-8. A measured number that is not finite comes back as NaN (null in SQL and
//    JSON).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "controller/clock.h"
#include "controller/study.h"

namespace hproc::controller {

// Whether a list of trials comes with its plans, which may be megabytes each.
enum class Plans { kWhole, kLeftOut };

// What becomes of the answers that an attempt gave. Withdrawn are those that nobody can believe, of a machine that turned out to
// be at fault: they are asked for again.
enum class GivenAnswers { kStand, kWithdrawn };

class Store {
 public:
  virtual ~Store() = default;

  // Names are unique within a store, 1 to 200 bytes of printable UTF-8.
  virtual Result<Study> CreateStudy(const StudySpec& spec) = 0;
  virtual Result<std::optional<Study>> FindStudy(std::string_view name) = 0;
  virtual Result<std::vector<Study>> ListStudies() = 0;  // oldest first
  virtual Result<void> SetStudyState(int64_t study_id, StudyState state) = 0;
  virtual Result<void> SetStudyOutcome(int64_t study_id, const std::string& outcome_json) = 0;
  virtual Result<void> SetStudyMeasure(int64_t study_id, const std::string& measure_json) = 0;
  // The first one stands: later ones change nothing.
  virtual Result<void> SetStudyCalibration(int64_t study_id,
                                           const std::string& calibration_json) = 0;

  // Numbered from 0 within the study, in the order of the calls; state waiting.
  virtual Result<Trial> AddTrial(int64_t study_id, const NewTrial& trial) = 0;
  // waiting or running → running, with a new attempt; returns its number. An attempt still open is
  // one whose controller died: it ends now, as interrupted.
  virtual Result<int> StartAttempt(int64_t trial_id, const std::string& log_path) = 0;
  // Of the open attempt only. The trial stays running; other attempts' answers stand.
  virtual Result<void> EndAttempt(int64_t trial_id, int attempt, const Verdict& verdict, GivenAnswers answers) = 0;
  Result<void> EndAttempt(int64_t trial_id, int attempt, const Verdict& verdict) {
    return EndAttempt(trial_id, attempt, verdict, GivenAnswers::kStand);
  }
  // Of the open attempt of a running trial. Of two equal keys in one call the first counts.
  virtual Result<void> AddAnswers(int64_t trial_id, const std::vector<Answer>& answers) = 0;
  // running → state, which is complete (reason none), infeasible (out_of_memory, garbage_output) or
  // failed (any other reason). Ends the open attempt too, with the same verdict.
  virtual Result<void> FinishTrial(int64_t trial_id, TrialState state, const Verdict& verdict,
                                   const TrialMeasurements& measurements) = 0;

  virtual Result<Trial> GetTrial(int64_t trial_id) = 0;
  // By number. Each with its whole plan_json, a millisecond or two for each megabyte of plans, or with an empty one.
  virtual Result<std::vector<Trial>> ListTrials(int64_t study_id, Plans plans) = 0;
  Result<std::vector<Trial>> ListTrials(int64_t study_id) { return ListTrials(study_id, Plans::kWhole); }
  // By stage (as text), question, seed.
  virtual Result<std::vector<Answer>> ListAnswers(int64_t trial_id) = 0;
};

// For tests and dry runs.
std::unique_ptr<Store> MakeMemoryStore(Clock clock = SystemClock());

enum class OpenMode { kReadWrite, kReadOnly };

// Read-write: creates the file and its schema where there is none (or an empty file), migrates an
// older one, checks the file's structure (PRAGMA quick_check, which reads all of it), and refuses
// whatever is not a whole study file of ours: such a file is left as it was. The folder must exist,
// allow new files, and not be on a network file system.
//
// Read-only: the file must be there, of the current schema. It is read in a folder that cannot be
// written too, unless a writer died and its log's index (study.db-shm) did not come along.
//
// What survives: commits go to a write-ahead log with synchronous=FULL, that is, they are fsynced
// one by one. kill -9 at any moment loses nothing that returned, since the kernel has it; nor does
// a power cut, where fsync means what it says. NORMAL would be quicker by that fsync and lose the
// last calls to a power cut. A full disk fails the call, and calls succeed again when there is
// room.
Result<std::unique_ptr<Store>> OpenSqliteStore(const std::filesystem::path& path, OpenMode mode,
                                               Clock clock = SystemClock());

}  // namespace hproc::controller
