#include "controller/trial_runner.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "base/bytes.h"
#include "controller/screening.h"
#include "controller/verdict.h"
#include "evals/evaluation.h"

namespace hproc::controller {
namespace {

constexpr size_t kAnswersPerTransaction = 16;

// At and above these floors, and as stored, output is sensible unless the loader is broken.
constexpr double kBeyondDoubt = 0.99;

bool BeyondDoubt(const NewTrial& plan) {
  return plan.kind == TrialKind::kBaseline16Bit ||
         (plan.kind == TrialKind::kPoint && plan.floors.strict >= kBeyondDoubt && plan.floors.lazy >= kBeyondDoubt);
}

}  // namespace

// One worker process and what it found out.
struct TrialRunner::Attempt : WorkerObserver {
  Attempt(TrialRunner& r, const TrialRun& t) : runner(r), run(t) {}

  // ---- what the worker tells on its way ----
  void OnPhase(const worker::PhaseEvent& phase) override {
    if (!phase.begin) measured.phase_seconds.emplace_back(PhaseName(phase.phase), phase.seconds);
    runner.observer_->OnPhase(run.trial.number, phase);
  }
  void OnProgress(const worker::ProgressEvent& progress) override {
    runner.observer_->OnProgress(run.trial.number, progress);
  }
  void OnMemory(const worker::MemoryEvent& memory) override {
    measured.memory = memory;
    runner.observer_->OnMemory(run.trial.number, memory);
  }
  void OnLoad(const worker::LoadResult& load) override { measured.load = load; }  // the cache may still not fit

  // How the attempt ended: a state where the trial is decided, none where the attempt says nothing about the point.
  struct End {
    std::optional<TrialState> state;
    Verdict verdict;
  };

  Result<End> Work(WorkerGroup& client) {
    Outcome<LoadedModel> loaded = client.AwaitLoad(run.trial.plan.plan_digest);
    if (client.size() > 1) measured.ranks = client.Ledgers();  // of those that were refused, too
    if (!loaded.ok()) return Judged(loaded.verdict());
    if (loaded->memory) measured.memory = loaded->memory;
    if (run.depth == Depth::kLoad) return Finished(client, TrialState::kComplete, {});
    if (!runner.spec_.judges()) {
      if (std::optional<End> end = Time(client)) return *end;
      return Finished(client, TrialState::kComplete, {.reason = Reason::kNone, .phase = {}, .device = {}, .short_bytes = 0,
                                                      .message = "timed; " + std::string(kNoQuestions)});
    }

    RemoteGenerator generator(client);
    if (Result<std::optional<End>> end = Probe(client, generator); !end.ok() || *end) {
      return end.ok() ? Result<End>(**end) : Result<End>(end.error());
    }
    if (run.depth == Depth::kProbe && !suspicion) return Finished(client, TrialState::kComplete, {});

    Verdict remark;
    if (Result<std::optional<End>> end = Ask(client, generator, remark); !end.ok() || *end) {
      return end.ok() ? Result<End>(**end) : Result<End>(end.error());
    }
    if (measured.accuracy.all_questions) {
      if (std::optional<End> end = Time(client)) return *end;
    }
    return Finished(client, TrialState::kComplete, std::move(remark));
  }

  // ---- steps ----
  std::optional<End> Time(WorkerGroup& client) {
    evals::ThroughputSpec throughput;
    throughput.batch = runner.spec_.deployment.batch;
    Outcome<std::vector<evals::ThroughputSample>> samples = client.Throughput(throughput);
    if (!samples.ok()) return Judged(samples.verdict());
    measured.throughput = std::move(*samples);
    return std::nullopt;
  }

