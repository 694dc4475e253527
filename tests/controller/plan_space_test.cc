#include "controller/plan_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "quant/decode_order.h"
#include "tests/controller/fake_study.h"

namespace hproc::controller {
namespace {

using quant::Family;
using quant::LadderIndex;
using testing::ElementsAre;

constexpr int kTop = quant::kLadderSize - 1;

std::vector<worker::LedgerLine> Others(int64_t workspace = 0) {
  return {{.name = "kv_cache", .bytes = 1000},
          {.name = "activations", .bytes = 500},
          {.name = "workspace_peak", .bytes = workspace}};
}

PlanSpace MakeSpace(int64_t granularity = 1, int64_t workspace = 0, bool has_lazy = true) {
  return {FakeTable(has_lazy), quant::ModePolicy::kAuto, 0.999, Others(workspace), granularity};
}

// A few rungs spread over the ladder, both ends among them.
std::vector<int> SomeRungs() {
  std::vector<int> rungs;
  for (int rung = 0; rung < kTop; rung += 37) rungs.push_back(rung);
  rungs.push_back(kTop);
  return rungs;
}

TEST(PlanSpace, ResolvesAPairToThePlanOfItsFloors) {
  const PlanSpace space = MakeSpace();
  const FloorPair at{LadderIndex(0.985), LadderIndex(0.93)};
  const PlannedPoint& point = space.At(at);
  const quant::Plan plan = ResolvePlan(FakeTable(), {.strict = 0.985, .lazy = 0.93, .head = 0.999},
                                       quant::ModePolicy::kAuto);
  EXPECT_EQ(point.at, at);
  EXPECT_EQ(point.plan.tensors, plan.tensors);
  EXPECT_EQ(point.plan.floors, plan.floors);
  EXPECT_EQ(point.digest, plan.Digest());
  EXPECT_EQ(point.weight_bytes, plan.total_bytes());
  EXPECT_EQ(point.total_bytes, plan.total_bytes() + 1500);
}

// Parts of the table's tensors: `share` of the rows of those that can be divided.
worker::RankForecast Rank(int64_t numerator, int64_t denominator, int64_t cache, int64_t free_bytes) {
  worker::RankForecast rank{.device = "cuda:0", .free_bytes = free_bytes, .predicted = {}, .parts = {}};
  rank.predicted = {{.name = "kv_cache", .bytes = cache}, {.name = "workspace_peak", .bytes = 10}, {.name = "communicator", .bytes = 99999}};
  for (const quant::TensorRates& tensor : FakeTable().tensors) {
    rank.parts.push_back({.rows = std::max<int64_t>(1, tensor.spec.rows * numerator / denominator), .columns = tensor.spec.columns});
  }
  return rank;
}

TEST(PlanSpace, ReckonsWithTheRankThatHoldsMost) {
  const PlanSpace whole(FakeTable(), quant::ModePolicy::kAuto, 0.999, {{.name = "kv_cache", .bytes = 700}}, 1);
  // A rank that holds everything needs what one rank needs, whatever the other one has.
  const PlanSpace uneven(FakeTable(), quant::ModePolicy::kAuto, 0.999, {}, 1, {Rank(1, 4, 700, 0), Rank(1, 1, 700, 0)});
  const PlanSpace halves(FakeTable(), quant::ModePolicy::kAuto, 0.999, {}, 1, {Rank(1, 2, 700, 8000), Rank(1, 2, 900, 5000)});
  for (const FloorPair at : {FloorPair{0, 0}, FloorPair{LadderIndex(0.98), LadderIndex(0.9)}, FloorPair{kTop, kTop}}) {
    EXPECT_EQ(uneven.NeededBytes(at), whole.NeededBytes(at));
    EXPECT_EQ(uneven.At(at).total_bytes, whole.At(at).total_bytes);
    EXPECT_EQ(halves.At(at).digest, whole.At(at).digest) << "plans do not depend on the ranks";
    EXPECT_EQ(halves.NeededBytes(at), halves.At(at).total_bytes);
    EXPECT_GT(halves.At(at).weight_bytes, whole.At(at).weight_bytes / 2 - 1);
    EXPECT_LT(halves.At(at).weight_bytes, whole.At(at).weight_bytes * 3 / 4);
    EXPECT_EQ(halves.At(at).total_bytes, halves.At(at).weight_bytes + 900) << "the larger cache decides";
    int64_t ledger = 0;
    for (const worker::LedgerLine& line : halves.Ledger(halves.At(at).plan)) {
      if (line.name != "workspace_peak" && line.name != "communicator") ledger += line.bytes;
    }
    EXPECT_EQ(ledger, halves.At(at).total_bytes);
  }
  // The device with the least free memory bounds what all may take.
  EXPECT_EQ(halves.LeastRoom(6000), 5000);
  EXPECT_EQ(halves.LeastRoom(4000), 4000);
  EXPECT_EQ(whole.LeastRoom(4000), 4000);
}

// What a device puts into decode order takes there what it does, and the rest what the plan says.
TEST(PlanSpace, ReckonsWithThePaddingOfDecodeOrder) {
  quant::TensorRates rates{.spec = {.name = "experts", .family = Family::kLazy, .rows = 4096, .columns = 1024}, .candidates = {}};
  rates.candidates.push_back({.format = {.mode = quant::Mode::kV2, .levels = 12},
                              .highest = LadderIndex(0.9),
                              .steps = {{.ladder_index = 0, .outliers = 5000}}});
  rates.candidates.back().steps.front().mean_deficit = 0.1;
  const quant::RateTable table{.fingerprint = "x", .tensors = {rates, rates}};
  const FloorPair at{LadderIndex(0.9), LadderIndex(0.9)};
  const auto bytes = [&](const std::string& arranged) {
    return PlanSpace(table, quant::ModePolicy::kV2, 1, {}, 1, {}, arranged).At(at).weight_bytes;
  };
  const int64_t container = quant::LayoutOf(4096, 1024, rates.candidates[0].format, 5000).total_bytes;
  // 4 bytes a codebook and 15 / 16 of one a count of outliers more.
  const int64_t arranged = quant::DecodeOrderOf(4096, 1024, rates.candidates[0].format, 5000).total_bytes;
  EXPECT_NEAR(static_cast<double>(arranged - container), 4096 * (4 + 15.0 / 16), 512);
  EXPECT_EQ(bytes(""), 2 * container);
  EXPECT_EQ(bytes("01"), container + arranged);
  EXPECT_EQ(bytes("11"), 2 * arranged);
}

TEST(PlanSpace, PairsAndFloorsAreEachOthersInverse) {
  const PlanSpace space = MakeSpace();
  for (int rung : SomeRungs()) {
    const FloorPair at{rung, kTop - rung};
    EXPECT_EQ(space.PairOf(space.FloorsAt(at)), at);
  }
  // A promise is never weakened: between two rungs the higher one counts.
  EXPECT_EQ(space.PairOf({.strict = 0.9001, .lazy = 0.5001}),
            (FloorPair{LadderIndex(0.9005), LadderIndex(0.505)}));
}

TEST(PlanSpace, KeepsTheHeadAtItsOwnFloor) {
  const PlanSpace space(FakeTable(), quant::ModePolicy::kAuto, 0.99, Others(), 1);
  for (const FloorPair at : {FloorPair{0, 0}, FloorPair{kTop, kTop}}) {
    const PlannedPoint& point = space.At(at);
    EXPECT_EQ(point.plan.floors.head, 0.99);
    EXPECT_EQ(point.plan.tensors.back().ladder_index, LadderIndex(0.99));
  }
}

TEST(PlanSpace, GivesPairsThatStoreTheSameOneDigestAndOthersDifferentOnes) {
  const PlanSpace space = MakeSpace();
  std::map<std::string, int64_t> bytes_by_digest;
  int pairs = 0;
  for (int strict : SomeRungs()) {
    for (int lazy : SomeRungs()) {
      const PlannedPoint& point = space.At({strict, lazy});
      const auto [it, is_new] = bytes_by_digest.emplace(point.digest, point.weight_bytes);
      EXPECT_EQ(it->second, point.weight_bytes);
      ++pairs;
    }
  }
  // All floors below the cosine of K = 2 ask for K = 2 without outliers: 0.5 and 0.685 are rungs 0 and 37.
  EXPECT_EQ(space.At({0, 0}).digest, space.At({37, 37}).digest);
  EXPECT_NE(space.At({0, 0}).digest, space.At({LadderIndex(0.95), 0}).digest);
  EXPECT_NE(space.At({LadderIndex(0.95), 0}).digest, space.At({0, LadderIndex(0.95)}).digest);
  EXPECT_LT(static_cast<int>(bytes_by_digest.size()), pairs);
  EXPECT_GT(static_cast<int>(bytes_by_digest.size()), pairs / 2);
}

TEST(PlanSpace, NeedsTheWeightsAndWhicheverIsMoreOfTheWorkspaceAndTheRest) {
  // The workspace of quantize-on-load is given back before the cache is there.
  for (const auto& [workspace, beside] :
       {std::pair<int64_t, int64_t>{0, 1500}, {1499, 1500}, {9000, 9000}}) {
    const PlanSpace space = MakeSpace(1, workspace);
    EXPECT_EQ(space.OtherBytes(), 1500);
    for (int rung : SomeRungs()) {
      const FloorPair at{rung, kTop - rung};
      EXPECT_EQ(space.NeededBytes(at), space.At(at).weight_bytes + beside);
      EXPECT_EQ(space.At(at).total_bytes, space.At(at).weight_bytes + 1500);
    }
  }
}

TEST(PlanSpace, CountsEachTensorInWholeAllocations) {
  constexpr int64_t kGranularity = 4096;
  const PlanSpace space = MakeSpace(kGranularity);
  const FloorPair at{LadderIndex(0.985), LadderIndex(0.93)};
  int64_t allocated = 0;
  for (const quant::TensorPlan& tensor : space.At(at).plan.tensors) {
    allocated += (tensor.bytes + kGranularity - 1) / kGranularity * kGranularity;
  }
  EXPECT_GT(allocated, space.At(at).plan.total_bytes());
  EXPECT_EQ(space.At(at).weight_bytes, allocated);
  EXPECT_EQ(space.NeededBytes(at), allocated + 1500);
}

TEST(PlanSpace, NeverNeedsLessForHigherFloorsNorPromisesLess) {
  const PlanSpace space = MakeSpace(64);
  for (int rung = 1; rung < quant::kLadderSize; ++rung) {
    EXPECT_GE(space.StrictBytes(rung), space.StrictBytes(rung - 1)) << rung;
    EXPECT_GE(space.NeededBytes({0, rung}), space.NeededBytes({0, rung - 1})) << rung;
    EXPECT_GE(space.NeededBytes({rung, 0}), space.NeededBytes({rung - 1, 0})) << rung;
  }
  EXPECT_GT(space.NeededBytes({kTop, 0}), space.NeededBytes({0, 0}));
  EXPECT_GT(space.NeededBytes({0, kTop}), space.NeededBytes({0, 0}));
}

TEST(PlanSpace, HoldsTheFloorOfEachFamilyInEveryTensor) {
  const PlanSpace space = MakeSpace();
  for (int rung : SomeRungs()) {
    const PlannedPoint& point = space.At({rung, kTop - rung});
    for (const quant::TensorPlan& tensor : point.plan.tensors) {
      const int floor = tensor.spec.family == Family::kStrict ? rung
                        : tensor.spec.family == Family::kLazy ? kTop - rung
                                                              : 0;
      // As a float, which is how a rate table keeps it.
      EXPECT_GE(static_cast<float>(tensor.min_cosine),
                static_cast<float>(quant::LadderFloor(floor)))
          << tensor.spec.name;
    }
  }
}

TEST(PlanSpace, KeepsDeficitsOfTheRungsThatAgreeWithThePlans) {
  const PlanSpace space = MakeSpace();
  for (int rung : SomeRungs()) {
    const PlannedPoint& point = space.At({rung, kTop - rung});
    EXPECT_NEAR(space.StrictDeficit(rung), point.strict_deficit,
                1e-12);  // sums of two terms below 1
    EXPECT_NEAR(space.LazyDeficit(kTop - rung), point.lazy_deficit, 1e-12);
  }
  EXPECT_EQ(space.StrictDeficit(kTop), 0);  // kept as stored
}

TEST(PlanSpace, LetsTheLazyFloorOfADenseModelDecideNothing) {
  const PlanSpace space = MakeSpace(1, 0, /*has_lazy=*/false);
  EXPECT_FALSE(space.has_lazy());
  EXPECT_TRUE(MakeSpace().has_lazy());
  const int strict = LadderIndex(0.97);
  EXPECT_EQ(space.At({strict, 0}).digest, space.At({strict, kTop}).digest);
  EXPECT_EQ(space.NeededBytes({strict, 0}), space.NeededBytes({strict, kTop}));
  EXPECT_EQ(space.LazyDeficit(0), 0);
}

TEST(PlanSpace, PredictsALedgerWhoseLinesAddUp) {
  for (int64_t granularity : {int64_t{1}, int64_t{4096}}) {
    const PlanSpace space = MakeSpace(granularity, 700);
    const PlannedPoint& point = space.At({LadderIndex(0.985), LadderIndex(0.93)});
    std::vector<std::string> names;
    int64_t held = 0;
    int64_t outlier_bytes = 0;
    for (const worker::LedgerLine& line : space.Ledger(point.plan)) {
      names.push_back(line.name);
      if (line.name != "workspace_peak") held += line.bytes;  // given back by then
      if (line.name == "outliers") outlier_bytes = line.bytes;
      EXPECT_GE(line.bytes, 0) << line.name;
    }
    EXPECT_THAT(names,
                ElementsAre("weights_strict", "weights_lazy", "weights_head", "weights_kept",
                            "outliers", "codebooks", "kv_cache", "activations", "workspace_peak"));
    EXPECT_EQ(held, point.total_bytes);
    EXPECT_GT(outlier_bytes, 0);
  }
}

TEST(PlanSpace, KeepsEverythingForTheSixteenBitBaseline) {
  const PlanSpace space = MakeSpace();
  const PlannedPoint kept = space.Kept();
  // 320 + 2 x 256 + 2 x 1024 + 1 + 320 rows of 512 values of two bytes.
  EXPECT_EQ(kept.weight_bytes, (320 + 512 + 2048 + 1 + 320) * 512 * 2);
  EXPECT_EQ(kept.total_bytes, kept.weight_bytes + 1500);
  EXPECT_EQ(kept.strict_deficit, 0);
  for (const quant::TensorPlan& tensor : kept.plan.tensors)
    EXPECT_FALSE(tensor.format) << tensor.spec.name;
}

TEST(PlanSpace, PlansTheInt4BaselineInTheBytesOfItsContainers) {
  const PlanSpace space = MakeSpace(4096, 700);
  const PlannedPoint int4 = space.Int4();
  EXPECT_EQ(int4.digest, quant::Int4Plan(FakeTable()).Digest());
  EXPECT_EQ(int4.total_bytes, int4.weight_bytes + space.OtherBytes());
  int64_t held = 0;
  for (const worker::LedgerLine& line : space.Ledger(int4.plan)) held += line.name == "workspace_peak" ? 0 : line.bytes;
  EXPECT_EQ(held, int4.total_bytes);
  // Beside the ideal: an index a group, 512 bytes of library and padding a matrix.
  const PlanSpace exact = MakeSpace();
  const int64_t ideal = exact.Int4WeightBytes();
  EXPECT_GT(exact.Int4().weight_bytes, ideal);
  EXPECT_LE(exact.Int4().weight_bytes, ideal + (512 + 2048 + 320) * 4 + 5 * (512 + 6 * 64));
}

TEST(PlanSpace, CountsInt4WithAHalfFloatScaleForEach128Columns) {
  // A row of 512: 256 bytes of codes, 4 scales of 2 bytes. Kept stay as stored.
  const int64_t quantized = (512 + 2048 + 320) * (256 + 8);
  const int64_t kept = (320 + 1) * 512 * 2;
  EXPECT_EQ(MakeSpace().Int4WeightBytes(), quantized + kept);

  // Rows that are no multiple of anything: 7 codes in 4 bytes and one scale; 129 in 65 and two.
  quant::RateTable table;
  for (const int64_t columns : {7, 129}) {
    quant::TensorRates rates;
    rates.spec = {
        .name = std::to_string(columns), .family = Family::kStrict, .rows = 10, .columns = columns};
    table.tensors.push_back(rates);
  }
  EXPECT_EQ(PlanSpace(table, quant::ModePolicy::kAuto, 1, {}, 1).Int4WeightBytes(),
            10 * (4 + 2) + 10 * (65 + 4));
  EXPECT_EQ(PlanSpace(table, quant::ModePolicy::kAuto, 1, {}, 64).Int4WeightBytes(), 64 + 704);
}

TEST(PlanSpace, UsesTheCandidatesOfTheModeAlone) {
  const PlanSpace none(FakeTable(), quant::ModePolicy::kV2a, 0.999, Others(),
                       1);  // the table has V2 alone
  EXPECT_EQ(none.At({0, 0}).weight_bytes, none.Kept().weight_bytes);
  EXPECT_LT(MakeSpace().At({0, 0}).weight_bytes, none.Kept().weight_bytes);
}

}  // namespace
}  // namespace hproc::controller
