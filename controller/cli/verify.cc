// verify: an exported operating point, run again and held against its own evidence.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/bytes.h"
#include "base/file.h"
#include "base/printable.h"
#include "controller/cli/commands.h"
#include "controller/cli/setup.h"
#include "controller/cli/terminal_observer.h"
#include "controller/describe.h"
#include "controller/operating_point.h"
#include "controller/tuner.h"
#include "evals/evaluation.h"
#include "evals/statistics.h"
#include "worker/devices.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
// Another processor may round differently and tip a few close calls, so single questions may fall the other way; a
// difference that McNemar's test gives less than this is drift.
constexpr double kDriftP = 0.01;
// Predicted and measured memory are promised to agree within this.
constexpr double kMemoryTolerance = 0.005;

struct Check {
  std::string what;
  bool held = false;
  std::string detail;
};

class VerifyObserver : public WorkerObserver {
 public:
  explicit VerifyObserver(TerminalObserver& terminal) : terminal_(terminal) {}
  void OnHello(const worker::HelloEvent& hello) override { device_name_ = hello.device_name; }
  void OnPhase(const worker::PhaseEvent& phase) override { terminal_.OnPhase(kNoTrial, phase); }
  void OnProgress(const worker::ProgressEvent& progress) override { terminal_.OnProgress(kNoTrial, progress); }
  const std::string& device_name() const { return device_name_; }

 private:
  TerminalObserver& terminal_;
  std::string device_name_;
};

// "cuda" of "cuda:0,1".
std::string_view KindOf(std::string_view device) { return device.substr(0, device.find(':')); }

std::string PlainText(const std::vector<Check>& checks) {
  std::string text;
  for (const Check& check : checks) text += fmt::format("{:<6} {:<12} {}\n", check.held ? "held" : "DRIFT", check.what, check.detail);
  return text;
}

}  // namespace

