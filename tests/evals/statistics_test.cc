// Expected values were computed with exact rationals and the closed formulas in another language.
#include "evals/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <thread>
#include <vector>

namespace hproc::evals {
namespace {

TEST(LogChoose, CountsTheWays) {
  EXPECT_EQ(std::lround(std::exp(LogChoose(5, 2))), 10);
  EXPECT_EQ(LogChoose(7, 0), 0);
  EXPECT_EQ(LogChoose(7, 7), 0);
  EXPECT_EQ(LogChoose(0, 0), 0);
  EXPECT_NEAR(LogChoose(2000, 1000), 1382.267993537480, 1e-10);
}

// What several trials in flight do; a data race is for the thread sanitizer to see.
TEST(LogChoose, MayBeAskedByThreadsBesideEachOther) {
  std::vector<double> sums(2);
  {
    std::vector<std::jthread> threads;
    for (double& sum : sums) {
      threads.emplace_back([&sum] {
        for (int k = 0; k <= 100; ++k) sum += std::exp(LogChoose(100, k));
      });
    }
  }
  for (const double sum : sums) EXPECT_NEAR(sum / std::exp2(100), 1, 1e-12);
}

TEST(WilsonInterval, MatchesPublishedScores) {
  EXPECT_NEAR(WilsonInterval(1246, 1319).low, 0.9309746362170733, 1e-12);
  EXPECT_NEAR(WilsonInterval(1246, 1319).high, 0.9557529396223797, 1e-12);
  EXPECT_NEAR(WilsonInterval(880, 1319).low, 0.6412884764864202, 1e-12);
  EXPECT_NEAR(WilsonInterval(880, 1319).high, 0.6920848065018141, 1e-12);
  EXPECT_NEAR(WilsonInterval(190, 200).low, 0.9104218518612239, 1e-12);
  EXPECT_NEAR(WilsonInterval(190, 200).high, 0.972617354399236, 1e-12);
}

TEST(WilsonInterval, HasAWidthAtNoneAndAtAll) {
  EXPECT_EQ(WilsonInterval(0, 20).low, 0);
  EXPECT_NEAR(WilsonInterval(0, 20).high, 0.16112515805281938, 1e-12);
  EXPECT_NEAR(WilsonInterval(20, 20).low, 0.8388748419471806, 1e-12);
  EXPECT_EQ(WilsonInterval(20, 20).high, 1);
  EXPECT_NEAR(WilsonInterval(1, 1).low, 0.20654931437723745, 1e-12);
}

TEST(WilsonInterval, OfNothingIsEverything) {
  EXPECT_EQ(WilsonInterval(0, 0).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(WilsonInterval, WidensWithTheConfidence) {
  EXPECT_NEAR(WilsonInterval(5, 10).low, 0.236593090512564, 1e-12);
  EXPECT_NEAR(WilsonInterval(5, 10, 2.5758293035489004).low, 0.1842255182472355, 1e-12);
  EXPECT_NEAR(WilsonInterval(5, 10, 2.5758293035489004).high, 0.8157744817527646, 1e-12);
}

TEST(StandardError, IsThatOfTheSampleMean) {
  EXPECT_NEAR(StandardError(1246, 1319), 0.006298221796179541, 1e-15);
  EXPECT_NEAR(StandardError(5, 10), 1.0 / 6, 1e-15);
  EXPECT_EQ(StandardError(0, 20), 0);
  EXPECT_EQ(StandardError(20, 20), 0);
  EXPECT_EQ(StandardError(1, 1), 0);
}

TEST(McNemar, IsTheBinomialTestOfTheDiscordantPairs) {
  struct Case {
    int first, second;
    double exact_p, mid_p;
  };
  for (const Case& c :
       {Case{1, 0, 1, 0.5}, Case{5, 0, 0.0625, 0.03125}, Case{6, 2, 0.2890625, 0.1796875},
        Case{3, 12, 0.03515625, 0.021270751953125},
        Case{59, 6, 4.964650327128617e-12, 2.72580319860688e-12},
        Case{11, 10, 1, 0.8318119049072266},
        Case{700, 800, 0.010559255466711544, 0.009824629369101714}}) {
    EXPECT_NEAR(McNemar(c.first, c.second).exact_p, c.exact_p, 1e-9 * c.exact_p)
        << c.first << " " << c.second;
    EXPECT_NEAR(McNemar(c.first, c.second).mid_p, c.mid_p, 1e-9 * c.mid_p)
        << c.first << " " << c.second;
    EXPECT_EQ(McNemar(c.first, c.second).exact_p, McNemar(c.second, c.first).exact_p);
  }
}

TEST(McNemar, SeesNoDifferenceInATieOrInNothing) {
  EXPECT_DOUBLE_EQ(McNemar(0, 0).exact_p, 1);
  EXPECT_DOUBLE_EQ(McNemar(0, 0).mid_p, 1);
  EXPECT_DOUBLE_EQ(McNemar(10, 10).exact_p, 1);
  EXPECT_NEAR(McNemar(10, 10).mid_p, 1, 1e-12);
}

Sprt MakeSprt(const SprtSpec& spec = {}) { return *Sprt::Create(spec); }

TEST(Sprt, HasWaldsBounds) {
  EXPECT_NEAR(MakeSprt().upper_bound(), 2.944438979166440, 1e-12);  // ln 19
  EXPECT_NEAR(MakeSprt().lower_bound(), -2.944438979166440, 1e-12);
  const Sprt uneven = MakeSprt({.alpha = 0.01, .beta = 0.2});
  EXPECT_NEAR(uneven.upper_bound(), 4.382026634673881, 1e-12);   // ln 80
  EXPECT_NEAR(uneven.lower_bound(), -1.599387576580599, 1e-12);  // ln(0.2 / 0.99)
}

TEST(Sprt, AcceptsAfterTwelveRightAndRejectsAfterNineWrong) {
  // ln 19 / ln 1.3 = 11.2; ln 19 / -ln 0.7 = 8.3
  Sprt right = MakeSprt();
  for (int i = 0; i < 11; ++i) EXPECT_EQ(right.Add(true), SprtDecision::kContinue) << i;
  EXPECT_EQ(right.Add(true), SprtDecision::kAcceptH1);
  Sprt wrong = MakeSprt();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(wrong.Add(false), SprtDecision::kContinue) << i;
  EXPECT_EQ(wrong.Add(false), SprtDecision::kAcceptH0);
}

TEST(Sprt, KeepsItsDecision) {
  Sprt test = MakeSprt();
  while (test.Add(true) == SprtDecision::kContinue) {
  }
  for (int i = 0; i < 100; ++i) EXPECT_EQ(test.Add(false), SprtDecision::kAcceptH1);
  EXPECT_EQ(test.observations(), 12);
}

TEST(Sprt, RatioDependsOnTheCountsNotOnTheirOrder) {
  Sprt a = MakeSprt();
  Sprt b = MakeSprt();
  for (const bool success : {true, true, true, false, false}) a.Add(success);
  for (const bool success : {false, true, false, true, true}) b.Add(success);
  EXPECT_EQ(a.log_likelihood_ratio(), b.log_likelihood_ratio());
  EXPECT_NEAR(a.log_likelihood_ratio(), 0.073742905525008, 1e-12);  // 3 ln 1.3 + 2 ln 0.7
}

TEST(Sprt, RefusesHypothesesItCannotTellApart) {
  EXPECT_FALSE(Sprt::Create({.p0 = 0.6, .p1 = 0.6}).ok());
  EXPECT_FALSE(Sprt::Create({.p0 = 0.7, .p1 = 0.6}).ok());
  EXPECT_FALSE(Sprt::Create({.p0 = 0, .p1 = 0.6}).ok());
  EXPECT_FALSE(Sprt::Create({.p0 = 0.5, .p1 = 1}).ok());
  EXPECT_FALSE(Sprt::Create({.alpha = 0}).ok());
  EXPECT_FALSE(Sprt::Create({.alpha = 0.5, .beta = 0.5}).ok());
  EXPECT_FALSE(Sprt::Create({.p0 = 0.0 / 0.0}).ok());
}

// Exact behaviour of a test on answers that are right with chance p: the expected number of
// questions and the chance of accepting H1, summed over all sequences, which by the previous rule
// only their counts tell apart.
struct Behaviour {
  double questions = 0;
  double accepted = 0;
};

Behaviour ExactBehaviour(const Sprt& fresh, double p) {
  Behaviour behaviour;
  std::map<int, std::pair<Sprt, double>> open;  // by the number right
  open.emplace(0, std::pair(fresh, 1.0));
  for (int asked = 1; asked <= 2000; ++asked) {
    std::map<int, std::pair<Sprt, double>> next;
    for (const auto& [right, state] : open) {
      for (const bool success : {true, false}) {
        Sprt test = state.first;
        const double chance = state.second * (success ? p : 1 - p);
        const SprtDecision decision = test.Add(success);
        if (decision == SprtDecision::kContinue) {
          next.try_emplace(right + (success ? 1 : 0), test, 0.0).first->second.second += chance;
        } else {
          behaviour.questions += asked * chance;
          behaviour.accepted += decision == SprtDecision::kAcceptH1 ? chance : 0;
        }
      }
    }
    open = std::move(next);
  }
  return behaviour;
}

TEST(Sprt, NeedsFewQuestionsAwayFromTheThresholdAndErrsAsRarelyAsAsked) {
  const Sprt test = MakeSprt({.p0 = 0.50, .p1 = 0.65, .alpha = 0.05, .beta = 0.05});
  EXPECT_NEAR(ExactBehaviour(test, 0.90).questions, 15.3245, 1e-3);
  EXPECT_NEAR(ExactBehaviour(test, 0.75).questions, 28.5310, 1e-3);
  EXPECT_NEAR(ExactBehaviour(test, 0.667).questions, 52.2648, 1e-3);
  EXPECT_NEAR(ExactBehaviour(test, 0.50).questions, 59.9090, 1e-3);
  EXPECT_NEAR(ExactBehaviour(test, 0.05).questions, 9.5883, 1e-3);
  EXPECT_NEAR(ExactBehaviour(test, 0.50).accepted, 0.044655, 1e-5);      // below alpha
  EXPECT_NEAR(1 - ExactBehaviour(test, 0.65).accepted, 0.043257, 1e-5);  // below beta
}

TEST(PairedSprt, IgnoresQuestionsThatBothOrNeitherGotRight) {
  PairedSprt test = *PairedSprt::Create();
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(test.Add(true, true), PairedDecision::kContinue);
    EXPECT_EQ(test.Add(false, false), PairedDecision::kContinue);
  }
  EXPECT_EQ(test.pairs(), 1000);
  EXPECT_EQ(test.discordant(), 0);
}

TEST(PairedSprt, DropsACandidateThatOnlyLosesAndKeepsOneThatOnlyWins) {
  PairedSprt loser = *PairedSprt::Create();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(loser.Add(false, true), PairedDecision::kContinue) << i;
  EXPECT_EQ(loser.Add(false, true), PairedDecision::kWorse);
  PairedSprt winner = *PairedSprt::Create();
  for (int i = 0; i < 7; ++i) EXPECT_EQ(winner.Add(true, false), PairedDecision::kContinue) << i;
  EXPECT_EQ(winner.Add(true, false), PairedDecision::kNotWorse);
}

TEST(PairedSprt, KeepsItsDecision) {
  PairedSprt test = *PairedSprt::Create();
  for (int i = 0; i < 50; ++i) test.Add(false, true);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(test.Add(true, false), PairedDecision::kWorse);
  EXPECT_EQ(test.pairs(), 11);
}

TEST(PairedSprt, CannotTellAfterFewDiscordantQuestions) {
  PairedSprt test = *PairedSprt::Create();
  for (int i = 0; i < 8; ++i) {
    test.Add(true, false);
    test.Add(false, true);
  }
  EXPECT_EQ(test.decision(), PairedDecision::kContinue);
}

TEST(PairedSprt, RefusesHypothesesItCannotTellApart) {
  EXPECT_FALSE(PairedSprt::Create({.worse = 0.5, .equal = 0.5}).ok());
}

}  // namespace
}  // namespace hproc::evals
