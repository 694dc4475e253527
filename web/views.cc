#include "web/views.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

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
               {"all_questions", tally.all_questions}};
  if (tally.all_questions) {
    const evals::Interval interval = evals::WilsonInterval(tally.strict_correct, tally.total);
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

}  // namespace

std::string StudiesView(const std::vector<Study>& studies, const std::vector<std::vector<Trial>>& trials) {
  Json rows = Json::array();
  for (size_t i = 0; i < studies.size(); ++i) {
    const Study& study = studies[i];
    std::map<std::string, int> states;
    for (const Trial& trial : trials[i]) ++states[std::string(controller::TrialStateName(trial.state))];
    Json row = {{"study", study.spec.name},
                {"state", controller::StudyStateName(study.state)},
                {"model", study.spec.model_dir},
                {"memory_cap_bytes", study.spec.memory_cap_bytes},
                {"context", study.spec.deployment.context},
                {"batch", study.spec.deployment.batch},
                {"task", study.spec.eval.task_id},
                {"created_utc", study.created_utc},
                {"trials", states}};
    row["outcome"] = Kept(study.outcome_json);
    rows.push_back(std::move(row));
  }
  return Dump(rows);
}

std::string TrialsView(const std::vector<Trial>& trials) {
  Json rows = Json::array();
  for (const Trial& trial : trials) rows.push_back(RowOf(trial));
  return Dump(rows);
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
