// Whole jobs in a real worker process.
#include "worker/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "controller/worker_process.h"
#include "tests/worker/small_engine.h"
#include "worker/batcher.h"
#include "worker/deployment.h"

namespace hproc::worker {
namespace {

using controller::WorkerEnd;
using controller::WorkerProcess;
using kernels::DeviceMemory;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int kThreads = 2;

SmallCheckpoint ByteModel() {
  SmallCheckpoint small({.layers = "LF", .hidden = 72, .vocabulary = 260, .experts = 4, .width = 40});
  small.text_config["eos_token_id"] = nullptr;
  return small;
}

// One worker from start to end.
struct Transcript {
  std::vector<EventBody> events;
  WorkerEnd end;

  template <typename Body>
  std::vector<Body> All() const {
    std::vector<Body> all;
    for (const EventBody& event : events) {
      if (const auto* body = std::get_if<Body>(&event)) all.push_back(*body);
    }
    return all;
  }
  template <typename R>
  std::optional<R> Of() const {
    for (const ResultEvent& event : All<ResultEvent>()) {
      if (const auto* result = std::get_if<R>(&event.result)) return *result;
    }
    return {};
  }
  // Phases in the order in which they began; "/load" where one ended.
  std::vector<std::string> Phases() const {
    std::vector<std::string> names;
    for (const PhaseEvent& event : All<PhaseEvent>()) names.push_back((event.begin ? "" : "/") + std::string(PhaseName(event.phase)));
    return names;
  }
  std::string ErrorText() const {
    const std::vector<ErrorEvent> errors = All<ErrorEvent>();
    return errors.empty() ? "none" : std::string(ErrorKindName(errors[0].kind)) + ": " + errors[0].message;
  }
};

class SessionTest : public testing::Test {
 protected:
  void Write(const SmallCheckpoint& small) { small.WriteTo(folder_); }

  Deployment Deploy() const { return {.threads = kThreads, .context = 40, .batch = 2, .prefill_chunk = 16}; }
  TrialJob Trial(const quant::Floors& floors = {.strict = 0.98, .lazy = 0.9, .head = 0.99}, int64_t cap = 0) {
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
    return {.model_dir = folder_.path(), .plan_json = PlanToJson(opened.PlanFor(floors, pool_)), .deployment = Deploy(), .memory_cap_bytes = cap};
  }
  TrialJob Kept(int64_t cap = 0) {
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
    return {.model_dir = folder_.path(), .plan_json = PlanToJson(KeepEverything(opened.table)), .deployment = Deploy(), .memory_cap_bytes = cap};
  }

  // Sends one command after the other, each when the one before is answered; then waits for the end.
  static Transcript Work(const Job& job, std::vector<Command> commands = {}) {
    controller::WorkerOptions options;
    options.executable = HPROC_WORKER;
    options.arguments = {"session"};
    return Work(std::move(options), job, std::move(commands));
  }
  static Transcript Work(controller::WorkerOptions options, const Job& job, std::vector<Command> commands = {}) {
    auto process = WorkerProcess::Start(std::move(options), job);
    EXPECT_TRUE(process.ok()) << process.error().message;
    Transcript run;
    size_t next = 0;
    for (;;) {
      std::variant<Event, WorkerEnd> event = (*process)->NextEvent();
      if (auto* end = std::get_if<WorkerEnd>(&event)) {
        run.end = std::move(*end);
        return run;
      }
      run.events.push_back(std::move(std::get<Event>(event).body));
      const auto* result = std::get_if<ResultEvent>(&run.events.back());
      if (result == nullptr || std::holds_alternative<LoadResult>(result->result)) continue;
      if (next < commands.size() && !(*process)->Send(commands[next++]).ok()) ADD_FAILURE() << "not sent";
    }
  }

