#include "controller/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tests/controller/simulated_model.h"

namespace hproc::controller {
namespace {

constexpr int kTop = quant::kLadderSize - 1;

// A staircase below which everything is garbage, falling from upper left to lower right.
std::function<bool(FloorPair)> GarbageBelow(int strict, int lazy) {
  return [=](FloorPair at) { return at.strict < strict || at.lazy < lazy; };
}

// Accuracy that rises with both floors, one family counting more than the other.
std::function<int(FloorPair)> Rising(const PlanSpace& space, double strict_weight) {
  return [&space, strict_weight](FloorPair at) {
    const double deficit = strict_weight * space.StrictDeficit(at.strict) + space.LazyDeficit(at.lazy);
    return static_cast<int>(900 * std::max(0.0, 1 - deficit));
  };
}

int CountPurpose(const SimulatedStudy& study, Purpose purpose) {
  return static_cast<int>(std::ranges::count(study.purposes, purpose));
}

class SearchTest : public testing::Test {
 protected:
  std::unique_ptr<PlanSpace> space_ = MakeSimulatedSpace({});
  // Room for about four bits a weight.
  int64_t budget_ = space_->NeededBytes({250, 250});
  SearchSpec spec_ = WholePlane(*space_, budget_);
};

TEST_F(SearchTest, ThePredictedFrontierIsTheSetOfCornersThatBruteForceFinds) {
  SearchSpec spec = spec_;
  spec.lowest = {200, 180};
  spec.highest = {290, 300};
  std::vector<FloorPair> corners;
  const auto fits = [&](FloorPair at) { return space_->NeededBytes(at) <= budget_; };
  for (int strict = spec.lowest.strict; strict <= spec.highest.strict; ++strict) {
    for (int lazy = spec.lowest.lazy; lazy <= spec.highest.lazy; ++lazy) {
      if (!fits({strict, lazy})) continue;
      const bool higher_strict = strict < spec.highest.strict && fits({strict + 1, lazy});
      const bool higher_lazy = lazy < spec.highest.lazy && fits({strict, lazy + 1});
      if (!higher_strict && !higher_lazy) corners.push_back({strict, lazy});
    }
  }
  ASSERT_FALSE(corners.empty());
  EXPECT_EQ(PredictedFrontier(spec, *space_, budget_), corners);
}

TEST_F(SearchTest, ThePredictedFrontierIsEmptyWhereNotEvenTheLowestFloorsFit) {
  EXPECT_TRUE(PredictedFrontier(spec_, *space_, space_->NeededBytes(spec_.lowest) - 1).empty());
  EXPECT_THAT(PredictedFrontier(spec_, *space_, space_->NeededBytes(spec_.highest)), testing::ElementsAre(spec_.highest));
}

TEST_F(SearchTest, TheFirstTrialsLoadTheBoundaryFromOutside) {
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, {.budget = budget_});
  ASSERT_GE(study.facts.size(), 3u);
  EXPECT_EQ(study.purposes[0], Purpose::kOutsideStrict);
  EXPECT_EQ(study.purposes[1], Purpose::kOutsideLazy);
  EXPECT_EQ(study.purposes[2], Purpose::kCandidate);
  EXPECT_EQ(study.facts[0].reason, Reason::kOutOfMemory);
  EXPECT_EQ(study.facts[1].reason, Reason::kOutOfMemory);
  EXPECT_EQ(study.facts[2].state, TrialState::kComplete);
}

TEST_F(SearchTest, TheBoundaryIsKnownFromBothSidesAroundTheRecommendedPoint) {
  const SimulatedTruth truth{.budget = budget_, .correct = Rising(*space_, 1)};
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.ended);
  ASSERT_TRUE(study.done.recommended);
  const FloorPair best = study.facts[static_cast<size_t>(*study.done.recommended)].at;
  for (const bool strict : {true, false}) {
    const bool seen = std::ranges::any_of(study.facts, [&](const TrialFact& fact) {
      const bool on_ray = strict ? fact.at.lazy == best.lazy && fact.at.strict > best.strict
                                 : fact.at.strict == best.strict && fact.at.lazy > best.lazy;
      return on_ray && fact.reason == Reason::kOutOfMemory;
    });
    EXPECT_TRUE(seen) << (strict ? "strict" : "lazy");
  }
  EXPECT_EQ(study.done.bound, Bound::kOutOfMemory);
}

