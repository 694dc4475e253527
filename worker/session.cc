#include "worker/session.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <new>
#include <optional>
#include <span>
#include <system_error>

#include "base/bytes.h"
#include "base/file.h"
#include "base/printable.h"
#include "kernels/device_error.h"
#include "quant/plan.h"
#include "worker/batcher.h"
#include "worker/communicator.h"
#include "worker/deployment.h"
#include "worker/devices.h"
#include "worker/engine.h"
#include "worker/expert_pruning.h"
#include "worker/idle_gate.h"
#include "worker/loader.h"
#include "worker/ranks.h"
#include "worker/runtime.h"
#include "worker/session_parts.h"
#include "worker/sharding.h"
#include "worker/version.h"

namespace hproc::worker {
namespace {

using kernels::DeviceMemory;

// Ends the session with an `error` event; never leaves this file.
struct Failure {
  ErrorKind kind;
  std::string message;
};

template <typename T>
T OrFail(Result<T> result, ErrorKind kind) {
  if (!result.ok()) throw Failure{kind, result.error().message};
  return std::move(*result);
}
void OrFail(const Result<void>& result, ErrorKind kind) {
  if (!result.ok()) throw Failure{kind, result.error().message};
}

class Session {
 public:
  Session(ControlReader& control, EventWriter& events) : control_(control), events_(events) {}

  WorkerExit Run() {
    Result<Job> job = control_.ReadJob();
    Deployment deployment;
    if (job.ok()) std::visit([&](const auto& j) { deployment = j.deployment; }, *job);
    events_.Write(HelloEvent{.pid = ::getpid(), .worker_version = kVersion, .device_name = NameOf(deployment),
                             .rank = deployment.rank, .world_size = deployment.world_size});
    try {
      if (!job.ok()) throw Failure{ErrorKind::kInternal, job.error().message};
      std::visit([&](const auto& j) { Work(j); }, *job);
      events_.Write(ResultEvent{ExitResult{}});
      return kExitOk;
    } catch (const Failure& failure) {
      events_.Write(ErrorEvent{.kind = failure.kind, .message = failure.message});
    } catch (const kernels::DeviceOutOfMemory& refusal) {
      events_.Write(OutOfMemoryEvent{.phase = phase_, .device = refusal.device(),
                                     .requested_bytes = refusal.requested_bytes(),
                                     .available_bytes = refusal.available_bytes(), .what = refusal.purpose()});
    } catch (const RankLost& lost) {
      events_.Write(ErrorEvent{.kind = ErrorKind::kRankLost, .message = lost.what()});
    } catch (const kernels::DeviceError& e) {
      Report(e);
    } catch (const std::bad_alloc&) {
      events_.Write(ErrorEvent{.kind = ErrorKind::kHostOutOfMemory, .message = "the host has no memory left"});
    } catch (const std::system_error& e) {
      const bool no_room = e.code() == std::errc::resource_unavailable_try_again || e.code() == std::errc::not_enough_memory;
      events_.Write(ErrorEvent{.kind = no_room ? ErrorKind::kHostOutOfMemory : ErrorKind::kInternal, .message = e.what()});
    } catch (const std::exception& e) {
      events_.Write(ErrorEvent{.kind = ErrorKind::kInternal, .message = e.what()});
    }
    return kExitReported;
  }

 private:
  // Of a measure job's devices the first stands for all.
  static std::string NameOf(const Deployment& deployment) {
    const Result<std::vector<std::string>> devices = DevicesOf(deployment.device, deployment.world_size);
    const std::string name = DeviceName(devices.ok() ? devices->front() : deployment.device, ThreadsFor(deployment));
    return deployment.world_size == 1 ? name : std::to_string(deployment.world_size) + " x " + name;
  }

  void Report(const kernels::DeviceError& e) {
    using Kind = kernels::DeviceError::Kind;
    if (e.kind() == Kind::kOutOfMemory && phase_ != Phase::kInit) {
      // What the driver itself has no room for (a module, a graph) is as little on the device as what we have none for.
      events_.Write(OutOfMemoryEvent{.phase = phase_, .device = runtime_->memory().device(), .requested_bytes = 0,
                                     .available_bytes = 0, .what = e.what()});
      return;
    }
    // No room for a context, before anything of the model's: others hold the device.
    const ErrorKind kind = e.kind() == Kind::kOutOfMemory ? ErrorKind::kContaminated
                           : e.kind() == Kind::kLost      ? ErrorKind::kDeviceLost
                                                          : ErrorKind::kInternal;
    events_.Write(ErrorEvent{.kind = kind, .message = e.what()});
  }

