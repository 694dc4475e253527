#include "controller/worker_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <map>
#include <thread>

#include "base/file.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using worker::Phase;

std::unique_ptr<WorkerClient> Start(WorkerOptions options, const worker::Job& job = MakeTrial(),
                                    WorkerObserver* observer = nullptr) {
  auto client = WorkerClient::Start(std::move(options), job, observer);
  EXPECT_TRUE(client.ok()) << client.error().message;
  return *std::move(client);
}

std::vector<evals::GenerationRequest> Requests(int count) {
  std::vector<evals::GenerationRequest> requests(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    requests[static_cast<size_t>(i)].id = 100 + i;
    requests[static_cast<size_t>(i)].prompt =
        "Question: shot\nAnswer: 1\n\nQuestion: q" + std::to_string(i) + "\nAnswer:";
  }
  return requests;
}

class Recorder : public WorkerObserver {
 public:
  void OnHello(const worker::HelloEvent& hello) override {
    heard.push_back("hello " + hello.device_name);
  }
  void OnPhase(const worker::PhaseEvent& phase) override {
    heard.push_back(std::string(phase.begin ? "begin " : "end ") +
                    std::string(PhaseName(phase.phase)));
  }
  void OnProgress(const worker::ProgressEvent& progress) override {
    heard.push_back("progress " + std::to_string(progress.done));
  }
  void OnMemory(const worker::MemoryEvent& memory) override {
    heard.push_back("memory " + std::to_string(memory.live_bytes));
  }

  std::vector<std::string> heard;
};

TEST(WorkerClient, LeadsATrialFromLoadToFinish) {
  Recorder recorder;
  auto client = Start(FakeWorker(R"({"model": {"kv_bytes_per_token": 2, "activation_bytes": 30}})"),
                      MakeTrial(R"({"weight_bytes": 1000, "digest": "d1"})"), &recorder);
  auto loaded = client->AwaitLoad("d1");
  ASSERT_TRUE(loaded.ok()) << loaded.verdict().verdict.message;
  EXPECT_EQ(loaded->load.weight_bytes, 1000);
  EXPECT_EQ(loaded->memory->live_bytes, 1000 + 2 * 128 + 30);
  EXPECT_THAT(recorder.heard,
              ElementsAre("hello a fake device", "begin init", "end init", "begin load",
                          "progress 0", "progress 1000", "end load", "memory 1000", "begin cache",
                          "end cache", "begin warmup", "end warmup", "memory 1286"));

  RemoteGenerator generator(*client);
  std::vector<int64_t> ids;
  ASSERT_TRUE(generator
                  .Generate(Requests(5),
                            [&](const evals::Completion& completion) {
                              EXPECT_THAT(completion.text, HasSubstr("#### 42"));
                              ids.push_back(completion.id);
                              return true;
                            })
                  .ok());
  EXPECT_THAT(ids, ElementsAre(100, 101, 102, 103, 104));

  evals::ThroughputSpec spec;
  spec.repetitions = 2;
  auto samples = client->Throughput(spec);
  ASSERT_TRUE(samples.ok());
  EXPECT_EQ(samples->size(), 6u);

  const RunVerdict run = client->Finish();
  EXPECT_EQ(run.verdict, Verdict{});
  EXPECT_EQ(run.state, std::nullopt);
}

TEST(WorkerClient, LeadsAMeasureJob) {
  const TestFolder folder;
  worker::MeasureJob job;
  job.table_path = folder / "table";
  job.deployment.context = 10;
  auto client =
      Start(FakeWorker(R"({"model": {"kv_bytes_per_token": 3, "table": "the table"}})"), job);
  auto measured = client->AwaitMeasure();
  ASSERT_TRUE(measured.ok()) << measured.verdict().verdict.message;
  EXPECT_EQ(measured->table_path, job.table_path);
  EXPECT_THAT(measured->predicted, testing::Contains(worker::LedgerLine{"kv_cache", 30}));
  EXPECT_EQ(*ReadFile(job.table_path, 100), "the table");
  EXPECT_EQ(client->Finish().verdict.reason, Reason::kNone);
}

