#include "controller/screening.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace hproc::controller {
namespace {

Answer At(int question, bool right, std::string stage = "full") {
  Answer answer;
  answer.stage = std::move(stage);
  answer.question = question;
  answer.strict_correct = right;
  return answer;
}

std::vector<Answer> AllRight(int questions) {
  std::vector<Answer> answers;
  for (int q = 0; q < questions; ++q) answers.push_back(At(q, true));
  return answers;
}

// How many answers it took to stop; none where all questions were asked.
std::optional<int> StopsAfter(Screening& screening, int questions, const std::function<bool(int)>& right) {
  for (int q = 0; q < questions; ++q) {
    if (screening.Add(At(q, right(q)))) return q + 1;
  }
  return std::nullopt;
}

TEST(Screening, WithoutAnIncumbentOrAFloorAllQuestionsAreAsked) {
  Screening screening({}, 1000, 0);
  EXPECT_EQ(StopsAfter(screening, 1000, [](int) { return false; }), std::nullopt);
  EXPECT_TRUE(screening.why().empty());
}

TEST(Screening, APointThatLosesEveryQuestionIsDroppedAfterTheElevenThatWaldsTestTakes) {
  const std::vector<Answer> incumbent = AllRight(1000);
  Screening screening(incumbent, 1000, 0);
  EXPECT_EQ(StopsAfter(screening, 1000, [](int) { return false; }), 11);
  EXPECT_THAT(screening.why(), testing::HasSubstr("clearly worse"));
}

TEST(Screening, QuestionsThatBothGetRightDecideNothingUntilTheScreenEnds) {
  const std::vector<Answer> incumbent = AllRight(1000);
  Screening screening(incumbent, 1000, 0);
  EXPECT_EQ(StopsAfter(screening, 1000, [](int) { return true; }), kScreenQuestions);
  EXPECT_THAT(screening.why(), testing::HasSubstr("no better"));
}

TEST(Screening, APointThatWinsOneQuestionMoreThanItLosesGoesOnToAllOfThem) {
  std::vector<Answer> incumbent = AllRight(1000);
  for (const int q : {3, 60, 61, 150}) incumbent[static_cast<size_t>(q)].strict_correct = false;
  Screening screening(incumbent, 1000, 0);
  // Wins the four above, loses three others.
  EXPECT_EQ(StopsAfter(screening, 1000, [](int q) { return q != 10 && q != 20 && q != 30; }), std::nullopt);
}

TEST(Screening, WhereTheScreenIsTheWholeSetNothingIsSavedByStopping) {
  const std::vector<Answer> incumbent = AllRight(kScreenQuestions);
  Screening screening(incumbent, kScreenQuestions, 0);
  EXPECT_EQ(StopsAfter(screening, kScreenQuestions, [](int) { return true; }), std::nullopt);
}

TEST(Screening, QuestionsTheIncumbentDidNotAnswerAreNotCompared) {
  const std::vector<Answer> incumbent = AllRight(5);
  Screening screening(incumbent, 1000, 0);
  EXPECT_EQ(StopsAfter(screening, 150, [](int) { return false; }), std::nullopt);
}

TEST(Screening, AnswersToProbesAreNotTheIncumbents) {
  std::vector<Answer> incumbent;
  for (int q = 0; q < 100; ++q) incumbent.push_back(At(q, true, "probe"));
  Screening screening(incumbent, 1000, 0);
  EXPECT_EQ(StopsAfter(screening, 100, [](int) { return false; }), std::nullopt);
}

TEST(Screening, SeedsAreComparedWithTheSameSeed) {
  std::vector<Answer> incumbent = AllRight(100);  // seed 0
  Screening screening(incumbent, 1000, 0);
  for (int q = 0; q < 100; ++q) {
    Answer answer = At(q, false);
    answer.seed = 1;
    ASSERT_FALSE(screening.Add(answer));
  }
}

TEST(Screening, BelowTheAccuracyAskedForItStopsAndNeverAboveIt) {
  Screening below({}, 10000, 0.7);
  const std::optional<int> stopped = StopsAfter(below, 10000, [](int q) { return q % 2 == 0; });  // a rate of 0.5
  ASSERT_TRUE(stopped);
  EXPECT_LT(*stopped, 200);
  EXPECT_THAT(below.why(), testing::HasSubstr("below the accuracy"));
  Screening above({}, 10000, 0.7);
  EXPECT_EQ(StopsAfter(above, 10000, [](int q) { return q % 5 != 0; }), std::nullopt);  // a rate of 0.8
}

TEST(Screening, OnceStoppedItStaysStopped) {
  const std::vector<Answer> incumbent = AllRight(1000);
  Screening screening(incumbent, 1000, 0);
  StopsAfter(screening, 1000, [](int) { return false; });
  const std::string why = screening.why();
  EXPECT_TRUE(screening.Add(At(500, true)));
  EXPECT_EQ(screening.why(), why);
}

// The header's promise: with a lead of five points in a hundred a better point is dropped about one time in twenty. The
// two are right on 5 % of the questions alone and 10 % the other way round, so that the difference over 200 questions has
// mean 10 and standard deviation sqrt(200 * (0.15 - 0.05^2)) = 5.4: P(won <= lost) = P(Z <= (0.5 - 10) / 5.4) = 0.04.
// Wald's test on top of it drops hardly any. Of 2000 studies 80 are expected with a deviation of 9.
TEST(Screening, APointBetterByFivePointsIsSeldomDropped) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> uniform(0, 1);
  int dropped = 0;
  for (int study = 0; study < 2000; ++study) {
    std::vector<Answer> incumbent;
    std::vector<bool> ours;
    for (int q = 0; q < 1000; ++q) {
      const double draw = uniform(random);
      const bool only_ours = draw < 0.10;
      const bool only_theirs = draw >= 0.10 && draw < 0.15;
      const bool both = draw >= 0.15 && draw < 0.85;
      incumbent.push_back(At(q, only_theirs || both));
      ours.push_back(only_ours || both);
    }
    Screening screening(incumbent, 1000, 0);
    dropped += StopsAfter(screening, 1000, [&](int q) { return ours[static_cast<size_t>(q)]; }) ? 1 : 0;
  }
  EXPECT_GT(dropped, 80 - 4 * 9);
  EXPECT_LT(dropped, 80 + 4 * 9);
}

