// Conversation: the rules of the worker protocol over time, as worker/protocol.h states them for
// one run.
//
//              hello           result:ready | :measure          finish ▶             result:exit
//   kStarting ───────▶ kWorking ────────────────────▶ kIdle ───────────▶ kFinishing ──────▶ kEnded
//                         ▲  │ result:generate | :throughput ▲ │
//                         │  └───────────────────────────────┘ │
//                         └────── generate ▶ | throughput ▶ ───┘
//
// `oom` and `error` lead from everywhere behind hello to kEnded. Any event not foreseen is a
// violation: a sequence number out of turn, an answer that was not asked for or given twice, a
// result of the wrong kind, an event after the end. Pure: no time, no I/O. Thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <set>

#include "base/result.h"
#include "controller/worker_end.h"
#include "worker/protocol.h"

namespace hproc::controller {

enum class Step { kStarting, kWorking, kIdle, kFinishing, kEnded };

class Conversation {
 public:
  explicit Conversation(const worker::Job& job);

  // A command goes out. One that does not fit the step is a bug of the caller (HPROC_CHECK), except
  // a cancel, which may cross with the result it was meant to bring on, and anything sent after
  // kEnded.
  void OnCommand(const worker::Command& command);

  // An event has come in. The error is the violation; the conversation is then over.
  Result<void> OnEvent(const worker::Event& event);

  Step step() const { return step_; }
  const RunRecord& record() const { return record_; }

 private:
  // What the worker is at while step_ is kWorking.
  enum class Task { kMeasure, kLoad, kGenerate, kThroughput };

  Result<void> OnBody(const worker::HelloEvent& hello);
  Result<void> OnBody(const worker::PhaseEvent& phase);
  Result<void> OnBody(const worker::ProgressEvent& progress);
  Result<void> OnBody(const worker::HeartbeatEvent& heartbeat);
  Result<void> OnBody(const worker::MemoryEvent& memory);
  Result<void> OnBody(const worker::SampleEvent& sample);
  Result<void> OnBody(const worker::OutOfMemoryEvent& oom);
  Result<void> OnBody(const worker::ErrorEvent& error);
  Result<void> OnBody(const worker::ResultEvent& result);

  Result<void> OnResult(const worker::MeasureResult& result);
  Result<void> OnResult(const worker::LoadResult& result);
  Result<void> OnResult(const worker::ReadyResult& result);
  Result<void> OnResult(const worker::GenerateResult& result);
  Result<void> OnResult(const worker::ThroughputResult& result);
  Result<void> OnResult(const worker::ExitResult& result);

  bool At(Task task) const { return step_ == Step::kWorking && task_ == task; }
  void StartTask(Task task, worker::Phase phase);

  const int rank_;
  const int world_size_;
  Step step_ = Step::kStarting;
  Task task_;
  bool loaded_ = false;  // result:load was received
  std::optional<worker::Phase> open_phase_;
  std::set<int64_t> open_ids_;      // asked, not answered
  std::set<int64_t> answered_ids_;  // of the generate in progress
  bool cancelled_ = false;
  int64_t next_seq_ = 0;
  RunRecord record_;
};

}  // namespace hproc::controller
