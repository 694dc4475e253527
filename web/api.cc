#include "web/api.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/utf8.h"
#include "controller/export_point.h"
#include "controller/tuner.h"
#include "web/assets.h"
#include "web/report.h"
#include "web/start_arguments.h"
#include "web/views.h"
#include "worker/version.h"

namespace hproc::web {
namespace {

using controller::Store;
using controller::Trial;
using Json = nlohmann::ordered_json;

constexpr size_t kLogTailBytes = size_t{64} << 10;
constexpr int64_t kMaxLogBytes = int64_t{64} << 20;

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

ApiResponse Refuse(int status, const std::string& message) {
  return {.status = status, .type = "application/json", .body = Dump({{"error", message}}), .headers = {}};
}

ApiResponse NotFound() { return Refuse(404, "there is nothing of that name"); }

ApiResponse Good(std::string json) {
  return {.status = 200, .type = "application/json", .body = std::move(json), .headers = {}};
}

// A file to keep, under a name made of what is safe in a header and on a disk.
ApiResponse Download(std::string type, std::string body, const std::string& name) {
  std::string safe;
  for (const char c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    safe += plain ? c : '_';
  }
  return {.status = 200,
          .type = std::move(type),
          .body = std::move(body),
          .headers = {{"Content-Disposition", "attachment; filename=\"" + safe + "\""}}};
}

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    parts.push_back(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return parts;
}

std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<double> Floor(const ApiRequest& request, const char* key) {
  const auto found = request.query.find(key);
  if (found == request.query.end()) return std::nullopt;
  double value = 0;
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value > 0 && value <= 1)) return std::nullopt;
  return value;
}

// The trial whose number stands in the query; null where none does.
const Trial* TrialIn(const ApiRequest& request, const char* key, const StudySnapshot& snapshot) {
  const auto found = request.query.find(key);
  const std::optional<int64_t> number = found == request.query.end() ? std::nullopt : Number(found->second);
  if (!number || *number >= static_cast<int64_t>(snapshot.trials.size())) return nullptr;
  return &snapshot.trials[static_cast<size_t>(*number)];
}

}  // namespace

Api::Api(ApiOptions options)
    : options_(std::move(options)),
      reader_(options_.db),
      forecaster_(options_.worker, options_.table_folder, hub_),
      runs_(std::make_unique<RunControl>(options_.program, options_.db, options_.log_folder,
                                         [this] { hub_.Publish("changed", "{}"); })),
      feed_(reader_, hub_) {}

ApiResponse Api::Handle(const ApiRequest& request) {
  try {
    return Dispatch(request);
  } catch (const std::exception& error) {  // no memory for an answer
    return Refuse(500, error.what());
  }
}

ApiResponse Api::Dispatch(const ApiRequest& request) {
  constexpr std::string_view kBase = "/api/v1/";
  if (!request.path.starts_with(kBase)) return NotFound();
  const std::vector<std::string_view> parts = Split(std::string_view(request.path).substr(kBase.size()));
  if (parts.empty()) return NotFound();
  if (request.method == "POST") return Change(request, parts);
  if (parts.size() == 1) {
    if (parts[0] == "state") return State(request);
    if (parts[0] == "studies") return Studies();
    if (parts[0] == "ladder") return Good(LadderView());
    if (parts[0] == "openapi.json") return Good(std::string(OpenApi()));
    if (parts[0] == "models") {
      Json rows = Json::array();
      for (const ModelRoots::Model& model : options_.roots.Models()) {
        rows.push_back({{"path", model.path}, {"bytes", model.bytes}});
      }
      return Good(Dump(rows));
    }
    return NotFound();
  }
  if (parts[0] != "studies") return NotFound();
  const std::optional<int64_t> id = Number(parts[1]);
  if (!id) return NotFound();
  const Result<std::shared_ptr<const StudySnapshot>> snapshot = reader_.Find(*id);
  if (!snapshot.ok()) return Refuse(503, snapshot.error().message);
  if (!*snapshot) return Refuse(404, "there is no such study");
  return OfStudy(request, **snapshot, {parts.begin() + 2, parts.end()});
}

