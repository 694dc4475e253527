// Several real workers as the ranks of one trial.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <map>
#include <thread>

#include "controller/worker_group.h"
#include "tests/worker/small_engine.h"
#include "worker/ranks.h"

namespace hproc::worker {
namespace {

using controller::Outcome;
using controller::Reason;
using controller::TrialState;
using controller::WorkerGroup;
using testing::AnyOf;
using testing::StartsWith;

// Calls `action` once, when rank 0 begins a phase.
struct AtPhase : controller::WorkerObserver {
  void OnPhase(const PhaseEvent& event) override {
    if (event.begin && event.phase == phase && action) std::exchange(action, {})();
  }
  Phase phase{};
  std::function<void()> action;
};

class RanksTest : public testing::Test {
 protected:
  void SetUp() override {
    SmallCheckpoint small({.layers = "LF", .hidden = 72, .vocabulary = 260, .heads = 8, .kv_heads = 4, .key_heads = 4,
                           .value_heads = 8, .experts = 4, .width = 40, .shared_width = 44});
    small.text_config["eos_token_id"] = nullptr;
    small.WriteTo(folder_);
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
    plan_ = opened.PlanFor({.strict = 0.98, .lazy = 0.9, .head = 0.99}, pool_);
  }

  TrialJob Job(int ranks, int64_t cap = 0) const {
    TrialJob job{.model_dir = folder_.path(), .plan_json = PlanToJson(plan_), .memory_cap_bytes = cap};
    job.deployment = {.threads = ranks, .world_size = ranks, .context = 64, .batch = 2, .prefill_chunk = 16};
    return job;
  }
  static std::unique_ptr<WorkerGroup> Start(const TrialJob& job, controller::WorkerObserver* observer = nullptr) {
    controller::WorkerOptions options;
    options.executable = HPROC_WORKER;
    options.arguments = {"session"};
    options.terminate = std::chrono::milliseconds(500);
    auto group = WorkerGroup::Start(options, job, observer);
    EXPECT_TRUE(group.ok()) << group.error().message;
    return *std::move(group);
  }
  static std::vector<evals::GenerationRequest> Requests(int count, int tokens) {
    std::vector<evals::GenerationRequest> requests;
    for (int i = 0; i < count; ++i) {
      requests.push_back({.id = i, .prompt = "question " + std::to_string(i * 37), .max_new_tokens = tokens, .stop = {}, .sampling = {}});
      if (i % 3 == 2) requests.back().sampling = {.temperature = 0.8, .top_k = 20, .top_p = 0.9, .seed = static_cast<uint64_t>(i)};
    }
    return requests;
  }
  // Text by request.
  static std::map<int64_t, std::string> Answers(WorkerGroup& group, int count) {
    std::map<int64_t, std::string> answers;
    EXPECT_TRUE(group.Generate(Requests(count, 20), [&](const evals::Completion& c) {
                       answers[c.id] = c.text;
                       return true;
                     }).ok());
    return answers;
  }

