#include "tests/controller/schema_fixture.h"

#include <memory>

#include "controller/database.h"
#include "controller/store.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

const Verdict kCrashed = {.reason = Reason::kCrash,
                          .phase = "warmup",
                          .device = "",
                          .short_bytes = 0,
                          .message = "signal 11"};
const Verdict kOutOfMemory = {.reason = Reason::kOutOfMemory,
                              .phase = "cache",
                              .device = "cuda:1",
                              .short_bytes = 432'013'312,
                              .message = "the KV cache did not fit"};
const Verdict kInterrupted = {.reason = Reason::kInterrupted,
                              .phase = "",
                              .device = "",
                              .short_bytes = 0,
                              .message = "the controller ended before the attempt did"};

NewTrial Plan(TrialKind kind, double strict, const char* digest) {
  return {.kind = kind,
          .floors = {.strict = strict, .lazy = 0.805, .head = 0.999},
          .plan_digest = digest,
          .plan_json = R"({"plan":")" + std::string(digest) + "\"}",
          .predicted_bytes = 5'000'000'001,
          .predicted_weight_bytes = 4'000'000'002,
          .bits_per_weight = 3.40625,
          .purpose = "candidate"};
}

TrialMeasurements Measured() {
  return {
      .load = worker::LoadResult{.plan_digest = "d0",
                                 .weight_bytes = 4'000'000'100,
                                 .bits_per_weight = 3.5,
                                 .seconds = 12.25,
                                 .families = {{.family = "strict",
                                               .weights = 1000,
                                               .bytes = 400,
                                               .min_cosine = 0.9501,
                                               .mean_cosine = 0.97,
                                               .min_norm_ratio = 0.99,
                                               .max_norm_ratio = 1.01},
                                              {.family = "lazy",
                                               .weights = 9000,
                                               .bytes = 2000,
                                               .min_cosine = 0.8003,
                                               .mean_cosine = 0.85,
                                               .min_norm_ratio = 0.98,
                                               .max_norm_ratio = 1.02}}},
      .memory = worker::MemoryEvent{.device = "cuda:0",
                                    .live_bytes = 5'000'000'000,
                                    .peak_bytes = 6'000'000'000,
                                    .cap_bytes = 7'000'000'000,
                                    .lines = {{.name = "weights_strict", .bytes = 400},
                                              {.name = "kv_cache", .bytes = 77}}},
      .predicted = {{.name = "weights_strict", .bytes = 401}, {.name = "kv_cache", .bytes = 78}},
      .accuracy = {.total = 1319,
                   .strict_correct = 880,
                   .flexible_correct = 890,
                   .invalid = 12,
                   .truncated = 3,
                   .strict_by_seed = {450, 430},
                   .strict_squares = 1700,
                   .all_questions = true},
      .throughput = {{.kind = evals::ThroughputKind::kPrefill,
                      .repetition = 0,
                      .tokens = 512,
                      .batch = 2,
                      .seconds = 0.125},
                     {.kind = evals::ThroughputKind::kShortDecode,
                      .repetition = 1,
                      .tokens = 32,
                      .batch = 2,
                      .seconds = 0.25},
                     {.kind = evals::ThroughputKind::kLongDecode,
                      .repetition = 2,
                      .tokens = 256,
                      .batch = 2,
                      .seconds = 2.5}},
      .phase_seconds = {{"load", 12.25}, {"cache", 0.5}},
  };
}

// Refused at the cache: loaded, but nothing answered.
TrialMeasurements MeasuredUntilCache() {
  TrialMeasurements measured;
  measured.load = worker::LoadResult{
      .plan_digest = "d1", .weight_bytes = 7, .bits_per_weight = 16, .seconds = 1, .families = {}};
  measured.phase_seconds = {{"load", 1}};
  return measured;
}

