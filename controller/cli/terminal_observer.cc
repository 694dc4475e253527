#include "controller/cli/terminal_observer.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/bytes.h"
#include "base/printable.h"
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

void TerminalObserver::Status(int trial, const std::string& text, bool force) {
  InFlight& told = in_flight_[trial];
  told.status = text;
  if (quiet_ || !is_terminal_) return;
  const Clock::time_point now = Clock::now();
  if (!force && now - last_status_ < kStatusPeriod) return;
  last_status_ = now;
  std::string line;
  for (const auto& [number, other] : in_flight_) {
    if (!line.empty()) line += " | ";
    line += (in_flight_.size() == 1 ? other.label : fmt::format("trial {}", number)) + "  " + other.status;
  }
  // A line that wraps could not be replaced; what one trial says fits any terminal.
  winsize size{};
  constexpr size_t kClock = 8;
  if (in_flight_.size() > 1 && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > kClock) {
    line.resize(std::min(line.size(), size.ws_col - kClock));
  }
  fmt::print(stderr, "\r\x1b[K[{}] {}", Elapsed(), line);
  std::fflush(stderr);
}

void TerminalObserver::OnMeasureStart(const std::string& model_dir) {
  in_flight_[kNoTrial] = {.label = "rate table", .status = {}, .step_start = Clock::now()};
  Line("measuring what each floor costs: " + model_dir);
}

void TerminalObserver::OnMeasureEnd(bool from_cache, double seconds) {
  in_flight_.erase(kNoTrial);
  Line(from_cache ? "rate table: already there" : "rate table: made in " + TimeText(seconds));
}

void TerminalObserver::OnTrialStart(const Trial& trial, int attempt) {
  const std::string label = fmt::format("trial {} {}", trial.number, FloorsText(trial));
  in_flight_[trial.number] = {.label = label, .status = {}, .step_start = Clock::now()};
  std::string text = fmt::format("{}: {}, {:.3f} bits, {} predicted", label, trial.plan.purpose,
                                 trial.plan.bits_per_weight, FormatBytes(trial.plan.predicted_bytes));
  if (attempt > 1) text += fmt::format(", attempt {}", attempt);
  Line(text);
}

void TerminalObserver::OnQueue(int trial, const LaunchNote& note) {
  InFlight& queued = in_flight_[trial];
  if (note.kind == LaunchNote::Kind::kPending) {
    const std::string text = "waits in the queue" + (note.reason.empty() ? "" : ": " + PrintableLine(note.reason));
    if (!std::exchange(queued.is_queued, true)) Line(queued.label + "  " + text);
    Status(trial, text, true);
  } else if (note.kind == LaunchNote::Kind::kConnected) {
    Line(queued.label + PrintableLine("  job " + note.job + " runs on " + note.node));
    queued.step_start = Clock::now();
  }
}

void TerminalObserver::OnPhase(int trial, const worker::PhaseEvent& phase) {
  if (phase.begin) in_flight_[trial].step_start = Clock::now();
  Status(trial, std::string(PhaseName(phase.phase)), true);
}

void TerminalObserver::OnProgress(int trial, const worker::ProgressEvent& progress) {
  const double seconds = Seconds(Clock::now() - in_flight_[trial].step_start);
  if (progress.total <= 0 || seconds < kLeastSeconds) return;
  const double rate = static_cast<double>(progress.done) / seconds;
  const double left = rate > 0 ? static_cast<double>(progress.total - progress.done) / rate : 0;
  const std::string rate_text = progress.unit == "bytes" ? FormatBytes(static_cast<int64_t>(rate)) + "/s"
                                                         : fmt::format("{:.0f} {}/s", rate, progress.unit);
  Status(trial,
         fmt::format("{} {:.0f} %  {}  {} left", PhaseName(progress.phase),
                     100.0 * static_cast<double>(progress.done) / static_cast<double>(progress.total), rate_text,
                     TimeText(left)),
         false);
}

void TerminalObserver::OnQuestions(int trial, int answered, int questions, int correct) {
  InFlight& asked = in_flight_[trial];
  if (asked.first_answered < 0) {
    asked.first_answered = answered - 1;
    asked.step_start = Clock::now();
  }
  std::string text =
      fmt::format("{} of {} questions ({:.0f} %), {} right", answered, questions, 100.0 * answered / questions, correct);
  const double seconds = Seconds(Clock::now() - asked.step_start);
  if (seconds > kLeastSeconds && answered > asked.first_answered) {
    const double rate = (answered - asked.first_answered) / seconds;
    text += fmt::format("  {:.1f} questions/s  {} left", rate, TimeText((questions - answered) / rate));
  }
  Status(trial, text, answered == questions);
  if (is_terminal_ || answered < asked.next_report) return;
  if (asked.next_report > 0) Line(asked.label + "  " + text);
  asked.next_report = answered + std::max(1, questions / 5);
}

void TerminalObserver::OnAttemptEnd(const Trial& trial, int attempt, const Verdict& verdict, bool again) {
  Line(fmt::format("trial {} attempt {} failed: {}: {}{}", trial.number, attempt, ReasonName(verdict.reason),
                   verdict.message, again ? "; trying again" : ""));
}

void TerminalObserver::OnTrialEnd(const Trial& trial) {
  in_flight_.erase(trial.number);
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
