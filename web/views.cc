#include "web/views.h"

#include <fmt/core.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "controller/plane_window.h"
#include "controller/study_json.h"
#include "controller/tuner.h"
#include "evals/statistics.h"

namespace hproc::web {
namespace {

using controller::AccuracyTally;
using controller::FloorPair;
using controller::PlanSpace;
using controller::Study;
using controller::Trial;
using controller::TrialState;
using Json = nlohmann::ordered_json;

Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json AccuracyOf(const AccuracyTally& tally) {
  if (tally.total == 0) return nullptr;
  Json json = {{"answered", tally.total},
               {"correct", tally.strict_correct},
               {"flexible_correct", tally.flexible_correct},
               {"invalid", tally.invalid},
               {"truncated", tally.truncated},
               {"correct_by_seed", tally.strict_by_seed},
               {"all_questions", tally.all_questions}};
  if (tally.all_questions) {
    const evals::Interval interval = evals::AccuracyInterval(tally);
    json["rate"] = static_cast<double>(tally.strict_correct) / tally.total;
    json["low"] = interval.low;
    json["high"] = interval.high;
    json["truncated_flag"] = evals::TooManyTruncated(tally);
  } else {
    json["rate"] = nullptr;  // biased by the stop
  }
  return json;
}

Json ThroughputOf(const std::vector<evals::ThroughputSample>& samples) {
  Json json = Json::object();
  for (const evals::ThroughputSummary& s : evals::SummarizeThroughput(samples)) {
    json[std::string(evals::ThroughputKindName(s.kind))] = {{"mean_tok_per_s", Finite(s.mean_tok_per_s)},
                                                            {"sd_tok_per_s", Finite(s.sd_tok_per_s)},
                                                            {"median_tok_per_s", Finite(s.median_tok_per_s)},
                                                            {"repetitions", s.repetitions},
                                                            {"tokens", s.tokens},
                                                            {"batch", s.batch}};
  }
  return json;
}

Json VerdictOf(const Trial& trial) {
  return {{"reason", controller::ReasonName(trial.verdict.reason)},
          {"phase", trial.verdict.phase},
          {"device", trial.verdict.device},
          {"short_bytes", trial.verdict.short_bytes},
          {"message", trial.verdict.message}};
}

Json RowOf(const Trial& trial) {
  Json row = {{"trial", trial.number},
              {"kind", controller::TrialKindName(trial.plan.kind)},
              {"purpose", trial.plan.purpose},
              {"state", controller::TrialStateName(trial.state)},
              {"strict", trial.plan.floors.strict},
              {"lazy", trial.plan.floors.lazy},
              {"head", trial.plan.floors.head},
              {"plan_digest", trial.plan.plan_digest},
              {"bits_per_weight", Finite(trial.plan.bits_per_weight)},
              {"predicted_bytes", trial.plan.predicted_bytes},
              {"measured_bytes", nullptr},
              {"peak_bytes", nullptr},
              {"verdict", VerdictOf(trial)},
              {"attempts", trial.attempts.size()},
              {"accuracy", AccuracyOf(trial.measured.accuracy)},
              {"throughput", ThroughputOf(trial.measured.throughput)},
              {"created_utc", trial.created_utc},
              {"finished_utc", trial.finished_utc}};
  if (trial.measured.memory) {
    row["measured_bytes"] = trial.measured.memory->live_bytes;
    row["peak_bytes"] = trial.measured.memory->peak_bytes;
  }
  return row;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// JSON that was kept as text; null where it is none.
Json Kept(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  return json.is_discarded() ? Json(nullptr) : json;
}

Json Pair(const PlanSpace& space, FloorPair at) {
  const quant::Floors floors = space.FloorsAt(at);
  return {{"strict", floors.strict}, {"lazy", floors.lazy}, {"needed_bytes", space.NeededBytes(at)}};
}

Json StudyRowOf(const Study& study, const std::vector<Trial>& trials) {
  std::map<std::string, int> states;
  for (const Trial& trial : trials) ++states[std::string(controller::TrialStateName(trial.state))];
  Json row = {{"id", study.id},
              {"study", study.spec.name},
              {"state", controller::StudyStateName(study.state)},
              {"model", study.spec.model_dir},
              {"memory_cap_bytes", study.spec.memory_cap_bytes},
              {"context", study.spec.deployment.context},
              {"batch", study.spec.deployment.batch},
              {"task", study.spec.eval.task_id},
              {"created_utc", study.created_utc},
              {"trials", states}};
  row["outcome"] = Kept(study.outcome_json);
  return row;
}

// A cell of a CSV file.
std::string Cell(std::string text) {
  if (!text.empty() && std::string_view("=+-@\t\r").find(text.front()) != std::string_view::npos) text.insert(0, 1, '\'');
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string NumberCell(const Json& value) { return value.is_null() ? std::string() : value.dump(); }

}  // namespace

std::string StudiesView(const std::vector<Study>& studies, const std::vector<std::vector<Trial>>& trials) {
  Json rows = Json::array();
  for (size_t i = 0; i < studies.size(); ++i) rows.push_back(StudyRowOf(studies[i], trials[i]));
  return Dump(rows);
}

std::string StudyView(const Study& study, const std::vector<Trial>& trials, std::optional<bool> has_lazy) {
  Json view = StudyRowOf(study, trials);
  view["has_lazy"] = has_lazy ? Json(*has_lazy) : Json(nullptr);
  view["spec"] = Json::parse(controller::ToJson(study.spec));
  view["measure"] = Kept(study.measure_json);
  return Dump(view);
}

std::string TrialsView(const std::vector<Trial>& trials) {
  Json rows = Json::array();
  for (const Trial& trial : trials) rows.push_back(RowOf(trial));
  return Dump(rows);
}

std::string TrialsCsv(const std::vector<Trial>& trials) {
  std::string csv =
      "trial,kind,purpose,state,strict,lazy,head,plan_digest,bits_per_weight,predicted_bytes,measured_bytes,peak_bytes,"
      "reason,phase,short_bytes,message,correct,answered,all_questions,rate,low,high,decode_tok_per_s,prefill_tok_per_s,"
      "attempts,created_utc,finished_utc\r\n";
  for (const Trial& trial : trials) {
    const Json row = RowOf(trial);
    const auto accuracy = [&](const char* key) {
      return row["accuracy"].is_null() || !row["accuracy"].contains(key) ? std::string() : NumberCell(row["accuracy"][key]);
    };
    const auto rate = [&](evals::ThroughputKind kind) {
      const auto found = row["throughput"].find(evals::ThroughputKindName(kind));
      return found == row["throughput"].end() ? std::string() : NumberCell((*found)["mean_tok_per_s"]);
    };
    const auto number = [&](const char* key) { return NumberCell(row[key]); };
    const auto text = [&](const Json& value) { return Cell(value.get<std::string>()); };
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},", number("trial"), text(row["kind"]), text(row["purpose"]),
                       text(row["state"]), number("strict"), number("lazy"), number("head"), text(row["plan_digest"]),
                       number("bits_per_weight"), number("predicted_bytes"), number("measured_bytes"), number("peak_bytes"));
    const Json& verdict = row["verdict"];
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},", text(verdict["reason"]), text(verdict["phase"]),
                       NumberCell(verdict["short_bytes"]), text(verdict["message"]), accuracy("correct"),
                       accuracy("answered"), accuracy("all_questions"), accuracy("rate"), accuracy("low"),
                       accuracy("high"), rate(evals::ThroughputKind::kLongDecode), rate(evals::ThroughputKind::kPrefill));
    csv += fmt::format("{},{},{}\r\n", number("attempts"), text(row["created_utc"]), text(row["finished_utc"]));
  }
  return csv;
}

