// Watchdog: when a worker has had enough time. Pure: it is told what happened and asked whether
// time is up.
//
// What is watched in each step of the conversation:
//
//   step        | limit on the whole | silence | frozen | why
//   kStarting   | hello              |         |        | the heart does not beat before hello
//   kWorking    | the phase's own    | yes     | yes    |
//   kIdle       |                    | yes     |        | nothing is asked, nothing has to move
//   kFinishing  | ending             | yes     |        |
//   kEnded      | ending             |         |        | the heart stops with the last event
//
// Thread-compatible.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "controller/conversation.h"
#include "controller/worker_end.h"
#include "worker/protocol.h"

namespace hproc::controller {

// Reading a checkpoint has no length that a constant could bound: 20 MB from a disk, 400 GB over a slow network. Its phases end
// by standing still (`frozen`: progress is told every few blocks of rows), and by a limit only in the end.
struct Deadlines {
  using Duration = std::chrono::milliseconds;

  // From the start of the process to hello.
  Duration hello = std::chrono::seconds(60);
  // Without any event; the heartbeat's period is 0.5 s.
  Duration silence = std::chrono::seconds(30);
  // Heartbeats, but neither their counter nor anything else moves.
  Duration frozen = std::chrono::seconds(180);

  // By Phase. For kGenerate it is the time to the next completion, so that it need not know how
  // many are asked for.
  std::array<Duration, worker::kPhaseCount> phase{
      std::chrono::minutes(5),  std::chrono::hours(24),   std::chrono::hours(24),
      std::chrono::minutes(10), std::chrono::minutes(30), std::chrono::hours(1),
      std::chrono::hours(1)};

  Duration ending =
      std::chrono::seconds(30);  // from finish to result:exit, and from the last event to the exit

  Duration& of(worker::Phase p) { return phase[static_cast<size_t>(p)]; }
  Duration of(worker::Phase p) const { return phase[static_cast<size_t>(p)]; }
};

class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;
  using TimePoint = Clock::time_point;

  struct Alarm {
    KillCause cause = KillCause::kNone;  // kSilent, kFrozen or kDeadline
    std::string detail;                  // "no event for 30 s"
  };

  Watchdog(const Deadlines& deadlines, TimePoint now);

  // The conversation is now in this step and phase; a change of either starts a new limit.
  void Enter(TimePoint now, Step step, worker::Phase phase);
  // An event has come. A heartbeat with an old counter is a sign of life, not of progress.
  void Heard(TimePoint now, const worker::EventBody& body);
  // The controller itself could not listen for so long (it was stopped, or would not take more
  // events): that time does not count against the worker.
  void Excuse(Clock::duration missed);

  std::optional<Alarm> Check(TimePoint now) const;
  // The next moment at which Check may change its mind without being told anything.
  TimePoint Next() const;

 private:
  struct Limit {
    TimePoint at;
    Alarm alarm;
  };
  std::optional<Limit> StepLimit() const;
  std::optional<Limit> SilenceLimit() const;
  std::optional<Limit> FrozenLimit() const;

  const Deadlines deadlines_;
  Step step_ = Step::kStarting;
  worker::Phase phase_ = worker::Phase::kInit;
  TimePoint entered_;     // the step and phase, or the last completion of a generate
  TimePoint heard_;       // any event
  TimePoint progressed_;  // any event but a heartbeat with an old counter
  int64_t counter_ = -1;
};

}  // namespace hproc::controller