  TestFolder folder_;
  ThreadPool pool_{kThreads};
};

TEST_F(SessionTest, BeginsNoTrialWhileOthersHoldTheMemory) {
  Write(ByteModel());
  TrialJob job = Kept();
  job.needed_free_bytes = int64_t{1} << 60;  // no machine has it
  job.idle_wait_seconds = 0.3;
  const auto start = std::chrono::steady_clock::now();
  const Transcript run = Work(job);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(300));
  EXPECT_THAT(run.ErrorText(), AllOf(HasSubstr("contaminated: cpu has "), HasSubstr("another process holds the rest")));
  EXPECT_THAT(run.Phases(), ElementsAre("init")) << "nothing was loaded";
  EXPECT_EQ(run.end.signal, 0);
}

TEST_F(SessionTest, LoadsNoOtherCheckpointThanThePlans) {
  Write(ByteModel());
  TrialJob job = Kept();
  job.fingerprint = std::string(64, '0');
  const Transcript run = Work(job);
  EXPECT_THAT(run.ErrorText(), AllOf(HasSubstr("bad_checkpoint: "), HasSubstr("not the checkpoint that the plan was made for (fingerprint "),
                                     HasSubstr(", not 0000000000000000)")));
  EXPECT_THAT(run.Phases(), ElementsAre("init")) << "nothing was loaded";
}

void ExpectLedgerAddsUp(const MemoryEvent& memory) {
  int64_t sum = 0;
  for (const LedgerLine& line : memory.lines) sum += line.name.ends_with("_peak") ? 0 : line.bytes;
  EXPECT_EQ(sum, memory.live_bytes);
  EXPECT_GE(memory.peak_bytes, memory.live_bytes);
}

TEST_F(SessionTest, WorksOffATrialFromHelloToExit) {
  Write(ByteModel());
  const std::vector<evals::GenerationRequest> requests = {{.id = 4, .prompt = "hello", .max_new_tokens = 6, .stop = {}, .sampling = {}},
                                                          {.id = 2, .prompt = "you", .max_new_tokens = 3, .stop = {}, .sampling = {.temperature = 1, .seed = 3}},
                                                          {.id = 9, .prompt = std::string(50, 'x'), .stop = {}, .sampling = {}}};
  const TrialJob job = Trial();
  const Transcript run = Work(job, {GenerateCommand{requests}, ThroughputCommand{{.prompt_tokens = 8, .short_decode_tokens = 2, .long_decode_tokens = 4,
                                                                          .batch = 2, .repetitions = 2, .warmups = 0}}, FinishCommand{}});
  EXPECT_EQ(run.end.exit_code, 0) << run.ErrorText();
  ASSERT_FALSE(run.events.empty());
  EXPECT_TRUE(std::holds_alternative<HelloEvent>(run.events.front()));
  EXPECT_THAT(run.Phases(), ElementsAre("init", "/init", "load", "/load", "cache", "/cache", "warmup", "/warmup"));
  const auto loaded = run.Of<LoadResult>();
  ASSERT_TRUE(loaded && run.Of<ReadyResult>() && run.Of<ThroughputResult>() && run.Of<ExitResult>());
  EXPECT_EQ(loaded->plan_digest, quant::PlanFromJson(job.plan_json)->Digest());
  EXPECT_EQ(run.Of<ThroughputResult>()->samples.size(), 6u);
  const std::vector<MemoryEvent> ledgers = run.All<MemoryEvent>();
  ASSERT_EQ(ledgers.size(), 2u);
  for (const MemoryEvent& ledger : ledgers) ExpectLedgerAddsUp(ledger);

  // The same answers as from an engine in this process.
  SmallEngine small(folder_.path(), *EngineShapeOf(OpenedCheckpoint::At(folder_.path()).spec, Deploy()), kernels::Backend::kCpu, 1,
                    quant::Floors{.strict = 0.98, .lazy = 0.9, .head = 0.99});
  const Tokenizer tokenizer = SmallTokenizer{}.Load();
  std::map<int64_t, evals::Completion> expected;
  ASSERT_TRUE(Batcher(small.engine(), tokenizer, {}).Generate(requests, [&](evals::Completion completion) {
                                                      const int64_t id = completion.id;
                                                      expected.emplace(id, std::move(completion));
                                                      return true;
                                                    }).ok());
  const std::vector<SampleEvent> samples = run.All<SampleEvent>();
  ASSERT_EQ(samples.size(), 3u);
  for (const SampleEvent& sample : samples) {
    EXPECT_EQ(sample.completion.token_ids, expected.at(sample.completion.id).token_ids);
    EXPECT_EQ(sample.completion.finish, expected.at(sample.completion.id).finish);
  }
  EXPECT_EQ(run.Of<GenerateResult>()->prompt_tokens, 8);
  EXPECT_EQ(run.Of<GenerateResult>()->generated_tokens, 5 + 2);
  EXPECT_FALSE(run.Of<GenerateResult>()->cancelled);
}

TEST_F(SessionTest, MeasuresOnceAndPredictsWhatTheTrialThenTakes) {
  Write(ByteModel());
  const TestFolder tables;
  const MeasureJob job{.model_dir = folder_.path(), .table_folder = tables.path(), .deployment = Deploy()};
  const Transcript first = Work(job, {FinishCommand{}});
  const auto measured = first.Of<MeasureResult>();
  ASSERT_TRUE(measured) << first.ErrorText();
  EXPECT_EQ(first.end.exit_code, 0) << first.end.kill_detail;
  EXPECT_THAT(first.Phases(), ElementsAre("init", "/init", "measure", "/measure"));
  EXPECT_FALSE(measured->reused);
  const Result<std::string> bytes = ReadFile(measured->table_path, 1 << 26);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(quant::DecodeRateTable(*bytes)->fingerprint, measured->fingerprint);
  EXPECT_TRUE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused);

