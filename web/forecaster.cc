#include "web/forecaster.h"

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "controller/search.h"
#include "controller/tune_journal.h"
#include "controller/tuner.h"
#include "web/start_arguments.h"

namespace hproc::web {
namespace {

using controller::FloorPair;
using controller::PlanSpace;
using Json = nlohmann::ordered_json;

// What StartArguments let pass; the defaults are tune's.
int64_t SizeOf(const Json& body, const char* key, int64_t otherwise) {
  if (!body.contains(key)) return otherwise;
  if (body[key].is_number_integer()) return body[key].get<int64_t>();
  return *ParseBytes(body[key].get<std::string>());
}

controller::StudySpec SpecOf(const Json& body) {
  controller::StudySpec spec;
  spec.memory_cap_bytes = SizeOf(body, "memory", 0);
  spec.headroom_bytes = SizeOf(body, "headroom", 0);
  spec.mode = body.value("mode", spec.mode);
  const double head = body.value("head", spec.highest.head);
  spec.lowest = {.strict = body.value("strict_min", spec.lowest.strict), .lazy = body.value("lazy_min", spec.lowest.lazy),
                 .head = head};
  spec.highest = {.strict = body.value("strict_max", spec.highest.strict), .lazy = body.value("lazy_max", spec.highest.lazy),
                  .head = head};
  worker::Deployment& deployment = spec.deployment;
  deployment.device = body.value("device", deployment.device);
  deployment.threads = body.value("threads", deployment.threads);
  deployment.world_size = body.value("tp", deployment.world_size);
  deployment.context = body.value("context", 0);
  if (deployment.context == 0) deployment.context = body.value("shots", 0) > 0 ? 2048 : 1024;
  deployment.batch = body.value("batch", deployment.batch);
  deployment.prefill_chunk = body.value("prefill_chunk", deployment.prefill_chunk);
  deployment.kv_dtype = body.value("kv_dtype", deployment.kv_dtype);
  return spec;
}

Result<void> CheckSpec(const controller::StudySpec& spec) {
  const auto is_floor = [](double floor) { return floor > 0 && floor <= 1; };
  if (spec.memory_cap_bytes <= 0) return Error{"memory: must be more than 0"};
  if (spec.headroom_bytes < 0 || spec.budget_bytes() <= 0) {
    return Error{"headroom: leaves nothing of the memory cap"};
  }
  for (const quant::Floors& floors : {spec.lowest, spec.highest}) {
    if (!is_floor(floors.strict) || !is_floor(floors.lazy) || !is_floor(floors.head)) {
      return Error{"a floor is a cosine similarity in (0, 1]"};
    }
  }
  if (spec.lowest.strict > spec.highest.strict || spec.lowest.lazy > spec.highest.lazy) {
    return Error{"a lower bound of the floors is above the upper one"};
  }
  if (spec.deployment.context < 2 || spec.deployment.batch < 1) return Error{"context or batch: too small"};
  return Ok();
}

std::string ForecastJson(const controller::StudySpec& spec, const PlanSpace& space) {
  const controller::SearchSpec search = controller::SearchSpecOf(spec, space);
  const auto pair = [&](FloorPair at) -> Json {
    const quant::Floors floors = space.FloorsAt(at);
    return {{"strict", floors.strict}, {"lazy", floors.lazy}, {"needed_bytes", space.NeededBytes(at)}};
  };
  Json staircase = Json::array();
  for (const FloorPair corner : PredictedFrontier(search, space, search.budget_bytes)) staircase.push_back(pair(corner));
  Json ledger = Json::array();
  for (const worker::LedgerLine& line : space.Ledger(space.At(search.lowest).plan)) {
    ledger.push_back({{"name", line.name}, {"bytes", line.bytes}});
  }
  const int64_t int4_bytes = space.Int4TotalBytes();
  const int64_t kept_bytes = space.Kept().total_bytes;
  return Json{{"budget_bytes", search.budget_bytes},
              {"has_lazy", space.has_lazy()},
              {"lowest", pair(search.lowest)},
              {"highest", pair(search.highest)},
              {"predicted_fit_frontier", std::move(staircase)},
              {"stored_16bit", {{"total_bytes", kept_bytes}, {"fits", kept_bytes <= search.budget_bytes}}},
              {"int4_g128", {{"total_bytes", int4_bytes}, {"fits", int4_bytes <= search.budget_bytes}}},
              {"ledger_at_lowest", std::move(ledger)}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

class Forecaster::Run : public controller::TuneObserver {
 public:
  Run(const controller::WorkerSetup& worker, EventHub& hub) : hub_(hub), measure_(worker, this) {}

  void OnProgress(int /*trial*/, const worker::ProgressEvent& progress) override {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_ && progress.done < progress.total) return;
    next_ = now + controller::kJournalPeriod;
    hub_.Publish("forecast_progress",
                 Json{{"done", progress.done}, {"total", progress.total}, {"unit", progress.unit}}.dump());
  }
  controller::MeasureRun& measure() { return measure_; }

 private:
  EventHub& hub_;
  controller::MeasureRun measure_;
  std::chrono::steady_clock::time_point next_;
};

Forecaster::Answer Forecaster::Forecast(std::string_view body, const ModelRoots& roots) {
  if (const Result<std::vector<std::string>> valid = StartArguments(body, roots); !valid.ok()) {
    return {422, valid.error().message};
  }
  const Json json = Json::parse(body, nullptr, false);
  const controller::StudySpec spec = SpecOf(json);
  if (const Result<void> valid = CheckSpec(spec); !valid.ok()) return {422, valid.error().message};
  const Result<std::string> model = roots.ModelName(json["model"].get<std::string>());
  if (!model.ok()) return {422, "model: " + model.error().message};

  const std::unique_lock busy(busy_, std::try_to_lock);
  if (!busy) return {409, "another forecast is under way"};
  Run run(worker_, hub_);
  {
    const std::scoped_lock lock(mutex_);
    if (stopped_) return {503, "the server is about to end"};
    current_ = &run;
  }
  const Result<controller::Measured> measured = run.measure().Run(*model, table_folder_, spec.deployment, spec.mode);
  {
    const std::scoped_lock lock(mutex_);
    current_ = nullptr;
  }
  if (!measured.ok()) return {422, measured.error().message};
  const Result<std::unique_ptr<PlanSpace>> space =
      controller::LoadPlanSpace(measured->result, spec.mode, spec.highest.head);
  if (!space.ok()) return {422, space.error().message};
  return {200, ForecastJson(spec, **space)};
}

void Forecaster::Stop() {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  if (current_ != nullptr) current_->measure().Stop();
}

}  // namespace hproc::web
