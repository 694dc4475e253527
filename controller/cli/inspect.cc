// Commands that only look: status, trials, show, frontier, plan, score; and export.
#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>

#include "base/bytes.h"
#include "base/file.h"
#include "base/printable.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "controller/cli/terminal_observer.h"
#include "controller/cli/text.h"
#include "controller/describe.h"
#include "controller/export_point.h"
#include "controller/outcome_json.h"
#include "controller/plane_text.h"
#include "controller/tuner.h"
#include "evals/score_file.h"
#include "web/views.h"

namespace hproc::controller {
int RunStatus(const StudyOptions& options) {
  Result<std::unique_ptr<Store>> store = OpenSqliteStore(options.db, OpenMode::kReadOnly);
  if (!store.ok()) return Fail(kExitInfrastructure, store.error().message);
  Result<std::vector<Study>> studies = (*store)->ListStudies();
  if (!studies.ok()) return Fail(kExitInfrastructure, studies.error().message);
  if (!options.study.empty()) {
    std::erase_if(*studies, [&](const Study& study) { return study.spec.name != options.study; });
    if (studies->empty()) return Fail(kExitUsage, options.db + ": no study \"" + options.study + "\"");
  }
  std::vector<std::vector<Trial>> trials;
  for (const Study& study : *studies) {
    Result<std::vector<Trial>> of_study = (*store)->ListTrials(study.id);
    if (!of_study.ok()) return Fail(kExitInfrastructure, of_study.error().message);
    trials.push_back(std::move(*of_study));
  }
  if (options.json) {
    fmt::print("{}\n", web::StudiesView(*studies, trials));
    return kExitDone;
  }
  for (size_t i = 0; i < studies->size(); ++i) {
    const Study& study = (*studies)[i];
    fmt::print("{}  {}  {} cap, context {}, batch {}, {} trials, begun {}\n", PrintableLine(study.spec.name), StudyStateName(study.state),
               FormatBytes(study.spec.memory_cap_bytes), study.spec.deployment.context, study.spec.deployment.batch,
               trials[i].size(), study.created_utc);
    if (const std::optional<int> best = RecommendedOf(study, trials[i])) {
      const Trial& trial = trials[i][static_cast<size_t>(*best)];
      fmt::print("  recommended: trial {}, floors {}, accuracy {}\n", trial.number, FloorsText(trial.plan.floors),
                 AccuracyText(trial.measured.accuracy));
    }
  }
  if (studies->empty()) fmt::print("no study yet\n");
  return kExitDone;
}

int RunTrials(const StudyOptions& options) {
  ExitCode code{};
  Result<Opened> opened = OpenStudy(options, code);
  if (!opened.ok()) return Fail(code, opened.error().message);
  if (options.json) {
    fmt::print("{}\n", web::TrialsView(opened->trials));
  } else {
    fmt::print("{}", TrialsText(opened->trials, RecommendedOf(opened->study, opened->trials)));
  }
  return kExitDone;
}

int RunShow(const StudyOptions& options, int number) {
  ExitCode code{};
  Result<Opened> opened = OpenStudy(options, code);
  if (!opened.ok()) return Fail(code, opened.error().message);
  if (number < 0 || number >= static_cast<int>(opened->trials.size())) {
    return Fail(kExitUsage, fmt::format("study \"{}\" has no trial {}", opened->study.spec.name, number));
  }
  const Trial& trial = opened->trials[static_cast<size_t>(number)];
  Result<std::vector<Answer>> answers = opened->store->ListAnswers(trial.id);
  if (!answers.ok()) return Fail(kExitInfrastructure, answers.error().message);
  if (options.json) {
    fmt::print("{}\n", web::TrialView(trial, *answers));
    return kExitDone;
  }
  fmt::print("trial {} of {}: {}, floors {}, {}\n", trial.number, opened->study.spec.name, trial.plan.purpose,
             FloorsText(trial), TrialStateName(trial.state));
  fmt::print("  verdict    {}\n", VerdictText(trial));
  fmt::print("  plan       {} ({:.3f} bits per weight)\n", trial.plan.plan_digest.substr(0, 16), trial.plan.bits_per_weight);
  fmt::print("  accuracy   {}\n", AccuracyText(trial.measured.accuracy));
  if (trial.measured.memory) {
    const worker::MemoryEvent& memory = *trial.measured.memory;
    fmt::print("  memory     {} live, {} peak, {} cap\n", FormatBytes(memory.live_bytes), FormatBytes(memory.peak_bytes),
               FormatBytes(memory.cap_bytes));
    for (const worker::LedgerLine& line : memory.lines) {
      int64_t predicted = -1;
      for (const worker::LedgerLine& other : trial.measured.predicted) {
        if (other.name == line.name) predicted = other.bytes;
      }
      fmt::print("    {:<16}{:>12}{}\n", line.name, FormatBytes(line.bytes),
                 predicted >= 0 ? fmt::format("   {} predicted", FormatBytes(predicted)) : "");
    }
    for (size_t rank = 0; rank < trial.measured.ranks.size(); ++rank) {
      const worker::MemoryEvent& of_rank = trial.measured.ranks[rank];
      fmt::print("    rank {} on {}: {} live, {} peak\n", rank, PrintableLine(of_rank.device), FormatBytes(of_rank.live_bytes),
                 FormatBytes(of_rank.peak_bytes));
    }
  }
  if (trial.measured.load) {
    for (const worker::FamilyReport& family : trial.measured.load->families) {
      fmt::print("  {:<10} {:.3f} bits, cosine min {:.5f} mean {:.5f}, norm ratio {:.3f} to {:.3f}\n", family.family,
                 8.0 * static_cast<double>(family.bytes) / static_cast<double>(family.weights), family.min_cosine,
                 family.mean_cosine, family.min_norm_ratio, family.max_norm_ratio);
    }
  }
  for (const auto& [phase, seconds] : trial.measured.phase_seconds) fmt::print("  {:<10} {:.2f} s\n", phase, seconds);
  for (const evals::ThroughputSummary& s : evals::SummarizeThroughput(trial.measured.throughput)) {
    fmt::print("  {:<14} {:.1f} ± {:.1f} tok/s (batch {}, {} tokens, {} repetitions)\n",
               evals::ThroughputKindName(s.kind), s.mean_tok_per_s, s.sd_tok_per_s, s.batch, s.tokens, s.repetitions);
  }
  for (const Attempt& attempt : trial.attempts) {
    fmt::print("  attempt {}  {} to {}  {}  log {}\n", attempt.number, attempt.started_utc,
               attempt.ended_utc.empty() ? "-" : attempt.ended_utc, ReasonName(attempt.verdict.reason), attempt.log_path);
  }
  return kExitDone;
}

int RunFrontier(const StudyOptions& options) {
  ExitCode code{};
  Result<Opened> opened = OpenStudy(options, code);
  if (!opened.ok()) return Fail(code, opened.error().message);
  Result<std::unique_ptr<PlanSpace>> space = SpaceOf(opened->study);
  if (!space.ok()) return Fail(kExitInfrastructure, space.error().message);
  if (options.json) {
    fmt::print("{}\n", web::FrontierView(opened->study, **space, opened->trials));
  } else {
    fmt::print("{}", PlaneText(opened->study, **space, opened->trials, RecommendedOf(opened->study, opened->trials)));
  }
  return kExitDone;
}

int RunExport(const StudyOptions& options, std::optional<int> number, const std::string& path) {
  ExitCode code{};
  Result<Opened> opened = OpenStudy(options, code);
  if (!opened.ok()) return Fail(code, opened.error().message);
  if (!number) number = RecommendedOf(opened->study, opened->trials);
  if (!number && opened->study.state != StudyState::kDone) {
    return Fail(kExitUsage, "study \"" + opened->study.spec.name + "\" is not done yet; go on with it, or choose with --trial");
  }
  if (!number) return Fail(kExitNoFeasiblePoint, "study \"" + opened->study.spec.name + "\" recommends no point to export");
  if (*number < 0 || *number >= static_cast<int>(opened->trials.size())) {
    return Fail(kExitUsage, fmt::format("study \"{}\" has no trial {}", opened->study.spec.name, *number));
  }
  const Trial& trial = opened->trials[static_cast<size_t>(*number)];
  const Result<OperatingPoint> point = ExportPoint(*opened->store, opened->study, opened->trials, *number);
  // A trial that cannot be exported was a wrong choice; anything else is the store's fault or that of the questions' files.
  if (!point.ok()) return Fail(IsExportable(trial) ? kExitInfrastructure : kExitUsage, point.error().message);
  const std::string json = OperatingPointToJson(*point);
  if (path.empty() || path == "-") {
    fmt::print("{}", json);
    return kExitDone;
  }
  if (Result<void> written = WriteFileAtomically(path, json); !written.ok()) {
    return Fail(kExitInfrastructure, written.error().message);
  }
  fmt::print(stderr, "trial {} written to {}\n", trial.number, path);
  return kExitDone;
}

int RunPlan(const PlanOptions& options) {
  TerminalObserver observer(::isatty(STDERR_FILENO) == 1, options.json);
  std::error_code error;
  if (!std::filesystem::is_directory(options.model, error)) return Fail(kExitInfrastructure, options.model + ": no such folder");
  Result<WorkerSetup> setup = WorkerBesideThis({});
  if (!setup.ok()) return Fail(kExitInfrastructure, setup.error().message);
  InterruptGuard guard({});
  MeasureRun measure(*setup, &observer);
  guard.SetStop([&measure] { measure.Stop(); });
  const std::filesystem::path tables = options.tables.empty() ? CachedTables() : std::filesystem::path(options.tables);
  Result<Measured> measured = measure.Run(std::filesystem::absolute(options.model).lexically_normal().string(),
                                          std::filesystem::absolute(tables), DeploymentOf(options.deployment, 0), options.mode);
  guard.SetStop({});
  if (measure.stopped()) return kExitInterrupted;
  if (!measured.ok()) return Fail(kExitInfrastructure, measured.error().message);
  Result<std::unique_ptr<PlanSpace>> space = LoadPlanSpace(measured->result, options.mode, options.head);
  if (!space.ok()) return Fail(kExitInfrastructure, space.error().message);
  const FloorPair at = (*space)->PairOf({.strict = options.strict, .lazy = options.lazy, .head = options.head});
  const PlannedPoint& point = (*space)->At(at);
  const std::vector<worker::LedgerLine> ledger = (*space)->Ledger(point.plan);
  if (options.json) {
    fmt::print("{}\n", web::PlanView(point, ledger));
    return kExitDone;
  }
  fmt::print("floors {}: {} weights, {} in all, {:.3f} bits per weight, plan {}\n",
             FloorsText(point.plan.floors, (*space)->has_lazy()), FormatBytes(point.weight_bytes),
             FormatBytes(point.total_bytes), point.plan.bits_per_weight(), point.digest.substr(0, 16));
  if (!(*space)->has_lazy()) fmt::print("the model has no routed experts: the lazy floor decides nothing\n");
  fmt::print("{:<8}{:>14}{:>14}{:>8}{:>12}{:>12}\n", "family", "weights", "bytes", "bits", "min cosine", "mean");
  const auto families = point.plan.Families();
  for (int f = 0; f < quant::kFamilyCount; ++f) {
    const quant::FamilyTotals& family = families[static_cast<size_t>(f)];
    if (family.weights == 0) continue;
    fmt::print("{:<8}{:>14}{:>14}{:>8.3f}{:>12.5f}{:>12.5f}\n", quant::FamilyName(static_cast<quant::Family>(f)),
               family.weights, family.bytes, 8.0 * static_cast<double>(family.bytes) / static_cast<double>(family.weights),
               family.min_cosine, 1 - family.mean_deficit);
  }
  for (const worker::LedgerLine& line : ledger) fmt::print("{:<18}{:>12}\n", line.name, FormatBytes(line.bytes));
  return kExitDone;
}

int RunScore(const std::string& answers) {
  const Result<evals::FileScore> score = evals::ScoreFile(answers);
  if (!score.ok()) return Fail(kExitInfrastructure, score.error().message);
  fmt::print("{{\"total\":{},\"strict\":{},\"flexible\":{},\"invalid\":{}}}\n", score->total, score->strict,
             score->flexible, score->invalid);
  return kExitDone;
}

}  // namespace hproc::controller