  // A table that a full disk cut short is made again, the same to the byte.
  std::filesystem::resize_file(measured->table_path, bytes->size() - 3);
  EXPECT_FALSE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused);
  EXPECT_EQ(*ReadFile(measured->table_path, 1 << 26), *bytes);

  // Also from another folder.
  const TestFolder elsewhere;
  MeasureJob moved = job;
  moved.table_folder = elsewhere.path();
  std::filesystem::copy(measured->table_path, elsewhere.path());
  EXPECT_TRUE(Work(moved, {FinishCommand{}}).Of<MeasureResult>()->reused);

  const Transcript trial = Work(Trial(), {FinishCommand{}});
  ASSERT_EQ(trial.All<MemoryEvent>().size(), 2u) << trial.ErrorText();
  for (const LedgerLine& predicted : measured->predicted) {
    const std::vector<LedgerLine> lines = trial.All<MemoryEvent>()[1].lines;
    const auto line = std::ranges::find(lines, predicted.name, &LedgerLine::name);
    ASSERT_NE(line, lines.end()) << predicted.name;
    EXPECT_EQ(line->bytes, predicted.bytes) << predicted.name;
  }
}

TEST_F(SessionTest, MeasuresTheModeAskedForAndAddsAnotherToIt) {
  Write(ByteModel());
  const TestFolder tables;
  MeasureJob job{.model_dir = folder_.path(), .table_folder = tables.path(), .deployment = Deploy(), .mode = "auto"};
  const std::string path = Work(job, {FinishCommand{}}).Of<MeasureResult>()->table_path;
  const std::string both = *ReadFile(path, 1 << 26);
  std::filesystem::remove(path);

  job.mode = "v2";
  EXPECT_FALSE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused);
  const quant::RateTable v2 = *quant::DecodeRateTable(*ReadFile(path, 1 << 26));
  EXPECT_TRUE(HasRatesOf(v2, quant::Mode::kV2));
  EXPECT_FALSE(HasRatesOf(v2, quant::Mode::kV2a));
  EXPECT_TRUE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused);

  job.mode = "v2a";
  EXPECT_FALSE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused);
  EXPECT_EQ(*ReadFile(path, 1 << 26), both) << "one pass after the other";
  for (const char* mode : {"v2", "v2a", "auto"}) {
    job.mode = mode;
    EXPECT_TRUE(Work(job, {FinishCommand{}}).Of<MeasureResult>()->reused) << mode;
  }
  job.mode = "v3";
  EXPECT_THAT(Work(job, {FinishCommand{}}).ErrorText(), HasSubstr("mode 'v3' is none of v2, v2a, auto"));
}

TEST_F(SessionTest, ServesNothingAfterAMeasurement) {
  Write(ByteModel());
  const TestFolder tables;
  const Transcript run = Work(MeasureJob{.model_dir = folder_.path(), .table_folder = tables.path(), .deployment = Deploy()},
                              {GenerateCommand{{{.id = 1, .prompt = "a", .stop = {}, .sampling = {}}}}});
  EXPECT_THAT(run.ErrorText(), HasSubstr("finish is the only command"));
  EXPECT_EQ(run.end.exit_code, kExitReported);
}