TEST_F(SearchTest, AWrongPredictionMovesTheWholeFrontierByWhatTheRunsLacked) {
  const SimulatedTruth truth{.budget = budget_, .overhead = budget_ / 50, .correct = Rising(*space_, 1)};
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.done.recommended);
  const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
  EXPECT_LE(best.measured_bytes, budget_);
  // Nothing is given away: what it leaves free is less than 1 % of the budget.
  EXPECT_GT(best.measured_bytes, budget_ - budget_ / 100);
  // One refusal is enough to learn by how much.
  const auto refused = std::ranges::count_if(study.facts, [](const TrialFact& fact) {
    return fact.reason == Reason::kOutOfMemory && fact.depth == Depth::kEvaluate;
  });
  EXPECT_EQ(refused, 1);
}

TEST_F(SearchTest, WhereTheHighestFloorsFitOneTrialIsEnough) {
  const int64_t all = space_->NeededBytes(spec_.highest);
  const SimulatedStudy study = RunSimulatedStudy(WholePlane(*space_, all), *space_, {.budget = all});
  ASSERT_TRUE(study.done.recommended);
  EXPECT_EQ(study.facts.size(), 1u);
  EXPECT_EQ(study.facts[0].at, spec_.highest);
  EXPECT_EQ(study.done.bound, Bound::kNone);
}

TEST_F(SearchTest, WhereNothingFitsOneLoadConfirmsItAndTheBoundIsMemory) {
  const int64_t little = space_->NeededBytes(spec_.lowest) / 2;
  SearchSpec spec = WholePlane(*space_, little);
  const SimulatedStudy study = RunSimulatedStudy(spec, *space_, {.budget = little});
  EXPECT_FALSE(study.done.recommended);
  EXPECT_EQ(study.done.bound, Bound::kOutOfMemory);
  EXPECT_FALSE(study.done.fault);
  EXPECT_THAT(study.purposes, testing::ElementsAre(Purpose::kLowestFits));

  spec.trust_plan = true;
  const SimulatedStudy trusting = RunSimulatedStudy(spec, *space_, {.budget = little});
  EXPECT_TRUE(trusting.facts.empty());
  EXPECT_EQ(trusting.done.bound, Bound::kOutOfMemory);
}

TEST_F(SearchTest, APredictionThatALoadContradictsIsAFault) {
  SearchSpec spec = WholePlane(*space_, space_->NeededBytes(spec_.lowest) / 2);
  const SimulatedStudy study = RunSimulatedStudy(spec, *space_, {.budget = budget_});
  EXPECT_FALSE(study.done.recommended);
  ASSERT_TRUE(study.done.fault);
  EXPECT_THAT(*study.done.fault, testing::HasSubstr("prediction is wrong"));
}

TEST_F(SearchTest, TrustingThePlanSpendsNoLoadOnTheBoundary) {
  SearchSpec spec = spec_;
  spec.trust_plan = true;
  const SimulatedStudy study = RunSimulatedStudy(spec, *space_, {.budget = budget_});
  ASSERT_TRUE(study.done.recommended);
  EXPECT_EQ(CountPurpose(study, Purpose::kOutsideStrict) + CountPurpose(study, Purpose::kOutsideLazy), 0);
}

TEST_F(SearchTest, GarbageAtTheHighestFloorsIsALoaderFaultAndEndsTheStudy) {
  const int64_t all = space_->NeededBytes(spec_.highest);
  const SimulatedTruth truth{.budget = all, .garbage = [](FloorPair) { return true; }};
  const SimulatedStudy study = RunSimulatedStudy(WholePlane(*space_, all), *space_, truth);
  EXPECT_FALSE(study.done.recommended);
  ASSERT_TRUE(study.done.fault);
  EXPECT_THAT(*study.done.fault, testing::HasSubstr("loader"));
}

