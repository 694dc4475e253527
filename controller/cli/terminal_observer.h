// Progress of a study on standard error: one line rewritten in place on a terminal, which tells of every trial in flight, and
// plain lines elsewhere.
#pragma once

#include <chrono>
#include <map>
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
  void OnQueue(int trial, const LaunchNote& note) override;
  void OnPhase(int trial, const worker::PhaseEvent& phase) override;
  void OnProgress(int trial, const worker::ProgressEvent& progress) override;
  void OnQuestions(int trial, int answered, int questions, int correct) override;
  void OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) override;
  void OnTrialEnd(const Trial& trial) override;
  void OnNote(const std::string& line) override;

 private:
  using Clock = std::chrono::steady_clock;

  // What is going on: a trial, or under kNoTrial the pass over the checkpoint.
  struct InFlight {
    std::string label;
    std::string status;             // without the label
    bool is_queued = false;
    Clock::time_point step_start;   // of the phase, or of the first new question
    int first_answered = -1;
    int next_report = 0;            // of questions, where lines are plain
  };

  void Line(const std::string& text);  // stays
  // Replaces what `trial` said last; shown on a terminal only, and not too often unless by `force`.
  void Status(int trial, const std::string& text, bool force);
  std::string Elapsed() const;

  const bool is_terminal_;
  const bool quiet_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_status_{};
  std::map<int, InFlight> in_flight_;
};

}  // namespace hproc::controller