  // Runs `body` as `phase`, with an event before and after.
  template <typename Body>
  void InPhase(Phase phase, Body&& body) {
    phase_ = phase;
    events_.Write(PhaseEvent{.phase = phase, .begin = true});
    const auto start = std::chrono::steady_clock::now();
    body();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    events_.Write(PhaseEvent{.phase = phase, .begin = false, .seconds = seconds});
  }

  // Runs `body`, which takes memory, and goes on once it has been done on every rank, so that each device that has too little
  // gets to say how much it lacks. Where others refused, this rank ends because of them.
  template <typename Body>
  void OnEveryRank(Body&& body) {
    if (rank_.ranks == nullptr) return body();
    std::exception_ptr refusal;
    try {
      body();
    } catch (const kernels::DeviceOutOfMemory&) {
      refusal = std::current_exception();
    }
    std::vector<std::byte> refused{refusal ? std::byte{1} : std::byte{0}};
    const std::vector<std::vector<std::byte>> all = rank_.ranks->Gather(refused, Communicator::kForever);
    refused.clear();
    for (const std::vector<std::byte>& of_rank : all) refused.push_back(of_rank.front());
    rank_.ranks->Broadcast(refused, Communicator::kForever);
    if (refusal) std::rethrow_exception(refusal);
    const auto first = std::ranges::find(refused, std::byte{1});
    if (first == refused.end()) return;
    const auto rank = static_cast<int>(first - refused.begin());
    throw RankLost(rank, false, "rank " + std::to_string(rank) + " has no room on its device");
  }

  // Meets the other ranks, where there are any; they may still be waiting for their devices.
  void MeetOthers(const TrialJob& job) {
    const Deployment& deployment = job.deployment;
    rank_.shard = {.rank = deployment.rank, .world_size = deployment.world_size};
    if (deployment.world_size == 1) return;
    OrFail(CheckRendezvous(job.rendezvous), ErrorKind::kBadJob);
    const auto on_wait = [this] { events_.progress().fetch_add(1, std::memory_order_relaxed); };
    constexpr std::chrono::minutes kStart{2};
    const auto wait = kStart + std::chrono::milliseconds(std::llround(job.idle_wait_seconds * 1000));
    ranks_ = OrFail(MeetRanks(job.rendezvous, deployment.rank, deployment.world_size, wait, on_wait), ErrorKind::kRankLost);
    ranks_->on_wait = on_wait;
    rank_.ranks = ranks_.get();
    runtime_->JoinRanks(rank_.ranks);
  }

  LoadProgress ReadingProgress(Phase phase) {
    return [this, phase](int64_t done, int64_t total) {
      events_.progress().fetch_add(1, std::memory_order_relaxed);
      const auto now = std::chrono::steady_clock::now();
      if (done < total && now - last_progress_ < std::chrono::milliseconds(100)) return;
      last_progress_ = now;
      events_.Write(ProgressEvent{.phase = phase, .done = done, .total = total, .unit = "bytes"});
    };
  }

  // What both kinds of job begin with.
  void Open(const std::string& model_dir, const Deployment& deployment, int threads, int64_t memory_cap_bytes) {
    OrFail(CheckDeployment(deployment), ErrorKind::kBadJob);
    runtime_ = OpenRuntime(deployment.device, std::min(threads, kMostThreads), memory_cap_bytes);
    ErrorKind fault = ErrorKind::kInternal;
    Result<OpenModel> model = OpenModelAt(model_dir, deployment, *runtime_, &fault);
    if (!model.ok()) throw Failure{fault, model.error().message};
    checkpoint_.emplace(std::move(model->checkpoint));
    spec_ = std::move(model->spec);
    table_ = std::move(model->table);
    shape_ = model->shape;
  }

  // Whether the plan's tensors are the checkpoint's; a plan of other values of these shapes shows while loading.
  Result<void> CheckPlan(const quant::Plan& plan) const {
    const auto same = [](const quant::TensorPlan& planned, const ModelTensor& there) { return planned.spec == there.spec; };
    if (std::ranges::equal(plan.tensors, table_.tensors, same)) return Ok();
    return Error{"the plan's tensors are not the checkpoint's; the plan belongs to another checkpoint"};
  }