TEST_F(SearchTest, ALostDeviceEndsTheStudy) {
  TrialFact lost{.number = 0, .at = {250, 250}, .digest = "x", .state = TrialState::kFailed, .reason = Reason::kDeviceLost};
  const SearchStep step = NextStep(spec_, *space_, std::vector{lost});
  ASSERT_TRUE(std::holds_alternative<SearchDone>(step));
  EXPECT_TRUE(std::get<SearchDone>(step).fault);
}

TEST_F(SearchTest, WhereEveryCandidateTalksGarbageThatIsTheBound) {
  const SimulatedTruth truth{.budget = budget_, .garbage = GarbageBelow(0, kTop)};
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.ended);
  EXPECT_FALSE(study.done.recommended);
  EXPECT_EQ(study.done.bound, Bound::kGarbageOutput);
}

TEST_F(SearchTest, WhereNoPointIsAccurateEnoughThatIsTheBound) {
  SearchSpec spec = spec_;
  spec.min_accuracy = 0.6;
  const SimulatedStudy study = RunSimulatedStudy(spec, *space_, {.budget = budget_});  // 500 of 1000 everywhere
  EXPECT_FALSE(study.done.recommended);
  EXPECT_EQ(study.done.bound, Bound::kAccuracy);
}

TEST_F(SearchTest, WhereEveryCandidateFailsTheStudyIsAtFaultNotThePoints) {
  SimulatedTruth truth{.budget = budget_};
  truth.accident = [](int, FloorPair) { return TrialState::kFailed; };
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.ended);
  EXPECT_FALSE(study.done.recommended);
  ASSERT_TRUE(study.done.fault);
  EXPECT_THAT(*study.done.fault, testing::HasSubstr("failed"));
}

TEST_F(SearchTest, OneFailedTrialIsPassedOverAndNotRepeated) {
  SimulatedTruth truth{.budget = budget_};
  truth.accident = [](int number, FloorPair) { return number == 2 ? TrialState::kFailed : TrialState::kWaiting; };
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.done.recommended);
  EXPECT_NE(*study.done.recommended, 2);
  const auto same = std::ranges::count(study.facts, study.facts[2].digest, &TrialFact::digest);
  EXPECT_EQ(same, 1);
}

TEST_F(SearchTest, TheGarbageEdgeIsBracketedToOneStepOfTheRay) {
  const SimulatedTruth truth{.budget = budget_, .garbage = GarbageBelow(100, 100)};
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.done.recommended);
  const FloorPair first = study.facts[2].at;
  // Along the diagonal ray of eight steps from (0, 0) to the first candidate.
  std::set<int> garbage;
  std::set<int> sensible = {8};
  for (size_t i = 0; i < study.facts.size(); ++i) {
    if (study.purposes[i] != Purpose::kGarbageEdge) continue;
    for (int step = 0; step < 8; ++step) {
      if (study.facts[i].at != FloorPair{first.strict * step / 8, first.lazy * step / 8}) continue;
      (study.facts[i].reason == Reason::kGarbageOutput ? garbage : sensible).insert(step);
    }
  }
  ASSERT_FALSE(garbage.empty());
  EXPECT_EQ(*garbage.rbegin() + 1, *sensible.begin());
  EXPECT_LE(CountPurpose(study, Purpose::kGarbageEdge), spec_.max_garbage_loads);
}

TEST_F(SearchTest, NoGarbageLoadIsSpentWhereNoneIsAllowed) {
  SearchSpec spec = spec_;
  spec.max_garbage_loads = 0;
  const SimulatedStudy study =
      RunSimulatedStudy(spec, *space_, {.budget = budget_, .garbage = GarbageBelow(100, 100)});
  EXPECT_EQ(CountPurpose(study, Purpose::kGarbageEdge), 0);
  EXPECT_TRUE(study.done.recommended);
}

