// Progress of a study on standard error: one line rewritten in place on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "controller/tune_observer.h"

namespace hproc::controller {

class TerminalObserver : public TuneObserver {
 public:
  // `quiet` drops everything but notes.
  TerminalObserver(bool is_terminal, bool quiet);
  ~TerminalObserver() override;

  void OnMeasureStart(const std::string& model_dir) override;
  void OnMeasureEnd(bool from_cache, double seconds) override;
  void OnTrialStart(const Trial& trial, int attempt) override;
  void OnPhase(const worker::PhaseEvent& phase) override;
  void OnProgress(const worker::ProgressEvent& progress) override;
  void OnQuestions(int answered, int questions, int correct) override;
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override;
  void OnTrialEnd(const Trial& trial) override;
  void OnNote(const std::string& line) override;

 private:
  using Clock = std::chrono::steady_clock;

  void Line(const std::string& text);               // stays
  void Status(const std::string& text, bool force);  // is replaced; on a terminal only
  std::string Elapsed() const;

  const bool is_terminal_;
  const bool quiet_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point step_start_ = start_;  // of the phase, or of the first new question
  Clock::time_point last_status_{};
  std::string trial_label_;
  std::string phase_;
  int first_answered_ = 0;
  int next_report_ = 0;  // of questions, where lines are plain
};

}  // namespace hproc::controller