int RunVerify(const VerifyOptions& options) {
  TerminalObserver terminal(::isatty(STDERR_FILENO) == 1, options.json);
  Result<std::string> text = ReadFile(options.file, kMaxFileBytes);
  if (!text.ok()) return Fail(kExitInfrastructure, text.error().message);
  Result<OperatingPoint> point = OperatingPointFromJson(*text);
  if (!point.ok()) return Fail(kExitInfrastructure, options.file + ": " + point.error().message);
  StudySpec& spec = point->spec;
  if (!options.model.empty()) spec.model_dir = fs::absolute(options.model).lexically_normal().string();
  if (!options.tasks.empty()) spec.eval.tasks_path = options.tasks;
  if (!options.shots_file.empty()) spec.eval.shots_path = options.shots_file;
  // Another kind of device or number of ranks keeps other things beside the weights: its memory is told, not compared.
  const bool same_ledger = (!options.device || KindOf(*options.device) == KindOf(spec.deployment.device)) &&
                           (!options.tp || *options.tp == spec.deployment.world_size);
  if (options.device) spec.deployment.device = *options.device;
  if (options.tp) spec.deployment.world_size = *options.tp;
  if (options.memory_bytes) {
    spec.memory_cap_bytes = *options.memory_bytes;
    spec.headroom_bytes = 0;
  }
  if (const auto devices = worker::DevicesOf(spec.deployment.device, spec.deployment.world_size); !devices.ok()) {
    return Fail(kExitUsage, devices.error().message);
  }
  Result<StudyQuestions> questions = LoadQuestions(spec.eval);
  if (!questions.ok()) return Fail(kExitInfrastructure, questions.error().message);
  if (point->outcomes.size() != questions->order.size() * static_cast<size_t>(std::max(1, spec.eval.seeds))) {
    return Fail(kExitInfrastructure, options.file + ": outcomes: not one for every question");
  }
  Result<WorkerSetup> setup = WorkerBesideThis({});
  if (!setup.ok()) return Fail(kExitInfrastructure, setup.error().message);

  InterruptGuard guard({});
  VerifyObserver observer(terminal);
  WorkerOptions worker_options;
  worker_options.executable = setup->executable;
  worker_options.arguments = setup->arguments;
  const worker::TrialJob job{.model_dir = spec.model_dir, .plan_json = point->plan_json, .deployment = spec.deployment,
                             .memory_cap_bytes = spec.budget_bytes(), .fingerprint = spec.fingerprint};
  Result<std::unique_ptr<WorkerGroup>> client = WorkerGroup::Start(worker_options, job, &observer);
  if (!client.ok()) return Fail(kExitInfrastructure, client.error().message);
  guard.SetStop([&] { (*client)->Stop("interrupted"); });

  std::vector<Check> checks;
  const auto finish = [&](int code) {
    if (options.json) {
      nlohmann::ordered_json rows = nlohmann::ordered_json::array();
      for (const Check& check : checks) rows.push_back({{"check", check.what}, {"held", check.held}, {"detail", check.detail}});
      fmt::print("{}\n", nlohmann::ordered_json{{"held", code == kExitDone}, {"checks", std::move(rows)}}.dump());
    } else {
      fmt::print("{}", PlainText(checks));
    }
    return code;
  };

  Outcome<LoadedModel> loaded = (*client)->AwaitLoad("");
  if (!loaded.ok()) {
    guard.SetStop({});
    const Verdict& verdict = loaded.verdict().verdict;
    if (verdict.reason == Reason::kInterrupted) return kExitInterrupted;
    if (verdict.reason != Reason::kOutOfMemory) return Fail(kExitInfrastructure, verdict.message);
    checks.push_back({"fit", false, "out of memory at " + verdict.phase + ", short " + FormatBytes(verdict.short_bytes) +
                                        ": " + verdict.message});
    return finish(kExitDrift);
  }
  checks.push_back({"plan", loaded->load.plan_digest == point->plan_digest, "digest " + loaded->load.plan_digest.substr(0, 16)});
  checks.push_back({"weights", loaded->load.weight_bytes == point->load.weight_bytes,
                    FormatBytes(loaded->load.weight_bytes) + ", was " + FormatBytes(point->load.weight_bytes)});
  if (loaded->memory && !same_ledger) {
    terminal.OnNote("note: memory " + FormatBytes(loaded->memory->live_bytes) + ", was " + FormatBytes(point->memory.live_bytes) +
                    " where the point was measured");
  }
  if (loaded->memory && same_ledger) {
    const double off = static_cast<double>(loaded->memory->live_bytes) / static_cast<double>(point->memory.live_bytes) - 1;
    checks.push_back({"memory", std::abs(off) <= kMemoryTolerance,
                      FormatBytes(loaded->memory->live_bytes) + ", was " + FormatBytes(point->memory.live_bytes)});
  }

  // The first questions of the order, answered again and compared one by one.
  const size_t asked = options.limit > 0 ? std::min(questions->order.size(), static_cast<size_t>(options.limit))
                                         : questions->order.size();
  int right_now = 0;
  int right_then = 0;
  int gained = 0;
  int lost = 0;
  size_t at = 0;
  RemoteGenerator generator(**client);
  evals::EvaluationSpec evaluation;
  evaluation.protocol = spec.eval;
  evaluation.stage = "verify";
  const Result<evals::EvaluationResult> result =
      evals::Evaluate(questions->task, std::span(questions->order).first(asked), {}, evaluation, generator,
                      [&](const Answer& answer, bool) {
                        const bool then = point->outcomes[at++] == '1';
                        right_now += answer.strict_correct ? 1 : 0;
                        right_then += then ? 1 : 0;
                        gained += answer.strict_correct && !then ? 1 : 0;
                        lost += !answer.strict_correct && then ? 1 : 0;
                        terminal.OnQuestions(kNoTrial, static_cast<int>(at), static_cast<int>(asked), right_now);
                        return true;
                      });
  if (!result.ok() || result->end == evals::EvaluationEnd::kCancelled) {
    guard.SetStop({});
    const bool interrupted = (*client)->verdict() && (*client)->verdict()->verdict.reason == Reason::kInterrupted;
    if (interrupted) return kExitInterrupted;
    return Fail(kExitInfrastructure, result.ok() ? "the questions were not all answered" : result.error().message);
  }
  (void)(*client)->Finish();
  guard.SetStop({});
  const double p = evals::McNemar(gained, lost).exact_p;
  checks.push_back({"accuracy", p >= kDriftP,
                    fmt::format("{} of {} right, was {}; {} gained, {} lost (p = {:.3g})", right_now, asked, right_then,
                                gained, lost, p)});
  if (observer.device_name() != spec.device_name) {
    terminal.OnNote(PrintableLine("note: measured on " + spec.device_name + ", verified on " + observer.device_name()));
  }
  const bool held = std::ranges::all_of(checks, &Check::held);
  return finish(held ? kExitDone : kExitDrift);
}

}  // namespace hproc::controller
