#include "quant/plan.h"

#include <gtest/gtest.h>

#include "quant/round_to_nearest.h"

namespace hproc::quant {
namespace {

Candidate MakeCandidate(int levels, int highest, std::vector<RateStep> steps, Mode mode = Mode::kV2) {
  Candidate candidate;
  candidate.format = {.mode = mode, .levels = levels, .centroids = Centroids::kInt8, .group_scales = false};
  candidate.highest = highest;
  candidate.steps = std::move(steps);
  return candidate;
}

// One strict, one lazy and one kept tensor of 1000 x 640 with made-up rates.
RateTable MakeTable() {
  RateTable table;
  table.fingerprint = "f";
  for (Family family : {Family::kStrict, Family::kLazy}) {
    TensorRates rates;
    rates.spec = {.name = std::string(FamilyName(family)), .family = family, .rows = 1000, .columns = 640, .bytes_per_value = 2};
    rates.candidates.push_back(MakeCandidate(4, LadderIndex(0.96),
                                             {{.ladder_index = 0, .outliers = 0, .min_cosine = 0.93f, .mean_deficit = 0.06},
                                              {.ladder_index = LadderIndex(0.935), .outliers = 20000, .min_cosine = 0.96f,
                                               .mean_deficit = 0.04}}));
    rates.candidates.push_back(MakeCandidate(
        8, LadderIndex(0.98), {{.ladder_index = 0, .outliers = 0, .min_cosine = 0.98f, .mean_deficit = 0.016}}));
    table.tensors.push_back(rates);
  }
  table.tensors.push_back({.spec = {.name = "norm", .family = Family::kKept, .rows = 1, .columns = 640, .bytes_per_value = 4},
                           .candidates = {}});
  return table;
}

int LevelsAt(const RateTable& table, double strict) {
  const Plan plan = ResolvePlan(table, {.strict = strict, .lazy = 1, .head = 1}, ModePolicy::kAuto);
  return plan.tensors[0].format ? plan.tensors[0].format->levels : 0;
}

TEST(ResolvePlan, TakesTheCheapestCandidateThatHoldsTheFloor) {
  const RateTable table = MakeTable();
  EXPECT_EQ(LevelsAt(table, 0.90), 4);
  // K = 4 with 20,000 outliers: 160,000 + 82,000 bytes and more; K = 8 without: 240,000 + 10,000.
  EXPECT_EQ(LevelsAt(table, 0.94), 4);
  EXPECT_EQ(LevelsAt(table, 0.97), 8);
  EXPECT_EQ(LevelsAt(table, 0.99), 0) << "kept where nothing holds the floor";
}

TEST(ResolvePlan, WeighsOutliersAgainstMoreLevels) {
  RateTable table = MakeTable();
  // 21,000 outliers of 4 bytes: 160,000 + 84,000 + the counts and codebooks, more than K = 8 takes.
  table.tensors[0].candidates[0].steps[1].outliers = 21000;
  EXPECT_EQ(LevelsAt(table, 0.93), 4);
  EXPECT_EQ(LevelsAt(table, 0.94), 8);
}

TEST(ResolvePlan, OneIsMetOnlyByKeeping) {
  RateTable table = MakeTable();
  // As of a tensor of two values, which two levels give back exactly.
  table.tensors[0].candidates.push_back(
      MakeCandidate(2, kLadderSize - 1, {{.ladder_index = 0, .outliers = 0, .min_cosine = 1, .mean_deficit = 0}}));
  const Plan plan = ResolvePlan(table, {.strict = 1, .lazy = 1, .head = 1}, ModePolicy::kAuto);
  EXPECT_EQ(plan.total_bytes(), 2 * 1000 * 640 * 2 + 640 * 4);
  EXPECT_EQ(plan.Digest(), KeptPlan(table).Digest());
  EXPECT_EQ(LevelsAt(table, 0.9999), 2) << "one rung below";
}

TEST(ResolvePlan, EachFamilyAnswersToItsOwnFloor) {
  const Plan plan = ResolvePlan(MakeTable(), {.strict = 0.97, .lazy = 0.9, .head = 1}, ModePolicy::kAuto);
  EXPECT_EQ(plan.tensors[0].format->levels, 8);
  EXPECT_EQ(plan.tensors[1].format->levels, 4);
  EXPECT_FALSE(plan.tensors[2].format.has_value());
  const auto families = plan.Families();
  EXPECT_EQ(families[static_cast<size_t>(Family::kKept)].bytes, 640 * 4);
  EXPECT_EQ(families[static_cast<size_t>(Family::kStrict)].weights, 640000);
}

TEST(ResolvePlan, ObeysTheModePolicy) {
  RateTable table = MakeTable();
  table.tensors[0].candidates.push_back(MakeCandidate(
      4, LadderIndex(0.97), {{.ladder_index = 0, .outliers = 0, .min_cosine = 0.97f, .mean_deficit = 0.02}}, Mode::kV2a));
  const Floors floors{.strict = 0.96, .lazy = 0.9, .head = 1};
  EXPECT_EQ(ResolvePlan(table, floors, ModePolicy::kAuto).tensors[0].format->mode, Mode::kV2a);
  EXPECT_EQ(ResolvePlan(table, floors, ModePolicy::kV2).tensors[0].format->mode, Mode::kV2);
  EXPECT_FALSE(ResolvePlan(table, floors, ModePolicy::kV2a).tensors[1].format.has_value());
}

TEST(PlanDigest, IsThatOfWhatIsStoredNotOfTheFloors) {
  const RateTable table = MakeTable();
  const Plan a = ResolvePlan(table, {.strict = 0.90, .lazy = 0.9, .head = 1}, ModePolicy::kAuto);
  const Plan b = ResolvePlan(table, {.strict = 0.92, .lazy = 0.9, .head = 1}, ModePolicy::kAuto);
  const Plan c = ResolvePlan(table, {.strict = 0.94, .lazy = 0.9, .head = 1}, ModePolicy::kAuto);
  EXPECT_EQ(a.Digest(), b.Digest());
  EXPECT_NE(a.Digest(), c.Digest());
}

// Written out: studies on disk find their trials by them.
TEST(PlanDigest, OfEarlierPlansIsWhatItWas) {
  const Plan fitted = ResolvePlan(MakeTable(), {.strict = 0.94, .lazy = 0.97, .head = 1}, ModePolicy::kAuto);
  EXPECT_EQ(fitted.Digest(), "04c24c7aa00428da2476258ae33742ebb14b612992dec1e5452c396f817ea577");
  EXPECT_EQ(KeptPlan(MakeTable()).Digest(), "ae07f73c0f91d78880e4474505e3584978c0b40b165d536e55f34bf9d17357f9");
}

TEST(Int4Plan, RoundsEveryMatrixThatFloorsDecideOnAndKeepsTheRest) {
  RateTable table = MakeTable();
  table.tensors[1].spec.family = Family::kHead;
  const Plan plan = Int4Plan(table);
  for (size_t i : {0, 1}) {
    EXPECT_EQ(plan.tensors[i].format, kInt4Format);
    EXPECT_EQ(plan.tensors[i].codebooks, Codebooks::kUniform);
    // 1000 rows of 640: 10 units of 32 bytes; then the library, 5 scales of 2 bytes and 5 indices a row, each section to
    // the next 64, and padding.
    EXPECT_EQ(plan.tensors[i].bytes, 320'000 + 512 + 10'048 + 5'056 + 64);
  }
  EXPECT_FALSE(plan.tensors[2].format);
  EXPECT_EQ(plan.total_bytes(), 2 * 335'680 + 640 * 4);
}

TEST(Int4PrunedPlan, LeavesOutExpertsAndNothingElse) {
  RateTable table = MakeTable();
  table.tensors[1].spec.experts = 8;
  const Plan all = Int4Plan(table);
  const Plan pruned = Int4PrunedPlan(table, 6);
  EXPECT_EQ(RoutedExperts(table), 8);
  EXPECT_EQ(pruned.tensors[0], all.tensors[0]);
  EXPECT_EQ(pruned.tensors[1].spec.rows, 750);
  EXPECT_EQ(pruned.tensors[1].spec.experts, 6);
  EXPECT_EQ(pruned.tensors[2], all.tensors[2]);
  EXPECT_LT(pruned.total_bytes(), all.total_bytes());
  EXPECT_EQ(Int4PrunedPlan(table, 8).Digest(), all.Digest());
  const Result<Plan> read = PlanFromJson(PlanToJson(pruned));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->tensors, pruned.tensors);
}

TEST(Int4Plan, PromisesNothing) {
  const Plan plan = Int4Plan(MakeTable());
  EXPECT_EQ(plan.floors, (Floors{.strict = 0, .lazy = 0, .head = 0}));
  EXPECT_EQ(plan.Families()[static_cast<size_t>(Family::kStrict)].min_cosine, 0);
  EXPECT_EQ(plan.Families()[static_cast<size_t>(Family::kKept)].min_cosine, 1);
}

TEST(Int4Plan, IsAnotherPlanThanLearnedCodebooksOfTheSameFormat) {
  const Plan uniform = Int4Plan(MakeTable());
  Plan learned = uniform;
  for (TensorPlan& tensor : learned.tensors) tensor.codebooks = Codebooks::kLearned;
  EXPECT_NE(uniform.Digest(), learned.Digest());
}

TEST(Int4Plan, ComesBackFromJsonWhole) {
  const Plan plan = Int4Plan(MakeTable());
  const std::string json = PlanToJson(plan);
  EXPECT_EQ(json.find("cosine"), std::string::npos) << "none is known before the load";
  const Result<Plan> read = PlanFromJson(json);
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->tensors, plan.tensors);
  EXPECT_EQ(read->floors, plan.floors);
  for (const auto& [from, to] : {std::pair<std::string_view, std::string_view>{"\"uniform\"", "\"uneven\""},
                                 {"\"levels\":16", "\"levels\":8"},
                                 {"\"outliers\":0", "\"outliers\":1"},
                                 {"\"bytes\":335680", "\"bytes\":335681"}}) {
    std::string changed = json;
    const size_t at = changed.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    EXPECT_FALSE(PlanFromJson(changed.replace(at, from.size(), to)).ok()) << to;
  }
}

TEST(PlanJson, ComesBackWhole) {
  const Plan plan = ResolvePlan(MakeTable(), {.strict = 0.94, .lazy = 0.97, .head = 1}, ModePolicy::kAuto);
  const Result<Plan> read = PlanFromJson(PlanToJson(plan));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->tensors, plan.tensors);
  EXPECT_EQ(read->floors, plan.floors);
}

// Each for its own reason: the digest would refuse most of them, too.
TEST(PlanJson, RefusesWhatDoesNotAddUp) {
  const std::string json = PlanToJson(ResolvePlan(MakeTable(), {.strict = 0.94, .lazy = 0.97, .head = 1}, ModePolicy::kAuto));
  const auto with = [&](std::string_view from, std::string_view to) -> std::string {
    std::string changed = json;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    const Result<Plan> plan = PlanFromJson(changed);
    return plan.ok() ? "accepted" : plan.error().message;
  };
  EXPECT_EQ(with("\"rows\":1000", "\"rows\":1001"), "plan: its digest does not match");
  EXPECT_EQ(with("\"rows\":1000", "\"rows\":-1"), "plan: strict: shape");
  EXPECT_EQ(with("\"levels\":4", "\"levels\":5"), "plan: strict: levels");
  EXPECT_EQ(with("\"family\":\"strict\"", "\"family\":\"loose\""), "plan: strict: unknown family");
  EXPECT_EQ(with("\"outliers\":20000", "\"outliers\":640001"), "plan: strict: outliers");
  EXPECT_NE(with("\"outliers\":20000", "\"outliers\":\"many\"").find("must be number"), std::string::npos);
  EXPECT_FALSE(PlanFromJson("").ok());
  EXPECT_FALSE(PlanFromJson("[]").ok());
}

}  // namespace
}  // namespace hproc::quant