TEST(WorkerClient, GeneratesNothingForNoRequests) {
  auto client = Start(FakeWorker("{}"));
  ASSERT_TRUE(client->AwaitLoad("").ok());
  EXPECT_TRUE(client->Generate({}, [](const evals::Completion&) { return true; }).ok());
  EXPECT_EQ(client->Finish().verdict.reason, Reason::kNone);
}

TEST(WorkerClient, CancelsWhenTheCallerHasEnoughAndCanGoOnAfterwards) {
  for (const char* script :
       {R"({"model": {"sample_ms": 1}})", R"({"generate": ["ignore_cancel"]})"}) {
    SCOPED_TRACE(script);
    auto client = Start(FakeWorker(script));
    ASSERT_TRUE(client->AwaitLoad("").ok());
    int seen = 0;
    auto cancelled =
        client->Generate(Requests(1000), [&](const evals::Completion&) { return ++seen < 3; });
    ASSERT_TRUE(cancelled.ok()) << cancelled.verdict().verdict.message;
    EXPECT_EQ(seen, 3);  // what comes after is dropped
    EXPECT_EQ(cancelled->cancelled, std::string(script).find("ignore") == std::string::npos);
    seen = 0;
    auto next = client->Generate(Requests(4), [&](const evals::Completion&) { return ++seen > 0; });
    ASSERT_TRUE(next.ok());
    EXPECT_EQ(seen, 4);
    EXPECT_EQ(client->Finish().verdict.reason, Reason::kNone);
  }
}

TEST(WorkerClient, GivesTheVerdictOnceAndForAll) {
  auto client = Start(FakeWorker(R"({"generate": [{"do": "oom", "after": 2}]})"));
  ASSERT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(client->verdict(), std::nullopt);
  int seen = 0;
  RemoteGenerator generator(*client);
  const Result<void> generated =
      generator.Generate(Requests(5), [&](const evals::Completion&) { return ++seen > 0; });
  ASSERT_FALSE(generated.ok());
  EXPECT_THAT(generated.error().message, HasSubstr("1000 bytes asked for"));
  EXPECT_EQ(seen, 2);
  ASSERT_TRUE(client->verdict().has_value());
  EXPECT_EQ(client->verdict()->state, TrialState::kInfeasible);
  const Verdict verdict = client->verdict()->verdict;
  EXPECT_EQ(verdict.phase, "generate");
  EXPECT_EQ(verdict.short_bytes, 600);
  EXPECT_EQ(client->Throughput({}).verdict().verdict, verdict);
  EXPECT_EQ(client->Generate({}, [](const evals::Completion&) { return true; }).verdict().verdict,
            verdict);
  EXPECT_EQ(client->Finish().verdict, verdict);
  EXPECT_EQ(client->end()->exit_code, worker::kExitReported);
}

TEST(WorkerClient, FindsOutAWorkerThatLoadedAnotherPlan) {
  auto client =
      Start(FakeWorker(R"({"load": ["wrong_digest"]})"), MakeTrial(R"({"digest": "d1"})"));
  auto loaded = client->AwaitLoad("d1");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kProtocolError);
  EXPECT_THAT(loaded.verdict().verdict.message, HasSubstr("it loaded the plan 0000, not d1"));
  EXPECT_EQ(loaded.verdict().state, TrialState::kFailed);
}

TEST(WorkerClient, StopsFromAnotherThread) {
  Recorder recorder;
  auto client = Start(FakeWorker(R"({"load": ["hang"]})"), MakeTrial(), &recorder);
  std::jthread stopper([&] { client->Stop("interrupted"); });
  auto loaded = client->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kInterrupted);
  EXPECT_EQ(loaded.verdict().state, std::nullopt);
}

TEST(WorkerClient, PassesOnWhatIsWrongWithTheOutput) {
  auto client = Start(FakeWorker(R"({"generate": ["garbage", "nonfinite"]})"));
  ASSERT_TRUE(client->AwaitLoad("").ok());
  auto requests = Requests(1);
  requests[0].max_new_tokens = 5;
  ASSERT_TRUE(client
                  ->Generate(requests,
                             [](const evals::Completion& completion) {
                               EXPECT_EQ(completion.text, "!!!!!");
                               EXPECT_EQ(completion.nonfinite_logits, 3);
                               EXPECT_EQ(completion.finish, evals::FinishReason::kNonFinite);
                               return true;
                             })
                  .ok());
}