  // The table of this checkpoint, where a whole one is there; a damaged one is made again.
  static std::optional<quant::RateTable> TableAt(const std::string& path, const std::string& fingerprint) {
    const Result<std::string> bytes = ReadFile(path, int64_t{4} << 30);
    if (!bytes.ok()) return std::nullopt;
    Result<quant::RateTable> table = quant::DecodeRateTable(*bytes);
    if (!table.ok() || table->fingerprint != fingerprint) return std::nullopt;
    return std::move(*table);
  }

  // Sees to it that the table at `path` has the rates of `mode`; measures those that are missing, on all devices at once. True
  // where none were.
  bool CompleteTable(const std::string& path, const std::string& fingerprint, quant::ModePolicy mode,
                     std::span<const std::string> devices, int threads) {
    std::optional<quant::RateTable> table = TableAt(path, fingerprint);
    const auto is_needed = [&](quant::Mode of, quant::ModePolicy other) {
      return mode != other && !(table && HasRatesOf(*table, of));
    };
    const quant::RateOptions missing{.v2 = is_needed(quant::Mode::kV2, quant::ModePolicy::kV2a),
                                     .v2a = is_needed(quant::Mode::kV2a, quant::ModePolicy::kV2)};
    if (!missing.v2 && !missing.v2a) return true;
    std::vector<std::unique_ptr<Runtime>> others;  // ranks on the CPU share one pool, whole already
    std::vector<Runtime*> runtimes{runtime_.get()};
    for (size_t i = 1; i < devices.size() && devices[i] != "cpu"; ++i) {
      runtimes.push_back(others.emplace_back(OpenRuntime(devices[i], threads, 0)).get());
    }
    quant::RateTable rates =
        OrFail(MeasureTogether(runtimes, *checkpoint_, table_, missing, ReadingProgress(Phase::kMeasure)), ErrorKind::kBadCheckpoint);
    if (table) AddRates(rates, std::move(*table));
    OrFail(WriteFileAtomically(path, EncodeRateTable(rates)), ErrorKind::kInternal);
    return false;
  }

  void Work(const MeasureJob& whole) {
    // The devices measure together; what the model will hold on each, and have free, is asked and reckoned, not tried.
    MeasureJob job = whole;
    const std::optional<quant::ModePolicy> mode = quant::ModePolicyFromName(job.mode);
    if (!mode) throw Failure{ErrorKind::kBadJob, "mode '" + Printable(job.mode) + "' is none of v2, v2a, auto"};
    const std::vector<std::string> devices =
        OrFail(DevicesOf(whole.deployment.device, whole.deployment.world_size), ErrorKind::kBadJob);
    job.deployment.device = devices.front();
    for (const std::string& device : devices) OrFail(CheckDevice(device), ErrorKind::kBadJob);
    std::vector<int64_t> free_bytes;  // before our own context takes its part
    for (const std::string& device : devices) free_bytes.push_back(FreeDeviceBytes(device).value_or(0));
    const int threads = ThreadsFor(job.deployment);  // of a rank; this pass has those of all
    InPhase(Phase::kInit, [&] { Open(job.model_dir, job.deployment, threads * job.deployment.world_size, 0); });
    MeasureResult result;
    const std::vector<int64_t> communicators = CommunicatorBytes(devices);
    InPhase(Phase::kMeasure, [&] {
      result.fingerprint = OrFail(checkpoint_->Fingerprint(), ErrorKind::kBadCheckpoint);
      result.table_path = std::filesystem::path(job.table_folder) / (result.fingerprint.substr(0, 16) + ".rates");
      result.reused = CompleteTable(result.table_path, result.fingerprint, *mode, devices, threads);
      result.allocation_granularity = DeviceMemory::kGranularity;
      result.device_free_bytes = free_bytes.front();
      result.predicted = PredictedLines(table_, spec_, shape_, *runtime_, threads);
      result.arranged = ArrangedTensors(table_, ShardSpec(spec_, shape_.shard), *runtime_);
      for (size_t rank = 0; devices.size() > 1 && rank < devices.size(); ++rank) {
        result.ranks.push_back(ForecastOf(table_, spec_, shape_, static_cast<int>(rank), *runtime_, threads));
        result.ranks.back().device = devices[rank];
        result.ranks.back().free_bytes = free_bytes[rank];
        if (communicators[rank] == 0) continue;
        result.ranks.back().predicted.push_back({.name = "communicator", .bytes = communicators[rank]});
      }
    });
    events_.Write(ResultEvent{std::move(result)});
    if (!std::holds_alternative<FinishCommand>(OrFail(control_.NextCommand(), ErrorKind::kInternal))) {
      throw Failure{ErrorKind::kInternal, "a measure job serves nothing: finish is the only command"};
    }
  }

