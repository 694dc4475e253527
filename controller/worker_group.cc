#include "controller/worker_group.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "controller/launcher.h"
#include "worker/communicator.h"
#include "worker/devices.h"

namespace hproc::controller {
namespace {

// Ended because of another rank, or by us.
bool IsConsequence(const WorkerClient& client) {
  const RunVerdict& run = *client.verdict();
  if (run.verdict.reason == Reason::kInterrupted || run.verdict.reason == Reason::kNone) return true;
  // By whoever ended the job they are all in.
  const std::optional<LaunchEnd>& launch = client.end()->launch;
  if (launch && launch->state.empty() && client.end()->exit_code == worker::kExitControllerGone) return true;
  const std::optional<worker::ErrorEvent>& error = client.end()->record.error;
  return error && error->kind == worker::ErrorKind::kRankLost;
}

// "log-rank-1.log" beside "log.log".
std::filesystem::path LogOfRank(const std::filesystem::path& log, int rank) {
  if (log.empty() || rank == 0) return log;
  return log.parent_path() / (log.stem().string() + "-rank-" + std::to_string(rank) + log.extension().string());
}

}  // namespace

// Passes on what rank 0 tells, and keeps its ledger.
class WorkerGroup::Leader : public WorkerObserver {
 public:
  explicit Leader(WorkerObserver* observer) : observer_(observer) {}
  void OnHello(const worker::HelloEvent& hello) override {
    if (observer_ != nullptr) observer_->OnHello(hello);
  }
  void OnPhase(const worker::PhaseEvent& phase) override {
    if (observer_ != nullptr) observer_->OnPhase(phase);
  }
  void OnProgress(const worker::ProgressEvent& progress) override {
    if (observer_ != nullptr) observer_->OnProgress(progress);
  }
  void OnMemory(const worker::MemoryEvent& memory) override {
    {
      const std::scoped_lock lock(mutex_);
      memory_ = memory;
    }
    if (observer_ != nullptr) observer_->OnMemory(memory);
  }
  void OnLoad(const worker::LoadResult& load) override {
    if (observer_ != nullptr) observer_->OnLoad(load);
  }
  std::optional<worker::MemoryEvent> memory() const {
    const std::scoped_lock lock(mutex_);
    return memory_;
  }

 private:
  WorkerObserver* observer_;
  mutable std::mutex mutex_;
  std::optional<worker::MemoryEvent> memory_;
};

// A rank but 0: a client, and a thread that listens to it.
class WorkerGroup::Follower : public WorkerObserver {
 public:
  explicit Follower(WorkerGroup& group) : group_(group) {}
  ~Follower() override {
    if (client != nullptr) client->Stop("its trial is over");
    if (thread_.joinable()) thread_.join();
  }

  void OnMemory(const worker::MemoryEvent& memory) override {
    const std::scoped_lock lock(group_.mutex_);
    memory_ = memory;
  }

  // Once the client is there. It is the thread's until the thread has ended, but for Stop and AskToFinish.
  void Listen(const std::string& plan_digest) {
    thread_ = std::thread([this, plan_digest] {
      const bool is_ready = client->AwaitLoad(plan_digest).ok();
      {
        const std::scoped_lock lock(group_.mutex_);
        ready = is_ready;
      }
      group_.changed_.notify_all();
      if (is_ready) client->AwaitEnd();
      {
        const std::scoped_lock lock(group_.mutex_);
        ended = true;
      }
      group_.FollowerEnded();
    });
  }

  std::unique_ptr<WorkerClient> client;
  bool ready = false;  // these under the group's mutex
  bool ended = false;
  const std::optional<worker::MemoryEvent>& memory() const { return memory_; }