TEST(WorkerClient, SupervisesRanksSideBySide) {
  std::vector<std::unique_ptr<WorkerClient>> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    worker::TrialJob job = MakeTrial();
    job.deployment.rank = rank;
    job.deployment.world_size = 3;
    ranks.push_back(Start(FakeWorker(R"({"load": [{"do": "slow", "ms": 30}]})"), job));
  }
  for (auto& rank : ranks) EXPECT_TRUE(rank->AwaitLoad("").ok());
  for (auto& rank : ranks) EXPECT_EQ(rank->Finish().verdict.reason, Reason::kNone);
}

// ---- the model that fake_worker plays
// -------------------------------------------------------------------------------

std::string Plan(int64_t bytes, double strict, double lazy) {
  return "{\"weight_bytes\": " + std::to_string(bytes) +
         ", \"floors\": {\"strict\": " + std::to_string(strict) +
         ", \"lazy\": " + std::to_string(lazy) + "}}";
}

TEST(FakeModel, RunsOutOfMemoryInThePhaseWhereTheCapIsMet) {
  const std::string script = R"({"model": {"kv_bytes_per_token": 1, "activation_bytes": 10}})";
  const std::pair<int64_t, std::string> caps[] = {{999, "load"},
                                                  {1000 + 127, "cache"},
                                                  {1000 + 128 + 9, "warmup"},
                                                  {1000 + 128 + 10, ""},
                                                  {0, ""}};
  for (const auto& [cap, phase] : caps) {
    worker::TrialJob job = MakeTrial(Plan(1000, 1, 1));
    job.memory_cap_bytes = cap;
    auto client = Start(FakeWorker(script), job);
    auto loaded = client->AwaitLoad("");
    ASSERT_EQ(loaded.ok(), phase.empty()) << cap;
    if (!loaded.ok()) {
      EXPECT_EQ(loaded.verdict().verdict.phase, phase);
      EXPECT_EQ(loaded.verdict().verdict.short_bytes, 1);
    }
  }
}

// By question: whether the answer equals the gold.
std::map<int64_t, bool> Grade(const std::string& script, const std::string& plan) {
  auto client = Start(FakeWorker(script), MakeTrial(plan));
  EXPECT_TRUE(client->AwaitLoad("").ok());
  std::map<int64_t, bool> right;
  EXPECT_TRUE(client
                  ->Generate(Requests(200),
                             [&](const evals::Completion& completion) {
                               const int64_t gold = (completion.id - 100) * 3;
                               right[completion.id] =
                                   completion.text.ends_with("#### " + std::to_string(gold));
                               return true;
                             })
                  .ok());
  return right;
}

int Count(const std::map<int64_t, bool>& right) {
  int count = 0;
  for (const auto& [id, is_right] : right) count += is_right;
  return count;
}

TEST(FakeModel, AnswersByTheFloorsTheSameInEveryRun) {
  const TestFolder folder;
  std::string tasks;
  for (int i = 0; i < 200; ++i) {
    tasks += "{\"question\": \"q" + std::to_string(i) + "\", \"answer\": \"steps\\n#### " +
             std::to_string(3 * i) + "\"}\n";
  }
  ASSERT_TRUE(WriteFileAtomically(folder / "tasks", tasks).ok());
  const std::string script = R"({"model": {"tasks": ")" + (folder / "tasks") +
                             R"(", "accuracy": 0.9, "strict_slope": 4, "lazy_slope": 1,
                                 "garbage_below": {"strict": 0.8}}})";
  const auto best = Grade(script, Plan(1, 1, 1));
  const auto lower = Grade(script, Plan(1, 0.9, 0.9));
  EXPECT_EQ(Grade(script, Plan(1, 1, 1)), best);
  EXPECT_NEAR(Count(best), 180, 15);
  EXPECT_NEAR(Count(lower), 80, 25);
  for (const auto& [id, is_right] : lower)
    EXPECT_LE(is_right, best.at(id));  // paired, as real points are
  EXPECT_EQ(Count(Grade(script, Plan(1, 0.7, 1))), 0);
}

}  // namespace
}  // namespace hproc::controller