TEST_F(SearchTest, NeverMoreCandidatesThanAllowed) {
  for (const int most : {1, 2, 5}) {
    SearchSpec spec = spec_;
    spec.max_candidates = most;
    const SimulatedStudy study = RunSimulatedStudy(spec, *space_, {.budget = budget_});
    EXPECT_LE(CountPurpose(study, Purpose::kCandidate), most);
    EXPECT_TRUE(study.done.recommended);
  }
}

TEST_F(SearchTest, ANewCandidateIsComparedWithTheBestSoFar) {
  const SimulatedTruth truth{.budget = budget_, .correct = Rising(*space_, 10)};
  std::vector<TrialFact> facts;
  int compared = 0;
  for (int number = 0; number < 100; ++number) {
    const SearchStep step = NextStep(spec_, *space_, facts);
    if (std::holds_alternative<SearchDone>(step)) break;
    const RunTrial& run = std::get<RunTrial>(step);
    const TrialFact* best = nullptr;
    for (const TrialFact& fact : facts) {
      if (fact.accuracy.all_questions && (best == nullptr || Better(fact, *best))) best = &fact;
    }
    if (run.purpose == Purpose::kCandidate) {
      EXPECT_EQ(run.incumbent, best == nullptr ? std::nullopt : std::optional<int>(best->number));
      compared += best != nullptr ? 1 : 0;
    } else {
      EXPECT_FALSE(run.incumbent);
    }
    facts.push_back(Simulate(*space_, truth, run, number));
  }
  EXPECT_GT(compared, 0);
}

TEST_F(SearchTest, TheSearchMovesTowardsTheFamilyThatCountsMore) {
  const auto recommended = [&](double strict_weight) {
    const SimulatedStudy study =
        RunSimulatedStudy(spec_, *space_, {.budget = budget_, .correct = Rising(*space_, strict_weight)});
    return study.facts.at(static_cast<size_t>(study.done.recommended.value())).at.strict;
  };
  EXPECT_GT(recommended(30), recommended(0.05));
}

TEST_F(SearchTest, ARefusalThatARunContradictsIsAnAlarmAndMovesNothing) {
  SimulatedTruth truth{.budget = budget_, .correct = Rising(*space_, 1)};
  const SimulatedStudy honest = RunSimulatedStudy(spec_, *space_, truth);
  // The third candidate is refused although the point fits, as where a neighbour holds memory for a while.
  int candidates = 0;
  int number = 0;
  for (size_t i = 0; i < honest.purposes.size(); ++i) {
    if (honest.purposes[i] == Purpose::kCandidate && ++candidates == 3) number = static_cast<int>(i);
  }
  ASSERT_GT(number, 0);
  truth.refused_by_mistake = [=](int n) { return n == number; };
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.done.recommended);
  EXPECT_EQ(study.facts[static_cast<size_t>(number)].reason, Reason::kOutOfMemory);
  const auto bytes = [&](const SimulatedStudy& of) {
    return of.facts[static_cast<size_t>(*of.done.recommended)].measured_bytes;
  };
  // A rung's worth of bytes at most.
  EXPECT_NEAR(static_cast<double>(bytes(study)), static_cast<double>(bytes(honest)), 0.01 * static_cast<double>(budget_));
}

TEST_F(SearchTest, WhatNeedsNoMoreThanARunThatFittedCannotBeRefused) {
  TrialFact ran = Simulate(*space_, {.budget = budget_}, {.at = {250, 250}, .depth = Depth::kEvaluate}, 0);
  TrialFact refused = Simulate(*space_, {.budget = 0}, {.at = {240, 250}, .depth = Depth::kLoad}, 1);
  const SearchStep step = NextStep(spec_, *space_, std::vector{ran, refused});
  // The frontier is still that of the whole budget: the next load lies outside of it.
  ASSERT_TRUE(std::holds_alternative<RunTrial>(step));
  EXPECT_GT(space_->NeededBytes(std::get<RunTrial>(step).at), budget_);

  SearchSpec no_more = spec_;
  no_more.max_candidates = 1;
  no_more.max_garbage_loads = 0;
  no_more.trust_plan = true;
  const SearchStep end = NextStep(no_more, *space_, std::vector{ran, refused});
  ASSERT_TRUE(std::holds_alternative<SearchDone>(end));
  EXPECT_THAT(std::get<SearchDone>(end).alarms, testing::ElementsAre(testing::HasSubstr("trial 1 ran out of memory")));
}

