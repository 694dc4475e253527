// tune and resume: from options to a study, from a study to its outcome.
#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "controller/cli/terminal_observer.h"
#include "controller/cli/text.h"
#include "controller/device_share.h"
#include "controller/export_point.h"
#include "controller/plane_text.h"
#include "controller/slurm/srun_arguments.h"
#include "controller/store_rules.h"
#include "controller/tune_journal.h"
#include "controller/tuner.h"
#include "worker/synthetic_name.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;

// Measured jobs are stored in the protocol's own form.
std::string MeasureToText(const worker::MeasureResult& measured) {
  return worker::EncodeEvent({.seq = 0, .t = 0, .body = worker::ResultEvent{measured}});
}

// The questions a tune was asked to use: files, shots and digests filled in.
Result<EvalProtocol> ProtocolOf(const TuneOptions& options) {
  EvalProtocol protocol;
  if (!worker::SyntheticConfig(options.model).empty()) return protocol;
  fs::path tasks = options.tasks;
  if (tasks.empty()) {
    // The layout of evals/wordmath: test.jsonl beside the model's folder.
    tasks = fs::path(options.model).lexically_normal() / ".." / "test.jsonl";
    tasks = tasks.lexically_normal();
    std::error_code error;
    if (!fs::is_regular_file(tasks, error)) {
      return Error{"no questions to ask: give --tasks FILE.jsonl with lines {\"question\", \"answer\"} (there is no " +
                   tasks.string() + " either)"};
    }
  }
  fs::path shots = options.shots_file;
  std::error_code error;
  if (shots.empty() && options.shots != 0) {
    shots = tasks.parent_path() / "train.jsonl";
    if (!fs::is_regular_file(shots, error)) shots.clear();
  }
  if (options.shots > 0 && shots.empty()) return Error{"--shots needs a file to draw them from: give --shots-file FILE.jsonl"};
  protocol.tasks_path = fs::absolute(tasks).lexically_normal().string();
  protocol.shots = options.shots >= 0 ? options.shots : shots.empty() ? 0 : 5;
  if (protocol.shots > 0) protocol.shots_path = fs::absolute(shots).lexically_normal().string();
  protocol.limit = options.limit;
  protocol.seeds = options.seeds;
  protocol.max_new_tokens = options.max_new_tokens;
  return protocol;
}

// Lays the options over `launch`, and checks that it can be carried out with the deployment.
Result<LaunchSpec> LaunchOf(const LaunchOptions& options, LaunchSpec launch, const StudySpec& spec) {
  if (options.launcher) launch.launcher = *options.launcher;
  if (options.parallel) launch.parallel = *options.parallel;
  if (options.slurm_args) {
    Result<std::vector<std::string>> arguments = SplitArguments(*options.slurm_args);
    if (!arguments.ok()) return arguments.error();
    launch.slurm_args = *std::move(arguments);
  }
  if (const Result<void> checked = CheckSrunArguments(launch.slurm_args); !checked.ok()) return checked.error();
  if (launch.launcher == "local" && options.slurm_args) return Error{"--slurm-args goes with --launcher slurm"};
  StudySpec launched = spec;
  launched.launch = launch;
  const Result<std::vector<worker::Deployment>> shares = SharesOf(launched);
  if (!shares.ok()) return shares.error();
  return launch;
}

fs::path TablesOf(const LaunchOptions& options, const std::string& db) {
  return fs::absolute(options.tables.empty() ? TableFolderOf(db) : fs::path(options.tables));
}

// What needs answers cannot be asked of random weights.
Result<void> CheckSynthetic(const TuneOptions& options) {
  const auto refused = [](const std::string& option) -> Result<void> {
    return Error{option + " needs answers, and " + std::string(kNoQuestions)};
  };
  if (!options.tasks.empty()) return refused("--tasks");
  if (options.min_accuracy > 0) return refused("--min-accuracy");
  if (options.strategy != "predict") return refused("--strategy " + options.strategy);
  if (options.baseline_16bit || options.baseline_int4 || options.baseline_int4_pruned) return refused("a baseline");
  if (!options.export_path.empty()) return refused("--export");
  return Ok();
}