 private:
  WorkerGroup& group_;
  std::optional<worker::MemoryEvent> memory_;
  std::thread thread_;
};

Result<std::unique_ptr<WorkerGroup>> WorkerGroup::Start(const WorkerOptions& options, const worker::TrialJob& job,
                                                        WorkerObserver* observer, std::span<const int64_t> needed_free_bytes,
                                                        const Launcher* launcher) {
  const int world_size = job.deployment.world_size;
  const Result<std::vector<std::string>> devices = worker::DevicesOf(job.deployment.device, world_size);
  if (!devices.ok()) return devices.error();
  if (options.is_launched && launcher == nullptr && world_size > 1) {
    return Error{"ranks of one trial meet on one machine: no launcher to see to that"};
  }
  std::unique_ptr<WorkerGroup> group(new WorkerGroup());
  group->leader_observer_ = std::make_unique<Leader>(observer);
  group->grace_ = options.terminate;
  if (world_size > 1) group->rendezvous_ = worker::NewRendezvous(options.is_launched ? "/tmp" : "");
  for (int rank = 0; rank < world_size; ++rank) {
    worker::TrialJob own = job;
    own.deployment.rank = rank;
    own.deployment.device = (*devices)[static_cast<size_t>(rank)];
    own.rendezvous = group->rendezvous_;
    if (!needed_free_bytes.empty()) own.needed_free_bytes = needed_free_bytes[static_cast<size_t>(rank)];
    WorkerOptions own_options = options;
    own_options.log_file = LogOfRank(options.log_file, rank);
    if (launcher != nullptr && rank > 0) {
      launcher->LaunchRank(own_options, options, rank);
      own_options.on_note = {};  // they have one job, of which rank 0 tells
    }
    std::unique_ptr<Follower> follower = rank == 0 ? nullptr : std::make_unique<Follower>(*group);
    WorkerObserver* own_observer = follower == nullptr ? static_cast<WorkerObserver*>(group->leader_observer_.get()) : follower.get();
    Result<std::unique_ptr<WorkerClient>> client = WorkerClient::Start(std::move(own_options), own, own_observer);
    if (!client.ok()) return client.error();
    if (follower == nullptr) {
      group->leader_ = std::move(*client);
    } else {
      follower->client = std::move(*client);
      group->followers_.push_back(std::move(follower));
    }
  }
  // All ranks or none: what cannot be started has been by now.
  for (const auto& follower : group->followers_) follower->Listen("");
  return group;
}

WorkerGroup::~WorkerGroup() {
  {
    const std::scoped_lock lock(mutex_);
    finishing_ = true;
  }
  changed_.notify_all();
  followers_.clear();  // their threads speak to this
  leader_.reset();
  if (!rendezvous_.empty()) ::unlink(rendezvous_.c_str() + std::string_view("unix:").size());  // of ranks killed on their way there
}

void WorkerGroup::FollowerEnded() {
  {
    std::unique_lock lock(mutex_);
    changed_.notify_all();
    // Rank 0 sees it by itself and says so; where it does not, it is ended.
    if (changed_.wait_for(lock, grace_, [this] { return finishing_; })) return;
  }
  leader_->Stop("another rank has ended");
}

RunVerdict WorkerGroup::Conclude() {
  if (verdict_) return *verdict_;
  {
    std::unique_lock lock(mutex_);
    finishing_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, grace_, [this] { return std::ranges::all_of(followers_, [](const auto& f) { return f->ended; }); });
  }
  for (const auto& follower : followers_) follower->client->Stop("another rank has ended");
  leader_->Stop("another rank has ended");
  leader_->AwaitEnd();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return std::ranges::all_of(followers_, [](const auto& f) { return f->ended; }); });
  }
  std::vector<const WorkerClient*> clients{leader_.get()};
  for (const auto& follower : followers_) clients.push_back(follower->client.get());
  const WorkerClient* cause = nullptr;
  int rank_of_cause = 0;
  const auto is_oom = [](const WorkerClient& client) { return client.verdict()->verdict.reason == Reason::kOutOfMemory; };
  for (size_t rank = 0; rank < clients.size(); ++rank) {
    const WorkerClient& client = *clients[rank];
    if (IsConsequence(client)) continue;
    const bool lacks_more = cause != nullptr && is_oom(client) &&
                            (!is_oom(*cause) || client.verdict()->verdict.short_bytes > cause->verdict()->verdict.short_bytes);
    if (cause != nullptr && !lacks_more) continue;
    cause = &client;
    rank_of_cause = static_cast<int>(rank);
  }
  RunVerdict run = cause != nullptr ? *cause->verdict() : *leader_->verdict();
  if (stopped_) {
    run = *leader_->verdict();
    run.state.reset();
    run.verdict.reason = Reason::kInterrupted;
  } else if (cause == nullptr && run.verdict.reason == Reason::kInterrupted) {
    // Rank 0 was ended for another's sake, which ended as it should, unasked.
    run.state = TrialState::kFailed;
    run.verdict.reason = Reason::kProtocolError;
    BlameNode(run.verdict, node());
  }
  if (clients.size() > 1 && cause != nullptr && run.verdict.reason != Reason::kInterrupted) {
    if (!is_oom(*cause)) run.verdict.phase = leader_->verdict()->verdict.phase.empty() ? run.verdict.phase : leader_->verdict()->verdict.phase;
    run.verdict.message = "rank " + std::to_string(rank_of_cause) + ": " + run.verdict.message;
  }
  verdict_ = run;
  return run;
}