  Result<std::optional<End>> Probe(WorkerGroup& client, evals::Generator& generator) {
    const Result<std::vector<evals::ProbeResult>> results =
        evals::RunProbes(runner.questions_.probes, runner.spec_.eval.max_new_tokens, generator);
    if (!results.ok()) return Broken(client, results.error());
    std::vector<Answer> transcripts;
    for (const evals::ProbeResult& result : *results) transcripts.push_back(ProbeAnswer(result));
    if (Result<void> stored = runner.store_.AddAnswers(run.trial.id, transcripts); !stored.ok()) return stored.error();
    // A trial beside this one may have become the reference meanwhile.
    std::optional<evals::GarbageCalibration> calibration = run.calibration;
    if (!calibration && runner.reference_trial_ != run.trial.id) {
      Result<std::optional<evals::GarbageCalibration>> stored = CalibrationOf(runner.store_, runner.spec_);
      if (!stored.ok()) return stored.error();
      calibration = *std::move(stored);
    }
    for (;;) {
      Result<std::optional<End>> end = JudgeProbes(client, *results, calibration);
      if (!end.ok() || *end || calibration || runner.reference_trial_ == run.trial.id) return end;
      // Kept at once: it must outlive this attempt, whatever ends it. The first to be kept stands.
      runner.reference_trial_ = run.trial.id;
      const std::string json = evals::GarbageCalibrationToJson(evals::CalibrateGarbage(*results));
      if (Result<void> set = runner.store_.SetStudyCalibration(run.trial.study_id, json); !set.ok()) return set.error();
      Result<std::optional<evals::GarbageCalibration>> stands = CalibrationOf(runner.store_, runner.spec_);
      if (!stands.ok()) return stands.error();
      if (!*stands || evals::GarbageCalibrationToJson(**stands) == json) return std::optional<End>();
      runner.reference_trial_.reset();
      calibration = *std::move(stands);
    }
  }

  // No end: the trial goes on, perhaps under suspicion.
  Result<std::optional<End>> JudgeProbes(WorkerGroup& client, std::span<const evals::ProbeResult> results,
                                         const std::optional<evals::GarbageCalibration>& calibration) {
    const evals::GarbageJudgement judgement = JudgeGarbage(results, calibration.value_or(evals::GarbageCalibration{}));
    // The 4-bit baselines are there to be compared, and garbage is beaten by a number like any other: they are asked on.
    const bool is_asked_on = run.trial.plan.kind == TrialKind::kBaselineInt4 || run.trial.plan.kind == TrialKind::kBaselineInt4Pruned;
    if (judgement.verdict == evals::GarbageVerdict::kGarbage && is_asked_on) {
      probe_remark = "garbage at probe: " + judgement.message;
      return std::optional<End>();
    }
    if (judgement.verdict == evals::GarbageVerdict::kGarbage) return Garbage(client, "probe", judgement.message);
    if (judgement.verdict == evals::GarbageVerdict::kSuspect && calibration && !is_asked_on) {
      suspicion = SenseTest::Create(*calibration);
      probe_remark = "suspect at probe: " + judgement.message;
    }
    return std::optional<End>();
  }

