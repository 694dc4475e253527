// Studies with several trials in flight, with real processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "controller/device_share.h"
#include "controller/store_rules.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

FakeModel Sloping(int questions) {
  json settings = kSloping;
  settings["garbage_below"] = {{"strict", 0.9}};
  return {.questions = questions, .settings = settings};
}

// How many trials are in flight, by what the observer hears.
class InFlightCounter {
 public:
  explicit InFlightCounter(RecordingObserver& observer) {
    observer.at_start = [this](const Trial& trial) {
      in_flight_.insert(trial.number);
      most_ = std::max(most_, in_flight_.size());
    };
    observer.at_trial_end = [this](const Trial& trial) { in_flight_.erase(trial.number); };
  }
  size_t most() const { return most_; }

 private:
  std::set<int> in_flight_;
  size_t most_ = 0;
};

std::set<std::string> Digests(const std::vector<Trial>& trials) {
  std::set<std::string> digests;
  for (const Trial& trial : trials) digests.insert(std::string(TrialKindName(trial.plan.kind)) + trial.plan.plan_digest);
  return digests;
}

class Parallel : public testing::TestWithParam<int> {};

TEST_P(Parallel, AStudyKeepsAsManyTrialsInFlightAndFindsWhatOneAfterTheOtherFinds) {
  FakeStudy fake(Sloping(60));
  fake.spec.baselines = {TrialKind::kBaseline16Bit, TrialKind::kBaselineInt4};
  WholeStudy one(fake);
  const TuneEnd expected = one.Run();

  fake.spec.launch.parallel = GetParam();
  WholeStudy study(fake);
  const InFlightCounter counter(study.observer);
  const TuneEnd end = study.Run();
  EXPECT_EQ(counter.most(), static_cast<size_t>(GetParam()));
  const std::vector<Trial> trials = study.Trials();
  EXPECT_THAT(Digests(trials), SizeIs(trials.size())) << "no plan is run twice";
  for (const Trial& trial : trials) {
    EXPECT_TRUE(IsFinished(trial.state));
    EXPECT_THAT(trial.attempts, SizeIs(1));
  }
  ASSERT_TRUE(end.outcome.done.recommended.has_value());
  EXPECT_EQ(end.outcome.done.bound, expected.outcome.done.bound);
  EXPECT_THAT(end.outcome.done.alarms, SizeIs(0));
  EXPECT_THAT(end.outcome.baselines, SizeIs(2));
  EXPECT_EQ(study.Stored().state, StudyState::kDone);
}

TEST_P(Parallel, AStudyThatIsCutOffFinishesWhatWasInFlightAndRepeatsNothing) {
  FakeStudy fake(Sloping(40));
  fake.spec.launch.parallel = GetParam();
  fake.spec.max_candidates = 3;
  for (const int cut_at : {0, 1, 3, 5}) {
    SCOPED_TRACE(cut_at);
    WholeStudy study(fake);
    study.observer.at_start = [&](const Trial& trial) {
      if (trial.number == cut_at) study.Stop();
    };
    ASSERT_TRUE(study.Run().interrupted);
    EXPECT_EQ(study.Stored().state, StudyState::kInterrupted);
    const std::vector<Trial> before = study.Trials();
    study.observer.at_start = [](const Trial&) {};
    const TuneEnd end = study.Run();
    EXPECT_TRUE(end.outcome.done.recommended.has_value());
    const std::vector<Trial> after = study.Trials();
    EXPECT_THAT(Digests(after), SizeIs(after.size()));
    for (size_t i = 0; i < before.size(); ++i) {
      if (!IsFinished(before[i].state)) continue;
      EXPECT_EQ(after[i].finished_utc, before[i].finished_utc);
      EXPECT_THAT(after[i].attempts, SizeIs(1));
    }
    for (const Trial& trial : after) EXPECT_TRUE(IsFinished(trial.state));
  }
}

INSTANTIATE_TEST_SUITE_P(TwoAndFour, Parallel, testing::Values(2, 4));

