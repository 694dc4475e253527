#include "controller/worker_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Graces that a machine under load still meets.
std::unique_ptr<WorkerGroup> StartRanks(const std::string& script, int ranks, const std::string& log_file = {},
                                        WorkerObserver* observer = nullptr) {
  WorkerOptions options = FakeWorker(script);
  options.log_file = log_file;
  options.terminate = milliseconds(500);
  worker::TrialJob job = MakeTrial();
  job.deployment.world_size = ranks;
  auto group = WorkerGroup::Start(options, job, observer);
  EXPECT_TRUE(group.ok()) << group.error().message;
  return *std::move(group);
}

std::vector<evals::GenerationRequest> Requests(int count) {
  std::vector<evals::GenerationRequest> requests(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) requests[static_cast<size_t>(i)] = {.id = i, .prompt = "p", .max_new_tokens = 4, .stop = {}, .sampling = {}};
  return requests;
}

bool IsGone(pid_t pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }

TEST(WorkerGroup, LeadsRanksFromLoadToFinish) {
  const TestFolder folder;
  auto group = StartRanks(R"({"load": [{"do": "print", "text": "loading"}]})", 3, folder / "trial.log");
  EXPECT_EQ(group->size(), 3);
  std::vector<pid_t> pids;
  for (int rank = 0; rank < 3; ++rank) pids.push_back(group->pid(rank));
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(group->Ledgers().size(), 3u);
  int answered = 0;
  EXPECT_TRUE(group->Generate(Requests(5), [&](const evals::Completion&) { return ++answered > 0; }).ok());
  EXPECT_EQ(answered, 5);
  EXPECT_TRUE(group->Throughput({}).ok());
  EXPECT_EQ(group->Finish().verdict.reason, Reason::kNone);
  group.reset();
  for (const pid_t pid : pids) EXPECT_TRUE(IsGone(pid));
  for (const char* log : {"trial.log", "trial-rank-1.log", "trial-rank-2.log"}) EXPECT_TRUE(std::filesystem::exists(folder / log)) << log;
}

TEST(WorkerGroup, SaysWhichRankRanOutOfMemoryAndWhere) {
  for (const std::string phase : {"load", "cache", "warmup"}) {
    auto group = StartRanks(R"({")" + phase + R"(": [{"do": "oom", "rank": 1, "requested": 1000, "available": 400}]})", 2);
    Outcome<LoadedModel> loaded = group->AwaitLoad("");
    ASSERT_FALSE(loaded.ok());
    const RunVerdict& run = loaded.verdict();
    EXPECT_EQ(run.state, TrialState::kInfeasible);
    EXPECT_EQ(run.verdict.reason, Reason::kOutOfMemory);
    EXPECT_EQ(run.verdict.phase, phase);
    EXPECT_EQ(run.verdict.short_bytes, 600);
    EXPECT_THAT(run.verdict.message, StartsWith("rank 1: "));
    EXPECT_EQ(group->Finish().verdict, run.verdict) << "once and for all";
  }
}

TEST(WorkerGroup, LetsTheTightestDeviceDecide) {
  auto group = StartRanks(R"({"warmup": [{"do": "oom", "rank": 0, "requested": 100, "available": 50},
                                        {"do": "oom", "rank": 1, "requested": 1000, "available": 100},
                                        {"do": "oom", "rank": 2, "requested": 1000, "available": 400}]})", 3);
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.short_bytes, 900);
  EXPECT_THAT(loaded.verdict().verdict.message, StartsWith("rank 1: "));
}