  // Asks the questions, seed after seed, until all are answered or a test says that it is enough.
  Result<std::optional<End>> Ask(WorkerGroup& client, evals::Generator& generator, Verdict& remark) {
    const StudySpec& spec = runner.spec_;
    const std::vector<int>& order = runner.questions_.order;
    Result<std::vector<Answer>> answered = runner.store_.ListAnswers(run.trial.id);
    if (!answered.ok()) return answered.error();
    std::erase_if(*answered, [](const Answer& answer) { return answer.stage == "probe"; });

    const int questions = static_cast<int>(order.size()) * spec.eval.seeds;
    // A baseline is asked everything: nobody waits for it to be good.
    const bool is_point = run.trial.plan.kind == TrialKind::kPoint;
    Screening screening(run.incumbent, questions, is_point ? spec.min_accuracy : 0);
    int asked = 0;
    bool stopped_early = false;
    evals::AccuracyCounter counter;
    std::vector<Answer> batch;
    std::optional<Error> store_error;
    const auto flush = [&] {
      if (batch.empty() || store_error) return;
      if (Result<void> stored = runner.store_.AddAnswers(run.trial.id, batch); !stored.ok()) store_error = stored.error();
      batch.clear();
    };
    for (int seed = 0; seed < spec.eval.seeds && !stopped_early; ++seed) {
      // Three stages of one order; what is asked next never depends on how the stages are cut.
      size_t from = 0;
      for (const auto& [stage, until] : {std::pair<const char*, size_t>{"smoke", kSmokeQuestions},
                                         {"screen", kScreenQuestions},
                                         {"full", order.size()}}) {
        const size_t to = std::min(until, order.size());
        if (from >= to || stopped_early) continue;
        evals::EvaluationSpec evaluation;
        evaluation.protocol = spec.eval;
        evaluation.stage = stage;
        evaluation.seed = seed;
        const Result<evals::EvaluationResult> result = evals::Evaluate(
            runner.questions_.task, std::span(order).subspan(from, to - from), *answered, evaluation, generator,
            [&](const Answer& answer, bool is_new) {
              counter.Add(answer);
              if (is_new) {
                batch.push_back(answer);
                runner.observer_->OnAnswer(run.trial.number, answer);
              }
              if (batch.size() >= kAnswersPerTransaction) flush();
              runner.observer_->OnQuestions(run.trial.number, ++asked, questions, counter.tally().strict_correct);
              if (suspicion && sense == SenseTest::Finding::kUndecided) sense = suspicion->Add(answer);
              // Sense comes first: a point is not dropped as merely bad while it may be garbage.
              const bool may_be_garbage = suspicion && sense == SenseTest::Finding::kUndecided;
              stopped_early = screening.Add(answer) && !may_be_garbage;
              // To be sure of sense is all that a trial of its probes alone asks questions for.
              const bool sure = run.depth == Depth::kProbe && (sense == SenseTest::Finding::kSense || asked == kScreenQuestions);
              stopped_early = stopped_early || sense == SenseTest::Finding::kGarbage || sure;
              return !stopped_early && !store_error;
            });
        flush();
        measured.accuracy = counter.tally();
        if (store_error) return *store_error;
        if (!result.ok()) return Broken(client, result.error());
        if (result->end == evals::EvaluationEnd::kCancelled) return Broken(client, Error{"cancelled"});
        from = to;
      }
    }
    measured.accuracy.all_questions = !stopped_early;
    if (sense == SenseTest::Finding::kGarbage) return Garbage(client, "generate", suspicion->Describe() + "; " + probe_remark);
    if (suspicion) probe_remark += "; " + suspicion->Describe();
    remark.message = probe_remark.empty() || !screening.why().empty() ? screening.why() : probe_remark;
    return std::optional<End>();
  }

  // ---- ends ----
  Result<End> Finished(WorkerGroup& client, TrialState state, Verdict verdict) {
    // What was measured stands whether or not the worker leaves politely.
    (void)client.Finish();
    if (state == TrialState::kComplete) verdict.device = client.node();
    return End{state, std::move(verdict)};
  }

  // Garbage where no garbage can be is a fault of the loader.
  Result<std::optional<End>> Garbage(WorkerGroup& client, std::string phase, std::string message) {
    Verdict verdict{.reason = Reason::kGarbageOutput, .phase = std::move(phase), .device = {}, .short_bytes = 0,
                    .message = std::move(message)};
    Result<End> end = Finished(client, TrialState::kInfeasible, std::move(verdict));
    if (!end.ok()) return end.error();
    if (BeyondDoubt(run.trial.plan)) {
      end->state.reset();
      end->verdict.reason = Reason::kLoaderFault;
      BlameNode(end->verdict, client.node());
    }
    return std::optional<End>(std::move(*end));
  }

  // A generator that failed: the client knows why.
  Result<std::optional<End>> Broken(WorkerGroup& client, const Error& error) {
    if (client.verdict()) {
      return std::optional<End>(Judged(*client.verdict()));
    }
    // The worker is fine; what it said does not fit what it was asked.
    (void)client.Finish();
    Verdict verdict{.reason = Reason::kProtocolError, .phase = "generate", .device = {}, .short_bytes = 0, .message = error.message};
    BlameNode(verdict, client.node());
    return std::optional<End>(End{std::nullopt, std::move(verdict)});
  }

  End Judged(const RunVerdict& verdict) {
    End end{std::nullopt, verdict.verdict};
    if (verdict.state == TrialState::kInfeasible) end.state = TrialState::kInfeasible;
    return end;
  }