std::string ComparisonView(const Trial& first, const Trial& second, const controller::PairedOutcome& paired) {
  Json differences = Json::array();
  for (const auto& [question, seed, first_right] : paired.differences) {
    differences.push_back({{"question", question}, {"seed", seed}, {"right", first_right ? "first" : "second"}});
  }
  return Dump({{"first", RowOf(first)},
               {"second", RowOf(second)},
               {"questions", paired.questions()},
               {"both_right", paired.both_right},
               {"only_first_right", paired.only_first_right},
               {"only_second_right", paired.only_second_right},
               {"neither_right", paired.neither_right},
               {"mcnemar_p", paired.questions() > 0 ? Json(paired.p) : Json(nullptr)},
               {"differences", std::move(differences)}});
}

std::string QuestionsView(const evals::Gsm8kTask& task) {
  Json rows = Json::array();
  for (int i = 0; i < task.size(); ++i) {
    rows.push_back({{"question", i}, {"text", task.item(i).question}, {"answer", task.item(i).answer}});
  }
  return Dump(rows);
}

std::string LadderView() {
  Json floors = Json::array();
  for (int rung = 0; rung < quant::kLadderSize; ++rung) floors.push_back(quant::LadderFloor(rung));
  return Dump(floors);
}

std::string TrialView(const Trial& trial, const std::vector<controller::Answer>& answers) {
  Json view = RowOf(trial);
  view["plan"] = Kept(trial.plan.plan_json);
  view["measured"] = Json::parse(controller::ToJson(trial.measured));
  view["attempts"] = Json::array();
  for (const controller::Attempt& attempt : trial.attempts) view["attempts"].push_back(Json::parse(controller::ToJson(attempt)));
  view["answers"] = Json::array();
  for (const controller::Answer& answer : answers) view["answers"].push_back(Json::parse(controller::ToJson(answer)));
  return Dump(view);
}

