#include "worker/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "tests/worker/small_engine.h"

namespace hproc::worker {
namespace {

using kernels::DeviceMemory;
using kernels::DeviceOutOfMemory;
using kernels::MemoryUse;
using quant::Floors;
using testing::HasSubstr;

constexpr Floors kFloors{.strict = 0.99, .lazy = 0.93, .head = 0.999};

// Large enough for most tensors to be cheaper packed.
const SmallCheckpoint kLarger({.layers = "LF", .hidden = 72, .experts = 4, .width = 40});

// What the budget charges for an allocation.
int64_t Charged(int64_t bytes) { return std::max(DeviceMemory::Rounded(bytes), DeviceMemory::kGranularity); }

int64_t Line(const DeviceMemory::Usage& usage, MemoryUse use) { return usage.live[static_cast<size_t>(use)]; }
int64_t Sum(const DeviceMemory::Usage& usage) { return std::accumulate(usage.live.begin(), usage.live.end(), int64_t{0}); }

class LoaderTest : public testing::Test {
 protected:
  void Write(const SmallCheckpoint& small) {
    small.WriteTo(folder_);
    opened_.emplace(OpenedCheckpoint::At(folder_.path()));
  }
  Result<LoadedModel> Load(const quant::Plan& plan, DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress = {}) {
    return LoadModel(opened_->spec, opened_->checkpoint, opened_->table, plan, {}, memory, pool, progress);
  }
  // Peak of a load under no cap.
  int64_t PeakOf(const quant::Plan& plan) {
    DeviceMemory memory("cpu", 0);
    EXPECT_TRUE(Load(plan, memory, pool_).ok());
    return memory.usage().peak_bytes;
  }