// A name no study of the store has yet: the model and the cap, numbered where that is taken.
Result<std::string> FreshName(Store& store, const TuneOptions& options) {
  const std::string config = worker::SyntheticConfig(options.model);
  fs::path model = config.empty() ? fs::path(options.model).lexically_normal() : fs::path(config).stem();
  if (!model.has_filename()) model = model.parent_path();
  std::string stem = model.filename().string();
  if (stem == "model" && model.has_parent_path()) stem = model.parent_path().filename().string();
  if (stem.empty() || stem == "." || stem == "..") stem = "model";
  if (stem.size() > 100) stem.resize(100);
  const std::string base = fmt::format("{}-{:.6g}MiB", stem, static_cast<double>(options.memory_bytes) / (1 << 20));
  for (int n = 1;; ++n) {
    const std::string name = n == 1 ? base : base + "-" + std::to_string(n);
    Result<std::optional<Study>> taken = store.FindStudy(name);
    if (!taken.ok()) return taken.error();
    if (!*taken) return name;
  }
}

// Everything behind the creation of the study; the same for tune and resume.
int Drive(Store& store, const Study& study, const PlanSpace& space,
          const StudyQuestions& questions, const WorkerSetup& setup, TuneObserver& observer, InterruptGuard& guard,
          const std::string& export_path, const std::string& db, bool json) {
  Result<TuneEnd> end = Error{"not run"};
  {
    Tuner tuner(store, study, space, questions, setup, &observer);
    guard.SetStop([&tuner] { tuner.Stop(); });
    end = tuner.Run();
    guard.SetStop({});
  }
  if (!end.ok()) return Fail(kExitInfrastructure, end.error().message);
  if (end->interrupted) {
    observer.OnNote("interrupted; go on with: hproc resume --db '" + db + "' --study '" + study.spec.name + "'");
    return kExitInterrupted;
  }
  Result<std::vector<Trial>> trials = store.ListTrials(study.id);
  if (!trials.ok()) return Fail(kExitInfrastructure, trials.error().message);
  // The study as it is now, outcome included.
  Result<std::optional<Study>> finished = store.FindStudy(study.spec.name);
  if (!finished.ok() || !*finished) return Fail(kExitInfrastructure, "the study is gone from the store");
  if (json) {
    fmt::print("{}\n", end->outcome_json);
  } else {
    fmt::print("\n{}\n{}\n{}", PlaneText(**finished, space, *trials, end->outcome.done.recommended),
               TrialsText(*trials, end->outcome.done.recommended), "\n");
    fmt::print("{}", OutcomeText(**finished, *trials, end->outcome, space.has_lazy()));
  }
  std::fflush(stdout);
  const SearchDone& done = end->outcome.done;
  if (done.recommended && !export_path.empty()) {
    const Result<OperatingPoint> point = ExportPoint(store, **finished, *trials, *done.recommended);
    if (!point.ok()) return Fail(kExitInfrastructure, point.error().message);
    const Result<void> exported = WriteFileAtomically(export_path, OperatingPointToJson(*point));
    if (!exported.ok()) return Fail(kExitInfrastructure, exported.error().message);
    observer.OnNote("operating point written to " + export_path);
  }
  if (done.recommended) return kExitDone;
  return done.fault ? kExitInfrastructure : kExitNoFeasiblePoint;
}

// A new trial with the plan of failed trial `number`.
Result<void> AddAgain(Store& store, const Study& study, int number) {
  Result<std::vector<Trial>> trials = store.ListTrials(study.id);
  if (!trials.ok()) return trials.error();
  if (number < 0 || number >= static_cast<int>(trials->size())) {
    return Error{fmt::format("study \"{}\" has no trial {}", study.spec.name, number)};
  }
  const Trial& trial = (*trials)[static_cast<size_t>(number)];
  if (trial.state != TrialState::kFailed) {
    return Error{fmt::format("trial {} is {}: only a failed trial is run again", number, TrialStateName(trial.state))};
  }
  Result<Trial> added = store.AddTrial(study.id, trial.plan);
  if (!added.ok()) return added.error();
  return {};
}