  TrialRunner& runner;
  const TrialRun& run;
  TrialMeasurements measured;
  std::string probe_remark;  // what the probes said of a trial that goes on all the same
  std::optional<SenseTest> suspicion;  // the probes were suspect: the task decides
  SenseTest::Finding sense = SenseTest::Finding::kUndecided;
};

Result<std::optional<evals::GarbageCalibration>> CalibrationOf(Store& store, const StudySpec& spec) {
  const Result<std::optional<Study>> stored = store.FindStudy(spec.name);
  if (!stored.ok()) return stored.error();
  if (!*stored || (*stored)->calibration_json.empty()) return std::optional<evals::GarbageCalibration>();
  Result<evals::GarbageCalibration> calibration = evals::GarbageCalibrationFromJson((*stored)->calibration_json);
  if (!calibration.ok()) return calibration.error();
  return std::optional<evals::GarbageCalibration>(std::move(*calibration));
}

void AvoidFailedNodes(const Trial& trial, const std::vector<Trial>& trials, LaunchRequest* request) {
  const auto add = [&](std::vector<std::string>& nodes, const std::string& node) {
    const auto is_in = [&](const std::vector<std::string>& list) { return std::ranges::find(list, node) != list.end(); };
    if (!node.empty() && !is_in(request->faulty) && !is_in(nodes)) nodes.push_back(node);
  };
  // Whatever was wrong with the node, it was mended.
  const auto has_done_well_since = [&](const Attempt& fault) {
    return std::ranges::any_of(trials, [&](const Trial& other) {
      return other.state == TrialState::kComplete && other.verdict.device == fault.verdict.device &&
             other.attempts.back().started_utc >= fault.ended_utc;
    });
  };
  for (const Attempt& attempt : trial.attempts) {
    if (IsFault(attempt.verdict.reason)) add(request->faulty, attempt.verdict.device);
  }
  // A fault that came again elsewhere is not the node's.
  const auto came_elsewhere = [](const Trial& other) {
    return IsFault(other.verdict.reason) && std::ranges::any_of(other.attempts, [&](const Attempt& attempt) {
             return IsFault(attempt.verdict.reason) && attempt.verdict.device != other.verdict.device;
           });
  };
  for (const Trial& other : trials) {
    if (other.id == trial.id || came_elsewhere(other)) continue;
    for (const Attempt& attempt : other.attempts) {
      if (IsFault(attempt.verdict.reason) && !has_done_well_since(attempt)) add(request->faulty, attempt.verdict.device);
    }
  }
  for (const Attempt& attempt : trial.attempts) {
    if (attempt.verdict.reason != Reason::kInterrupted) add(request->avoid, attempt.verdict.device);
  }
}

TrialRunner::TrialRunner(Store& store, const StudySpec& spec, const StudyQuestions& questions, WorkerSetup setup,
                         TuneObserver* observer)
    : store_(store), spec_(spec), questions_(questions), setup_(std::move(setup)), observer_(observer) {}

void TrialRunner::Stop() {
  stopped_ = true;
  const std::scoped_lock lock(mutex_);
  if (current_ != nullptr) current_->Stop("the study was interrupted");
}

// After the host ran out of memory: one thread, whose share of loading buffers is the least there is.
worker::Deployment TrialRunner::DeploymentFor(const Trial& trial) const {
  worker::Deployment deployment = setup_.share.value_or(spec_.deployment);
  if (std::ranges::any_of(trial.attempts, [](const controller::Attempt& attempt) {
        return attempt.verdict.reason == Reason::kHostOutOfMemory;
      })) {
    deployment.threads = 1;
  }
  return deployment;
}

Result<TrialRunResult> TrialRunner::Run(TrialRun run) {
  // Attempts that an interruption ended say nothing; those that failed before one count.
  PastRuns before{.is_launched = setup_.launcher != nullptr};
  for (const controller::Attempt& attempt : run.trial.attempts) before.Add(attempt.verdict.reason);
  for (;;) {
    if (stopped_) return TrialRunResult{.trial = std::move(run.trial), .interrupted = true};
    WorkerOptions options;
    options.executable = setup_.executable;
    options.arguments = setup_.arguments;
    options.deadlines = setup_.deadlines;
    const auto number = static_cast<int>(run.trial.attempts.size()) + 1;
    options.log_file = setup_.log_folder / ("study-" + std::to_string(run.trial.study_id) + "-trial-" +
                                            std::to_string(run.trial.number) + "-attempt-" +
                                            std::to_string(number) + ".log");
    const Result<int> attempt_number = store_.StartAttempt(run.trial.id, options.log_file.string());
    if (!attempt_number.ok()) return attempt_number.error();
    observer_->OnTrialStart(run.trial, *attempt_number);

    Attempt attempt(*this, run);
    attempt.measured.predicted = run.predicted;
    if (setup_.launcher) {
      options.on_note = [this, number = run.trial.number](const LaunchNote& note) { observer_->OnLaunch(number, note); };
      const Result<std::vector<Trial>> trials = store_.ListTrials(run.trial.study_id);
      if (!trials.ok()) return trials.error();
      LaunchRequest request{.name = "t" + std::to_string(run.trial.number) + "-a" + std::to_string(number),
                            .threads = spec_.deployment.threads, .ranks = spec_.deployment.world_size, .avoid = {}, .faulty = {}};
      AvoidFailedNodes(run.trial, *trials, &request);
      setup_.launcher->Launch(options, request);
    }
    const worker::TrialJob job{.model_dir = spec_.model_dir, .plan_json = run.trial.plan.plan_json,
                               .deployment = DeploymentFor(run.trial), .memory_cap_bytes = run.memory_cap_bytes,
                               .needed_free_bytes = run.needed_free_bytes,
                               .idle_wait_seconds = setup_.idle_wait_seconds,
                               .fingerprint = spec_.fingerprint};
    Result<std::unique_ptr<WorkerGroup>> client = WorkerGroup::Start(options, job, &attempt, run.needed_free_by_rank, setup_.launcher.get());
    if (!client.ok()) return client.error();
    {
      const std::scoped_lock lock(mutex_);
      current_ = client->get();
    }
    if (stopped_) (*client)->Stop("the study was interrupted");
    Result<Attempt::End> end = attempt.Work(**client);
    {
      const std::scoped_lock lock(mutex_);
      current_ = nullptr;
    }
    client->reset();  // reaped before anything else starts
    if (!end.ok()) return end.error();

    TrialState state{};
    if (end->state) {
      state = *end->state;
    } else {
      const Reason reason = end->verdict.reason;
      if (reason == Reason::kInterrupted) {
        if (Result<void> ended = store_.EndAttempt(run.trial.id, *attempt_number, end->verdict); !ended.ok()) {
          return ended.error();
        }
        return TrialRunResult{.trial = std::move(run.trial), .interrupted = true};
      }
      const bool again = IsTriedAgain(reason, before);
      before.Add(reason);
      observer_->OnAttemptEnd(run.trial, *attempt_number, end->verdict, again);
      if (again) {
        // What a machine said that is at fault counts for nothing on another.
        const GivenAnswers answers = IsFault(reason) ? GivenAnswers::kWithdrawn : GivenAnswers::kStand;
        if (Result<void> ended = store_.EndAttempt(run.trial.id, *attempt_number, end->verdict, answers); !ended.ok()) {
          return ended.error();
        }
        controller::Attempt& failed = run.trial.attempts.emplace_back();
        failed.number = *attempt_number;
        failed.verdict = end->verdict;
        continue;
      }
      state = TrialState::kFailed;
    }
    if (Result<void> finished = store_.FinishTrial(run.trial.id, state, end->verdict, attempt.measured); !finished.ok()) {
      return finished.error();
    }
    Result<Trial> stored = store_.GetTrial(run.trial.id);
    if (!stored.ok()) return stored.error();
    observer_->OnTrialEnd(*stored);
    return TrialRunResult{.trial = std::move(*stored), .interrupted = false};
  }
}

}  // namespace hproc::controller
