#include "controller/operating_point.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/printable.h"
#include "controller/device_share.h"
#include "controller/study_json.h"
#include "evals/statistics.h"
#include "quant/plan.h"

namespace hproc::controller {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostNeighbours = 8;
constexpr int kMostNesting = 32;  // the file needs five; writing JSON out again takes stack for every level

// How far two pairs of floors are apart, for choosing the nearest.
double Distance(const quant::Floors& a, const quant::Floors& b) {
  return std::abs(a.strict - b.strict) + std::abs(a.lazy - b.lazy);
}

Json SummaryOf(const OperatingPoint& point) {
  const evals::Interval interval = evals::AccuracyInterval(point.accuracy);
  Json throughput = Json::array();
  for (const evals::ThroughputSummary& s : evals::SummarizeThroughput(point.throughput)) {
    throughput.push_back({{"kind", evals::ThroughputKindName(s.kind)},
                          {"batch", s.batch},
                          {"tokens", s.tokens},
                          {"repetitions", s.repetitions},
                          {"mean_tok_per_s", s.mean_tok_per_s},
                          {"sd_tok_per_s", s.sd_tok_per_s}});
  }
  return {{"accuracy",
           {{"protocol", point.spec.eval.task_id},
            {"protocol_digest", evals::ProtocolDigest(point.spec.eval)},
            {"correct", point.accuracy.strict_correct},
            {"total", point.accuracy.total},
            {"rate", static_cast<double>(point.accuracy.strict_correct) / std::max(1, point.accuracy.total)},
            {"low", interval.low},
            {"high", interval.high},
            {"truncated_flag", evals::TooManyTruncated(point.accuracy)}}},
          {"throughput", std::move(throughput)},
          {"measured_bytes", point.memory.live_bytes},
          {"headroom_bytes", point.spec.memory_cap_bytes - point.memory.live_bytes}};
}

// The file as JSON. Of two equal keys the parser would keep the last and another reader perhaps the first, so neither is
// taken.
Result<Json> ParseFile(std::string_view text) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&keys](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMostNesting) throw Error{"not an operating point: nested too deep"};
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw Error{Printable(parsed.get<std::string>()) + ": occurs twice"};
    }
    return true;
  };
  try {
    return Json::parse(text, watch, /*allow_exceptions=*/false);
  } catch (Error& error) {
    return std::move(error);
  }
}

}  // namespace

Result<OperatingPoint> MakeOperatingPoint(const Study& study, const std::vector<Trial>& trials, const Trial& trial,
                                          const std::vector<Answer>& answers, std::span<const int> order,
                                          std::string_view created_utc) {
  const std::string name = "trial " + std::to_string(trial.number) + " of study \"" + study.spec.name + "\"";
  if (trial.plan.kind != TrialKind::kPoint) return Error{name + " cannot be exported: it is a baseline, not an operating point"};
  if (trial.state != TrialState::kComplete || !trial.measured.accuracy.all_questions || !trial.measured.load ||
      !trial.measured.memory) {
    return Error{name + " cannot be exported: it was not evaluated on all questions"};
  }
  OperatingPoint point;
  point.study = study.spec.name;
  point.created_utc = created_utc;
  point.floors = trial.plan.floors;
  point.plan_digest = trial.plan.plan_digest;
  point.plan_json = trial.plan.plan_json;
  point.bits_per_weight = trial.plan.bits_per_weight;
  point.predicted_bytes = trial.plan.predicted_bytes;
  point.spec = study.spec;
  // Of how the study was launched only what a trial had of the machine belongs to the point.
  const Result<std::vector<worker::Deployment>> shares = SharesOf(study.spec);
  if (!shares.ok()) return shares.error();
  point.spec.deployment = shares->front();
  point.spec.launch = {};
  point.load = *trial.measured.load;
  point.memory = *trial.measured.memory;
  point.predicted = trial.measured.predicted;
  point.accuracy = trial.measured.accuracy;
  point.throughput = trial.measured.throughput;

  std::map<std::pair<int, int>, bool> right;  // seed, question
  for (const Answer& answer : answers) {
    if (answer.stage != "probe") right[{answer.seed, answer.question}] = answer.strict_correct;
  }
  for (int seed = 0; seed < study.spec.eval.seeds; ++seed) {
    for (int question : order) {
      const auto it = right.find({seed, question});
      if (it == right.end()) return Error{name + ": the answer to question " + std::to_string(question) + " is missing"};
      point.outcomes += it->second ? '1' : '0';
    }
  }

  for (const Trial& other : trials) {
    if (other.state == TrialState::kInfeasible) {
      point.neighbours.push_back({other.plan.floors, other.plan.predicted_bytes, other.verdict});
    }
  }
  std::stable_sort(point.neighbours.begin(), point.neighbours.end(),
                   [&](const BoundaryNeighbour& a, const BoundaryNeighbour& b) {
                     return Distance(a.floors, point.floors) < Distance(b.floors, point.floors);
                   });
  if (point.neighbours.size() > kMostNeighbours) point.neighbours.resize(kMostNeighbours);
  if (!study.outcome_json.empty()) {
    const Json outcome = Json::parse(study.outcome_json, nullptr, false);
    if (outcome.is_object()) {
      point.bound = outcome.value("bound", "");
      point.why = outcome.value("why", "");
    }
  }
  return point;
}

std::string OperatingPointToJson(const OperatingPoint& point) {
  Json fields = Json::parse(ToJson(point));
  Json file;
  for (auto& [key, value] : fields.items()) {
    if (key == "plan_json") {
      file["summary"] = SummaryOf(point);
      file["plan"] = Json::parse(point.plan_json, nullptr, false);
    } else {
      file[key] = std::move(value);
    }
  }
  file["spec"].erase("launch");  // always local: it is the study's, see MakeOperatingPoint
  return file.dump(1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Result<OperatingPoint> OperatingPointFromJson(std::string_view json) {
  Result<Json> parsed = ParseFile(json);
  if (!parsed.ok()) return parsed.error();
  Json& file = *parsed;
  if (!file.is_object() || !file.contains("schema_version")) return Error{"not an operating point"};
  if (file["schema_version"] != kOperatingPointSchema) {
    return Error{"schema version " + Printable(file["schema_version"].dump(-1, ' ', false, Json::error_handler_t::replace)) + "; this program reads " +
                 std::to_string(kOperatingPointSchema)};
  }
  if (!file.contains("plan") || !file["plan"].is_object()) return Error{"plan: missing"};
  file["plan_json"] = file["plan"].dump();
  file.erase("plan");
  file.erase("summary");
  if (file.contains("spec") && file["spec"].is_object()) {
    if (file["spec"].contains("launch")) return Error{"spec.launch: not known here"};
    file["spec"]["launch"] = Json::parse(ToJson(StudySpec{}))["launch"];
  }
  Result<OperatingPoint> point = OperatingPointFieldsFromJson(file.dump());
  if (!point.ok()) return point;
  if (const size_t at = point->outcomes.find_first_not_of("01"); at != std::string::npos) {
    return Error{"outcomes: neither 0 nor 1, but '" + Printable(point->outcomes.substr(at, 1)) + "'"};
  }
  const Result<quant::Plan> plan = quant::PlanFromJson(point->plan_json);
  if (!plan.ok()) return plan.error();
  if (plan->Digest() != point->plan_digest) return Error{"plan_digest: not the digest of the plan"};
  point->plan_json = quant::PlanToJson(*plan);
  return point;
}

}  // namespace hproc::controller