ApiResponse Api::State(const ApiRequest& request) {
  const RunControl::State run = runs_->Look();
  Json waiting = Json::array();
  for (const auto& [id, what] : run.waiting) waiting.push_back({{"id", id}, {"what", what}});
  Json roots = Json::array();
  for (const std::filesystem::path& root : options_.roots.roots()) roots.push_back(root.string());
  return Good(Dump({{"version", worker::kVersion},
                    {"db", options_.db.string()},
                    {"roots", std::move(roots)},
                    {"authorized", request.authorized},
                    {"running", run.holder.has_value() || run.ours},
                    {"holder", run.holder ? Json(run.holder->text) : Json(nullptr)},
                    {"study_id", (run.holder || run.ours) && feed_.study_id() > 0 ? Json(feed_.study_id()) : Json(nullptr)},
                    {"last_event", hub_.IdOf(hub_.last())},
                    {"queue", {{"held", run.held}, {"waiting", std::move(waiting)}, {"failed", run.failed}}},
                    {"run",
                     {{"ours", run.ours},
                      {"command", run.command},
                      {"exit_code", run.exit_code ? Json(*run.exit_code) : Json(nullptr)},
                      {"message", run.message}}}}));
}

ApiResponse Api::Studies() {
  const auto snapshots = reader_.All();
  if (!snapshots.ok()) return Refuse(503, snapshots.error().message);
  std::vector<controller::Study> studies;
  std::vector<std::vector<Trial>> trials;
  for (const auto& snapshot : *snapshots) {
    studies.push_back(snapshot->study);
    trials.push_back(snapshot->trials);
  }
  return Good(StudiesView(studies, trials));
}

ApiResponse Api::OfStudy(const ApiRequest& request, const StudySnapshot& snapshot, std::vector<std::string_view> rest) {
  if (rest.empty()) {
    const Result<bool> has_lazy = snapshot.WithSpace([](const controller::PlanSpace& space) { return space.has_lazy(); });
    return Good(StudyView(snapshot.study, snapshot.trials, has_lazy.ok() ? std::optional(*has_lazy) : std::nullopt));
  }
  const std::string& name = snapshot.study.spec.name;
  if (rest[0] == "trials" && rest.size() >= 2) {
    const std::optional<int64_t> number = Number(rest[1]);
    if (!number || *number >= static_cast<int64_t>(snapshot.trials.size())) return Refuse(404, "there is no such trial");
    return OfTrial(request, snapshot.trials[static_cast<size_t>(*number)], {rest.begin() + 2, rest.end()});
  }
  if (rest.size() > 1) return NotFound();
  if (rest[0] == "trials") return Good(TrialsView(snapshot.trials));
  if (rest[0] == "trials.json") return Download("application/json", TrialsView(snapshot.trials), name + "-trials.json");
  if (rest[0] == "trials.csv") return Download("text/csv; charset=utf-8", TrialsCsv(snapshot.trials), name + "-trials.csv");
  if (rest[0] == "frontier") {
    Result<std::string> view = snapshot.WithSpace(
        [&](const controller::PlanSpace& space) { return FrontierView(snapshot.study, space, snapshot.trials); });
    return view.ok() ? Good(*std::move(view)) : Refuse(409, view.error().message);
  }
  if (rest[0] == "plan") return PlanAt(request, snapshot);
  if (rest[0] == "compare") return Compare(request, snapshot);
  if (rest[0] == "questions") {
    const Result<controller::StudyQuestions> questions = controller::LoadQuestions(snapshot.study.spec.eval);
    return questions.ok() ? Good(QuestionsView(questions->task)) : Refuse(409, questions.error().message);
  }
  if (rest[0] == "report.html" || rest[0] == "report.md") return Report(snapshot, rest[0] == "report.html");
  if (rest[0] == "operating_point.json") return Export(request, snapshot);
  return NotFound();
}