// ---- sense ----

evals::GarbageCalibration ReferenceWith(double right_rate) {
  evals::GarbageCalibration reference;
  reference.probes = 16;
  reference.right_rate = right_rate;
  return reference;
}

Answer Question(bool right) {
  Answer answer;
  answer.stage = "smoke";
  answer.flexible_correct = right;
  return answer;
}

// Share of 2,000 models of that rate that are found to talk garbage within 200 questions, and how many are found out at all.
std::pair<double, double> FoundGarbage(double reference, double rate) {
  std::mt19937 random(7);
  std::bernoulli_distribution right(rate);
  int garbage = 0;
  int decided = 0;
  for (int model = 0; model < 2000; ++model) {
    SenseTest test = *SenseTest::Create(ReferenceWith(reference));
    SenseTest::Finding finding{};
    for (int q = 0; q < 200 && finding == SenseTest::Finding::kUndecided; ++q) finding = test.Add(Question(right(random)));
    garbage += finding == SenseTest::Finding::kGarbage ? 1 : 0;
    decided += finding != SenseTest::Finding::kUndecided ? 1 : 0;
  }
  return {garbage / 2000.0, decided / 2000.0};
}

TEST(SenseTest, IsWrongOnceInTwentyTimesAtMost) {
  // Wald's bounds hold for the errors up to alpha / (1 - beta); three standard errors of 2,000 trials beyond.
  const double bound = 0.05 / 0.95 + 3 * std::sqrt(0.05 * 0.95 / 2000);
  for (const double reference : {0.25, 0.5, 0.8, 1.0}) {
    EXPECT_LT(FoundGarbage(reference, reference / 2).first, bound) << reference;
    EXPECT_LT(FoundGarbage(reference, reference).first, 0.01) << reference;
    EXPECT_GT(FoundGarbage(reference, reference / 8).first, 1 - bound) << reference;
    EXPECT_EQ(FoundGarbage(reference, 0).first, 1) << reference;
    EXPECT_GT(FoundGarbage(reference, reference / 4).second, 0.95) << "decides in time: " << reference;
  }
}

TEST(SenseTest, IsNotHadWhereTheReferenceGetsNextToNothingRight) {
  EXPECT_FALSE(SenseTest::Create(ReferenceWith(0.24)).has_value());
  EXPECT_FALSE(SenseTest::Create({}).has_value());
}

}  // namespace
}  // namespace hproc::controller