TEST(WorkerGroup, EndsWithARankThatDies) {
  struct Case {
    std::string action;
    Reason reason;
  };
  for (const Case& c : {Case{"segv", Reason::kCrash}, {"sigkill", Reason::kKilled}, {"torn", Reason::kProtocolError}}) {
    for (const std::string phase : {"start", "load", "warmup"}) {
      if (phase == "start" && c.action == "torn") continue;  // nothing can be written yet
      auto group = StartRanks(R"({")" + phase + R"(": [{"do": ")" + c.action + R"(", "rank": 1}]})", 2);
      const std::vector<pid_t> pids = {group->pid(0), group->pid(1)};
      Outcome<LoadedModel> loaded = group->AwaitLoad("");
      ASSERT_FALSE(loaded.ok()) << c.action << " at " << phase;
      EXPECT_EQ(loaded.verdict().state, TrialState::kFailed);
      EXPECT_EQ(loaded.verdict().verdict.reason, c.reason) << c.action << " at " << phase << ": " << loaded.verdict().verdict.message;
      EXPECT_THAT(loaded.verdict().verdict.message, StartsWith("rank 1: "));
      group.reset();
      for (const pid_t pid : pids) EXPECT_TRUE(IsGone(pid));
    }
  }
}

// These ranks do not talk to each other, so rank 0 hangs on: the group ends it.
TEST(WorkerGroup, DoesNotWaitForTheOthersOfADeadRank) {
  auto group = StartRanks(R"({"generate": [{"do": "hang", "rank": 0}]})", 2);
  ASSERT_TRUE(group->AwaitLoad("").ok());
  std::jthread killer([&group] {
    std::this_thread::sleep_for(milliseconds(50));
    ::kill(group->pid(1), SIGKILL);
  });
  const auto outcome = group->Generate(Requests(2), [](const evals::Completion&) { return true; });
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.verdict().state, TrialState::kFailed);
  EXPECT_EQ(outcome.verdict().verdict.reason, Reason::kKilled);
  EXPECT_EQ(outcome.verdict().verdict.phase, "generate");
  EXPECT_THAT(outcome.verdict().verdict.message, StartsWith("rank 1: SIGKILL"));
}

TEST(WorkerGroup, BlamesNoRankThatOnlyLostAnother) {
  // Rank 1 says that rank 0 is gone, and so does rank 2; rank 0 crashed.
  auto group = StartRanks(R"({"load": [{"do": "segv", "rank": 0},
                                      {"do": "error", "rank": 1, "kind": "rank_lost", "message": "rank 0 is gone"},
                                      {"do": "error", "rank": 2, "kind": "rank_lost", "message": "rank 0 is gone"}]})", 3);
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kCrash);
  EXPECT_THAT(loaded.verdict().verdict.message, AllOf(StartsWith("rank 0: "), HasSubstr("SIGSEGV")));

  // Where nobody explains it, something keeps the ranks waiting.
  group = StartRanks(R"({"load": [{"do": "error", "rank": 0, "kind": "rank_lost", "message": "rank 1 has kept the others waiting for 120 s"}]})", 2);
  Outcome<LoadedModel> silent = group->AwaitLoad("");
  ASSERT_FALSE(silent.ok());
  EXPECT_EQ(silent.verdict().verdict.reason, Reason::kHang);
}

TEST(WorkerGroup, StopsFromAnotherThread) {
  auto group = StartRanks(R"({"load": [{"do": "hang"}]})", 2);
  std::jthread stopper([&group] {
    std::this_thread::sleep_for(milliseconds(50));
    group->Stop("enough");
  });
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kInterrupted);
  EXPECT_FALSE(loaded.verdict().state.has_value());
}

TEST(WorkerGroup, RefusesTooFewDevicesAndRanksOfAnotherMachine) {
  worker::TrialJob job = MakeTrial();
  job.deployment.world_size = 2;
  job.deployment.device = "cuda:3";
  EXPECT_EQ(WorkerGroup::Start(FakeWorker("{}"), job, nullptr).error().message, "--device cuda:3 names 1 devices for 2 ranks");
  job.deployment.device = "cpu";
  WorkerOptions launched = FakeWorker("{}");
  launched.is_launched = true;
  EXPECT_THAT(WorkerGroup::Start(launched, job, nullptr).error().message, HasSubstr("meet on one machine"));
}

}  // namespace
}  // namespace hproc::controller