ApiResponse Api::PlanAt(const ApiRequest& request, const StudySnapshot& snapshot) {
  const std::optional<double> strict = Floor(request, "strict");
  const std::optional<double> lazy = Floor(request, "lazy");
  if (!strict || !lazy) return Refuse(422, "strict and lazy: floors in (0, 1]");
  Result<std::string> view = snapshot.WithSpace([&](const controller::PlanSpace& space) {
    const controller::PlannedPoint& point =
        space.At(space.PairOf({.strict = *strict, .lazy = *lazy, .head = snapshot.study.spec.highest.head}));
    return PlanView(point, space.Ledger(point.plan));
  });
  return view.ok() ? Good(*std::move(view)) : Refuse(409, view.error().message);
}

ApiResponse Api::OfTrial(const ApiRequest& request, const Trial& trial, const std::vector<std::string_view>& rest) {
  if (rest.empty()) return TrialOf(trial);
  if (rest.size() == 1 && rest[0] == "log") return LogOf(request, trial);
  return NotFound();
}

ApiResponse Api::TrialOf(const Trial& trial) {
  const Result<std::shared_ptr<Store>> store = reader_.Store();
  if (!store.ok() || !*store) return Refuse(503, store.ok() ? "the study file is gone" : store.error().message);
  const Result<Trial> whole = (*store)->GetTrial(trial.id);
  if (!whole.ok()) return Refuse(503, whole.error().message);
  const Result<std::vector<controller::Answer>> answers = (*store)->ListAnswers(trial.id);
  if (!answers.ok()) return Refuse(503, answers.error().message);
  return Good(TrialView(*whole, *answers));
}

// The path comes from the study file, which somebody may have sent: only logs beside the file are shown.
ApiResponse Api::LogOf(const ApiRequest& request, const Trial& trial) {
  if (trial.attempts.empty()) return Refuse(404, "the trial has not begun");
  size_t index = trial.attempts.size() - 1;
  if (const auto found = request.query.find("attempt"); found != request.query.end()) {
    const std::optional<int64_t> number = Number(found->second);
    if (!number || *number < 1 || *number > static_cast<int64_t>(trial.attempts.size())) return NotFound();
    index = static_cast<size_t>(*number - 1);
  }
  std::error_code code;
  const std::filesystem::path folder = std::filesystem::canonical(options_.log_folder, code);
  const std::filesystem::path file =
      code ? std::filesystem::path()
           : std::filesystem::canonical(folder / std::filesystem::path(trial.attempts[index].log_path).filename(), code);
  if (code || file.parent_path() != folder) return Refuse(404, "the log is not there any more");
  const Result<std::string> log = ReadFile(file, kMaxLogBytes);
  if (!log.ok()) return Refuse(404, "the log cannot be read");
  std::string_view tail = *log;
  if (tail.size() > kLogTailBytes) {
    tail.remove_prefix(tail.size() - kLogTailBytes);
    tail.remove_prefix(std::min(tail.find('\n') + 1, tail.size()));
  }
  return {.status = 200, .type = "text/plain; charset=utf-8", .body = ReplaceInvalidUtf8(tail), .headers = {}};
}

ApiResponse Api::Compare(const ApiRequest& request, const StudySnapshot& snapshot) {
  const Trial* first = TrialIn(request, "a", snapshot);
  const Trial* second = TrialIn(request, "b", snapshot);
  if (first == nullptr || second == nullptr) return Refuse(422, "a and b: numbers of two trials");
  const Result<std::shared_ptr<Store>> store = reader_.Store();
  if (!store.ok() || !*store) return Refuse(503, store.ok() ? "the study file is gone" : store.error().message);
  const Result<std::vector<controller::Answer>> a = (*store)->ListAnswers(first->id);
  const Result<std::vector<controller::Answer>> b = (*store)->ListAnswers(second->id);
  if (!a.ok() || !b.ok()) return Refuse(503, a.ok() ? b.error().message : a.error().message);
  return Good(ComparisonView(*first, *second, controller::CompareAnswers(*a, *b)));
}

