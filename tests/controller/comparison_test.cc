#include "controller/comparison.h"

#include <gtest/gtest.h>

#include "controller/store.h"
#include "evals/statistics.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

class ComparisonTest : public testing::Test {
 protected:
  void SetUp() override {
    spec_ = ExampleSpec("compared");
    spec_.memory_cap_bytes = 1000;
    spec_.headroom_bytes = 100;
    study_ = store_->CreateStudy(spec_)->id;
  }

  // A complete trial of `kind` that was right where `right` says so.
  Trial AddTrial(TrialKind kind, const std::vector<bool>& right, int64_t bytes, bool all_questions = true,
                 int seeds = 1) {
    NewTrial plan = ExamplePlan(count_);
    plan.kind = kind;
    Trial trial = *store_->AddTrial(study_, plan);
    EXPECT_TRUE(store_->StartAttempt(trial.id, "log").ok());
    std::vector<Answer> answers;
    for (size_t q = 0; q < right.size(); ++q) {
      Answer answer = ExampleAnswer(count_, static_cast<int>(q));
      answer.stage = "full";
      answer.seed = static_cast<int>(q / (right.size() / static_cast<size_t>(seeds)));
      answer.question = static_cast<int>(q % (right.size() / static_cast<size_t>(seeds)));
      answer.strict_correct = right[q];
      answers.push_back(answer);
    }
    EXPECT_TRUE(store_->AddAnswers(trial.id, answers).ok());
    TrialMeasurements measured = ExampleMeasurements(count_);
    measured.accuracy = {};
    evals::AccuracyCounter counter;
    for (const Answer& answer : answers) counter.Add(answer);
    measured.accuracy = counter.tally();
    measured.accuracy.all_questions = all_questions;
    measured.memory->live_bytes = bytes;
    EXPECT_TRUE(store_->FinishTrial(trial.id, TrialState::kComplete, {}, measured).ok());
    ++count_;
    return trial;
  }

  std::vector<Comparison> Compare(int recommended) {
    const std::vector<Trial> trials = *store_->ListTrials(study_);
    Result<std::vector<Comparison>> compared = CompareWithBaselines(*store_, spec_, trials, recommended);
    EXPECT_TRUE(compared.ok());
    return compared.ok() ? *compared : std::vector<Comparison>{};
  }

  std::unique_ptr<Store> store_ = MakeMemoryStore(TickingClock());
  StudySpec spec_;
  int64_t study_ = 0;
  int count_ = 0;
};

TEST_F(ComparisonTest, CountsTheQuestionsThatOneOfTheTwoGotRightAlone) {
  AddTrial(TrialKind::kPoint, {true, true, false, false, true}, 800);
  AddTrial(TrialKind::kBaseline16Bit, {true, false, true, true, true}, 950);
  const std::vector<Comparison> compared = Compare(0);
  ASSERT_EQ(compared.size(), 1u);
  EXPECT_EQ(compared[0].baseline, 1);
  EXPECT_EQ(compared[0].only_baseline_right, 2);
  EXPECT_EQ(compared[0].only_point_right, 1);
  EXPECT_EQ(compared[0].p, evals::McNemar(2, 1).mid_p);
}

// The answers of one question under several seeds are not independent: it counts once, for who got it right more often.
TEST_F(ComparisonTest, CountsAQuestionOnceHoweverManySeedsAsked) {
  AddTrial(TrialKind::kPoint, {true, true, false, true, false, true}, 800, true, /*seeds=*/2);
  AddTrial(TrialKind::kBaseline16Bit, {true, false, true, true, false, false}, 950, true, /*seeds=*/2);
  const std::vector<Comparison> compared = Compare(0);
  ASSERT_EQ(compared.size(), 1u);
  EXPECT_EQ(compared[0].only_point_right, 1) << "the second: one of two for none";
  EXPECT_EQ(compared[0].only_baseline_right, 0) << "the third is one of two for both";
}

TEST_F(ComparisonTest, ABaselineFitsWithinTheCapLessTheHeadroom) {
  AddTrial(TrialKind::kPoint, {true}, 800);
  AddTrial(TrialKind::kBaseline16Bit, {true}, 900);
  AddTrial(TrialKind::kBaselineInt4, {true}, 901);
  const std::vector<Comparison> compared = Compare(0);
  ASSERT_EQ(compared.size(), 2u);
  EXPECT_TRUE(compared[0].fits);
  EXPECT_FALSE(compared[1].fits);
  EXPECT_EQ(compared[1].kind, TrialKind::kBaselineInt4);
}

TEST_F(ComparisonTest, ABaselineThatWasStoppedEarlyIsNotCompared) {
  AddTrial(TrialKind::kPoint, {true}, 800);
  AddTrial(TrialKind::kBaseline16Bit, {true}, 900, /*all_questions=*/false);
  EXPECT_TRUE(Compare(0).empty());
}

TEST_F(ComparisonTest, OtherPointsAreNoBaselines) {
  AddTrial(TrialKind::kPoint, {true}, 800);
  AddTrial(TrialKind::kPoint, {false}, 700);
  EXPECT_TRUE(Compare(0).empty());
}

}  // namespace
}  // namespace hproc::controller