Result<void> WriteTrials(Store& store) {
  Result<Study> study = store.CreateStudy(SchemaFixtureStudy().spec);
  if (!study) return study.error();
  const Study wanted = SchemaFixtureStudy();
  Result<void> done = store.SetStudyState(study->id, wanted.state);
  if (done) done = store.SetStudyOutcome(study->id, wanted.outcome_json);
  if (done) done = store.SetStudyMeasure(study->id, wanted.measure_json);
  if (done) done = store.SetStudyCalibration(study->id, wanted.calibration_json);
  for (const Trial& trial : SchemaFixtureTrials()) {
    Result<Trial> added = store.AddTrial(study->id, trial.plan);
    if (done && !added) done = added.error();
    if (!done) return done;
    for (const Attempt& attempt : trial.attempts) {
      Result<int> number = store.StartAttempt(added->id, attempt.log_path);
      if (!number) return number.error();
      if (attempt.verdict == kCrashed && trial.state == TrialState::kComplete) {
        done = store.EndAttempt(added->id, *number, attempt.verdict);
      }
    }
    if (trial.number == 0) done = store.AddAnswers(added->id, SchemaFixtureAnswers());
    if (!done) return done;
    if (!trial.finished_utc.empty()) {
      done = store.FinishTrial(added->id, trial.state, trial.verdict, trial.measured);
    }
  }
  return done;
}

}  // namespace

Study SchemaFixtureStudy() {
  Study study;
  study.id = 1;
  StudySpec& spec = study.spec;
  spec.name = "Größe/1 🚀";
  spec.model_dir = "models/a";
  spec.fingerprint = "f1ngerpr1nt";
  spec.deployment = {.device = "cuda:GPU-1234",
                     .threads = 3,
                     .rank = 1,
                     .world_size = 2,
                     .context = 4096,
                     .batch = 8,
                     .prefill_chunk = 512,
                     .kv_dtype = "f32"};
  spec.memory_cap_bytes = 7'340'032;
  spec.headroom_bytes = 1'048'576;
  spec.mode = "v2a";
  spec.strategy = "walk";
  spec.lowest = {.strict = 0.81, .lazy = 0.52, .head = 0.993};
  spec.highest = {.strict = 0.9995, .lazy = 0.99, .head = 1};
  spec.min_accuracy = 0.25;
  spec.max_candidates = 7;
  spec.max_garbage_loads = 3;
  spec.trust_plan = true;
  spec.baselines = {TrialKind::kBaseline16Bit};
  spec.eval = {.task_id = "gsm8k/3.0",
               .tasks_path = "tasks/test.jsonl",
               .shots_path = "tasks/train.jsonl",
               .tasks_sha256 = "1a5c",
               .shots_sha256 = "5407",
               .shots = 5,
               .limit = 200,
               .seeds = 3,
               .order_seed = 18'446'744'073'709'551'615U,
               .max_new_tokens = 1024};
  spec.worker_version = "0.1.0";
  spec.device_name = "a device, 2 threads";
  study.state = StudyState::kInterrupted;
  study.created_utc = "2026-01-02T03:04:06.000Z";
  study.outcome_json = R"({"recommended":null})";
  study.measure_json = R"({"table_path":"t"})";
  study.calibration_json = R"({"probes":9})";
  return study;
}

