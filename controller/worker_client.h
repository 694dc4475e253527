// WorkerClient: the conversation with one worker in the words of the controller: load, generate,
// time, finish.
//
// Every call waits until the worker has answered or ended; that it does one of both is the
// watchdog's promise. What comes back is the answer or the verdict on the run, and after a verdict
// every call gives the same one at once. The process is killed and reaped with the client at the
// latest.
//
// Thread-compatible, but for Stop. Ranks of one trial are one client each: start all, then await
// each in turn; each is supervised by its own thread meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "controller/verdict.h"
#include "controller/worker_process.h"
#include "evals/generator.h"
#include "evals/throughput.h"
#include "worker/protocol.h"

namespace hproc::controller {

// What a worker tells on its way. Called from the thread that waits in WorkerClient, between the
// call and its return.
class WorkerObserver {
 public:
  virtual ~WorkerObserver() = default;
  virtual void OnHello(const worker::HelloEvent& /*hello*/) {}
  virtual void OnPhase(const worker::PhaseEvent& /*phase*/) {}
  virtual void OnProgress(const worker::ProgressEvent& /*progress*/) {}
  virtual void OnMemory(const worker::MemoryEvent& /*memory*/) {}
  // The weights of the plan asked for are there; the rest may still not fit.
  virtual void OnLoad(const worker::LoadResult& /*load*/) {}
};

// The answer, or the verdict on the run that ended without giving it. (Result carries words for
// people; a run's end decides what the search does next.)
template <typename T>
class [[nodiscard]] Outcome {
 public:
  Outcome(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Outcome(RunVerdict verdict)
      : state_(std::in_place_index<1>, std::move(verdict)) {}  // NOLINT: likewise

  bool ok() const { return state_.index() == 0; }
  T& value() {
    HPROC_CHECK(ok(), verdict().verdict.message);
    return std::get<0>(state_);
  }
  T& operator*() { return value(); }
  T* operator->() { return &value(); }
  // Only where ok() is false.
  const RunVerdict& verdict() const { return std::get<1>(state_); }

 private:
  std::variant<T, RunVerdict> state_;
};

struct LoadedModel {
  worker::LoadResult load;
  std::optional<worker::MemoryEvent> memory;  // the last ledger before the worker was ready
};

// What generates for the evaluations: a worker, or several that are one model (worker_group.h).
class RemoteModel {
 public:
  virtual ~RemoteModel() = default;
  // Hands over completions as they come. When on_completion returns false the worker is told to
  // stop, and what it still sends is dropped. The ids of `requests` differ. on_completion must not
  // throw, nor call the model.
  virtual Outcome<worker::GenerateResult> Generate(std::span<const evals::GenerationRequest> requests,
                                                   FunctionRef<bool(evals::Completion)> on_completion) = 0;
};

class WorkerClient final : public RemoteModel {
 public:
  // Starts the worker on its job. An error means that the process cannot be started:
  // infrastructure, not the point. `observer` may be null, and must outlive the client.
  static Result<std::unique_ptr<WorkerClient>> Start(WorkerOptions options, const worker::Job& job,
                                                     WorkerObserver* observer);
  ~WorkerClient() override;

  // The end of a MeasureJob's work.
  Outcome<worker::MeasureResult> AwaitMeasure();

  // The end of a TrialJob's load, cache and warmup. A worker that loaded another plan than
  // `plan_digest` (empty: any) ends as a protocol_error: nothing it says could be put down to a
  // point.
  Outcome<LoadedModel> AwaitLoad(const std::string& plan_digest);

  Outcome<worker::GenerateResult> Generate(std::span<const evals::GenerationRequest> requests,
                                           FunctionRef<bool(evals::Completion)> on_completion) override;

  Outcome<std::vector<evals::ThroughputSample>> Throughput(const evals::ThroughputSpec& spec);

  // Asks a worker that is idle to end, and waits. Reason kNone when it did as it should.
  RunVerdict Finish();

  // The two halves of Finish for a rank that another thread waits for: the first is thread-safe, the
  // second waits for the end, asked for or not.
  void AskToFinish();
  RunVerdict AwaitEnd();

  // Has the worker end soon, whatever it does: the call in progress, or the next, gives
  // Reason::kInterrupted. Returns at once. Thread-safe.
  void Stop(std::string why);

  // Set once the run is over.
  const std::optional<RunVerdict>& verdict() const { return verdict_; }
  const std::optional<WorkerEnd>& end() const { return end_; }
  const WorkerProcess& process() const { return *process_; }

 private:
  WorkerClient(std::unique_ptr<WorkerProcess> process, WorkerObserver* observer);

  // The next event that an answer is made of; nullopt: the run is over and verdict_ set.
  std::optional<worker::EventBody> NextAnswer();
  // Sends, or ends the run where the command is too long to be sent.
  void Send(const worker::Command& command);

  std::unique_ptr<WorkerProcess> process_;
  WorkerObserver* observer_;
  std::optional<worker::MemoryEvent> memory_;
  std::optional<RunVerdict> verdict_;
  std::optional<WorkerEnd> end_;
};

// The worker's model for the evaluations. An error of Generate is the verdict's message; the
// verdict itself is the client's. Borrows the model.
class RemoteGenerator final : public evals::Generator {
 public:
  explicit RemoteGenerator(RemoteModel& model) : model_(model) {}

  Result<void> Generate(std::span<const evals::GenerationRequest> requests,
                        const std::function<bool(evals::Completion)>& on_completion) override;

 private:
  RemoteModel& model_;
};

}  // namespace hproc::controller