TEST_F(SessionTest, RunsOutOfMemoryInThePhaseThatAsksForTooMuch) {
  Write(ByteModel());
  const Transcript whole = Work(Kept(), {FinishCommand{}});
  ASSERT_EQ(whole.All<MemoryEvent>().size(), 2u) << whole.ErrorText();
  const int64_t weights = whole.All<MemoryEvent>()[0].live_bytes;
  const int64_t all = whole.All<MemoryEvent>()[1].live_bytes;
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
  EngineShape shape = *EngineShapeOf(opened.spec, Deploy());
  shape.workspace = OpenRuntime("cpu", 1, 0)->WorkspaceOf(opened.spec, shape);
  const EngineBytes bytes = EngineBytesOf(opened.spec, shape);
  ASSERT_EQ(all, weights + bytes.kv_cache + bytes.state + bytes.activations);
  const int64_t step = DeviceMemory::kGranularity;
  for (const auto& [cap, phase, what] : {std::tuple{weights - step, Phase::kLoad, "lm_head.weight"},
                                         std::tuple{all - bytes.activations - step, Phase::kCache, "values of layer 1"},
                                         std::tuple{all - step, Phase::kWarmup, "activations"}}) {
    const Transcript run = Work(Kept(cap));
    const std::vector<OutOfMemoryEvent> refusals = run.All<OutOfMemoryEvent>();
    ASSERT_EQ(refusals.size(), 1u) << run.ErrorText();
    EXPECT_EQ(refusals[0].phase, phase);
    EXPECT_EQ(refusals[0].what, what);
    EXPECT_EQ(refusals[0].device, "cpu");
    EXPECT_EQ(refusals[0].requested_bytes - refusals[0].available_bytes, step) << "one step was missing";
    EXPECT_TRUE(std::holds_alternative<OutOfMemoryEvent>(run.events.back())) << "the last event";
    EXPECT_EQ(run.end.exit_code, kExitReported);
  }
  EXPECT_EQ(Work(Kept(all), {FinishCommand{}}).end.exit_code, 0) << "to the byte";
}

TEST_F(SessionTest, RunsOutOfMemoryForTheWorkspaceOfQuantizing) {
  Write(ByteModel());
  const Transcript whole = Work(Trial(), {FinishCommand{}});
  ASSERT_EQ(whole.All<MemoryEvent>().size(), 2u) << whole.ErrorText();
  const int64_t peak = whole.All<MemoryEvent>()[0].peak_bytes;
  ASSERT_GT(peak, whole.All<MemoryEvent>()[0].live_bytes) << "the peak is in the midst of the load";
  const Transcript run = Work(Trial({.strict = 0.98, .lazy = 0.9, .head = 0.99}, peak - DeviceMemory::kGranularity));
  ASSERT_EQ(run.All<OutOfMemoryEvent>().size(), 1u);
  EXPECT_EQ(run.All<OutOfMemoryEvent>()[0].phase, Phase::kLoad);
  EXPECT_THAT(run.All<OutOfMemoryEvent>()[0].what, HasSubstr("blocks of "));
}

