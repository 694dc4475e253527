#include "controller/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "controller/search_evidence.h"
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

bool IsRefusal(const TrialFact& fact) { return fact.reason == Reason::kOutOfMemory; }

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

// A model of random weights: its points are loaded and timed, from both sides of the frontier, and nothing else is asked.
TEST_F(SearchTest, WhereNothingIsJudgedTheFrontierIsFoundByLoadsAndTheFirstPointThatFitsIsTaken) {
  spec_.judges = false;
  for (const int64_t overhead : {int64_t{0}, budget_ / 50}) {
    const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, {.budget = budget_, .overhead = overhead});
    ASSERT_TRUE(study.ended && study.done.recommended);
    EXPECT_EQ(study.done.bound, Bound::kOutOfMemory);
    EXPECT_EQ(CountPurpose(study, Purpose::kGarbageEdge), 0);
    const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
    EXPECT_LE(best.measured_bytes, budget_);
    EXPECT_GT(best.measured_bytes, budget_ - budget_ / 100);
    EXPECT_EQ(std::ranges::count_if(study.facts, [](const TrialFact& fact) {
                return fact.depth == Depth::kEvaluate && fact.state == TrialState::kComplete;
              }), 1) << "what fits is not told apart by timing alone";
    EXPECT_LE(study.facts.size(), overhead == 0 ? 3u : 8u);
  }
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

TEST_F(SearchTest, APredictionThatIsTooHighIsCorrectedByTheLoadsOutsideOfIt) {
  const int64_t less = budget_ / 20;
  const SimulatedTruth truth{.budget = budget_, .overhead = -less, .correct = Rising(*space_, 1)};
  const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth);
  ASSERT_TRUE(study.done.recommended);
  const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
  EXPECT_GT(best.measured_bytes, budget_ - budget_ / 100);
  EXPECT_LE(best.measured_bytes, budget_);
  EXPECT_EQ(study.done.bound, Bound::kOutOfMemory);
  EXPECT_TRUE(std::ranges::any_of(study.facts, IsRefusal));
}

TEST_F(SearchTest, WhereThePredictionLetsNothingFitTheLowestFloorsAreTriedAllTheSame) {
  const int64_t lowest = space_->NeededBytes(spec_.lowest);
  const int64_t little = lowest - lowest / 100;
  const SimulatedStudy study =
      RunSimulatedStudy(WholePlane(*space_, little), *space_, {.budget = little, .overhead = -(lowest / 20)});
  ASSERT_TRUE(study.done.recommended);
  EXPECT_EQ(study.purposes[0], Purpose::kLowestFits);
  EXPECT_FALSE(study.done.fault);
}

TEST_F(SearchTest, WhereOnlyTheLowestFloorsWereTriedAndFailedNothingIsSaidOfMemory) {
  SimulatedTruth truth{.budget = budget_};
  truth.accident = [](int, FloorPair) { return TrialState::kFailed; };
  const int64_t little = space_->NeededBytes(spec_.lowest) / 2;
  const SimulatedStudy study = RunSimulatedStudy(WholePlane(*space_, little), *space_, truth);
  EXPECT_FALSE(study.done.recommended);
  EXPECT_TRUE(study.done.fault);
}

