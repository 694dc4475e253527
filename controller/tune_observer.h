// What a study tells on its way: to the terminal, and to the journal that other processes read (tune_journal.h).
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "controller/launch_note.h"
#include "controller/study.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Of what happens outside of any trial: the rate table pass, a verification.
inline constexpr int kNoTrial = -1;

// `trial` is the number of the trial that tells. What one trial tells comes in order, between its OnTrialStart and the end
// of the attempt; where several are in flight they take turns. One call at a time, from any thread. Implementations must
// be quick.
class TuneObserver {
 public:
  virtual ~TuneObserver() = default;

  virtual void OnMeasureStart(const std::string& /*model_dir*/) {}
  virtual void OnMeasureEnd(bool /*from_cache*/, double /*seconds*/) {}
  // The search begins or goes on. Its end, unless an error of the store or the machine cuts it off.
  virtual void OnStudyStart(const Study& /*study*/) {}
  virtual void OnStudyEnd(const Study& /*study*/, bool /*interrupted*/) {}
  // A trial begins an attempt; `purpose` and the plan are in the trial.
  virtual void OnTrialStart(const Trial& /*trial*/, int /*attempt*/) {}
  // A trial that a scheduler runs waits in its queue, or has begun to run.
  virtual void OnQueue(int /*trial*/, const LaunchNote& /*note*/) {}
  virtual void OnPhase(int /*trial*/, const worker::PhaseEvent& /*phase*/) {}
  virtual void OnProgress(int /*trial*/, const worker::ProgressEvent& /*progress*/) {}
  virtual void OnMemory(int /*trial*/, const worker::MemoryEvent& /*memory*/) {}
  // A question answered just now by the trial; not those of before an interruption.
  virtual void OnAnswer(int /*trial*/, const Answer& /*answer*/) {}
  // Questions answered so far of those this trial may be asked, old answers of a resumed trial included.
  virtual void OnQuestions(int /*trial*/, int /*answered*/, int /*questions*/, int /*correct*/) {}
  virtual void OnAttemptEnd(const Trial& /*trial*/, int /*attempt*/, const Verdict& /*verdict*/, bool /*again*/) {}
  virtual void OnTrialEnd(const Trial& /*trial*/) {}
  virtual void OnNote(const std::string& /*line*/) {}

  // What the launcher of a trial's worker tells, as one of the above.
  void OnLaunch(int trial, const LaunchNote& note) {
    if (note.kind != LaunchNote::Kind::kRemark) return OnQueue(trial, note);
    OnNote((trial == kNoTrial ? "" : "trial " + std::to_string(trial) + ": ") + note.reason);
  }
};

// Tells several observers, in the order they are given, one call at a time whatever the threads that tell. They outlive it.
class TuneObservers : public TuneObserver {
 public:
  explicit TuneObservers(std::vector<TuneObserver*> observers) : observers_(std::move(observers)) {}

  void OnMeasureStart(const std::string& model_dir) override { Tell(&TuneObserver::OnMeasureStart, model_dir); }
  void OnMeasureEnd(bool from_cache, double seconds) override { Tell(&TuneObserver::OnMeasureEnd, from_cache, seconds); }
  void OnStudyStart(const Study& study) override { Tell(&TuneObserver::OnStudyStart, study); }
  void OnStudyEnd(const Study& study, bool interrupted) override { Tell(&TuneObserver::OnStudyEnd, study, interrupted); }
  void OnTrialStart(const Trial& trial, int attempt) override { Tell(&TuneObserver::OnTrialStart, trial, attempt); }
  void OnQueue(int trial, const LaunchNote& note) override { Tell(&TuneObserver::OnQueue, trial, note); }
  void OnPhase(int trial, const worker::PhaseEvent& phase) override { Tell(&TuneObserver::OnPhase, trial, phase); }
  void OnProgress(int trial, const worker::ProgressEvent& progress) override {
    Tell(&TuneObserver::OnProgress, trial, progress);
  }
  void OnMemory(int trial, const worker::MemoryEvent& memory) override { Tell(&TuneObserver::OnMemory, trial, memory); }
  void OnAnswer(int trial, const Answer& answer) override { Tell(&TuneObserver::OnAnswer, trial, answer); }
  void OnQuestions(int trial, int answered, int questions, int correct) override {
    Tell(&TuneObserver::OnQuestions, trial, answered, questions, correct);
  }
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override {
    Tell(&TuneObserver::OnAttemptEnd, trial, attempt, verdict, again);
  }
  void OnTrialEnd(const Trial& trial) override { Tell(&TuneObserver::OnTrialEnd, trial); }
  void OnNote(const std::string& line) override { Tell(&TuneObserver::OnNote, line); }

 private:
  template <typename... Parameters, typename... Arguments>
  void Tell(void (TuneObserver::*what)(Parameters...), const Arguments&... arguments) {
    const std::scoped_lock lock(mutex_);
    for (TuneObserver* observer : observers_) (observer->*what)(arguments...);
  }

  std::mutex mutex_;
  std::vector<TuneObserver*> observers_;
};

}  // namespace hproc::controller