TEST_F(SearchTest, GarbageAboveASensiblePointIsAnAlarm) {
  const SimulatedTruth sensible{.budget = budget_};
  const SimulatedTruth garbage{.budget = budget_, .garbage = [](FloorPair) { return true; }};
  const std::vector<TrialFact> facts = {
      Simulate(*space_, sensible, {.at = {150, 150}, .depth = Depth::kEvaluate}, 0),
      Simulate(*space_, garbage, {.at = {160, 170}, .depth = Depth::kProbe}, 1)};
  SearchSpec spec = spec_;
  spec.max_candidates = 1;
  spec.max_garbage_loads = 0;
  spec.trust_plan = true;
  const SearchStep end = NextStep(spec, *space_, facts);
  ASSERT_TRUE(std::holds_alternative<SearchDone>(end));
  EXPECT_THAT(std::get<SearchDone>(end).alarms, testing::ElementsAre(testing::HasSubstr("trial 1 talked garbage")));
}

TEST_F(SearchTest, AnHonestStudyHasNoAlarms) {
  for (const Strategy strategy : {Strategy::kPredict, Strategy::kWalk, Strategy::kGrid}) {
    SearchSpec spec = spec_;
    spec.strategy = strategy;
    const SimulatedStudy study =
        RunSimulatedStudy(spec, *space_, {.budget = budget_, .garbage = GarbageBelow(100, 100)});
    EXPECT_THAT(study.done.alarms, testing::IsEmpty()) << StrategyName(strategy);
  }
}

// What the three strategies cost on one study, in loads: how many were spent before the fit frontier was known, and how
// close to it the recommended point is.
TEST_F(SearchTest, PredictingFindsTheFrontierInSixLoadsWhereWalkingTakesTenAndTheGridAHundred) {
  std::map<Strategy, SimulatedStudy> studies;
  const SimulatedTruth truth{.budget = budget_, .garbage = GarbageBelow(60, 60), .correct = Rising(*space_, 1)};
  for (const Strategy strategy : {Strategy::kPredict, Strategy::kWalk, Strategy::kGrid}) {
    SearchSpec spec = spec_;
    spec.strategy = strategy;
    studies[strategy] = RunSimulatedStudy(spec, *space_, truth);
    ASSERT_TRUE(studies[strategy].done.recommended) << StrategyName(strategy);
  }
  // predict: the boundary is proved from both sides by the first candidate and the two loads outside of it.
  const SimulatedStudy& predict = studies[Strategy::kPredict];
  const auto inside = std::ranges::find(predict.purposes, Purpose::kCandidate) - predict.purposes.begin();
  EXPECT_LE(inside + 1, 6);
  EXPECT_GE(studies[Strategy::kWalk].facts.size(), 10u);
  EXPECT_LE(studies[Strategy::kWalk].facts.size(), 19u);
  EXPECT_EQ(studies[Strategy::kGrid].facts.size(), 100u);
  // And it is no worse a point.
  const auto correct = [&](Strategy strategy) {
    const SimulatedStudy& study = studies[strategy];
    return study.facts[static_cast<size_t>(*study.done.recommended)].accuracy.strict_correct;
  };
  EXPECT_GE(correct(Strategy::kPredict), correct(Strategy::kWalk));
  EXPECT_GE(correct(Strategy::kPredict), correct(Strategy::kGrid));
}

