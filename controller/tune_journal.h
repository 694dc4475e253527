// The journal of a run: what a tune tells on its way, as JSON lines in a file beside the study file, so that a process
// that did not start it (the dashboard) can watch it, from its beginning, whenever it comes.
//
//   FILE.db.events     the run that writes now, or the last one; each run begins a new file
//
// A line is one object: "type", "utc" (RFC 3339) and what belongs to the type:
//
//   measure_start {model}               measure_end {reused, seconds}
//   study_start {study, study_id}       study_end {study, study_id, interrupted}
//   trial_start {study_id, trial, attempt, kind, purpose, strict, lazy, bits_per_weight, predicted_bytes}
//   queue {trial, state, job, node, reason}    of a trial that a scheduler runs: state is pending or started
//   phase {trial, phase, begin, seconds}       progress {trial, phase, done, total, unit}
//   memory {trial, device, live_bytes, peak_bytes, cap_bytes}
//   questions {trial, answered, questions, correct, generated_tokens}   tokens since the attempt began
//   attempt_end {trial, attempt, again, verdict}   trial_end {study_id, trial, state, verdict}   note {line}
//
// `trial` is null of what belongs to none: the rate table pass has phases too. Several trials may be in flight at once.
//
// The journal tells; the store decides. Nothing is read back from it into a study, and a disk that is full or a file that
// cannot be had ends the journal, not the tune. `progress` and `questions` of a trial come at most every kJournalPeriod, the
// last of each always; a run whose journal has reached kMaxJournalBytes writes no more of these two.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "controller/clock.h"
#include "controller/tune_observer.h"

namespace hproc::controller {

inline constexpr std::chrono::milliseconds kJournalPeriod{250};
inline constexpr int64_t kMaxJournalBytes = int64_t{32} << 20;

// FILE.db.events
std::filesystem::path EventsFileOf(const std::filesystem::path& db);

// Writes; one at a time a file, which the study file's lock sees to: make it once the store is open for writing.
// Thread-compatible.
class TuneJournal : public TuneObserver {
 public:
  explicit TuneJournal(const std::filesystem::path& file, Clock clock = SystemClock());

  void OnMeasureStart(const std::string& model_dir) override;
  void OnMeasureEnd(bool from_cache, double seconds) override;
  void OnStudyStart(const Study& study) override;
  void OnStudyEnd(const Study& study, bool interrupted) override;
  void OnTrialStart(const Trial& trial, int attempt) override;
  void OnQueue(int trial, const LaunchNote& note) override;
  void OnPhase(int trial, const worker::PhaseEvent& phase) override;
  void OnProgress(int trial, const worker::ProgressEvent& progress) override;
  void OnMemory(int trial, const worker::MemoryEvent& memory) override;
  void OnAnswer(int trial, const Answer& answer) override;
  void OnQuestions(int trial, int answered, int questions, int correct) override;
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override;
  void OnTrialEnd(const Trial& trial) override;
  void OnNote(const std::string& line) override;

 private:
  template <typename Fields>
  void Write(const char* type, Fields fields);
  bool IsDue(int trial, bool last);

  Clock clock_;
  UniqueFd file_;
  int64_t bytes_ = 0;
  struct InFlight {
    int64_t generated_tokens = 0;
    std::chrono::steady_clock::time_point next;  // when progress is due again
  };
  std::map<int, InFlight> in_flight_;  // by trial
};

// Reads lines as they come. Thread-compatible.
class TuneJournalReader {
 public:
  explicit TuneJournalReader(std::filesystem::path file) : path_(std::move(file)) {}

  // The whole lines written since the last call, without their '\n', and at most `max_bytes` of them or one line; a file
  // that is not there yet has none. Where a run has begun a new file, the rest of the old one comes first, and `new_run`
  // says before which line the new one begins. A line beyond 1 MiB is left out.
  struct Batch {
    std::vector<std::string> lines;
    std::optional<size_t> new_run;
  };
  Batch Read(size_t max_bytes = size_t{1} << 20);

 private:
  bool Open();
  bool HasSuccessor() const;

  std::filesystem::path path_;
  UniqueFd file_;
  std::string rest_;     // of a line that is not complete yet
  bool skipping_ = false;  // within a line that is too long
};

}  // namespace hproc::controller
