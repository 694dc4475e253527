#include "controller/outcome_json.h"

#include <nlohmann/json.hpp>

#include "evals/statistics.h"

namespace hproc::controller {
namespace {

using Json = nlohmann::ordered_json;

Json AccuracyJson(const AccuracyTally& tally) {
  if (!tally.all_questions || tally.total == 0) return nullptr;  // a test that stopped early is no accuracy
  const evals::Interval interval = evals::AccuracyInterval(tally);
  return {{"correct", tally.strict_correct},
          {"total", tally.total},
          {"rate", static_cast<double>(tally.strict_correct) / tally.total},
          {"low", interval.low},
          {"high", interval.high},
          {"flexible_correct", tally.flexible_correct},
          {"invalid", tally.invalid},
          {"truncated", tally.truncated},
          {"correct_by_seed", tally.strict_by_seed},
          {"truncated_flag", evals::TooManyTruncated(tally)}};
}

Json TokensPerSecond(const std::vector<evals::ThroughputSample>& samples, evals::ThroughputKind kind) {
  for (const evals::ThroughputSummary& summary : evals::SummarizeThroughput(samples)) {
    if (summary.kind == kind) return summary.mean_tok_per_s;
  }
  return nullptr;
}

Json RecommendedJson(const Study& study, const Trial& trial) {
  Json json = {{"trial", trial.number},
               {"strict", trial.plan.floors.strict},
               {"lazy", trial.plan.floors.lazy},
               {"head", trial.plan.floors.head},
               {"plan_digest", trial.plan.plan_digest},
               {"weight_bytes", trial.measured.load ? Json(trial.measured.load->weight_bytes) : Json(nullptr)},
               {"predicted_bytes", trial.plan.predicted_bytes},
               {"measured_bytes", nullptr},
               {"headroom_bytes", nullptr},
               {"bits_per_weight", trial.plan.bits_per_weight},
               {"accuracy", AccuracyJson(trial.measured.accuracy)},
               {"decode_tok_per_s", TokensPerSecond(trial.measured.throughput, evals::ThroughputKind::kLongDecode)},
               {"prefill_tok_per_s", TokensPerSecond(trial.measured.throughput, evals::ThroughputKind::kPrefill)}};
  if (!study.spec.judges()) json["accuracy_reason"] = kNoQuestions;
  if (trial.measured.memory) {
    json["measured_bytes"] = trial.measured.memory->live_bytes;
    json["headroom_bytes"] = study.spec.memory_cap_bytes - trial.measured.memory->live_bytes;
  }
  return json;
}

Json BaselineJson(const Trial& trial, const Comparison& comparison) {
  return {{"kind", TrialKindName(comparison.kind)},
          {"trial", comparison.baseline},
          {"fits", comparison.fits},
          {"weight_bytes", trial.measured.load ? Json(trial.measured.load->weight_bytes) : Json(nullptr)},
          {"measured_bytes", trial.measured.memory ? Json(trial.measured.memory->live_bytes) : Json(nullptr)},
          {"accuracy", AccuracyJson(trial.measured.accuracy)},
          {"decode_tok_per_s", TokensPerSecond(trial.measured.throughput, evals::ThroughputKind::kLongDecode)},
          {"only_baseline_right", comparison.only_baseline_right},
          {"only_recommended_right", comparison.only_point_right},
          {"mcnemar_p", comparison.p}};
}

}  // namespace

std::string OutcomeJson(const Study& study, const std::vector<Trial>& trials, const StudyOutcome& outcome) {
  const SearchDone& done = outcome.done;
  int64_t loads = 0;
  for (const Trial& trial : trials) loads += static_cast<int64_t>(trial.attempts.size());
  Json json;
  json["recommended"] = nullptr;
  if (done.recommended) json["recommended"] = RecommendedJson(study, trials[static_cast<size_t>(*done.recommended)]);
  json["bound"] = BoundName(done.bound);
  json["why"] = done.why;
  json["fault"] = done.fault ? Json(*done.fault) : Json(nullptr);
  json["alarms"] = done.alarms;
  json["loads"] = loads;
  json["trials"] = trials.size();
  json["study"] = study.spec.name;
  json["baselines"] = Json::array();
  for (const Comparison& comparison : outcome.baselines) {
    json["baselines"].push_back(BaselineJson(trials[static_cast<size_t>(comparison.baseline)], comparison));
  }
  json["int4_g128"] = {{"weight_bytes", outcome.int4_weight_bytes},
                       {"total_bytes", outcome.int4_total_bytes},
                       {"fits", outcome.int4_total_bytes <= study.spec.budget_bytes()}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<int> RecommendedOf(const Study& study, const std::vector<Trial>& trials) {
  const Json outcome = Json::parse(study.outcome_json, nullptr, false);
  if (!outcome.is_object() || !outcome.contains("recommended") || !outcome["recommended"].is_object()) return std::nullopt;
  const auto trial = outcome["recommended"].find("trial");
  if (trial == outcome["recommended"].end() || !trial->is_number_integer()) return std::nullopt;
  const auto number = trial->get<int64_t>();
  if (number < 0 || number >= static_cast<int64_t>(trials.size())) return std::nullopt;
  return static_cast<int>(number);
}

}  // namespace hproc::controller
