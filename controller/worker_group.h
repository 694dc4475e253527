// WorkerGroup: the workers of one trial, one a rank of tensor parallelism, as if they were one.
//
//   rank 0        ◀── load, generate, throughput, finish ── the caller's thread
//   ranks 1, …    ◀── load, finish; what is between they have from rank 0 ── a thread each, that listens until the end
//
// A run is over when any rank's is. All are then ended, and the verdict is that of the rank that brought it about: where
// memory ran out, the one that lacks most (all ranks finish the phase, so that each has its say); else the first by rank that
// went wrong by itself, not merely because another one was gone. The phase is where rank 0 was, but for memory. A rank that
// dies, hangs or lies never leaves the others waiting: they see its sockets close, and the group ends them besides.
//
// Thread-compatible, but for Stop. A group of one is its worker's client and nothing else.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "controller/worker_client.h"

namespace hproc::controller {

class Launcher;

class WorkerGroup final : public RemoteModel {
 public:
  // Starts a worker for every rank of `job`'s deployment, whose device is that of all (worker/devices.h); rank and rendezvous
  // are the group's to fill in. `needed_free_bytes`: by rank, in place of the job's; empty: the job's for all. `observer` may
  // be null, hears of rank 0 alone, and must outlive the group. `launcher`: where `options` are its Launch's, for the other
  // ranks. An error: a process cannot be started, or the devices are not as many as the ranks.
  static Result<std::unique_ptr<WorkerGroup>> Start(const WorkerOptions& options, const worker::TrialJob& job,
                                                    WorkerObserver* observer, std::span<const int64_t> needed_free_bytes = {},
                                                    const Launcher* launcher = nullptr);
  ~WorkerGroup() override;

  // As WorkerClient's, of all ranks. The memory is the tightest device's.
  Outcome<LoadedModel> AwaitLoad(const std::string& plan_digest);
  Outcome<worker::GenerateResult> Generate(std::span<const evals::GenerationRequest> requests,
                                           FunctionRef<bool(evals::Completion)> on_completion) override;
  Outcome<std::vector<evals::ThroughputSample>> Throughput(const evals::ThroughputSpec& spec);
  RunVerdict Finish();
  void Stop(std::string why);
  const std::optional<RunVerdict>& verdict() const { return verdict_; }

  // The last ledger of each rank, by rank, as far as they told; safe at any time.
  std::vector<worker::MemoryEvent> Ledgers() const;
  // Where rank 0 ran, once it has ended; empty where it was not launched elsewhere.
  std::string node() const;
  int size() const { return 1 + static_cast<int>(followers_.size()); }
  pid_t pid(int rank) const;

 private:
  class Follower;
  class Leader;

  WorkerGroup() = default;
  // The verdict on all once rank 0's run is over, or another's.
  RunVerdict Conclude();
  template <typename T>
  Outcome<T> OrConclude(Outcome<T> outcome);
  void FollowerEnded();

  std::unique_ptr<Leader> leader_observer_;
  std::unique_ptr<WorkerClient> leader_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::string rendezvous_;
  // How long the others have to end by themselves once one is gone; they see it at once, wherever they are.
  std::chrono::milliseconds grace_{};
  std::optional<RunVerdict> verdict_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool finishing_ = false;
  std::atomic<bool> stopped_{false};
};

}  // namespace hproc::controller
