// make_studies FOLDER: writes FOLDER/study.db for the browser tests, with studies of a model that exists as a rate table alone:
//
//   1  many       2,000 trials over the whole floor plane, of every verdict
//   2  hostile    markup and script wherever text from outside is shown: names, tensors, verdicts, answers
//   3  dense      a model without routed experts: one floor
#include <fmt/core.h>

#include <filesystem>
#include <random>

#include "base/file.h"
#include "tests/controller/fake_study.h"
#include "worker/protocol.h"

namespace hproc::controller {
namespace {

constexpr int kTrials = 2000;
constexpr const char* kScript = "<script>window.hacked=1</script><img src=x onerror=\"window.hacked=1\">";

template <typename T>
T Must(Result<T> result) {
  HPROC_CHECK(result.ok(), ErrorOf(result));
  return *std::move(result);
}
void Must(Result<void> result) { HPROC_CHECK(result.ok(), result.error().message); }

Study NewStudy(Store& store, const FakeStudy& fake, const std::string& name, const std::string& table) {
  StudySpec spec = fake.spec;
  spec.name = name;
  spec.memory_cap_bytes = fake.space().NeededBytes({.strict = 300, .lazy = 230});  // in the midst of the plane, or of its one axis
  spec.eval.task_id = "custom/0123456789ab";
  const Study study = Must(store.CreateStudy(spec));
  worker::MeasureResult measured = fake.measured;
  measured.table_path = table;
  Must(store.SetStudyMeasure(study.id, worker::EncodeEvent({.seq = 0, .t = 0, .body = worker::ResultEvent{measured}})));
  return study;
}

// What a trial of the pair comes to: too large, garbage, or sensible.
void Finish(Store& store, const FakeStudy& fake, const Trial& trial, int64_t cap, bool evaluate) {
  Must(store.StartAttempt(trial.id, "worker.log"));
  const quant::Floors& floors = trial.plan.floors;
  TrialMeasurements measured;
  measured.predicted = fake.space().Ledger(fake.space().At(fake.space().PairOf(floors)).plan);
  measured.phase_seconds = {{"load", 1.25}, {"warmup", 0.5}};
  if (fake.space().NeededBytes(fake.space().PairOf(floors)) > cap) {
    Must(store.FinishTrial(trial.id, TrialState::kInfeasible,
                           {.reason = Reason::kOutOfMemory, .phase = "load", .device = "cpu", .short_bytes = 4096, .message = "experts.1"},
                           measured));
    return;
  }
  if (floors.strict < 0.88 && (floors.lazy < 0.8 || !fake.space().has_lazy())) {
    Must(store.FinishTrial(trial.id, TrialState::kInfeasible,
                           {.reason = Reason::kGarbageOutput, .phase = "probe", .device = {}, .short_bytes = 0, .message = "one token again and again"},
                           measured));
    return;
  }
  measured.memory = worker::MemoryEvent{.device = "cpu", .live_bytes = trial.plan.predicted_bytes, .peak_bytes = trial.plan.predicted_bytes + 512,
                                        .cap_bytes = cap, .lines = measured.predicted};
  if (evaluate) {
    measured.accuracy = {.total = 400, .strict_correct = static_cast<int>(400 * (floors.strict - 0.3)), .flexible_correct = 300, .invalid = 3,
                         .truncated = 1, .all_questions = true};
    for (int i = 0; i < 5; ++i) {
      measured.throughput.push_back({.kind = evals::ThroughputKind::kLongDecode, .tokens = 1000, .batch = 1, .seconds = 1 + 0.01 * i});
    }
  }
  Must(store.FinishTrial(trial.id, TrialState::kComplete, {}, measured));
}

void Write(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  const FakeStudy fake;
  const std::string table = folder / "table.rates";
  Must(WriteFileAtomically(table, quant::EncodeRateTable(FakeTable())));
  const auto store = Must(OpenSqliteStore(folder / "study.db", OpenMode::kReadWrite));

  const Study many = NewStudy(*store, fake, "many", table);
  std::mt19937 random(7);
  for (int n = 0; n < kTrials; ++n) {
    const FloorPair at{.strict = static_cast<int>(60 + random() % 380), .lazy = static_cast<int>(random() % 400)};
    const bool evaluate = n % 100 == 0;
    NewTrial plan = fake.PlanOf(at, evaluate ? Purpose::kCandidate : Purpose::kGarbageEdge);
    plan.plan_digest = fmt::format("{:064x}", n);
    Finish(*store, fake, Must(store->AddTrial(many.id, plan)), many.spec.memory_cap_bytes, evaluate);
  }
  Must(store->SetStudyState(many.id, StudyState::kInterrupted));

  const Study hostile = NewStudy(*store, fake, std::string("hostile ") + kScript, table);
  NewTrial plan = fake.PlanOf({.strict = 200, .lazy = 150}, Purpose::kCandidate);
  const std::string tensor = "attention.0";
  for (size_t at = plan.plan_json.find(tensor); at != std::string::npos; at = plan.plan_json.find(tensor, at + 1)) {
    plan.plan_json.replace(at, tensor.size(), nlohmann::json(kScript).dump().substr(1, nlohmann::json(kScript).dump().size() - 2));
  }
  plan.purpose = kScript;
  const Trial trial = Must(store->AddTrial(hostile.id, plan));
  Must(store->StartAttempt(trial.id, kScript));
  Answer answer;
  answer.stage = "full";
  answer.text = std::string(kScript) + "\n\xE2\x80\xAEtxet desrever\n#### 7";
  answer.strict = answer.flexible = kScript;
  Must(store->AddAnswers(trial.id, {answer}));
  TrialMeasurements measured;
  measured.predicted = {{.name = kScript, .bytes = 100}};
  Must(store->FinishTrial(trial.id, TrialState::kInfeasible,
                          {.reason = Reason::kGarbageOutput, .phase = kScript, .device = kScript, .short_bytes = 1, .message = kScript}, measured));
  Must(store->SetStudyState(hostile.id, StudyState::kDone));

  const FakeStudy one_floor({.has_lazy = false});
  const std::string dense_table = folder / "dense.rates";
  Must(WriteFileAtomically(dense_table, quant::EncodeRateTable(FakeTable(false))));
  const Study dense = NewStudy(*store, one_floor, "dense", dense_table);
  const int top = quant::kLadderSize - 1;
  for (const auto& [strict, purpose] :
       {std::pair(301, Purpose::kOutsideStrict), {300, Purpose::kCandidate}, {60, Purpose::kGarbageEdge},
        {180, Purpose::kGarbageEdge}, {120, Purpose::kGarbageEdge}, {285, Purpose::kCandidate}}) {
    const NewTrial point = one_floor.PlanOf({.strict = strict, .lazy = top}, purpose);
    Finish(*store, one_floor, Must(store->AddTrial(dense.id, point)), dense.spec.memory_cap_bytes,
           purpose == Purpose::kCandidate);
  }
  Must(store->SetStudyState(dense.id, StudyState::kDone));
}

}  // namespace
}  // namespace hproc::controller

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  hproc::controller::Write(argv[1]);
  return 0;
}