TEST_F(SessionTest, SaysWhoseFaultABrokenCheckpointIs) {
  const SmallCheckpoint whole = ByteModel();
  Write(whole);
  const TrialJob job = Kept();
  const auto error_of = [&](const Job& j) {
    const Transcript run = Work(j);
    EXPECT_EQ(run.end.exit_code, kExitReported);
    EXPECT_TRUE(std::holds_alternative<ErrorEvent>(run.events.back()));
    return run.ErrorText();
  };
  SmallCheckpoint small = whole;
  small.tensors.erase("model.layers.0.linear_attn.A_log");
  Write(small);
  EXPECT_EQ(error_of(job), "loader_fault: tensor 'model.layers.0.linear_attn.A_log' is missing");
  small = whole;
  small.tensors["model.extra"] = StoredTensor::Of({1}, {1}, "BF16");
  Write(small);
  EXPECT_THAT(error_of(job), HasSubstr("loader_fault: model.safetensors: tensor 'model.extra' is not one of"));
  small = whole;
  small.tensors.at("model.layers.1.self_attn.k_proj.weight").Put(3, std::nanf(""));
  Write(small);
  EXPECT_EQ(error_of(job), "bad_checkpoint: model.safetensors: tensor 'model.layers.1.self_attn.k_proj.weight' holds 1 values that are NaN or infinite");
  small = whole;
  small.text_config["model_type"] = "gpt9";
  Write(small);
  EXPECT_THAT(error_of(job), HasSubstr("bad_checkpoint: config.json: model_type 'gpt9' is not supported"));
  Write(whole);
  std::filesystem::resize_file(folder_ / "model.safetensors", std::filesystem::file_size(folder_ / "model.safetensors") - 1);
  EXPECT_THAT(error_of(job), HasSubstr("bad_checkpoint: "));
  Write(whole);
  folder_.Write("tokenizer.json", "{");
  EXPECT_THAT(error_of(job), HasSubstr("tokenizer.json"));
  const TestFolder elsewhere;
  std::filesystem::rename(folder_ / "tokenizer.json", elsewhere / "tokenizer.json");
  std::filesystem::create_symlink(elsewhere / "tokenizer.json", folder_ / "tokenizer.json");
  EXPECT_THAT(error_of(job), AllOf(HasSubstr("bad_checkpoint: "), HasSubstr("tokenizer.json: a symbolic link out of the folder")));
  TrialJob nowhere = job;
  nowhere.model_dir = "/no/such/model";
  EXPECT_THAT(error_of(nowhere), HasSubstr("/no/such/model"));
}

TEST_F(SessionTest, RefusesWhatTheDeploymentCannotHave) {
  Write(ByteModel());
  const TrialJob job = Kept();
  const auto error_with = [&](auto&& edit) {
    TrialJob edited = job;
    edit(edited);
    return Work(edited).ErrorText();
  };
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.device = "cuda:99"; }), StartsWith("bad_job: device 'cuda:99'"));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.device = "gpu"; }), StartsWith("bad_job: device 'gpu' is neither cpu nor cuda"));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.context = 513; }), StartsWith("bad_job: a context of 513 is not within"));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.world_size = 2; }), StartsWith("bad_job: rendezvous '' is not unix:"));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.world_size = 32; }), AllOf(StartsWith("bad_job: "), HasSubstr("do not divide among 32 ranks")));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.kv_dtype = "f8"; }), StartsWith("bad_job: kv dtype 'f8'"));
  EXPECT_THAT(error_with([](TrialJob& j) { j.deployment.threads = 40000; }), StartsWith("bad_job: 40000 CPU threads are more than the 1024"));
  EXPECT_THAT(error_with([](TrialJob& j) {
    j.deployment.device = "cuda:99";
    j.model_dir = "/no/such/model";
  }), StartsWith("bad_job: ")) << "before the checkpoint is opened";
  EXPECT_THAT(error_with([](TrialJob& j) { j.plan_json = "{}"; }), StartsWith("bad_job: plan: "));
  EXPECT_THAT(error_with([&](TrialJob& j) {
    const TestFolder other;
    SmallCheckpoint({.layers = "L"}).WriteTo(other);
    j.plan_json = PlanToJson(KeepEverything(OpenedCheckpoint::At(other.path()).table));
  }), AllOf(StartsWith("bad_job: "), HasSubstr("belongs to another checkpoint")));
}

TEST_F(SessionTest, AHostThatCannotStartAThreadIsOutOfMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that this test takes away";
#endif
  Write(ByteModel());
  TrialJob job = Kept();
  job.deployment.threads = 1000;
  controller::WorkerOptions options;
  options.executable = "/bin/sh";  // room for some hundred stacks
  options.arguments = {"-c", R"(ulimit -v 1000000; exec "$0" "$@")", HPROC_WORKER, "session"};
  const Transcript run = Work(std::move(options), job);
  EXPECT_THAT(run.ErrorText(), StartsWith("host_out_of_memory: "));
  EXPECT_EQ(run.end.exit_code, kExitReported) << run.end.log_tail;
}