std::vector<Trial> SchemaFixtureTrials() {
  Trial complete;
  complete.id = 1;
  complete.number = 0;
  complete.study_id = 1;
  complete.plan = Plan(TrialKind::kPoint, 0.95, "d0");
  complete.state = TrialState::kComplete;
  complete.attempts = {{.number = 1,
                        .started_utc = "2026-01-02T03:04:08.000Z",
                        .ended_utc = "2026-01-02T03:04:09.000Z",
                        .verdict = kCrashed,
                        .log_path = "logs/0.1"},
                       {.number = 2,
                        .started_utc = "2026-01-02T03:04:10.000Z",
                        .ended_utc = "2026-01-02T03:04:11.000Z",
                        .verdict = {},
                        .log_path = "logs/0.2"}};
  complete.measured = Measured();
  complete.created_utc = "2026-01-02T03:04:07.000Z";
  complete.finished_utc = "2026-01-02T03:04:11.000Z";

  Trial infeasible;
  infeasible.id = 2;
  infeasible.number = 1;
  infeasible.study_id = 1;
  infeasible.plan = Plan(TrialKind::kBaseline16Bit, 1, "d1");
  infeasible.state = TrialState::kInfeasible;
  infeasible.verdict = kOutOfMemory;
  infeasible.attempts = {{.number = 1,
                          .started_utc = "2026-01-02T03:04:13.000Z",
                          .ended_utc = "2026-01-02T03:04:14.000Z",
                          .verdict = kOutOfMemory,
                          .log_path = "logs/1.1"}};
  infeasible.measured = MeasuredUntilCache();
  infeasible.created_utc = "2026-01-02T03:04:12.000Z";
  infeasible.finished_utc = "2026-01-02T03:04:14.000Z";

  Trial failed;
  failed.id = 3;
  failed.number = 2;
  failed.study_id = 1;
  failed.plan = Plan(TrialKind::kBaselineInt4, 0.9, "d2");
  failed.state = TrialState::kFailed;
  failed.verdict = kCrashed;
  failed.attempts = {{.number = 1,
                      .started_utc = "2026-01-02T03:04:16.000Z",
                      .ended_utc = "2026-01-02T03:04:17.000Z",
                      .verdict = kCrashed,
                      .log_path = "logs/2.1"}};
  failed.created_utc = "2026-01-02T03:04:15.000Z";
  failed.finished_utc = "2026-01-02T03:04:17.000Z";

  Trial running;
  running.id = 4;
  running.number = 3;
  running.study_id = 1;
  running.plan = Plan(TrialKind::kBaselineInt4, 0.9, "d2");  // again: its first trial failed
  running.state = TrialState::kRunning;
  running.attempts = {{.number = 1,
                       .started_utc = "2026-01-02T03:04:19.000Z",
                       .ended_utc = "2026-01-02T03:04:20.000Z",
                       .verdict = kInterrupted,
                       .log_path = "logs/3.1"},
                      {.number = 2,
                       .started_utc = "2026-01-02T03:04:20.000Z",
                       .ended_utc = "",
                       .verdict = {},
                       .log_path = "logs/3.2"}};
  running.created_utc = "2026-01-02T03:04:18.000Z";

  Trial waiting;
  waiting.id = 5;
  waiting.number = 4;
  waiting.study_id = 1;
  waiting.plan = Plan(TrialKind::kPoint, 0.96, "d4");
  waiting.created_utc = "2026-01-02T03:04:21.000Z";

  return {complete, infeasible, failed, running, waiting};
}

std::vector<Answer> SchemaFixtureAnswers() {
  using std::string_literals::operator""s;
  return {{.stage = "full",
           .question = 7,
           .seed = 0,
           .prompt_sha256 = "9a",
           .text = "NUL \0, half a rocket \xf0\x9f\x9a, a whole one \xf0\x9f\x9a\x80"s,
           .strict = "[invalid]",
           .flexible = "42",
           .strict_correct = false,
           .flexible_correct = true,
           .finish = evals::FinishReason::kLength,
           .prompt_tokens = 701,
           .generated_tokens = 1024},
          {.stage = "probe",
           .question = 0,
           .seed = 2,
           .prompt_sha256 = "9b",
           .text = "",
           .strict = "18",
           .flexible = "",
           .strict_correct = true,
           .flexible_correct = false,
           .finish = evals::FinishReason::kEndToken,
           .prompt_tokens = 3,
           .generated_tokens = 0}};
}

Result<void> WriteSchemaFixture(const std::filesystem::path& path) {
  {
    Result<std::unique_ptr<Store>> store =
        OpenSqliteStore(path, OpenMode::kReadWrite, TickingClock());
    if (!store) return store.error();
    if (Result<void> written = WriteTrials(**store); !written) return written;
  }
  try {  // one small file, to be committed
    Database database(path, Database::Access::kReadWrite);
    database.Execute("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM");
  } catch (const DatabaseError& error) {
    return Error{path.string() + ": " + error.what()};
  }
  return Ok();
}

}  // namespace hproc::controller
