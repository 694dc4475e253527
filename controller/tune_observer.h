// What a study tells on its way: for the terminal today, for other watchers tomorrow.
#pragma once

#include <cstdint>
#include <string>

#include "controller/study.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Called from the thread that drives the study, in order. Implementations must be quick.
class TuneObserver {
 public:
  virtual ~TuneObserver() = default;

  virtual void OnMeasureStart(const std::string& /*model_dir*/) {}
  virtual void OnMeasureEnd(bool /*from_cache*/, double /*seconds*/) {}
  // A trial begins an attempt; `purpose` and the plan are in the trial.
  virtual void OnTrialStart(const Trial& /*trial*/, int /*attempt*/) {}
  virtual void OnPhase(const worker::PhaseEvent& /*phase*/) {}
  virtual void OnProgress(const worker::ProgressEvent& /*progress*/) {}
  // Questions answered so far of those this trial may be asked, old answers of a resumed trial included.
  virtual void OnQuestions(int /*answered*/, int /*questions*/, int /*correct*/) {}
  virtual void OnAttemptEnd(const Trial& /*trial*/, int /*attempt*/, const Verdict& /*verdict*/, bool /*again*/) {}
  virtual void OnTrialEnd(const Trial& /*trial*/) {}
  virtual void OnNote(const std::string& /*line*/) {}
};

}  // namespace hproc::controller
