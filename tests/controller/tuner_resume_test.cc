// A study that is cut off anywhere and gone on with ends as one that never was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/store_rules.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::ElementsAre;
using testing::Pair;
using testing::SizeIs;

class Resumed : public testing::TestWithParam<const char*> {};

TEST_P(Resumed, AfterAnyPrefixOfItsTrialsAStudyEndsTheSameAndRepeatsNoneThatWasFinished) {
  const std::string where = GetParam();
  json model = kSloping;
  model["garbage_below"] = {{"strict", 0.9}};
  FakeStudy fake({.questions = 60, .settings = model});
  fake.spec.baselines = {TrialKind::kBaseline16Bit};
  fake.spec.max_candidates = 3;
  fake.spec.max_garbage_loads = 3;
  WholeStudy whole(fake);
  const TuneEnd reference = whole.Run();
  ASSERT_TRUE(reference.outcome.done.recommended.has_value());
  const int trials = static_cast<int>(whole.Trials().size());
  ASSERT_GT(trials, 5);

  int cuts = 0;
  for (int prefix = 0; prefix < trials; ++prefix) {
    SCOPED_TRACE(prefix);
    WholeStudy study(fake);
    int running = -1;
    study.observer.at_start = [&](const Trial& trial) {
      running = trial.number;
      if (where == "start" && running == prefix) study.Stop();
    };
    study.observer.at_question = [&](int answered) {
      if (where == "question" && running == prefix && answered == 2) study.Stop();
    };
    study.observer.at_trial_end = [&](const Trial& trial) {
      if (where == "end" && trial.number == prefix) study.Stop();
    };
    const TuneEnd cut = study.Run();
    const bool was_cut = cut.interrupted;
    cuts += was_cut ? 1 : 0;
    std::vector<std::string> finished;
    if (was_cut) {
      EXPECT_EQ(study.Stored().state, StudyState::kInterrupted);
      EXPECT_EQ(study.Stored().outcome_json, "");
      for (const Trial& trial : study.Trials()) {
        if (IsFinished(trial.state)) finished.push_back(trial.finished_utc);
      }
      // A suspect point is garbage after seven wrong answers; where they had come before the stop, its trial is over.
      const size_t ended = static_cast<size_t>(prefix) + 1;
      if (where == "question") {
        EXPECT_THAT(finished.size(), AnyOf(ended - 1, ended));
      } else {
        EXPECT_THAT(finished, SizeIs(where == "end" ? ended : ended - 1));
      }
    }
    const bool was_lost = was_cut && finished.size() == static_cast<size_t>(prefix);

    study.observer.at_start = [](const Trial&) {};
    study.observer.at_question = [](int) {};
    study.observer.at_trial_end = [](const Trial&) {};
    const TuneEnd end = study.Run();
    const std::vector<Trial> after = study.Trials();
    EXPECT_EQ(Substance(after), Substance(whole.Trials()));
    for (size_t i = 0; i < finished.size(); ++i) {
      EXPECT_EQ(after[i].finished_utc, finished[i]);
      EXPECT_THAT(after[i].attempts, SizeIs(1));
    }
    json expected = json::parse(reference.outcome_json);
    if (was_lost) expected["loads"] = expected["loads"].get<int>() + 1;
    EXPECT_EQ(json::parse(end.outcome_json), expected);
  }
  if (where == "start") {
    EXPECT_EQ(cuts, trials);
  } else if (where == "end") {
    EXPECT_EQ(cuts, trials - 1) << "behind the last there is nothing to cut";
  } else {
    EXPECT_GE(cuts, 3) << "only where questions are asked";
  }
}

INSTANTIATE_TEST_SUITE_P(CutOff, Resumed, testing::Values("start", "question", "end"));

TEST(Tuner, GoesOnAsItBeganWhateverTheStrategy) {
  for (const char* strategy : {"walk", "grid"}) {
    SCOPED_TRACE(strategy);
    FakeStudy fake({.questions = 40, .settings = kSloping});
    fake.spec.strategy = strategy;
    WholeStudy whole(fake);
    const TuneEnd reference = whole.Run();
    const int middle = static_cast<int>(whole.Trials().size()) / 2;
    ASSERT_GT(middle, 1);

    WholeStudy study(fake);
    study.observer.at_start = [&](const Trial& trial) {
      if (trial.number == middle) study.Stop();
    };
    EXPECT_TRUE(study.Run().interrupted);
    study.observer.at_start = [](const Trial&) {};
    EXPECT_EQ(study.Run().outcome.done.recommended, reference.outcome.done.recommended);
    EXPECT_EQ(Substance(study.Trials()), Substance(whole.Trials()));
  }
}

TEST(Tuner, GoesOnWithATrialThatADeadControllerLeftRunning) {
  FakeStudy fake;
  WholeStudy study(fake);
  const Study stored = study.Stored();
  const Trial open = *study.store->AddTrial(
      stored.id, fake.PlanOf(PredictedFrontier(SearchSpecOf(fake.spec, fake.space()), fake.space(),
                                               fake.spec.memory_cap_bytes)[0],
                             Purpose::kCandidate));
  ASSERT_TRUE(study.store->StartAttempt(open.id, "log").ok());
  study.Run();
  const Trial trial = study.Trials()[0];
  EXPECT_EQ(trial.id, open.id);
  EXPECT_EQ(trial.state, TrialState::kComplete);
  ASSERT_THAT(trial.attempts, SizeIs(2));
  EXPECT_EQ(trial.attempts[0].verdict.reason, Reason::kInterrupted);
}

TEST(Tuner, GoesOnAsIfNothingHadBeenWhereASecondAttemptSucceeds) {
  FakeStudy fake({.settings = kSloping});
  WholeStudy smooth(fake);
  const TuneEnd expected = smooth.Run();
  fake.SetScript(
      {{"generate", {{{"do", "segv"}, {"nth", 2}, {"after", 9}, {"once", fake.File("crashed")}}}}});
  WholeStudy study(fake);
  const TuneEnd end = study.Run();
  EXPECT_THAT(study.observer.failed_attempts, ElementsAre(Pair(Reason::kCrash, true)));
  EXPECT_EQ(end.outcome.done.recommended, expected.outcome.done.recommended);
  EXPECT_EQ(Substance(study.Trials()), Substance(smooth.Trials()));
}

}  // namespace
}  // namespace hproc::controller