std::string FrontierView(const Study& study, const PlanSpace& space, const std::vector<Trial>& trials) {
  const controller::SearchSpec spec = controller::SearchSpecOf(study.spec, space);
  const std::vector<controller::TrialFact> facts = controller::FactsOf(trials, space);
  const controller::PlaneWindow window = WindowOf(study, space, trials);
  Json predicted = Json::array();
  for (FloorPair corner : PredictedFrontier(spec, space, spec.budget_bytes)) predicted.push_back(Pair(space, corner));
  Json points = Json::array();
  Json inside = Json::array();
  Json outside = Json::array();
  Json sensible = Json::array();
  Json garbage = Json::array();
  for (const Trial& trial : trials) {
    points.push_back(RowOf(trial));
    if (trial.plan.kind != controller::TrialKind::kPoint) continue;  // a baseline marks no boundary
    const controller::Depth depth = controller::DepthOf(trial.plan.purpose);
    const Json at = {{"trial", trial.number}, {"strict", trial.plan.floors.strict}, {"lazy", trial.plan.floors.lazy}};
    if (trial.state == TrialState::kComplete) {
      if (depth == controller::Depth::kEvaluate) inside.push_back(at);
      if (depth != controller::Depth::kLoad) sensible.push_back(at);
    } else if (trial.state == TrialState::kInfeasible) {
      (trial.verdict.reason == controller::Reason::kOutOfMemory ? outside : garbage).push_back(at);
    }
  }
  return Dump({{"study", study.spec.name},
               {"lowest", Pair(space, spec.lowest)},
               {"highest", Pair(space, spec.highest)},
               {"window", {{"lowest", Pair(space, window.lowest)}, {"highest", Pair(space, window.highest)}}},
               {"has_lazy", space.has_lazy()},
               {"budget_bytes", spec.budget_bytes},
               {"predicted_fit_frontier", std::move(predicted)},
               {"fit_frontier", {{"inside", std::move(inside)}, {"outside", std::move(outside)}}},
               {"garbage_frontier", {{"sensible", std::move(sensible)}, {"garbage", std::move(garbage)}}},
               {"pareto_frontier", controller::ParetoFrontier(facts)},
               {"trials", std::move(points)},
               {"outcome", Kept(study.outcome_json)}});
}

std::string PlanView(const controller::PlannedPoint& point, std::span<const worker::LedgerLine> ledger) {
  Json families = Json::object();
  const auto totals = point.plan.Families();
  for (int f = 0; f < quant::kFamilyCount; ++f) {
    const quant::FamilyTotals& family = totals[static_cast<size_t>(f)];
    if (family.weights == 0) continue;
    families[std::string(quant::FamilyName(static_cast<quant::Family>(f)))] = {
        {"weights", family.weights},
        {"bytes", family.bytes},
        {"bits_per_weight", 8.0 * static_cast<double>(family.bytes) / static_cast<double>(family.weights)},
        {"min_cosine", family.min_cosine},
        {"mean_cosine", 1 - family.mean_deficit}};
  }
  Json lines = Json::array();
  for (const worker::LedgerLine& line : ledger) lines.push_back({{"name", line.name}, {"bytes", line.bytes}});
  return Dump({{"strict", point.plan.floors.strict},
               {"lazy", point.plan.floors.lazy},
               {"head", point.plan.floors.head},
               {"plan_digest", point.digest},
               {"weight_bytes", point.weight_bytes},
               {"predicted_bytes", point.total_bytes},
               {"bits_per_weight", point.plan.bits_per_weight()},
               {"families", std::move(families)},
               {"ledger", std::move(lines)},
               {"plan", Json::parse(quant::PlanToJson(point.plan))}});
}

}  // namespace hproc::web