// Goes on with a study, after a further go at trial `rerun` where one is asked for.
int GoOn(const StudyOptions& options, const LaunchOptions& launch, std::optional<int> rerun, const std::string& export_path) {
  TerminalObserver terminal(::isatty(STDERR_FILENO) == 1, false);
  InterruptGuard guard({});
  Result<std::unique_ptr<Store>> store = OpenSqliteStore(options.db, OpenMode::kReadWrite);
  if (!store.ok()) return Fail(kExitInfrastructure, store.error().message);
  TuneJournal journal(EventsFileOf(options.db));
  TuneObservers observer({&terminal, &journal});
  ExitCode code{};
  Result<Study> study = ChooseStudy(**store, options, code);
  if (!study.ok()) return Fail(code, study.error().message);
  if (rerun) {
    if (Result<void> added = AddAgain(**store, *study, *rerun); !added.ok()) return Fail(kExitUsage, added.error().message);
  }
  StudySpec& spec = study->spec;
  Result<LaunchSpec> launched = LaunchOf(launch, spec.launch, spec);
  if (!launched.ok()) return Fail(kExitUsage, launched.error().message);
  spec.launch = std::move(*launched);
  Result<StudyQuestions> questions = LoadQuestions(spec.eval);
  if (!questions.ok()) return Fail(kExitInfrastructure, questions.error().message);
  Result<WorkerSetup> setup = WorkerBesideThis(LogFolderOf(options.db));
  if (!setup.ok()) return Fail(kExitInfrastructure, setup.error().message);

  Result<std::shared_ptr<const Launcher>> launcher = LauncherOf(spec.launch, options.db);
  if (!launcher.ok()) return Fail(kExitInfrastructure, launcher.error().message);
  setup->launcher = *std::move(launcher);

  // Quick where the table is still there; and it shows whether the checkpoint is still the same.
  MeasureRun measure(*setup, &observer);
  guard.SetStop([&measure] { measure.Stop(); });
  // The tables are where they were, if nobody says otherwise: on other machines they may be nowhere else.
  fs::path tables = TablesOf(launch, options.db);
  if (const auto before = MeasuredOf(*study); launch.tables.empty() && before.ok()) {
    tables = fs::path(before->table_path).parent_path();
  }
  Result<Measured> measured = measure.Run(spec.model_dir, tables, SharesOf(spec)->front(), spec.mode);
  guard.SetStop({});
  if (measure.stopped()) return kExitInterrupted;
  if (!measured.ok()) return Fail(kExitInfrastructure, measured.error().message);
  if (measured->result.fingerprint != spec.fingerprint) {
    return Fail(kExitInfrastructure, spec.model_dir + ": not the checkpoint that study \"" + spec.name + "\" began with");
  }
  if (measured->device_name != spec.device_name || measured->worker_version != spec.worker_version) {
    observer.OnNote("note: the study began on " + spec.device_name + " (" + spec.worker_version + "), this is " +
                    measured->device_name + " (" + measured->worker_version + "): rates are not comparable");
  }
  Result<std::unique_ptr<PlanSpace>> space = LoadPlanSpace(measured->result, spec.mode, spec.highest.head);
  if (!space.ok()) return Fail(kExitInfrastructure, space.error().message);
  if (Result<void> set = (*store)->SetStudyMeasure(study->id, MeasureToText(measured->result)); !set.ok()) {
    return Fail(kExitInfrastructure, set.error().message);
  }
  setup->idle_free_bytes = measured->result.device_free_bytes;
  for (const worker::RankForecast& rank : measured->result.ranks) setup->idle_free_by_rank.push_back(rank.free_bytes);
  return Drive(**store, *study, **space, *questions, *setup, observer, guard, export_path,
               options.db, options.json);
}

}  // namespace

