// What a study tells on its way: to the terminal, and to the journal that other processes read (tune_journal.h).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "controller/study.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Called from the thread that drives the study, in order. Implementations must be quick.
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
  virtual void OnPhase(const worker::PhaseEvent& /*phase*/) {}
  virtual void OnProgress(const worker::ProgressEvent& /*progress*/) {}
  virtual void OnMemory(const worker::MemoryEvent& /*memory*/) {}
  // A question answered just now by the trial that runs; not those of before an interruption.
  virtual void OnAnswer(const Answer& /*answer*/) {}
  // Questions answered so far of those this trial may be asked, old answers of a resumed trial included.
  virtual void OnQuestions(int /*answered*/, int /*questions*/, int /*correct*/) {}
  virtual void OnAttemptEnd(const Trial& /*trial*/, int /*attempt*/, const Verdict& /*verdict*/, bool /*again*/) {}
  virtual void OnTrialEnd(const Trial& /*trial*/) {}
  virtual void OnNote(const std::string& /*line*/) {}
};

// Tells several observers, in the order they are given. They outlive it.
class TuneObservers : public TuneObserver {
 public:
  explicit TuneObservers(std::vector<TuneObserver*> observers) : observers_(std::move(observers)) {}

  void OnMeasureStart(const std::string& model_dir) override { Tell(&TuneObserver::OnMeasureStart, model_dir); }
  void OnMeasureEnd(bool from_cache, double seconds) override { Tell(&TuneObserver::OnMeasureEnd, from_cache, seconds); }
  void OnStudyStart(const Study& study) override { Tell(&TuneObserver::OnStudyStart, study); }
  void OnStudyEnd(const Study& study, bool interrupted) override { Tell(&TuneObserver::OnStudyEnd, study, interrupted); }
  void OnTrialStart(const Trial& trial, int attempt) override { Tell(&TuneObserver::OnTrialStart, trial, attempt); }
  void OnPhase(const worker::PhaseEvent& phase) override { Tell(&TuneObserver::OnPhase, phase); }
  void OnProgress(const worker::ProgressEvent& progress) override { Tell(&TuneObserver::OnProgress, progress); }
  void OnMemory(const worker::MemoryEvent& memory) override { Tell(&TuneObserver::OnMemory, memory); }
  void OnAnswer(const Answer& answer) override { Tell(&TuneObserver::OnAnswer, answer); }
  void OnQuestions(int answered, int questions, int correct) override {
    Tell(&TuneObserver::OnQuestions, answered, questions, correct);
  }
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override {
    Tell(&TuneObserver::OnAttemptEnd, trial, attempt, verdict, again);
  }
  void OnTrialEnd(const Trial& trial) override { Tell(&TuneObserver::OnTrialEnd, trial); }
  void OnNote(const std::string& line) override { Tell(&TuneObserver::OnNote, line); }

 private:
  template <typename... Parameters, typename... Arguments>
  void Tell(void (TuneObserver::*what)(Parameters...), const Arguments&... arguments) {
    for (TuneObserver* observer : observers_) (observer->*what)(arguments...);
  }

  std::vector<TuneObserver*> observers_;
};

}  // namespace hproc::controller