template <typename T>
Outcome<T> WorkerGroup::OrConclude(Outcome<T> outcome) {
  if (verdict_) return *verdict_;
  if (followers_.empty()) {
    verdict_ = leader_->verdict();
    return outcome;
  }
  if (outcome.ok()) return outcome;
  return Conclude();
}

Outcome<LoadedModel> WorkerGroup::AwaitLoad(const std::string& plan_digest) {
  Outcome<LoadedModel> loaded = OrConclude(leader_->AwaitLoad(plan_digest));
  if (!loaded.ok() || followers_.empty()) return loaded;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return std::ranges::all_of(followers_, [](const auto& f) { return f->ready || f->ended; });
    });
    if (!std::ranges::all_of(followers_, [](const auto& f) { return f->ready; })) {
      lock.unlock();
      return Conclude();
    }
  }
  for (const worker::MemoryEvent& memory : Ledgers()) {
    if (!loaded->memory || memory.live_bytes > loaded->memory->live_bytes) loaded->memory = memory;
  }
  return loaded;
}

Outcome<worker::GenerateResult> WorkerGroup::Generate(std::span<const evals::GenerationRequest> requests,
                                                      FunctionRef<bool(evals::Completion)> on_completion) {
  return OrConclude(leader_->Generate(requests, on_completion));
}

Outcome<std::vector<evals::ThroughputSample>> WorkerGroup::Throughput(const evals::ThroughputSpec& spec) {
  return OrConclude(leader_->Throughput(spec));
}

RunVerdict WorkerGroup::Finish() {
  if (verdict_) return *verdict_;
  {
    const std::scoped_lock lock(mutex_);
    finishing_ = true;
    // One that has ended already takes no command.
    for (const auto& follower : followers_) {
      if (!follower->ended) follower->client->AskToFinish();
    }
  }
  changed_.notify_all();
  const RunVerdict of_leader = leader_->Finish();
  if (followers_.empty()) {
    verdict_ = of_leader;
    return of_leader;
  }
  return Conclude();
}

void WorkerGroup::Stop(std::string why) {
  stopped_ = true;
  for (const auto& follower : followers_) follower->client->Stop(why);
  leader_->Stop(std::move(why));
}

std::vector<worker::MemoryEvent> WorkerGroup::Ledgers() const {
  std::vector<worker::MemoryEvent> ledgers;
  if (const std::optional<worker::MemoryEvent> memory = leader_observer_->memory()) ledgers.push_back(*memory);
  const std::scoped_lock lock(mutex_);
  for (const auto& follower : followers_) {
    if (follower->memory()) ledgers.push_back(*follower->memory());
  }
  return ledgers;
}

std::string WorkerGroup::node() const {
  const std::optional<WorkerEnd>& end = leader_->end();
  return end && end->launch ? end->launch->node : "";
}

pid_t WorkerGroup::pid(int rank) const {
  return rank == 0 ? leader_->process().pid() : followers_[static_cast<size_t>(rank) - 1]->client->process().pid();
}

}  // namespace hproc::controller