TEST_F(SearchTest, TheWalkPassesEveryCornerOfTheLatticesFrontier) {
  SearchSpec walk = spec_;
  walk.strategy = Strategy::kWalk;
  SearchSpec grid = spec_;
  grid.strategy = Strategy::kGrid;
  const SimulatedTruth truth{.budget = budget_};
  const SimulatedStudy walked = RunSimulatedStudy(walk, *space_, truth);
  const SimulatedStudy all = RunSimulatedStudy(grid, *space_, truth);
  const auto fits = [](const TrialFact& fact) { return fact.state == TrialState::kComplete; };
  for (const TrialFact& corner : all.facts) {
    if (!fits(corner)) continue;
    const bool dominated = std::ranges::any_of(all.facts, [&](const TrialFact& other) {
      return fits(other) && other.at != corner.at && other.at.strict >= corner.at.strict && other.at.lazy >= corner.at.lazy;
    });
    if (dominated) continue;
    EXPECT_TRUE(std::ranges::any_of(walked.facts, [&](const TrialFact& fact) { return fact.at == corner.at && fits(fact); }))
        << corner.at.strict << ", " << corner.at.lazy;
  }
}

TEST(Purposes, EveryWordSaysHowFarItsTrialGoes) {
  EXPECT_EQ(DepthOf("candidate"), Depth::kEvaluate);
  EXPECT_EQ(DepthOf("walk_step"), Depth::kEvaluate);
  EXPECT_EQ(DepthOf("grid_point"), Depth::kEvaluate);
  EXPECT_EQ(DepthOf("garbage_edge"), Depth::kProbe);
  EXPECT_EQ(DepthOf("outside_strict"), Depth::kLoad);
  EXPECT_EQ(DepthOf("outside_lazy"), Depth::kLoad);
  EXPECT_EQ(DepthOf("lowest_fits"), Depth::kLoad);
  EXPECT_EQ(DepthOf("unheard of"), Depth::kLoad);
}

TEST(DenseSearch, ADenseModelIsSearchedAlongItsOneFloor) {
  const auto space = MakeSimulatedSpace({.lazy_weights = 0});
  const SearchSpec spec = WholePlane(*space, space->NeededBytes({250, kTop}));
  const SimulatedStudy study = RunSimulatedStudy(spec, *space, {.budget = spec.budget_bytes});
  ASSERT_TRUE(study.done.recommended);
  EXPECT_EQ(CountPurpose(study, Purpose::kOutsideLazy), 0);
  const FloorPair best = study.facts[static_cast<size_t>(*study.done.recommended)].at;
  EXPECT_GT(space->NeededBytes({best.strict + 1, best.lazy}), spec.budget_bytes);
}

// Whatever the model, the budget, the sense and the accidents: rules that hold for every study.
class AnyModel : public testing::TestWithParam<int> {};