ApiResponse Api::Report(const StudySnapshot& snapshot, bool html) {
  const Result<std::shared_ptr<Store>> store = reader_.Store();
  if (!store.ok() || !*store) return Refuse(503, store.ok() ? "the study file is gone" : store.error().message);
  Result<Result<Document>> report = snapshot.WithSpace([&](const controller::PlanSpace& space) {
    return ReportOf(**store, snapshot.study, snapshot.trials, space);
  });
  if (!report.ok()) return Refuse(409, report.error().message);
  if (!report->ok()) return Refuse(503, report->error().message);
  const Document& document = **report;
  const std::string name = snapshot.study.spec.name + "-report";
  if (html) return Download("text/html; charset=utf-8", ToHtml(document), name + ".html");
  return Download("text/markdown; charset=utf-8", ToMarkdown(document), name + ".md");
}

ApiResponse Api::Export(const ApiRequest& request, const StudySnapshot& snapshot) {
  std::optional<int> number = RecommendedOf(snapshot.study, snapshot.trials);
  if (request.query.contains("trial")) {
    const Trial* trial = TrialIn(request, "trial", snapshot);
    if (trial == nullptr) return Refuse(404, "there is no such trial");
    number = trial->number;
  }
  if (!number) return Refuse(409, "the study recommends no point: name a trial");
  const Result<std::shared_ptr<Store>> store = reader_.Store();
  if (!store.ok() || !*store) return Refuse(503, store.ok() ? "the study file is gone" : store.error().message);
  const Result<std::vector<Trial>> trials = (*store)->ListTrials(snapshot.study.id);  // with the plans
  if (!trials.ok()) return Refuse(503, trials.error().message);
  const Result<controller::OperatingPoint> point =
      controller::ExportPoint(**store, snapshot.study, *trials, *number);
  if (!point.ok()) return Refuse(409, point.error().message);
  return Download("application/json", OperatingPointToJson(*point), "operating_point.json");
}

ApiResponse Api::Change(const ApiRequest& request, const std::vector<std::string_view>& parts) {
  if (parts.size() == 1 && parts[0] == "forecast") {
    Forecaster::Answer answer = forecaster_.Forecast(request.body, options_.roots);
    return answer.status == 200 ? Good(std::move(answer.body)) : Refuse(answer.status, answer.body);
  }
  RunAnswer answer;
  if (parts.size() == 1 && parts[0] == "studies") {
    Result<std::vector<std::string>> arguments = StartArguments(request.body, options_.roots);
    if (!arguments.ok()) return Refuse(422, arguments.error().message);
    answer = runs_->Begin("tune", *std::move(arguments));
  } else if (parts[0] == "queue") {
    answer = ChangeQueue(request, parts);
    if (answer.status == 202) hub_.Publish("changed", "{}");
  } else if (parts.size() == 2 && parts[0] == "run" && parts[1] == "pause") {
    answer = runs_->Pause();
  } else if (parts.size() == 2 && parts[0] == "run" && parts[1] == "stop") {
    answer = runs_->Stop();
  } else if (parts.size() >= 3 && parts[0] == "studies") {
    const std::optional<int64_t> id = Number(parts[1]);
    const Result<std::shared_ptr<const StudySnapshot>> snapshot =
        id ? reader_.Find(*id) : Result<std::shared_ptr<const StudySnapshot>>(nullptr);
    if (!snapshot.ok()) return Refuse(503, snapshot.error().message);
    if (!*snapshot) return Refuse(404, "there is no such study");
    const std::string study = "--study=" + (*snapshot)->study.spec.name;
    if (parts.size() == 3 && parts[2] == "resume") {
      if ((*snapshot)->study.state == controller::StudyState::kDone) return Refuse(409, "the study is done");
      answer = runs_->Begin("resume", {study});
    } else if (parts.size() == 5 && parts[2] == "trials" && parts[4] == "rerun") {
      const std::optional<int64_t> number = Number(parts[3]);
      if (!number || *number >= static_cast<int64_t>((*snapshot)->trials.size())) {
        return Refuse(404, "there is no such trial");
      }
      if ((*snapshot)->trials[static_cast<size_t>(*number)].state != controller::TrialState::kFailed) {
        return Refuse(409, "only a failed trial is run again");
      }
      answer = runs_->Begin("rerun", {std::to_string(*number), study});
    } else {
      return NotFound();
    }
  } else {
    return NotFound();
  }
  if (answer.status != 202) return Refuse(answer.status, answer.message);
  return {.status = 202, .type = "application/json", .body = "{}", .headers = {}};
}