  // What sums over these devices hold on each, tried: how much that is depends on the links between them. By rank; of one
  // device, and of CPU ranks, nothing.
  static std::vector<int64_t> CommunicatorBytes(const std::vector<std::string>& devices) {
    std::vector<int64_t> bytes(devices.size());
    if (devices.size() == 1 || devices.front() == "cpu") return bytes;
    RunRanks(static_cast<int>(devices.size()), [&](const Rank& rank) {
      const auto at = static_cast<size_t>(rank.shard.rank);
      const std::unique_ptr<Runtime> runtime = OpenRuntime(devices[at], 1, 0);
      runtime->JoinRanks(rank.ranks);
      bytes[at] = runtime->memory().usage().overhead.communicator_bytes;
    });
    return bytes;
  }

  // Waits until the device is as free as the job says it should be.
  void PassIdleGate(const TrialJob& job) {
    const std::optional<int64_t> free =
        WaitForFreeBytes(job.needed_free_bytes, std::chrono::milliseconds(std::llround(job.idle_wait_seconds * 1000)),
                         [&] { return FreeDeviceBytes(job.deployment.device); },
                         [this] { events_.progress().fetch_add(1, std::memory_order_relaxed); });
    if (!free || *free >= job.needed_free_bytes) return;
    throw Failure{ErrorKind::kContaminated, job.deployment.device + " has " + FormatBytes(*free) + " free where " +
                                                FormatBytes(job.needed_free_bytes) +
                                                " were when the study began: another process holds the rest"};
  }

  // A plan of another checkpoint would load, and be wrong.
  void CheckFingerprint(const TrialJob& job) {
    if (job.fingerprint.empty()) return;
    const std::string found = OrFail(checkpoint_->Fingerprint(), ErrorKind::kBadCheckpoint);
    if (found == job.fingerprint) return;
    throw Failure{ErrorKind::kBadCheckpoint, job.model_dir + ": not the checkpoint that the plan was made for (fingerprint " +
                                                 found.substr(0, 16) + ", not " + job.fingerprint.substr(0, 16) + ")"};
  }

  void Work(const TrialJob& job) {
    quant::Plan plan;
    std::optional<Tokenizer> tokenizer;
    InPhase(Phase::kInit, [&] {
      PassIdleGate(job);
      Open(job.model_dir, job.deployment, ThreadsFor(job.deployment), job.memory_cap_bytes);
      CheckFingerprint(job);
      MeetOthers(job);
      plan = OrFail(quant::PlanFromJson(job.plan_json), ErrorKind::kBadJob);
      if (checkpoint_->is_synthetic()) return;  // no tokenizer: it is loaded and timed
      const std::filesystem::path file =
          OrFail(ResolveInFolder(checkpoint_->folder(), "tokenizer.json"), ErrorKind::kBadCheckpoint);
      tokenizer.emplace(OrFail(Tokenizer::FromFile(file), ErrorKind::kBadCheckpoint));
    });
    DeviceMemory& memory = runtime_->memory();
    std::optional<LoadedModel> loaded;
    InPhase(Phase::kLoad, [&] {
      OrFail(PruneExperts(*checkpoint_, plan, spec_, table_, *runtime_->context().pool, ReadingProgress(Phase::kLoad)),
             ErrorKind::kBadCheckpoint);
      OrFail(CheckPlan(plan), ErrorKind::kBadJob);
      OnEveryRank([&] {
        loaded.emplace(OrFail(runtime_->Load(spec_, *checkpoint_, table_, plan, rank_.shard, ReadingProgress(Phase::kLoad)),
                              ErrorKind::kBadCheckpoint));
      });
      OrFail(ReportLoad(*loaded, plan, rank_), ErrorKind::kBadCheckpoint);
    });
    events_.Write(LedgerOf(memory));
    events_.Write(ResultEvent{loaded->report});
    Engine engine(loaded->model, runtime_->context(), memory, shape_, rank_.ranks);
    InPhase(Phase::kCache, [&] { OnEveryRank([&] { engine.AllocateCache(); }); });
    InPhase(Phase::kWarmup, [&] {
      OnEveryRank([&] { engine.AllocateActivations(); });
      if (!rank_.leads()) return engine.Follow();
      Warmup(engine);
      engine.Release();
    });
    events_.Write(LedgerOf(memory));
    events_.Write(ResultEvent{ReadyResult{}});
    if (!rank_.leads()) {
      engine.Follow();
      if (std::holds_alternative<FinishCommand>(OrFail(control_.NextCommand(), ErrorKind::kInternal))) return;
      throw Failure{ErrorKind::kInternal, "rank " + std::to_string(rank_.shard.rank) + " takes its work from rank 0: finish is the only command"};
    }

    const PassHook hook = [this](int64_t tokens) {
      events_.progress().fetch_add(tokens, std::memory_order_relaxed);
      return !Cancelled();
    };
    std::optional<Batcher> batcher;
    tokenizer ? batcher.emplace(engine, *tokenizer, hook) : batcher.emplace(engine, hook);
    while (Serve(OrFail(control_.NextCommand(), ErrorKind::kInternal), *batcher)) {
    }
    engine.Release();
  }