  TestFolder folder_;
  ThreadPool pool_{2};
  quant::Plan plan_;
};

TEST_F(RanksTest, AnswerAsOneRankDoes) {
  std::map<int64_t, std::string> one;
  for (const int ranks : {1, 2, 4}) {
    auto group = Start(Job(ranks));
    Outcome<controller::LoadedModel> loaded = group->AwaitLoad(plan_.Digest());
    ASSERT_TRUE(loaded.ok()) << loaded.verdict().verdict.message;
    EXPECT_EQ(loaded->load.weight_bytes, plan_.total_bytes());
    const std::vector<MemoryEvent> ledgers = group->Ledgers();
    ASSERT_EQ(ledgers.size(), static_cast<size_t>(ranks));
    for (const MemoryEvent& ledger : ledgers) EXPECT_LE(ledger.live_bytes, loaded->memory->live_bytes) << "the tightest is shown";
    const std::map<int64_t, std::string> answers = Answers(*group, 9);
    EXPECT_EQ(answers.size(), 9u);
    if (ranks == 1) one = answers;
    EXPECT_EQ(answers, one) << ranks;
    EXPECT_TRUE(group->Throughput({.prompt_tokens = 8, .short_decode_tokens = 4, .long_decode_tokens = 8, .batch = 2, .repetitions = 1, .warmups = 0}).ok());
    EXPECT_EQ(group->Finish().verdict.reason, Reason::kNone);
  }
}

// Whatever a rank is killed in, the trial fails with that, no other rank waits, and nothing is left.
TEST_F(RanksTest, EndWithOneThatIsKilledInAnyPhase) {
  for (const Phase phase : {Phase::kInit, Phase::kLoad, Phase::kCache, Phase::kWarmup, Phase::kGenerate, Phase::kThroughput}) {
    for (const int victim : {0, 1}) {
      SCOPED_TRACE(std::string(PhaseName(phase)) + ", rank " + std::to_string(victim));
      AtPhase observer;
      auto group = Start(Job(3), &observer);
      const std::vector<pid_t> pids = {group->pid(0), group->pid(1), group->pid(2)};
      const auto kill = [&] { ::kill(pids[static_cast<size_t>(victim)], SIGKILL); };
      observer.phase = phase;
      observer.action = kill;
      Outcome<controller::LoadedModel> loaded = group->AwaitLoad("");
      std::jthread killer;
      if (loaded.ok() && phase == Phase::kGenerate) {
        int answered = 0;
        EXPECT_FALSE(group->Generate(Requests(200, 40), [&](const evals::Completion&) {
          if (++answered == 2) kill();
          return true;
        }).ok());
      } else if (loaded.ok()) {
        killer = std::jthread([&] {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          kill();
        });
        EXPECT_FALSE(group->Throughput({.prompt_tokens = 32, .short_decode_tokens = 16, .long_decode_tokens = 32, .batch = 2, .repetitions = 2000, .warmups = 0}).ok());
      }
      ASSERT_TRUE(group->verdict().has_value());
      EXPECT_EQ(group->verdict()->state, TrialState::kFailed);
      EXPECT_EQ(group->verdict()->verdict.reason, Reason::kKilled) << group->verdict()->verdict.message;
      EXPECT_THAT(group->verdict()->verdict.message, StartsWith("rank " + std::to_string(victim) + ": SIGKILL"));
      group.reset();
      for (const pid_t pid : pids) EXPECT_TRUE(::kill(pid, 0) != 0 && errno == ESRCH);
    }
  }
}

TEST_F(RanksTest, SayWhereMemoryRanOut) {
  auto whole = Start(Job(2));
  ASSERT_TRUE(whole->AwaitLoad("").ok());
  const int64_t most = std::max(whole->Ledgers()[0].live_bytes, whole->Ledgers()[1].live_bytes);
  (void)whole->Finish();
  for (const auto& [cap, phase] : {std::pair<int64_t, const char*>{most / 20, "load"}, {most - 64, "warmup"}}) {
    auto group = Start(Job(2, cap));
    Outcome<controller::LoadedModel> loaded = group->AwaitLoad("");
    ASSERT_FALSE(loaded.ok());
    const controller::Verdict& verdict = loaded.verdict().verdict;
    EXPECT_EQ(loaded.verdict().state, TrialState::kInfeasible) << verdict.message;
    EXPECT_EQ(verdict.reason, Reason::kOutOfMemory);
    EXPECT_EQ(verdict.phase, phase);
    EXPECT_GT(verdict.short_bytes, 0);
    EXPECT_THAT(verdict.message, AnyOf(StartsWith("rank 0: "), StartsWith("rank 1: ")));
  }
  auto enough = Start(Job(2, most));
  EXPECT_TRUE(enough->AwaitLoad("").ok());
}

TEST_F(RanksTest, MeasureTogetherWhatOneMeasuresAlone) {
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
  const std::unique_ptr<Runtime> one = OpenRuntime("cpu", 2, 0);
  const std::unique_ptr<Runtime> two = OpenRuntime("cpu", 1, 0);
  const std::unique_ptr<Runtime> three = OpenRuntime("cpu", 1, 0);
  const std::vector<Runtime*> all{one.get(), two.get(), three.get()};
  int64_t told = 0;
  int64_t total = 0;
  const Result<quant::RateTable> together =
      MeasureTogether(all, opened.checkpoint, opened.table, {}, [&](int64_t done, int64_t of) {
        EXPECT_GE(done, told);
        told = done;
        total = of;
      });
  ASSERT_TRUE(together.ok()) << together.error().message;
  const Result<quant::RateTable> alone = one->Measure(opened.checkpoint, opened.table, {}, {});
  EXPECT_EQ(quant::EncodeRateTable(*together), quant::EncodeRateTable(*alone));
  EXPECT_EQ(told, total);
}

// What is said before a load is what is there after it.
TEST_F(RanksTest, TakeWhatWasForecast) {
  MeasureJob job{.model_dir = folder_.path(), .table_folder = folder_.path(), .deployment = Job(3).deployment};
  controller::WorkerOptions options;
  options.executable = HPROC_WORKER;
  options.arguments = {"session"};
  auto client = controller::WorkerClient::Start(options, job, nullptr);
  ASSERT_TRUE(client.ok());
  Outcome<MeasureResult> measured = (*client)->AwaitMeasure();
  ASSERT_TRUE(measured.ok()) << measured.verdict().verdict.message;
  (void)(*client)->Finish();
  auto group = Start(Job(3));
  ASSERT_TRUE(group->AwaitLoad("").ok());
  const std::vector<MemoryEvent> ledgers = group->Ledgers();
  ASSERT_EQ(measured->ranks.size(), ledgers.size());
  for (size_t rank = 0; rank < ledgers.size(); ++rank) {
    EXPECT_EQ(measured->ranks[rank].parts.size(), plan_.tensors.size());
    for (const LedgerLine& line : measured->ranks[rank].predicted) {
      const auto found = std::ranges::find(ledgers[rank].lines, line.name, &LedgerLine::name);
      ASSERT_NE(found, ledgers[rank].lines.end()) << line.name;
      if (line.name == "workspace_peak") {
        EXPECT_LE(found->bytes, line.bytes);
      } else {
        EXPECT_EQ(found->bytes, line.bytes) << line.name;
      }
    }
  }
}

}  // namespace
}  // namespace hproc::worker