TEST_P(AnyModel, IsSearchedSoundly) {
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto space = MakeSimulatedSpace({.strict_weights = int64_t{1024} * draw(64, 4096),
                                         .lazy_weights = int64_t{1024} * draw(0, 3) * draw(64, 8192),
                                         .kept_weights = int64_t{1024} * draw(1, 512),
                                         .others = int64_t{1024} * draw(0, 4096)});
  const int64_t budget = space->NeededBytes({draw(0, kTop), space->has_lazy() ? draw(0, kTop) : kTop});
  SearchSpec spec = WholePlane(*space, budget);
  spec.max_candidates = draw(1, 8);
  spec.max_garbage_loads = draw(0, 8);
  SimulatedTruth truth{.budget = budget};
  truth.overhead = draw(0, 2) == 0 ? budget * draw(0, 30) / 1000 : 0;
  truth.garbage = GarbageBelow(draw(0, 150), draw(0, 150));
  truth.correct = Rising(*space, 0.1 * draw(1, 60));
  spec.strategy = static_cast<Strategy>(draw(0, 9) == 0 ? 1 : 0);
  const int lie_at = draw(0, 3) == 0 ? draw(0, 12) : -1;
  truth.refused_by_mistake = [=](int number) { return number == lie_at; };
  const int accident_at = draw(0, 12);
  truth.accident = [=](int number, FloorPair) {
    return number == accident_at ? TrialState::kFailed : TrialState::kWaiting;
  };
  const SimulatedStudy study = RunSimulatedStudy(spec, *space, truth);

  ASSERT_TRUE(study.ended);
  std::set<std::string> digests;
  int loads_for_fit = 0;
  for (size_t i = 0; i < study.facts.size(); ++i) {
    const TrialFact& fact = study.facts[i];
    EXPECT_TRUE(digests.insert(fact.digest).second) << "trial " << i << " was run before";
    EXPECT_GE(fact.at.strict, spec.lowest.strict);
    EXPECT_LE(fact.at.strict, spec.highest.strict);
    if (fact.depth == Depth::kLoad) ++loads_for_fit;
  }
  // Three edges of two loads each at most, and the lowest floors.
  EXPECT_LE(loads_for_fit, 7);
  EXPECT_LE(CountPurpose(study, Purpose::kGarbageEdge), spec.max_garbage_loads);
  const auto looked_at = std::ranges::count_if(study.facts, [](const TrialFact& fact) {
    return fact.depth == Depth::kEvaluate && fact.reason != Reason::kOutOfMemory;
  });
  EXPECT_LE(looked_at, spec.strategy == Strategy::kPredict ? spec.max_candidates : 19);
  if (study.done.recommended) {
    const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
    EXPECT_EQ(best.state, TrialState::kComplete);
    EXPECT_LE(best.measured_bytes, budget);
    EXPECT_FALSE(truth.garbage(best.at));
    for (const TrialFact& fact : study.facts) {
      if (!fact.accuracy.all_questions) continue;
      EXPECT_LE(fact.accuracy.strict_correct, best.accuracy.strict_correct);
    }
  } else {
    EXPECT_TRUE(study.done.bound != Bound::kNone || study.done.fault);
    EXPECT_FALSE(study.done.why.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnyModel, testing::Range(0, 300));

TrialFact Complete(int number, int correct, double rate, int64_t bytes) {
  return {.number = number, .state = TrialState::kComplete, .depth = Depth::kEvaluate, .measured_bytes = bytes,
          .accuracy = {.total = 1000, .strict_correct = correct, .all_questions = true}, .decode_tok_per_s = rate,
          .decode_error = 1};
}

TEST(Better, MoreRightAnswersComeFirstThenAClearlyHigherRateThenFewerBytesThenHigherFloors) {
  EXPECT_TRUE(Better(Complete(0, 501, 10, 900), Complete(1, 500, 1000, 100)));
  EXPECT_TRUE(Better(Complete(0, 500, 110, 900), Complete(1, 500, 100, 100)));
  // Within twice its error a higher rate says nothing.
  EXPECT_TRUE(Better(Complete(0, 500, 100, 100), Complete(1, 500, 102, 900)));
  TrialFact high = Complete(0, 500, 100, 100);
  high.at = {2, 2};
  TrialFact low = Complete(1, 500, 100, 100);
  low.at = {1, 1};
  EXPECT_TRUE(Better(high, low));
  EXPECT_FALSE(Better(low, high));
}

TEST(ParetoFrontier, HoldsWhatNoOtherDominatesAndNothingStoppedEarly) {
  TrialFact stopped = Complete(3, 999, 999, 1);
  stopped.accuracy.all_questions = false;
  const std::vector<TrialFact> facts = {
      Complete(0, 700, 100, 500),  // on it: the most accurate
      Complete(1, 650, 200, 500),  // on it: faster
      Complete(2, 650, 150, 500),  // dominated by 1
      stopped,                     // its rate is no accuracy
      Complete(4, 600, 100, 300),  // on it: smaller
      Complete(5, 600, 100, 300),  // its equal
  };
  EXPECT_THAT(ParetoFrontier(facts), testing::ElementsAre(0, 1, 4, 5));
}

}  // namespace
}  // namespace hproc::controller