TEST(Parallel, TrialsThatDeadControllersLeftOpenAreFinishedBeforeAnythingNew) {
  FakeStudy fake(Sloping(40));
  fake.spec.launch.parallel = 2;
  WholeStudy study(fake);
  // Three, as after a study with more in flight than now.
  for (const FloorPair at : {FloorPair{100, 100}, FloorPair{150, 120}, FloorPair{170, 90}}) {
    const Trial open = *study.store->AddTrial(study.Stored().id, fake.PlanOf(at, Purpose::kGarbageEdge));
    ASSERT_TRUE(study.store->StartAttempt(open.id, "log").ok());
  }
  study.Run();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(IsFinished(study.Trials()[i].state));
    EXPECT_THAT(study.Trials()[i].attempts, SizeIs(2));
  }
  // Two slots tell of their starts in any order.
  ASSERT_GE(study.observer.starts.size(), 4U);
  EXPECT_EQ(study.observer.starts[0].first + study.observer.starts[1].first, 1);
  EXPECT_EQ(std::min(study.observer.starts[2].first, study.observer.starts[3].first), 2);
}

TEST(Parallel, ALostDeviceEndsTheTrialsBesideItAsInterrupted) {
  FakeStudy fake(Sloping(40));
  fake.spec.launch.parallel = 2;
  fake.SetScript({{"load",
                   {{{"do", "error"}, {"kind", "device_lost"}, {"message", "Xid 79"}, {"once", fake.File("lost")}}, "hang"}}});
  WholeStudy study(fake);
  EXPECT_THAT(ErrorOf(study.TryRun()), HasSubstr("device was lost"));
  EXPECT_EQ(study.Stored().state, StudyState::kInterrupted);
  fake.SetScript(json::object());
  EXPECT_TRUE(study.Run().outcome.done.recommended.has_value());
}

TEST(Parallel, AFaultOfTheLoaderEndsTheTrialBesideIt) {
  FakeStudy fake({.script = {{"generate", {"garbage"}}}});
  fake.spec.memory_cap_bytes = 100'000'000;
  fake.spec.launch.parallel = 2;
  WholeStudy study(fake);
  EXPECT_THAT(study.Run().outcome.done.fault.value_or(""), HasSubstr("the loader is at fault"));
}

// ---- what each trial gets of the machine ----

TEST(DeviceShare, GivesEachTrialDevicesOfItsOwn) {
  worker::Deployment whole{.device = "cuda:0,1,2,3"};
  std::vector<worker::Deployment> shares = *ShareDeployment(whole, 4);
  ASSERT_THAT(shares, SizeIs(4));
  for (int i = 0; i < 4; ++i) EXPECT_EQ(shares[static_cast<size_t>(i)].device, "cuda:" + std::to_string(i));
  whole.world_size = 2;
  shares = *ShareDeployment(whole, 2);
  EXPECT_EQ(shares[0].device, "cuda:0,1");
  EXPECT_EQ(shares[1].device, "cuda:2,3");
  EXPECT_EQ(ErrorOf(ShareDeployment(whole, 3)),
            "--parallel 3: --device cuda:0,1,2,3 names 4 devices for 6 ranks");
  EXPECT_EQ(ShareDeployment(whole, 1)->front(), whole);
  EXPECT_EQ(ShareDeployment({.device = "cuda"}, 2)->back().device, "cuda:1");
}

TEST(DeviceShare, DividesTheThreadsOfACpu) {
  const worker::Deployment whole{.device = "cpu", .threads = 8};
  EXPECT_EQ(ShareDeployment(whole, 3)->back().threads, 2);
  EXPECT_EQ(ShareDeployment(whole, 20)->back().threads, 1);
  EXPECT_GE(ShareDeployment({.device = "cpu"}, 2)->back().threads, 1);
  EXPECT_EQ(*ShareDeployment(whole, 1), std::vector{whole});
}

}  // namespace
}  // namespace hproc::controller