int RunTune(const TuneOptions& options) {
  TerminalObserver terminal(::isatty(STDERR_FILENO) == 1, false);
  if (options.headroom_bytes >= options.memory_bytes) {
    return Fail(kExitUsage, "the headroom asked for leaves nothing of the memory cap");
  }
  if (options.strict_min > options.strict_max || options.lazy_min > options.lazy_max) {
    return Fail(kExitUsage, "a lower bound of the floors is above the upper one");
  }
  std::error_code error;
  const std::string config = worker::SyntheticConfig(options.model);
  if (!config.empty()) {
    if (Result<void> able = CheckSynthetic(options); !able.ok()) return Fail(kExitUsage, able.error().message);
    if (!fs::is_regular_file(config, error)) return Fail(kExitInfrastructure, config + ": no such file");
  } else if (!fs::is_directory(options.model, error)) {
    return Fail(kExitInfrastructure, options.model + ": no such folder");
  }
  Result<EvalProtocol> protocol = ProtocolOf(options);
  if (!protocol.ok()) return Fail(kExitUsage, protocol.error().message);
  Result<StudyQuestions> questions = LoadQuestions(*protocol);
  if (!questions.ok()) return Fail(kExitInfrastructure, questions.error().message);
  if (config.empty()) {
    protocol->tasks_sha256 = questions->task.tasks().sha256;
    protocol->task_id = evals::TaskId(protocol->tasks_sha256);
  }
  if (protocol->shots > 0) protocol->shots_sha256 = questions->task.shot_pool().sha256;

  InterruptGuard guard({});
  Result<std::unique_ptr<Store>> store = OpenSqliteStore(options.store.db, OpenMode::kReadWrite);
  if (!store.ok()) return Fail(kExitInfrastructure, store.error().message);
  TuneJournal journal(EventsFileOf(options.store.db));
  TuneObservers observer({&terminal, &journal});
  StudySpec spec;
  if (options.store.study.empty()) {
    Result<std::string> name = FreshName(**store, options);
    if (!name.ok()) return Fail(kExitInfrastructure, name.error().message);
    spec.name = std::move(*name);
  } else {
    spec.name = options.store.study;
    Result<std::optional<Study>> taken = (*store)->FindStudy(spec.name);
    if (!taken.ok()) return Fail(kExitInfrastructure, taken.error().message);
    if (*taken) {
      return Fail(kExitUsage, options.store.db + ": study \"" + spec.name + "\" is there already; go on with hproc resume");
    }
  }
  Result<WorkerSetup> setup = WorkerBesideThis(LogFolderOf(options.store.db));
  if (!setup.ok()) return Fail(kExitInfrastructure, setup.error().message);

  const fs::path model = fs::absolute(config.empty() ? options.model : config).lexically_normal();
  spec.model_dir = config.empty() ? model.string() : worker::SyntheticModel(model.string());
  spec.deployment = DeploymentOf(options.deployment, protocol->shots);
  spec.memory_cap_bytes = options.memory_bytes;
  spec.headroom_bytes = options.headroom_bytes;
  spec.mode = options.mode;
  spec.strategy = options.strategy;
  spec.lowest = {.strict = options.strict_min, .lazy = options.lazy_min, .head = options.head};
  spec.highest = {.strict = options.strict_max, .lazy = options.lazy_max, .head = options.head};
  spec.min_accuracy = options.min_accuracy;
  spec.max_candidates = options.max_candidates;
  spec.max_garbage_loads = options.max_garbage_loads;
  spec.trust_plan = options.trust_plan;
  if (options.baseline_16bit) spec.baselines.push_back(TrialKind::kBaseline16Bit);
  if (options.baseline_int4) spec.baselines.push_back(TrialKind::kBaselineInt4);
  if (options.baseline_int4_pruned) spec.baselines.push_back(TrialKind::kBaselineInt4Pruned);
  spec.eval = *protocol;
  Result<LaunchSpec> launch = LaunchOf(options.launch, {}, spec);
  if (!launch.ok()) return Fail(kExitUsage, launch.error().message);
  spec.launch = std::move(*launch);
  // Before the checkpoint is read for minutes; what the worker will say of itself is checked when the study is created.
  if (Result<void> fit = CheckStudySpec(spec); !fit.ok()) return Fail(kExitUsage, fit.error().message);
  Result<std::shared_ptr<const Launcher>> launcher = LauncherOf(spec.launch, options.store.db);
  if (!launcher.ok()) return Fail(kExitInfrastructure, launcher.error().message);
  setup->launcher = *std::move(launcher);

  MeasureRun measure(*setup, &observer);
  guard.SetStop([&measure] { measure.Stop(); });
  Result<Measured> measured = measure.Run(spec.model_dir, TablesOf(options.launch, options.store.db),
                                         SharesOf(spec)->front(), spec.mode);
  guard.SetStop({});
  if (measure.stopped()) return kExitInterrupted;
  if (!measured.ok()) return Fail(kExitInfrastructure, measured.error().message);
  spec.fingerprint = measured->result.fingerprint;
  spec.worker_version = measured->worker_version;
  spec.device_name = measured->device_name;
  Result<std::unique_ptr<PlanSpace>> space = LoadPlanSpace(measured->result, spec.mode, spec.highest.head);
  if (!space.ok()) return Fail(kExitInfrastructure, space.error().message);

  Result<Study> study = (*store)->CreateStudy(spec);
  if (!study.ok()) return Fail(kExitInfrastructure, study.error().message);
  if (Result<void> set = (*store)->SetStudyMeasure(study->id, MeasureToText(measured->result)); !set.ok()) {
    return Fail(kExitInfrastructure, set.error().message);
  }
  setup->idle_free_bytes = measured->result.device_free_bytes;
  for (const worker::RankForecast& rank : measured->result.ranks) setup->idle_free_by_rank.push_back(rank.free_bytes);
  return Drive(**store, *study, **space, *questions, *setup, observer, guard, options.export_path,
               options.store.db, options.store.json);
}

int RunResume(const StudyOptions& options, const LaunchOptions& launch, const std::string& export_path) {
  return GoOn(options, launch, std::nullopt, export_path);
}

int RunRerun(const StudyOptions& options, const LaunchOptions& launch, int trial) {
  return GoOn(options, launch, trial, {});
}

}  // namespace hproc::controller