RunAnswer Api::ChangeQueue(const ApiRequest& request, const std::vector<std::string_view>& parts) {
  if (parts.size() == 1) {
    Result<std::vector<std::string>> arguments = StartArguments(request.body, options_.roots);
    if (!arguments.ok()) return {422, arguments.error().message};
    const Json body = Json::parse(request.body);
    const Json& memory = body["memory"];
    return runs_->Enqueue(body.contains("study") ? body["study"].get<std::string>()
                                                 : body["model"].get<std::string>() + " under " +
                                                       (memory.is_string() ? memory.get<std::string>() : memory.dump() + " B"),
                          *std::move(arguments));
  }
  if (parts.size() == 2 && parts[1] == "release") return runs_->Release();
  const std::optional<int64_t> id = Number(parts[1]);
  if (parts.size() != 3 || parts[2] != "withdraw" || !id) return {404, "there is nothing of that name"};
  return runs_->Withdraw(*id);
}

Result<void> Api::Health() {
  const auto snapshots = reader_.All();
  if (!snapshots.ok()) return snapshots.error();
  return Ok();
}

std::string Api::Metrics() {
  std::string text;
  const auto head = [&](const char* name, const char* help) {
    text += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " gauge\n";
  };
  const auto snapshots = reader_.All();
  head("hproc_study_file_readable", "Whether the study file can be read.");
  text += std::string("hproc_study_file_readable ") + (snapshots.ok() ? "1\n" : "0\n");
  head("hproc_running", "Whether a search writes the study file.");
  const RunControl::State run = runs_->Look();
  text += std::string("hproc_running ") + (run.holder ? "1\n" : "0\n");
  head("hproc_waiting_searches", "Searches that wait for their turn.");
  text += "hproc_waiting_searches " + std::to_string(run.waiting.size()) + "\n";
  if (!snapshots.ok()) return text;
  std::map<std::string_view, int64_t> studies;
  std::map<std::string_view, int64_t> trials;
  for (const auto& snapshot : *snapshots) {
    ++studies[StudyStateName(snapshot->study.state)];
    for (const Trial& trial : snapshot->trials) ++trials[TrialStateName(trial.state)];
  }
  head("hproc_studies", "Studies by state.");
  for (const auto state : {controller::StudyState::kRunning, controller::StudyState::kInterrupted, controller::StudyState::kDone}) {
    const std::string name(StudyStateName(state));
    text += "hproc_studies{state=\"" + name + "\"} " + std::to_string(studies[StudyStateName(state)]) + "\n";
  }
  head("hproc_trials", "Trials by state.");
  using controller::TrialState;
  for (const auto state : {TrialState::kWaiting, TrialState::kRunning, TrialState::kComplete, TrialState::kInfeasible,
                           TrialState::kFailed}) {
    const std::string name(TrialStateName(state));
    text += "hproc_trials{state=\"" + name + "\"} " + std::to_string(trials[TrialStateName(state)]) + "\n";
  }
  return text;
}

void Api::Close() {
  runs_->Close();
  forecaster_.Stop();
  hub_.Close();
}

void Api::AwaitRuns() { runs_->AwaitEnd(); }

}  // namespace hproc::web