TEST_F(SessionTest, ACancelEndsAGenerateAndTheNextOneRuns) {
  Write(ByteModel());
  TrialJob job = Kept();
  job.deployment.context = 512;
  GenerateCommand endless;
  for (int i = 0; i < 200; ++i) endless.requests.push_back({.id = i, .prompt = "hello", .max_new_tokens = 500, .stop = {}, .sampling = {}});
  controller::WorkerOptions options;
  options.executable = HPROC_WORKER;
  options.arguments = {"session"};
  auto process = WorkerProcess::Start(std::move(options), job);
  ASSERT_TRUE(process.ok()) << process.error().message;
  std::vector<GenerateResult> results;
  for (;;) {
    std::variant<Event, WorkerEnd> event = (*process)->NextEvent();
    if (const auto* end = std::get_if<WorkerEnd>(&event)) {
      EXPECT_EQ(end->exit_code, 0) << end->log_tail;
      break;
    }
    const EventBody& body = std::get<Event>(event).body;
    const auto* result = std::get_if<ResultEvent>(&body);
    if (result == nullptr) continue;
    if (std::holds_alternative<ReadyResult>(result->result)) {
      ASSERT_TRUE((*process)->Send(endless).ok());
      ASSERT_TRUE((*process)->Send(CancelCommand{}).ok());
    }
    if (const auto* generated = std::get_if<GenerateResult>(&result->result)) {
      results.push_back(*generated);
      Command next = FinishCommand{};
      if (results.size() == 1) next = GenerateCommand{{{.id = 7, .prompt = "you", .max_new_tokens = 3, .stop = {}, .sampling = {}}}};
      ASSERT_TRUE((*process)->Send(next).ok());
    }
  }
  ASSERT_EQ(results.size(), 2u);
  EXPECT_TRUE(results[0].cancelled);
  EXPECT_LT(results[0].generated_tokens, 200 * 500 / 2);
  EXPECT_FALSE(results[1].cancelled);
  EXPECT_EQ(results[1].generated_tokens, 2);
}

TEST_F(SessionTest, ACancelThatComesAfterTheAnswerEndsNothing) {
  Write(ByteModel());
  TrialJob job = Kept();
  controller::WorkerOptions options;
  options.executable = HPROC_WORKER;
  options.arguments = {"session"};
  auto process = WorkerProcess::Start(std::move(options), job);
  ASSERT_TRUE(process.ok()) << process.error().message;
  const GenerateCommand generate{{{.id = 7, .prompt = "you", .max_new_tokens = 3, .stop = {}, .sampling = {}}}};
  const ThroughputCommand throughput{{.prompt_tokens = 8, .short_decode_tokens = 2, .long_decode_tokens = 4, .batch = 2, .repetitions = 1, .warmups = 0}};
  int answers = 0;
  for (;;) {
    std::variant<Event, WorkerEnd> event = (*process)->NextEvent();
    if (const auto* end = std::get_if<WorkerEnd>(&event)) {
      EXPECT_EQ(end->exit_code, 0) << end->log_tail;
      break;
    }
    const EventBody& body = std::get<Event>(event).body;
    if (const auto* error = std::get_if<ErrorEvent>(&body)) ADD_FAILURE() << error->message;
    const auto* result = std::get_if<ResultEvent>(&body);
    if (result == nullptr) continue;
    if (std::holds_alternative<ReadyResult>(result->result)) {
      ASSERT_TRUE((*process)->Send(generate).ok());
    }
    if (std::holds_alternative<GenerateResult>(result->result)) {
      ++answers;
      ASSERT_TRUE((*process)->Send(CancelCommand{}).ok());
      ASSERT_TRUE((*process)->Send(throughput).ok());
    }
    if (const auto* timed = std::get_if<ThroughputResult>(&result->result)) {
      ++answers;
      EXPECT_EQ(timed->samples.size(), 3u);
      ASSERT_TRUE((*process)->Send(FinishCommand{}).ok());
    }
  }
  EXPECT_EQ(answers, 2);
}

TEST_F(SessionTest, WarmsUpBatchesLongerThanTheirContext) {
  Write(ByteModel());
  TrialJob job = Kept();
  job.deployment.context = 2;
  job.deployment.batch = 5;
  const Transcript run = Work(job, {GenerateCommand{{{.id = 1, .prompt = "a", .max_new_tokens = 9, .stop = {}, .sampling = {}}}}, FinishCommand{}});
  EXPECT_EQ(run.end.exit_code, 0) << run.ErrorText();
  ASSERT_EQ(run.All<SampleEvent>().size(), 1u);
  EXPECT_EQ(run.All<SampleEvent>()[0].completion.finish, evals::FinishReason::kContext);
}

}  // namespace
}  // namespace hproc::worker