  TestFolder folder_;
  ThreadPool pool_{2};
  std::optional<OpenedCheckpoint> opened_;
};

TEST_F(LoaderTest, MeasuresTheBytesThatThePlanPredicts) {
  Write(kLarger);
  const quant::RateTable rates = opened_->Rates(pool_);
  for (const Floors& floors : {kFloors, Floors{.strict = 1, .lazy = 0.8, .head = 1}, Floors{.strict = 0.9, .lazy = 0.5, .head = 0.9}}) {
    const quant::Plan plan = quant::ResolvePlan(rates, floors, quant::ModePolicy::kAuto);
    DeviceMemory memory("cpu", 0);
    const Result<LoadedModel> loaded = Load(plan, memory, pool_);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    const LoadResult& report = loaded->report;
    EXPECT_EQ(report.weight_bytes, plan.total_bytes());
    EXPECT_EQ(report.plan_digest, plan.Digest());
    EXPECT_DOUBLE_EQ(report.bits_per_weight, plan.bits_per_weight());
    int64_t charged = 0;
    for (const quant::TensorPlan& tensor : plan.tensors) charged += Charged(tensor.bytes);
    EXPECT_EQ(memory.usage().live_bytes, charged);
    const auto planned = plan.Families();
    ASSERT_EQ(report.families.size(), planned.size()) << "each has tensors here";
    for (size_t f = 0; f < planned.size(); ++f) {
      const FamilyReport& family = report.families[f];
      EXPECT_EQ(family.family, quant::FamilyName(static_cast<quant::Family>(f)));
      EXPECT_EQ(family.weights, planned[f].weights) << family.family;
      EXPECT_EQ(family.bytes, planned[f].bytes) << family.family;
      EXPECT_NEAR(family.min_cosine, planned[f].min_cosine, 1e-6) << family.family;  // the plan keeps it as a float
    }
  }
}

TEST_F(LoaderTest, LoadsTheInt4BaselineInTheBytesOfItsPlan) {
  Write(kLarger);
  const quant::Plan plan = quant::Int4Plan(opened_->Rates(pool_));
  DeviceMemory memory("cpu", 0);
  const Result<LoadedModel> loaded = Load(plan, memory, pool_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(loaded->report.plan_digest, plan.Digest());
  EXPECT_EQ(loaded->report.weight_bytes, plan.total_bytes());
  int64_t charged = 0;
  for (const quant::TensorPlan& tensor : plan.tensors) charged += Charged(tensor.bytes);
  EXPECT_EQ(memory.usage().live_bytes, charged);
  for (const ModelTensor& tensor : opened_->table.tensors) {
    const kernels::Matrix& matrix = loaded->model.Get(tensor.role, tensor.layer);
    const bool quantized = tensor.spec.family != quant::Family::kKept;
    EXPECT_EQ(matrix.storage == kernels::Storage::kXfp, quantized) << tensor.spec.name;
  }
  for (const FamilyReport& family : loaded->report.families) {
    EXPECT_GT(family.min_cosine, 0.98) << family.family << ": 16 levels, Gaussian weights";
    EXPECT_EQ(family.min_cosine == 1, family.family == "kept");
  }
}

TEST_F(LoaderTest, HoldsTheFloorOnEveryChannel) {
  Write(kLarger);
  DeviceMemory memory("cpu", 0);
  const Result<LoadedModel> loaded = Load(opened_->PlanFor(kFloors, pool_), memory, pool_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  int packed = 0;
  for (const ModelTensor& tensor : opened_->table.tensors) {
    const kernels::Matrix& matrix = loaded->model.Get(tensor.role, tensor.layer);
    std::vector<float> source(static_cast<size_t>(tensor.spec.weights()));
    ASSERT_TRUE(ReadRows(opened_->checkpoint, tensor, 0, tensor.spec.rows, source).ok());
    std::vector<float> stored(static_cast<size_t>(tensor.spec.columns));
    const bool is_packed = matrix.storage == kernels::Storage::kXfp;
    packed += is_packed ? 1 : 0;
    const double floor = tensor.spec.family == quant::Family::kLazy ? kFloors.lazy
                         : tensor.spec.family == quant::Family::kStrict ? kFloors.strict : kFloors.head;
    for (int64_t r = 0; r < tensor.spec.rows; ++r) {
      DecodeMatrixRow(matrix, r, stored.data());
      double dot = 0, a = 0, b = 0;
      for (size_t c = 0; c < stored.size(); ++c) {
        const double x = source[static_cast<size_t>(r) * stored.size() + c];
        const double y = stored[c];
        dot += x * y;
        a += x * x;
        b += y * y;
        ASSERT_TRUE(is_packed || x == y) << tensor.spec.name << " is kept, so exact";
      }
      // Outlier residuals are fp16: half a unit in the last of its 11 bits, squared, of the cosine.
      ASSERT_GE(dot / std::sqrt(a * b), floor - 1e-6) << tensor.spec.name << " row " << r;
    }
  }
  EXPECT_GT(packed, 10);
}

TEST_F(LoaderTest, ReportsLedgerLinesThatAddUpToWhatTheBudgetCharged) {
  Write(kLarger);
  for (const quant::Plan& plan : {opened_->PlanFor(kFloors, pool_), KeepEverything(opened_->table)}) {
    DeviceMemory memory("cpu", 0);
    const Result<LoadedModel> loaded = Load(plan, memory, pool_);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    const DeviceMemory::Usage usage = memory.usage();
    EXPECT_EQ(Sum(usage), usage.live_bytes);
    EXPECT_EQ(Line(usage, MemoryUse::kWorkspace), 0) << "gone after the load";
    int64_t outliers = 0;
    int64_t codebooks = 0;
    std::array<int64_t, quant::kFamilyCount> families{};
    for (const quant::TensorPlan& tensor : plan.tensors) {
      families[static_cast<size_t>(tensor.spec.family)] += Charged(tensor.bytes);
      if (!tensor.format) continue;
      const quant::XfpLayout layout = quant::LayoutOf(tensor.spec.rows, tensor.spec.columns, *tensor.format, tensor.outliers);
      outliers += layout.outlier_bytes;
      codebooks += layout.codebook_bytes;
      families[static_cast<size_t>(tensor.spec.family)] -= layout.outlier_bytes + layout.codebook_bytes;
    }
    EXPECT_EQ(Line(usage, MemoryUse::kOutliers), outliers);
    EXPECT_EQ(Line(usage, MemoryUse::kCodebooks), codebooks);
    EXPECT_EQ(Line(usage, MemoryUse::kWeightsStrict), families[static_cast<size_t>(quant::Family::kStrict)]);
    EXPECT_EQ(Line(usage, MemoryUse::kWeightsLazy), families[static_cast<size_t>(quant::Family::kLazy)]);
    EXPECT_EQ(Line(usage, MemoryUse::kWeightsHead), families[static_cast<size_t>(quant::Family::kHead)]);
    EXPECT_EQ(Line(usage, MemoryUse::kWeightsKept), families[static_cast<size_t>(quant::Family::kKept)]);
  }
}

TEST_F(LoaderTest, PredictsItsWorkspace) {
  for (int64_t hidden : {100, 300}) {  // blocks of several rows, of all rows
    Write(SmallCheckpoint({.layers = "L", .hidden = hidden, .width = 40}));
    const quant::Plan plan = opened_->PlanFor(kFloors, pool_);
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      DeviceMemory memory("cpu", 0);
      ASSERT_TRUE(Load(plan, memory, pool).ok());
      EXPECT_EQ(memory.usage().peak[static_cast<size_t>(MemoryUse::kWorkspace)], LoadWorkspaceBytes(opened_->table, threads));
    }
  }
}

TEST_F(LoaderTest, LoadsUnderACapOfItsPeakAndRunsOutOneStepBelow) {
  Write(kLarger);
  for (const quant::Plan& plan : {opened_->PlanFor(kFloors, pool_), KeepEverything(opened_->table)}) {
    const int64_t peak = PeakOf(plan);
    DeviceMemory enough("cpu", peak);
    EXPECT_TRUE(Load(plan, enough, pool_).ok());
    DeviceMemory short_of_it("cpu", peak - DeviceMemory::kGranularity);
    EXPECT_THROW((void)Load(plan, short_of_it, pool_), DeviceOutOfMemory);
    EXPECT_EQ(short_of_it.usage().live_bytes, 0) << "a load that failed gives everything back";
  }
}

TEST_F(LoaderTest, NamesTheTensorForWhichMemoryRanOut) {
  Write(SmallCheckpoint());
  const quant::Plan plan = KeepEverything(opened_->table);
  int64_t charged = 0;
  for (const quant::TensorPlan& tensor : plan.tensors) {
    const int64_t before = charged;
    charged += Charged(tensor.bytes);
    DeviceMemory memory("cpu", charged - 1);
    try {
      (void)Load(plan, memory, pool_);
      ADD_FAILURE() << "loaded";
    } catch (const DeviceOutOfMemory& refusal) {
      EXPECT_EQ(refusal.purpose(), tensor.spec.name);
      EXPECT_EQ(refusal.requested_bytes(), charged - before);
      EXPECT_EQ(refusal.available_bytes(), charged - 1 - before);
    }
  }
}

TEST_F(LoaderTest, NamesTheSourceTensorThatHoldsNanOrInfinity) {
  for (bool fused : {true, false}) {
    const SmallCheckpoint whole({.layers = "LF", .bias = true, .fused = fused});
    Write(whole);
    const quant::Plan packed = opened_->PlanFor({.strict = 0.9, .lazy = 0.9, .head = 0.9}, pool_);
    const quant::Plan kept = KeepEverything(opened_->table);
    float bad = std::numeric_limits<float>::quiet_NaN();
    for (const auto& [name, tensor] : whole.tensors) {
      SmallCheckpoint small = whole;
      small.tensors.at(name).Put(tensor.bytes.size() / 2 - 1, bad);  // the last value
      Write(small);
      for (const quant::Plan& plan : {packed, kept}) {
        DeviceMemory memory("cpu", 0);
        const Result<LoadedModel> loaded = Load(plan, memory, pool_);
        ASSERT_FALSE(loaded.ok()) << name;
        EXPECT_EQ(loaded.error().message, "model.safetensors: tensor '" + name + "' holds 1 values that are NaN or infinite");
      }
      bad = std::isnan(bad) ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    }
  }
}

TEST_F(LoaderTest, RefusesAPlanOfAnotherCheckpoint) {
  Write(SmallCheckpoint({.layers = "L"}));
  const quant::Plan shorter = KeepEverything(opened_->table);
  Write(SmallCheckpoint({.layers = "LL"}));
  DeviceMemory memory("cpu", 0);
  const Result<LoadedModel> loaded = Load(shorter, memory, pool_);
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(loaded.error().message, HasSubstr("belongs to another checkpoint"));
  quant::Plan other = KeepEverything(opened_->table);
  other.tensors[3].spec.columns += 1;
  const Result<LoadedModel> misshapen = Load(other, memory, pool_);
  ASSERT_FALSE(misshapen.ok());
  EXPECT_THAT(misshapen.error().message, HasSubstr("belongs to another checkpoint"));
  EXPECT_EQ(memory.usage().live_bytes, 0);
}

TEST_F(LoaderTest, StoresTheSameWhateverTheThreads) {
  Write(kLarger);
  const quant::Plan plan = opened_->PlanFor(kFloors, pool_);
  std::vector<std::vector<float>> decoded;
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    if (threads == 1) {
      EXPECT_EQ(opened_->PlanFor(kFloors, pool).Digest(), plan.Digest());
    }
    DeviceMemory memory("cpu", 0);
    const Result<LoadedModel> loaded = Load(plan, memory, pool);
    ASSERT_TRUE(loaded.ok());
    std::vector<float>& all = decoded.emplace_back();
    for (const ModelTensor& tensor : opened_->table.tensors) {
      std::vector<float> row(static_cast<size_t>(tensor.spec.columns));
      for (int64_t r = 0; r < tensor.spec.rows; ++r) {
        DecodeMatrixRow(loaded->model.Get(tensor.role, tensor.layer), r, row.data());
        all.insert(all.end(), row.begin(), row.end());
      }
    }
  }
  EXPECT_EQ(decoded[0], decoded[1]);
}

TEST_F(LoaderTest, StoresZeroChannelsExactly) {
  SmallCheckpoint small({.layers = "F", .hidden = 100});
  StoredTensor& query = small.tensors.at("model.layers.0.self_attn.q_proj.weight");
  for (size_t i = 0; i < 3 * 100; ++i) query.Put(i, 0);
  Write(small);
  DeviceMemory memory("cpu", 0);
  const Result<LoadedModel> loaded = Load(opened_->PlanFor(kFloors, pool_), memory, pool_);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const kernels::Matrix& stored = loaded->model.Get(TensorRole::kQuery, 0);
  ASSERT_EQ(stored.storage, kernels::Storage::kXfp);
  std::vector<float> row(100);
  for (int64_t r = 0; r < 3; ++r) {
    DecodeMatrixRow(stored, r, row.data());
    EXPECT_EQ(row, std::vector<float>(100)) << r;
  }
}

TEST_F(LoaderTest, TellsItsProgressBlockByBlock) {
  Write(kLarger);
  for (const bool packed : {false, true}) {
    DeviceMemory memory("cpu", 0);
    std::vector<int64_t> seen{0};
    int64_t of = 0;
    int64_t longest = 0;
    const quant::Plan plan = packed ? quant::Int4Plan(opened_->Rates(pool_)) : KeepEverything(opened_->table);
    ASSERT_TRUE(Load(plan, memory, pool_, [&](int64_t done, int64_t total) {
                  longest = std::max(longest, done - seen.back());
                  seen.push_back(done);
                  of = total;
                }).ok());
    EXPECT_TRUE(std::ranges::is_sorted(seen));
    EXPECT_EQ(seen.back(), of);
    EXPECT_EQ(of, opened_->checkpoint.total_bytes());
    if (packed) {
      EXPECT_LE(longest, 8192 * 2) << "no step is longer than a block, whatever the tensor";
    }
  }
}

// The engine's share of the ledger, and the refusals of the phases after the load.
TEST_F(LoaderTest, ChargesCacheAndActivationsAsPredicted) {
  Write(SmallCheckpoint({.layers = "LFL"}));
  const quant::Plan plan = KeepEverything(opened_->table);
  const EngineShape shape{.slots = 3, .context = 50, .pass_tokens = 7, .logit_rows = 3, .kv_storage = kernels::Storage::kFloat16};
  const EngineBytes bytes = EngineBytesOf(opened_->spec, shape);
  EXPECT_EQ(bytes.kv_cache, 2 * Charged(3 * 2 * 50 * 12 * 2));
  EXPECT_EQ(bytes.state, 2 * (Charged(3 * 102 * 3 * 4) + Charged(3 * 6 * 10 * 7 * 4)));
  const int64_t weights = PeakOf(plan);
  const int64_t step = DeviceMemory::kGranularity;
  const int64_t caches = bytes.kv_cache + bytes.state;
  for (const auto& [cap, cache_fits, activations_fit] :
       {std::tuple{weights + caches + bytes.activations, true, true},
        std::tuple{weights + caches + bytes.activations - step, true, false}, std::tuple{weights + caches - step, false, false}}) {
    DeviceMemory memory("cpu", cap);
    const Result<LoadedModel> loaded = Load(plan, memory, pool_);
    ASSERT_TRUE(loaded.ok());
    Engine engine(loaded->model, {kernels::Backend::kCpu, &pool_}, memory, shape);
    if (!cache_fits) {
      EXPECT_THROW(engine.AllocateCache(), DeviceOutOfMemory);
      continue;
    }
    engine.AllocateCache();
    EXPECT_EQ(Line(memory.usage(), MemoryUse::kKvCache), bytes.kv_cache);
    EXPECT_EQ(Line(memory.usage(), MemoryUse::kState), bytes.state);
    if (!activations_fit) {
      EXPECT_THROW(engine.AllocateActivations(), DeviceOutOfMemory);
      continue;
    }
    engine.AllocateActivations();
    EXPECT_EQ(Line(memory.usage(), MemoryUse::kActivations), bytes.activations);
    EXPECT_EQ(Sum(memory.usage()), cap);
    EXPECT_EQ(memory.usage().live_bytes, cap);
  }
}

TEST_F(LoaderTest, RefusesToMeasureWhatIsNotFinite) {
  SmallCheckpoint small({.layers = "L"});
  small.tensors.at("model.layers.0.mlp.experts.down_proj").Put(100, std::numeric_limits<float>::infinity());
  Write(small);
  const Result<quant::RateTable> rates = MeasureRates(opened_->checkpoint, opened_->table, {}, pool_, {});
  ASSERT_FALSE(rates.ok());
  EXPECT_EQ(rates.error().message, "model.safetensors: tensor 'model.layers.0.mlp.experts.down_proj' holds 1 values that are NaN or infinite");
}

}  // namespace
}  // namespace hproc::worker