TEST_F(SearchTest, ARefusalWhileLoadingThatWasPredictedMovesNothing) {
  // Loading takes more than all that is held afterwards.
  const auto space = MakeSimulatedSpace({.others = 1 << 18, .workspace = 1 << 20});
  const int64_t budget = space->NeededBytes({250, 250});
  const SimulatedStudy study = RunSimulatedStudy(WholePlane(*space, budget), *space, {.budget = budget});
  ASSERT_TRUE(study.done.recommended);
  const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
  EXPECT_GT(space->NeededBytes(best.at), budget - budget / 100);
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

TEST_F(SearchTest, AFailedTrialThatWasRunAgainCountsAsItEndedLast) {
  SimulatedTruth truth{.budget = budget_};
  TrialFact failed = Simulate(*space_, truth, {.at = {250, 250}, .depth = Depth::kEvaluate}, 0);
  failed.state = TrialState::kFailed;
  failed.reason = Reason::kLoaderFault;
  const TrialFact again = Simulate(*space_, truth, {.at = {250, 250}, .depth = Depth::kEvaluate}, 1);
  const SearchStep faulty = NextStep(spec_, *space_, std::vector{failed});
  ASSERT_TRUE(std::holds_alternative<SearchDone>(faulty));
  EXPECT_TRUE(std::get<SearchDone>(faulty).fault);
  EXPECT_TRUE(std::holds_alternative<RunTrial>(NextStep(spec_, *space_, std::vector{failed, again})));
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
  EXPECT_EQ(DepthOf("lowest_fits"), Depth::kEvaluate);
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

// A model, a budget, sense and accidents, drawn from a seed.
struct DrawnStudy {
  explicit DrawnStudy(int seed);
  std::unique_ptr<PlanSpace> space;
  SearchSpec spec;
  SimulatedTruth truth;
  bool is_honest = false;  // no refusal by mistake and no accident
};

DrawnStudy::DrawnStudy(int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  space = MakeSimulatedSpace({.strict_weights = int64_t{1024} * draw(64, 4096),
                              .lazy_weights = int64_t{1024} * draw(0, 3) * draw(64, 8192),
                              .kept_weights = int64_t{1024} * draw(1, 512),
                              .others = int64_t{1024} * draw(0, 4096),
                              .workspace = int64_t{1024} * draw(0, 4096)});
  const int64_t budget = space->NeededBytes({draw(0, kTop), space->has_lazy() ? draw(0, kTop) : kTop});
  spec = WholePlane(*space, budget);
  spec.max_candidates = draw(1, 8);
  spec.max_garbage_loads = draw(0, 8);
  truth = {.budget = budget};
  truth.overhead = draw(0, 2) == 0 ? budget * draw(-60, 30) / 1000 : 0;
  truth.garbage = GarbageBelow(draw(0, 150), draw(0, 150));
  truth.correct = Rising(*space, 0.1 * draw(1, 60));
  spec.strategy = static_cast<Strategy>(draw(0, 9) == 0 ? 1 : 0);
  const int lie_at = draw(0, 3) == 0 ? draw(0, 12) : -1;
  truth.refused_by_mistake = [=](int number) { return number == lie_at; };
  const int accident_at = draw(0, 12);
  truth.accident = [=](int number, FloorPair) {
    return number == accident_at ? TrialState::kFailed : TrialState::kWaiting;
  };
  is_honest = lie_at < 0;
}

// Rules that hold for every study, however many of its trials are in flight.
void ExpectSound(const DrawnStudy& drawn, const SimulatedStudy& study) {
  const SearchSpec& spec = drawn.spec;
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
  // Two edges of two loads each, and again where the prediction had to learn; six where it is right.
  EXPECT_LE(loads_for_fit, drawn.truth.overhead == 0 && drawn.is_honest ? 6 : 10);
  EXPECT_LE(CountPurpose(study, Purpose::kGarbageEdge), spec.max_garbage_loads);
  const auto looked_at = std::ranges::count_if(study.facts, [](const TrialFact& fact) {
    return fact.depth == Depth::kEvaluate && fact.reason != Reason::kOutOfMemory;
  });
  EXPECT_LE(looked_at, spec.strategy == Strategy::kPredict ? spec.max_candidates : 19);
  if (study.done.recommended) {
    const TrialFact& best = study.facts[static_cast<size_t>(*study.done.recommended)];
    EXPECT_EQ(best.state, TrialState::kComplete);
    EXPECT_LE(best.measured_bytes, drawn.truth.budget);
    EXPECT_FALSE(drawn.truth.garbage(best.at));
    for (const TrialFact& fact : study.facts) {
      if (!fact.accuracy.all_questions) continue;
      EXPECT_LE(fact.accuracy.strict_correct, best.accuracy.strict_correct);
    }
  } else {
    EXPECT_TRUE(study.done.bound != Bound::kNone || study.done.fault);
    EXPECT_FALSE(study.done.why.empty());
  }
}

class AnyModel : public testing::TestWithParam<int> {};

TEST_P(AnyModel, IsSearchedSoundly) {
  const DrawnStudy drawn(GetParam());
  ExpectSound(drawn, RunSimulatedStudy(drawn.spec, *drawn.space, drawn.truth));
}

TEST_P(AnyModel, IsSearchedSoundlyWithTrialsInFlightAndTheirOrderMovesNoFrontier) {
  DrawnStudy drawn(GetParam());
  for (const int parallel : {2, 4}) {
    SCOPED_TRACE(parallel);
    ExpectSound(drawn, RunSimulatedStudy(drawn.spec, *drawn.space, drawn.truth, parallel, static_cast<unsigned>(GetParam())));
  }
  // Accidents and lies strike by number, so that another order is another study.
  drawn.truth.accident = {};
  drawn.truth.refused_by_mistake = [](int) { return false; };
  const SimulatedStudy one = RunSimulatedStudy(drawn.spec, *drawn.space, drawn.truth);
  const auto frontier = [&](const SimulatedStudy& study) {
    return PredictedFrontier(drawn.spec, *drawn.space, Evidence(drawn.spec, *drawn.space, study.facts).limit_bytes());
  };
  // What is known of the rays on which the garbage frontier is looked for.
  const auto expect_as_much_known = [&](const SimulatedStudy& many) {
    const Evidence known(drawn.spec, *drawn.space, one.facts);
    const Evidence also(drawn.spec, *drawn.space, many.facts);
    for (size_t i = 0; i < one.facts.size(); ++i) {
      if (one.purposes[i] != Purpose::kGarbageEdge) continue;
      EXPECT_EQ(also.KnownGarbage(one.facts[i].at), known.KnownGarbage(one.facts[i].at)) << i;
    }
  };
  for (const int parallel : {2, 4}) {
    const SimulatedStudy many = RunSimulatedStudy(drawn.spec, *drawn.space, drawn.truth, parallel, static_cast<unsigned>(GetParam()));
    SCOPED_TRACE(parallel);
    EXPECT_EQ(frontier(many), frontier(one));
    if (drawn.truth.overhead == 0) {
      expect_as_much_known(many);
    }
    EXPECT_EQ(many.done.bound, one.done.bound);
    EXPECT_EQ(many.done.recommended.has_value(), one.done.recommended.has_value());
  }
}

TEST_F(SearchTest, TwoInFlightCostFewLoadsMoreThanOne) {
  int loads[2] = {0, 0};
  int least_correct = 0;
  for (int seed = 0; seed < 40; ++seed) {
    const SimulatedTruth truth{.budget = budget_, .garbage = GarbageBelow(60, 60), .correct = Rising(*space_, 1)};
    for (const int parallel : {1, 2}) {
      const SimulatedStudy study = RunSimulatedStudy(spec_, *space_, truth, parallel, static_cast<unsigned>(seed));
      ASSERT_TRUE(study.done.recommended);
      EXPECT_EQ(study.most_in_flight, parallel);
      loads[parallel - 1] += static_cast<int>(study.facts.size());
      const int correct = study.facts[static_cast<size_t>(*study.done.recommended)].accuracy.strict_correct;
      if (parallel == 1) least_correct = correct;
      EXPECT_GE(correct, least_correct - 5) << "of a thousand, for want of what the first had taught";
    }
  }
  RecordProperty("loads_one_in_flight", loads[0] / 40);
  RecordProperty("loads_two_in_flight", loads[1] / 40);
  EXPECT_LE(loads[1], loads[0] + 40 * 2);
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
