#include "controller/cli/terminal_observer.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"
#include "controller/describe.h"

namespace hproc::controller {
namespace {

constexpr auto kStatusPeriod = std::chrono::milliseconds(100);
constexpr double kLeastSeconds = 0.5;  // before a rate is told

double Seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string TimeText(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

}  // namespace

TerminalObserver::TerminalObserver(bool is_terminal, bool quiet) : is_terminal_(is_terminal), quiet_(quiet) {}

TerminalObserver::~TerminalObserver() {
  if (is_terminal_ && !quiet_) std::fputs("\r\x1b[K", stderr);
}

std::string TerminalObserver::Elapsed() const {
  const auto seconds = static_cast<int64_t>(Seconds(Clock::now() - start_));
  return fmt::format("{:02}:{:02}", seconds / 60, seconds % 60);
}

void TerminalObserver::Line(const std::string& text) {
  if (quiet_) return;
  fmt::print(stderr, "{}[{}] {}\n", is_terminal_ ? "\r\x1b[K" : "", Elapsed(), text);
  std::fflush(stderr);
}

void TerminalObserver::Status(const std::string& text, bool force) {
  if (quiet_ || !is_terminal_) return;
  const Clock::time_point now = Clock::now();
  if (!force && now - last_status_ < kStatusPeriod) return;
  last_status_ = now;
  fmt::print(stderr, "\r\x1b[K[{}] {}", Elapsed(), text);
  std::fflush(stderr);
}

void TerminalObserver::OnMeasureStart(const std::string& model_dir) {
  trial_label_ = "rate table";
  Line("measuring what each floor costs: " + model_dir);
}

void TerminalObserver::OnMeasureEnd(bool from_cache, double seconds) {
  Line(from_cache ? "rate table: already there" : "rate table: made in " + TimeText(seconds));
}

void TerminalObserver::OnTrialStart(const Trial& trial, int attempt) {
  trial_label_ = fmt::format("trial {} {}", trial.number, FloorsText(trial));
  first_answered_ = -1;
  next_report_ = 0;
  std::string text = fmt::format("{}: {}, {:.3f} bits, {} predicted", trial_label_, trial.plan.purpose,
                                 trial.plan.bits_per_weight, FormatBytes(trial.plan.predicted_bytes));
  if (attempt > 1) text += fmt::format(", attempt {}", attempt);
  Line(text);
}

void TerminalObserver::OnPhase(const worker::PhaseEvent& phase) {
  phase_ = PhaseName(phase.phase);
  if (phase.begin) step_start_ = Clock::now();
  Status(trial_label_ + "  " + phase_, true);
}

void TerminalObserver::OnProgress(const worker::ProgressEvent& progress) {
  const double seconds = Seconds(Clock::now() - step_start_);
  if (progress.total <= 0 || seconds < kLeastSeconds) return;
  const double rate = static_cast<double>(progress.done) / seconds;
  const double left = rate > 0 ? static_cast<double>(progress.total - progress.done) / rate : 0;
  const std::string rate_text = progress.unit == "bytes" ? FormatBytes(static_cast<int64_t>(rate)) + "/s"
                                                         : fmt::format("{:.0f} {}/s", rate, progress.unit);
  Status(fmt::format("{}  {} {:.0f} %  {}  {} left", trial_label_, PhaseName(progress.phase),
                     100.0 * static_cast<double>(progress.done) / static_cast<double>(progress.total), rate_text,
                     TimeText(left)),
         false);
}

void TerminalObserver::OnQuestions(int answered, int questions, int correct) {
  if (first_answered_ < 0) {
    first_answered_ = answered - 1;
    step_start_ = Clock::now();
  }
  std::string text = fmt::format("{}  {} of {} questions ({:.0f} %), {} right", trial_label_, answered, questions,
                                 100.0 * answered / questions, correct);
  const double seconds = Seconds(Clock::now() - step_start_);
  if (seconds > kLeastSeconds && answered > first_answered_) {
    const double rate = (answered - first_answered_) / seconds;
    text += fmt::format("  {:.1f} questions/s  {} left", rate, TimeText((questions - answered) / rate));
  }
  Status(text, answered == questions);
  if (is_terminal_ || answered < next_report_) return;
  if (next_report_ > 0) Line(text);
  next_report_ = answered + std::max(1, questions / 5);
}

void TerminalObserver::OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) {
  Line(fmt::format("trial {} attempt {} failed: {}: {}{}", trial.number, attempt, ReasonName(verdict.reason),
                   verdict.message, again ? "; trying again" : ""));
}

void TerminalObserver::OnTrialEnd(const Trial& trial) {
  std::string text = fmt::format("trial {} {}", trial.number, TrialStateName(trial.state));
  if (const std::string verdict = VerdictText(trial); !verdict.empty()) text += ": " + verdict;
  if (trial.state == TrialState::kComplete && trial.measured.memory) {
    text += "; " + FormatBytes(trial.measured.memory->live_bytes) + " measured";
  }
  Line(text);
}

void TerminalObserver::OnNote(const std::string& line) {
  fmt::print(stderr, "{}{}\n", is_terminal_ && !quiet_ ? "\r\x1b[K" : "", line);
  std::fflush(stderr);
}

}  // namespace hproc::controller
