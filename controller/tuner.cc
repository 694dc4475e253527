#include "controller/tuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/file.h"
#include "controller/device_share.h"
#include "controller/store_rules.h"
#include "controller/verdict.h"
#include "evals/question_order.h"

namespace hproc::controller {
namespace {

constexpr int64_t kMaxTableBytes = int64_t{4} << 30;

class MeasureObserver : public WorkerObserver {
 public:
  explicit MeasureObserver(TuneObserver* observer) : observer_(observer) {}
  void OnHello(const worker::HelloEvent& hello) override { hello_ = hello; }
  void OnPhase(const worker::PhaseEvent& phase) override { observer_->OnPhase(kNoTrial, phase); }
  void OnProgress(const worker::ProgressEvent& progress) override { observer_->OnProgress(kNoTrial, progress); }
  const worker::HelloEvent& hello() const { return hello_; }

 private:
  TuneObserver* observer_;
  worker::HelloEvent hello_;
};

}  // namespace

Result<Measured> MeasureRun::Run(const std::string& model_dir, const std::filesystem::path& table_folder,
                                 const worker::Deployment& deployment, const std::string& mode) {
  std::error_code error;
  std::filesystem::create_directories(table_folder, error);
  if (error) return Error{table_folder.string() + ": cannot create the folder: " + error.message()};
  observer_->OnMeasureStart(model_dir);
  const auto start = std::chrono::steady_clock::now();
  MeasureObserver observer(observer_);
  WorkerOptions options;
  options.executable = setup_.executable;
  options.arguments = setup_.arguments;
  options.deadlines = setup_.deadlines;
  if (setup_.launcher) {
    options.on_note = [this](const LaunchNote& note) { observer_->OnLaunch(kNoTrial, note); };
  }
  const worker::MeasureJob job{.model_dir = model_dir, .table_folder = table_folder.string(), .deployment = deployment,
                               .mode = mode};
  PastRuns before{.is_launched = setup_.launcher != nullptr};
  LaunchRequest request{.name = "measure", .threads = deployment.threads, .ranks = 1, .avoid = {}, .faulty = {}};
  for (;;) {
    WorkerOptions started = options;
    if (setup_.launcher) setup_.launcher->Launch(started, request);
    Result<std::unique_ptr<WorkerClient>> client = WorkerClient::Start(started, job, &observer);
    if (!client.ok()) return client.error();
    {
      const std::scoped_lock lock(mutex_);
      current_ = client->get();
    }
    if (stopped_) (*client)->Stop("interrupted");
    Outcome<worker::MeasureResult> result = (*client)->AwaitMeasure();
    {
      const std::scoped_lock lock(mutex_);
      current_ = nullptr;
    }
    if (result.ok()) {
      (void)(*client)->Finish();  // what was measured stands whether or not the worker leaves politely
      observer_->OnMeasureEnd(result->reused, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      return Measured{.result = std::move(*result), .worker_version = observer.hello().worker_version,
                      .device_name = observer.hello().device_name};
    }
    const Verdict& verdict = result.verdict().verdict;
    if (!IsTriedAgain(verdict.reason, before)) return Error{verdict.message};
    before.Add(verdict.reason);
    if (!verdict.device.empty()) (IsFault(verdict.reason) ? request.faulty : request.avoid).push_back(verdict.device);
    observer_->OnNote("measuring failed, once more: " + verdict.message);
  }
}

void MeasureRun::Stop() {
  stopped_ = true;
  const std::scoped_lock lock(mutex_);
  if (current_ != nullptr) current_->Stop("interrupted");
}

Result<std::unique_ptr<PlanSpace>> LoadPlanSpace(const worker::MeasureResult& measured, const std::string& mode,
                                                 double head_floor) {
  const std::optional<quant::ModePolicy> policy = quant::ModePolicyFromName(mode);
  if (!policy) return Error{"mode '" + mode + "' is none of v2, v2a, auto"};
  Result<std::string> bytes = ReadFile(measured.table_path, kMaxTableBytes);
  if (!bytes.ok()) return bytes.error();
  Result<quant::RateTable> table = quant::DecodeRateTable(*bytes);
  if (!table.ok()) return Error{measured.table_path + ": " + table.error().message};
  if (table->fingerprint != measured.fingerprint) {
    return Error{measured.table_path + ": the rate table of another checkpoint"};
  }
  if (!measured.arranged.empty() && measured.arranged.size() != table->tensors.size()) {
    return Error{measured.table_path + ": the rate table of another model than the worker's"};
  }
  return std::make_unique<PlanSpace>(std::move(*table), *policy, head_floor, measured.predicted,
                                     measured.allocation_granularity, measured.ranks, measured.arranged);
}

Result<worker::MeasureResult> MeasuredOf(const Study& study) {
  const Result<worker::Event> event = worker::DecodeEvent(
      std::string_view(study.measure_json).substr(0, study.measure_json.find_last_not_of('\n') + 1));
  const worker::ResultEvent* result = event.ok() ? std::get_if<worker::ResultEvent>(&event->body) : nullptr;
  const auto* measured = result != nullptr ? std::get_if<worker::MeasureResult>(&result->result) : nullptr;
  if (measured == nullptr) return Error{"study \"" + study.spec.name + "\" was not measured yet"};
  return *measured;
}

Result<std::unique_ptr<PlanSpace>> SpaceOf(const Study& study) {
  const Result<worker::MeasureResult> measured = MeasuredOf(study);
  if (!measured.ok()) return measured.error();
  return LoadPlanSpace(*measured, study.spec.mode, study.spec.highest.head);
}

Result<StudyQuestions> LoadQuestions(const EvalProtocol& protocol) {
  if (protocol.tasks_path.empty()) {
    Result<evals::Gsm8kTask> none = evals::Gsm8kTask::Create({}, {}, 0);
    if (!none.ok()) return none.error();
    return StudyQuestions{.task = std::move(*none), .order = {}, .probes = {}};
  }
  Result<evals::Gsm8kTask> task = evals::ReadGsm8kTask(protocol.tasks_path, protocol.shots_path, protocol.shots);
  if (!task.ok()) return task.error();
  if (!protocol.tasks_sha256.empty() && task->tasks().sha256 != protocol.tasks_sha256) {
    return Error{protocol.tasks_path + ": the questions have changed since the study began"};
  }
  if (!protocol.shots_sha256.empty() && task->shot_pool().sha256 != protocol.shots_sha256) {
    return Error{protocol.shots_path + ": the worked examples have changed since the study began"};
  }
  std::vector<int> order = evals::QuestionOrder(task->size(), protocol.order_seed);
  if (protocol.limit > 0 && protocol.limit < static_cast<int>(order.size())) {
    order.resize(static_cast<size_t>(protocol.limit));
  }
  std::vector<evals::Probe> probes = evals::MakeProbes(*task, order);
  return StudyQuestions{.task = std::move(*task), .order = std::move(order), .probes = std::move(probes)};
}

SearchSpec SearchSpecOf(const StudySpec& spec, const PlanSpace& space) {
  SearchSpec search;
  search.strategy = StrategyFromName(spec.strategy).value_or(Strategy::kPredict);
  search.lowest = space.PairOf(spec.lowest);
  search.highest = space.PairOf(spec.highest);
  search.budget_bytes = space.LeastRoom(spec.budget_bytes());
  search.min_accuracy = spec.min_accuracy;
  search.max_candidates = spec.max_candidates;
  search.max_garbage_loads = spec.max_garbage_loads;
  search.judges = spec.judges();
  search.trust_plan = spec.trust_plan;
  return search;
}

// Failures of the machine: whatever had been tried there and then would have failed.
static bool SaysNothingOfThePoint(Reason reason) {
  return reason == Reason::kDeviceLost || reason == Reason::kContaminated || reason == Reason::kNotLaunched;
}

// Why a study stops that met such a failure, and what it waits for.
static std::string WhyStopped(const Trial& trial) {
  const std::string where = " in trial " + std::to_string(trial.number) + ": " + trial.verdict.message + "; once it ";
  switch (trial.verdict.reason) {
    case Reason::kDeviceLost: return "the device was lost" + where + "is back, go on with hproc resume";
    case Reason::kContaminated: return "the device is not free" + where + "is free, go on with hproc resume";
    default: return "nothing could be launched" + where + "can be, go on with hproc resume";
  }
}

std::vector<TrialFact> FactsOf(const std::vector<Trial>& trials, const PlanSpace& space, InFlight in_flight) {
  std::vector<TrialFact> facts;
  for (const Trial& trial : trials) {
    if (trial.plan.kind != TrialKind::kPoint) continue;
    if (in_flight == InFlight::kLeftOut && !IsFinished(trial.state)) continue;
    if (SaysNothingOfThePoint(trial.verdict.reason)) continue;  // so that the point is asked for again
    TrialFact fact;
    fact.number = trial.number;
    fact.at = space.PairOf(trial.plan.floors);
    fact.digest = trial.plan.plan_digest;
    fact.state = trial.state;
    fact.reason = trial.verdict.reason;
    fact.depth = DepthOf(trial.plan.purpose);
    fact.predicted_bytes = trial.plan.predicted_bytes;
    if (trial.measured.memory && fact.reason != Reason::kOutOfMemory) {
      fact.measured_bytes = trial.measured.memory->live_bytes;
      fact.peak_bytes = trial.measured.memory->peak_bytes;
    }
    fact.message = trial.verdict.message;
    fact.short_bytes = trial.verdict.short_bytes;
    fact.accuracy = trial.measured.accuracy;
    for (const evals::ThroughputSummary& summary : evals::SummarizeThroughput(trial.measured.throughput)) {
      if (summary.kind != evals::ThroughputKind::kLongDecode) continue;
      fact.decode_tok_per_s = summary.mean_tok_per_s;
      fact.decode_error = summary.sd_tok_per_s / std::sqrt(static_cast<double>(summary.repetitions));
    }
    facts.push_back(std::move(fact));
  }
  return facts;
}

Result<StudyOutcome> OutcomeOf(Store& store, const StudySpec& spec, const PlanSpace& space,
                               const std::vector<Trial>& trials, const SearchDone& done) {
  StudyOutcome outcome;
  outcome.done = done;
  outcome.int4_weight_bytes = space.Int4WeightBytes();
  outcome.int4_total_bytes = space.Int4TotalBytes();
  if (done.recommended) {
    Result<std::vector<Comparison>> baselines = CompareWithBaselines(store, spec, trials, *done.recommended);
    if (!baselines.ok()) return baselines.error();
    outcome.baselines = std::move(*baselines);
  }
  return outcome;
}

// A checkpoint that talks garbage as it is stored was not read rightly, and nothing made of it can be believed.
static std::optional<std::string> FaultOfBaselines(const std::vector<Trial>& trials) {
  for (const Trial& trial : trials) {
    if (trial.plan.kind != TrialKind::kBaseline16Bit || trial.verdict.reason != Reason::kLoaderFault) continue;
    return "the loader is at fault: trial " + std::to_string(trial.number) + ", the model as stored: " + trial.verdict.message;
  }
  return std::nullopt;
}

Tuner::Tuner(Store& store, const Study& study, const PlanSpace& space, const StudyQuestions& questions,
             WorkerSetup setup, TuneObserver* observer)
    : store_(store), study_(study), space_(space), observer_({observer}), idle_free_bytes_(setup.idle_free_bytes),
      idle_free_by_rank_(setup.idle_free_by_rank) {
  // The command line was checked; a study file written by hand is refused by the worker, in its words.
  const Result<std::vector<worker::Deployment>> divided = SharesOf(study.spec);
  const std::vector<worker::Deployment> shares = divided.ok() ? *divided : std::vector{study.spec.deployment};
  for (const worker::Deployment& share : shares) {
    setup.share = share;
    slots_.push_back({.runner = std::make_unique<TrialRunner>(store, study.spec, questions, setup, &observer_), .trial_id = {}, .thread = {}});
  }
}

Tuner::~Tuner() = default;

Result<Trial> Tuner::AddTrial(TrialKind kind, const PlannedPoint& point, std::string_view purpose) {
  NewTrial trial;
  trial.kind = kind;
  trial.floors = point.plan.floors;
  trial.plan_digest = point.digest;
  trial.plan_json = quant::PlanToJson(point.plan);
  trial.predicted_bytes = point.total_bytes;
  trial.predicted_weight_bytes = point.weight_bytes;
  trial.bits_per_weight = point.plan.bits_per_weight();
  trial.purpose = purpose;
  return store_.AddTrial(study_.id, trial);
}

std::optional<PlannedPoint> Tuner::PlanOf(TrialKind baseline, const std::vector<Trial>& trials,
                                          std::optional<int> recommended) const {
  switch (baseline) {
    case TrialKind::kPoint: break;
    case TrialKind::kBaseline16Bit: return space_.Kept();
    case TrialKind::kBaselineInt4: return space_.Int4();
    case TrialKind::kBaselineInt4Pruned:
      if (!recommended) break;  // there are no bytes to match
      return space_.Int4Pruned(trials[static_cast<size_t>(*recommended)].plan.predicted_weight_bytes);
  }
  return std::nullopt;
}

Result<std::optional<Trial>> Tuner::NextBaseline(const std::vector<Trial>& trials, std::optional<int> recommended) {
  for (TrialKind kind : study_.spec.baselines) {
    const auto has_run = [&](const Trial& trial) {
      return trial.plan.kind == kind && !SaysNothingOfThePoint(trial.verdict.reason);
    };
    if (std::ranges::any_of(trials, has_run)) continue;
    const std::optional<PlannedPoint> plan = PlanOf(kind, trials, recommended);
    if (!plan) continue;
    Result<Trial> added = AddTrial(kind, *plan, TrialKindName(kind));
    if (!added.ok()) return added.error();
    return std::optional<Trial>(std::move(*added));
  }
  return std::optional<Trial>();
}

// What must be free before a trial that may use `wanted` bytes begins. Where the cap is more than the device ever has free,
// all it had; a little less, since an idle device is not always as idle.
static int64_t NeededFreeBytes(int64_t wanted, int64_t idle_free_bytes) {
  constexpr double kTolerance = 0.02;
  const auto idle = static_cast<int64_t>(static_cast<double>(idle_free_bytes) * (1 - kTolerance));
  return std::min(wanted, idle);
}

// Whether what a trial may use was all free when the study began: not where trials share it, and not on other machines.
static bool HasIdleMemory(const StudySpec& spec) {
  return spec.launch.launcher == "local" && (spec.launch.parallel == 1 || spec.deployment.device != "cpu");
}

Result<TrialRun> Tuner::Prepare(Trial trial, std::optional<int> incumbent, const std::vector<Trial>& trials) {
  TrialRun run;
  const bool is_point = trial.plan.kind == TrialKind::kPoint;
  run.depth = is_point ? DepthOf(trial.plan.purpose) : Depth::kEvaluate;
  run.memory_cap_bytes = is_point ? study_.spec.budget_bytes() : 0;
  if (HasIdleMemory(study_.spec)) {
    const int64_t wanted = is_point ? run.memory_cap_bytes : trial.plan.predicted_bytes;
    run.needed_free_bytes = NeededFreeBytes(wanted, idle_free_bytes_);
    for (const int64_t idle : idle_free_by_rank_) run.needed_free_by_rank.push_back(NeededFreeBytes(wanted, idle));
  }
  Result<quant::Plan> plan = quant::PlanFromJson(trial.plan.plan_json);
  if (!plan.ok()) return plan.error();
  run.predicted = space_.Ledger(*plan);
  run.trial = std::move(trial);
  if (incumbent) {
    Result<std::vector<Answer>> answers = store_.ListAnswers(trials[static_cast<size_t>(*incumbent)].id);
    if (!answers.ok()) return answers.error();
    run.incumbent = std::move(*answers);
  }
  Result<std::optional<evals::GarbageCalibration>> calibration = CalibrationOf(store_, study_.spec);
  if (!calibration.ok()) return calibration.error();
  run.calibration = *std::move(calibration);
  return run;
}

void Tuner::Stop() {
  stopped_ = true;
  StopRunners();
}

void Tuner::StopRunners() {
  for (const Slot& slot : slots_) slot.runner->Stop();
}

// What to do now: run a trial, finish, or neither.
Result<Tuner::Next> Tuner::Ask() {
  Result<std::vector<Trial>> trials = store_.ListTrials(study_.id);
  if (!trials.ok()) return trials.error();
  if (const std::optional<std::string> fault = FaultOfBaselines(*trials)) {
    return Next{.run = {}, .done = SearchDone{.bound = Bound::kNone, .why = *fault, .fault = *fault}};
  }
  const SearchSpec search = SearchSpecOf(study_.spec, space_);
  const std::vector<TrialFact> facts = FactsOf(*trials, space_, InFlight::kPassed);
  const SearchStep step = NextStep(search, space_, facts);
  const auto* done = std::get_if<SearchDone>(&step);
  if (done != nullptr && done->fault) return Next{.run = {}, .done = *done};
  // Trials that an interruption cut off are finished before anything new is begun. The search took them for running.
  std::optional<Trial> next;
  const auto is_left_open = [this](const Trial& trial) {
    return !IsFinished(trial.state) &&
           std::ranges::none_of(slots_, [&](const Slot& slot) { return slot.trial_id == trial.id; });
  };
  if (const auto open = std::ranges::find_if(*trials, is_left_open); open != trials->end()) {
    next = *open;
  } else if (const auto* wanted = std::get_if<RunTrial>(&step); wanted != nullptr && !stopped_) {
    Result<Trial> added = AddTrial(TrialKind::kPoint, space_.At(wanted->at), PurposeName(wanted->purpose));
    if (!added.ok()) return added.error();
    next = std::move(*added);
  } else if (done != nullptr) {
    Result<std::optional<Trial>> baseline = NextBaseline(*trials, done->recommended);
    if (!baseline.ok()) return baseline.error();
    const bool all_ended = std::ranges::all_of(*trials, [](const Trial& trial) { return IsFinished(trial.state); });
    if (!*baseline) return all_ended ? Next{.run = {}, .done = *done} : Next{};
    next = std::move(**baseline);
  }
  if (!next || stopped_) return Next{};
  // A candidate is compared with the best so far.
  std::optional<int> incumbent;
  if (next->plan.kind == TrialKind::kPoint && DepthOf(next->plan.purpose) == Depth::kEvaluate) {
    incumbent = ConcludeNow(search, space_, facts).recommended;
  }
  Result<TrialRun> run = Prepare(std::move(*next), incumbent, *trials);
  if (!run.ok()) return run.error();
  return Next{.run = std::move(*run), .done = {}};
}

void Tuner::Start(Slot& slot, TrialRun run) {
  slot.trial_id = run.trial.id;
  slot.thread = std::jthread([this, &slot, run = std::move(run)]() mutable {
    Result<TrialRunResult> result = Error{"not run"};
    try {
      result = slot.runner->Run(std::move(run));
    } catch (const std::exception& e) {  // out of memory, most likely; the study ends as an error of the machine
      result = Error{e.what()};
    }
    const std::scoped_lock lock(mutex_);
    ended_.push_back({&slot, std::move(result)});
    has_ended_.notify_all();
  });
}

Result<TrialRunResult> Tuner::AwaitEnd() {
  std::unique_lock lock(mutex_);
  has_ended_.wait(lock, [this] { return !ended_.empty(); });
  Ended ended = std::move(ended_.front());
  ended_.pop_front();
  lock.unlock();
  ended.slot->thread.join();
  ended.slot->trial_id.reset();
  return std::move(ended.result);
}

Result<TuneEnd> Tuner::Run() {
  if (Result<void> set = store_.SetStudyState(study_.id, StudyState::kRunning); !set.ok()) return set.error();
  observer_.OnStudyStart(study_);
  std::optional<Error> error;             // of the store or the machine
  std::optional<std::string> no_device;   // why the study cannot go on here for now
  std::optional<SearchDone> done;
  const auto is_free = [](const Slot& slot) { return !slot.trial_id; };
  for (;;) {
    const auto slot = std::ranges::find_if(slots_, is_free);
    if (slot != slots_.end() && !error && !no_device && !done) {
      Result<Next> next = Ask();
      if (next.ok() && next->run) {
        Start(*slot, std::move(*next->run));
        continue;
      }
      if (!next.ok()) error = next.error();
      if (next.ok()) done = std::move(next->done);
      if (error || done) StopRunners();  // a fault: whatever is in flight is of no use
    }
    if (std::ranges::all_of(slots_, is_free)) break;

    const Result<TrialRunResult> result = AwaitEnd();
    if (!result.ok()) {
      if (!error) error = result.error();
    } else if (const Reason reason = result->trial.verdict.reason; SaysNothingOfThePoint(reason) && !no_device) {
      no_device = WhyStopped(result->trial);
    }
    if (error || no_device) StopRunners();
  }
  if (error) return *error;
  if (done) return Finish(*done);
  if (Result<void> set = store_.SetStudyState(study_.id, StudyState::kInterrupted); !set.ok()) return set.error();
  observer_.OnStudyEnd(study_, true);
  // Nor does it say anything of the study: it goes on once the device is back, or free.
  if (no_device) return Error{*no_device};
  TuneEnd end;
  end.interrupted = true;
  return end;
}

Result<TuneEnd> Tuner::Finish(const SearchDone& done) {
  Result<std::vector<Trial>> trials = store_.ListTrials(study_.id);
  if (!trials.ok()) return trials.error();
  Result<StudyOutcome> outcome = OutcomeOf(store_, study_.spec, space_, *trials, done);
  if (!outcome.ok()) return outcome.error();
  TuneEnd end;
  end.outcome = std::move(*outcome);
  end.outcome_json = OutcomeJson(study_, *trials, end.outcome);
  if (Result<void> set = store_.SetStudyOutcome(study_.id, end.outcome_json); !set.ok()) return set.error();
  if (Result<void> set = store_.SetStudyState(study_.id, StudyState::kDone); !set.ok()) return set.error();
  observer_.OnStudyEnd(study_, false);
  return end;
}

}  // namespace hproc::controller
