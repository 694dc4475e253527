#include "controller/watchdog.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace hproc::controller {
namespace {

std::string Seconds(Deadlines::Duration duration) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.4g s",
                std::chrono::duration<double>(duration).count());
  return text.data();
}

std::string In(worker::Phase phase) { return " in " + std::string(worker::PhaseName(phase)); }

}  // namespace

Watchdog::Watchdog(const Deadlines& deadlines, TimePoint now)
    : deadlines_(deadlines), entered_(now), heard_(now), progressed_(now) {}

void Watchdog::Enter(TimePoint now, Step step, worker::Phase phase) {
  if (step == step_ && phase == phase_) return;
  step_ = step;
  phase_ = phase;
  entered_ = progressed_ = now;
}

void Watchdog::Heard(TimePoint now, const worker::EventBody& body) {
  heard_ = now;
  const auto* heartbeat = std::get_if<worker::HeartbeatEvent>(&body);
  if (heartbeat == nullptr || heartbeat->counter != counter_) progressed_ = now;
  if (heartbeat != nullptr) counter_ = heartbeat->counter;
  if (std::holds_alternative<worker::SampleEvent>(body)) entered_ = now;
}

void Watchdog::Excuse(Clock::duration missed) {
  entered_ += missed;
  heard_ += missed;
  progressed_ += missed;
}

std::optional<Watchdog::Limit> Watchdog::StepLimit() const {
  const auto limit = [this](Deadlines::Duration length, std::string what) {
    return Limit{entered_ + length, {KillCause::kDeadline, std::move(what) + Seconds(length)}};
  };
  switch (step_) {
    case Step::kStarting:
      return limit(deadlines_.hello, "no hello within ");
    case Step::kWorking:
      return limit(deadlines_.of(phase_),
                   std::string(worker::PhaseName(phase_)) + (phase_ == worker::Phase::kGenerate
                                                                 ? ": no completion within "
                                                                 : ": not done within "));
    case Step::kIdle:
      return std::nullopt;
    case Step::kFinishing:
      return limit(deadlines_.ending, "no result:exit within ");
    case Step::kEnded:
      return limit(deadlines_.ending, "still there after its last event, for ");
  }
  return std::nullopt;
}

std::optional<Watchdog::Limit> Watchdog::SilenceLimit() const {
  if (step_ == Step::kStarting || step_ == Step::kEnded) return std::nullopt;
  return Limit{heard_ + deadlines_.silence,
               {KillCause::kSilent, "no event for " + Seconds(deadlines_.silence) + In(phase_)}};
}

std::optional<Watchdog::Limit> Watchdog::FrozenLimit() const {
  if (step_ != Step::kWorking) return std::nullopt;
  return Limit{progressed_ + deadlines_.frozen,
               {KillCause::kFrozen,
                "the heart beats, but no progress for " + Seconds(deadlines_.frozen) + In(phase_)}};
}

std::optional<Watchdog::Alarm> Watchdog::Check(TimePoint now) const {
  // The more specific one first, where several are due.
  for (const auto& limit : {SilenceLimit(), FrozenLimit(), StepLimit()}) {
    if (limit && now >= limit->at) return limit->alarm;
  }
  return std::nullopt;
}

Watchdog::TimePoint Watchdog::Next() const {
  TimePoint next = TimePoint::max();
  for (const auto& limit : {SilenceLimit(), FrozenLimit(), StepLimit()}) {
    if (limit) next = std::min(next, limit->at);
  }
  return next;
}

}  // namespace hproc::controller