  // The longest prompt piece and a full batch, each at the end of the context: what will be touched later is touched now.
  void Warmup(Engine& engine) {
    std::vector<int32_t> tokens(static_cast<size_t>(shape_.pass_tokens), 0);
    const kernels::SequenceRun prompt{.slot = 0, .first_position = shape_.context - shape_.pass_tokens, .first_row = 0,
                                      .tokens = shape_.pass_tokens};
    const int32_t last = shape_.pass_tokens - 1;
    if (shape_.pass_tokens <= shape_.context) engine.Pass(tokens, {&prompt, 1}, {&last, 1});
    tokens.resize(static_cast<size_t>(shape_.slots));
    std::vector<kernels::SequenceRun> runs;
    std::vector<int32_t> rows;
    for (int slot = 0; slot < shape_.slots; ++slot) {
      runs.push_back({.slot = slot, .first_position = shape_.context - 1, .first_row = slot, .tokens = 1});
      rows.push_back(slot);
    }
    engine.Pass(tokens, runs, rows);
    for (int slot = 0; slot < shape_.slots; ++slot) engine.ResetSlot(slot);
    events_.progress().fetch_add(1, std::memory_order_relaxed);
  }

  // A cancel ends a generate; one that comes when the answer is out finds nothing to end.
  bool Cancelled() const { return phase_ == Phase::kGenerate && control_.cancelled(); }

  // False once the worker is to finish.
  bool Serve(const Command& command, Batcher& batcher) {
    if (const auto* generate = std::get_if<GenerateCommand>(&command)) {
      phase_ = Phase::kGenerate;
      const auto start = std::chrono::steady_clock::now();
      const int64_t prompt_before = batcher.prompt_tokens();
      const int64_t generated_before = batcher.generated_tokens();
      OrFail(batcher.Generate(generate->requests,
                              [&](evals::Completion completion) {
                                events_.Write(SampleEvent{std::move(completion)});
                                return !Cancelled();
                              }),
             ErrorKind::kInternal);
      events_.Write(ResultEvent{GenerateResult{
          .cancelled = Cancelled(),
          .prompt_tokens = batcher.prompt_tokens() - prompt_before,
          .generated_tokens = batcher.generated_tokens() - generated_before,
          .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}});
    } else if (const auto* throughput = std::get_if<ThroughputCommand>(&command)) {
      phase_ = Phase::kThroughput;
      ThroughputResult result;
      result.samples = OrFail(evals::RunThroughput(throughput->spec, batcher), ErrorKind::kInternal);
      events_.Write(ResultEvent{std::move(result)});
    } else {
      return false;  // finish; a cancel never comes here
    }
    return true;
  }

  ControlReader& control_;
  EventWriter& events_;
  Phase phase_ = Phase::kInit;
  std::chrono::steady_clock::time_point last_progress_{};
  std::unique_ptr<Runtime> runtime_;
  std::optional<Checkpoint> checkpoint_;
  ModelSpec spec_;
  TensorTable table_;
  EngineShape shape_;
  std::unique_ptr<Communicator> ranks_;
  Rank rank_;
};

}  // namespace

WorkerExit RunSession(ControlReader& control, EventWriter& events) { return Session(control, events).Run(); }

}  // namespace hproc::worker
