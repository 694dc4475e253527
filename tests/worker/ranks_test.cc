// Several real workers as the ranks of one trial.
#include "worker/ranks.h"

#include <filesystem>
#include <map>

#include "tests/worker/ranks_fixture.h"

namespace hproc::worker {
namespace {

using testing::AnyOf;

class RanksTest : public RanksFixture {
 protected:
  RanksTest() : RanksFixture("cpu") {}
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

TEST_F(RanksTest, EndWithOneThatIsKilledInAnyPhase) { EndsWithOneThatIsKilledInAnyPhase(3, {0, 1}); }

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
  options.executable = WorkerPath();
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
