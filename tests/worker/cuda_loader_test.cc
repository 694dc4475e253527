// The embedded model through the device's loader: rates, plan, containers and report are the CPU loader's.
#include "worker/cuda_loader.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>

#include "kernels/decode_order.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/worker/small_checkpoint.h"
#include "worker/model_spec.h"

namespace hproc::worker {
namespace {

// Where the checkpoint is; a build that is run on another machine says so in the environment.
std::filesystem::path ModelFolder() {
  const char* folder = std::getenv("HPROC_TEST_MODEL");
  return folder != nullptr ? folder : HPROC_SOURCE_DIR "/evals/wordmath/model";
}

class CudaLoaderTest : public kernels::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    Open(*Checkpoint::Open(ModelFolder()));
    device_.emplace("cuda:0", 0, kernels::CudaMemory(Device()));
  }

  void Open(Checkpoint checkpoint) {
    checkpoint_.emplace(std::move(checkpoint));
    spec_ = *ParseModelSpec(checkpoint_->config_json(), checkpoint_->generation_config_json());
    table_ = *BuildTensorTable(spec_, *checkpoint_);
  }

  // A model of random weights of this shape, as wide as the fast products ask for.
  void OpenSynthetic() {
    SmallCheckpoint({.layers = "LF", .hidden = 1024, .heads = 8, .kv_heads = 4, .head_dim = 64, .rotary = 0.25, .key_heads = 4,
                     .value_heads = 8, .key_dim = 64, .value_dim = 128, .experts = 4, .top = 2, .width = 512, .shared_width = 256})
        .WriteTo(folder_);
    Open(*Checkpoint::OpenSynthetic(folder_ / "config.json"));
  }

  quant::RateTable Rates(const quant::RateOptions& options = {}) {
    Result<quant::RateTable> rates = MeasureRatesOnCuda(*checkpoint_, table_, options, Device(), *device_, pool_, nullptr);
    HPROC_CHECK(rates.ok(), rates.error().message);
    return std::move(*rates);
  }

  static std::vector<std::byte> ToHost(const void* from, int64_t bytes) {
    std::vector<std::byte> host(static_cast<size_t>(bytes));
    EXPECT_EQ(cudaMemcpy(host.data(), from, host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }

  // That `a`, on the device, is `b`: containers and what is kept to the byte, decode order row by row.
  static void ExpectSame(const kernels::Matrix& a, const kernels::Matrix& b) {
    ASSERT_EQ(a.rows, b.rows);
    ASSERT_EQ(a.columns, b.columns);
    if (a.storage == kernels::Storage::kDecodeOrder) {
      ASSERT_EQ(b.storage, kernels::Storage::kXfp);
      kernels::DecodeMatrix matrix = a.decode;
      const kernels::DecodeOrder order = matrix.order();
      const bool apart = matrix.outlier_bytes != nullptr;
      const std::vector<std::byte> body = ToHost(matrix.bytes, apart ? order.outlier_columns : order.total_bytes);
      const std::vector<std::byte> outliers = ToHost(matrix.outlier_bytes, apart ? order.total_bytes - order.outlier_columns : 0);
      matrix.bytes = body.data();
      if (apart) matrix.outlier_bytes = outliers.data();
      std::vector<float> got(static_cast<size_t>(a.columns));
      std::vector<float> want(got.size());
      for (int64_t row = 0; row < a.rows; ++row) {
        kernels::DecodeOrderedRow(matrix, row, got);
        quant::DecodeRow(b.xfp, row, want);
        ASSERT_EQ(got, want) << "row " << row;
      }
      return;
    }
    ASSERT_EQ(a.storage, b.storage);
    const bool is_packed = b.storage == kernels::Storage::kXfp;
    const int64_t plain = b.rows * b.columns * (b.storage == kernels::Storage::kFloat32 ? 4 : 2);
    const int64_t bytes = is_packed ? LayoutOf(b.rows, b.columns, b.xfp.format, b.xfp.outliers, b.xfp.cut).total_bytes : plain;
    if (is_packed) ASSERT_EQ(a.xfp.outliers, b.xfp.outliers);
    const std::vector<std::byte> got = ToHost(is_packed ? a.xfp.codes : a.data, bytes);
    const auto* want = static_cast<const std::byte*>(is_packed ? static_cast<const void*>(b.xfp.codes) : b.data);
    EXPECT_TRUE(std::equal(got.begin(), got.end(), want));
  }

  // Loads the shard on both sides, compares, and gives the device's share. How many matrices are in decode order is added up.
  std::vector<TensorShare> CompareLoads(const quant::Plan& plan, const Shard& shard, PackedLayout layout, int* in_decode_order = nullptr) {
    kernels::DeviceMemory host("cpu", 0);
    const Result<LoadedModel> expected = LoadModel(spec_, *checkpoint_, table_, plan, shard, host, pool_, nullptr);
    HPROC_CHECK(expected.ok(), expected.error().message);
    kernels::DeviceMemory memory("cuda:0", 0, kernels::CudaMemory(Device()));  // a ledger of its own
    Result<LoadedModel> loaded = LoadModelOnCuda(spec_, *checkpoint_, table_, plan, shard, Device(), memory, pool_, nullptr, layout);
    HPROC_CHECK(loaded.ok(), loaded.error().message);
    EXPECT_EQ(loaded->report.plan_digest, expected->report.plan_digest);
    EXPECT_EQ(loaded->report.weight_bytes, expected->report.weight_bytes);
    for (const ModelTensor& tensor : table_.tensors) {
      SCOPED_TRACE(testing::Message() << tensor.spec.name << ", rank " << shard.rank);
      const kernels::Matrix& matrix = loaded->model.Get(tensor.role, tensor.layer);
      ExpectSame(matrix, expected->model.Get(tensor.role, tensor.layer));
      if (in_decode_order != nullptr && matrix.storage == kernels::Storage::kDecodeOrder) ++*in_decode_order;
    }
    const kernels::DeviceMemory::Usage used = memory.usage();
    if (layout == PackedLayout::kContainers) EXPECT_EQ(used.live, host.usage().live);
    // Beside the weights there is what was said before, under this plan and under any.
    const int64_t workspace = CudaLoadWorkspaceBytes(spec_, table_, plan, shard, layout);
    EXPECT_LE(used.peak[static_cast<size_t>(kernels::MemoryUse::kWorkspace)], workspace);
    EXPECT_LE(used.peak_bytes, used.live_bytes + workspace);
    if (layout == PackedLayout::kFastest) EXPECT_LE(workspace, MostCudaLoadWorkspaceBytes(spec_, table_, shard));
    return loaded->shares;
  }

  int64_t LargestLayerBytes() const {
    std::map<int, int64_t> layers;
    int64_t most = 0;
    for (const ModelTensor& tensor : table_.tensors) {
      if (tensor.layer >= 0) most = std::max(most, layers[tensor.layer] += tensor.spec.kept_bytes());
    }
    return most;
  }

  ThreadPool pool_{static_cast<int>(std::max(2u, std::thread::hardware_concurrency()))};
  TestFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  ModelSpec spec_;
  TensorTable table_;
  std::optional<kernels::DeviceMemory> device_;
};

TEST_F(CudaLoaderTest, MeasuresAndLoadsWhatTheCpuDoes) {
  const Result<quant::RateTable> on_cpu = MeasureRates(*checkpoint_, table_, {}, pool_, nullptr);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.error().message;
  int64_t progress_bytes = 0;
  const Result<quant::RateTable> on_device = MeasureRatesOnCuda(*checkpoint_, table_, {}, Device(), *device_, pool_,
                                                               [&](int64_t done, int64_t) { progress_bytes = done; });
  ASSERT_TRUE(on_device.ok()) << on_device.error().message;
  EXPECT_EQ(quant::EncodeRateTable(*on_device), quant::EncodeRateTable(*on_cpu));
  int64_t stored = 0;
  for (const ModelTensor& tensor : table_.tensors) stored += tensor.spec.kept_bytes();
  EXPECT_EQ(progress_bytes, stored);

  for (const quant::ModePolicy policy : {quant::ModePolicy::kAuto, quant::ModePolicy::kV2, quant::ModePolicy::kV2a}) {
    const quant::Plan plan = quant::ResolvePlan(*on_device, {.strict = 0.985, .lazy = 0.95, .head = 0.99}, policy);
    EXPECT_LE(CudaLoadWorkspaceBytes(spec_, table_, plan, {}, PackedLayout::kFastest), LargestLayerBytes()) << "a layer as stored";
    for (const PackedLayout layout : {PackedLayout::kContainers, PackedLayout::kFastest}) CompareLoads(plan, {}, layout);
  }
}

// Random weights come to be on the device; whoever made them, the rates, the plans and what is loaded are the same.
TEST_F(CudaLoaderTest, MakesTheSyntheticModelThatTheCpuDoes) {
  OpenSynthetic();
  const Result<quant::RateTable> on_cpu = MeasureRates(*checkpoint_, table_, {}, pool_, nullptr);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.error().message;
  const quant::RateTable rates = Rates();
  EXPECT_EQ(quant::EncodeRateTable(rates), quant::EncodeRateTable(*on_cpu));
  quant::RateTable one_by_one = Rates({.v2 = false});
  AddRates(one_by_one, Rates({.v2a = false}));
  EXPECT_EQ(quant::EncodeRateTable(one_by_one), quant::EncodeRateTable(rates));
  for (const quant::ModePolicy policy : {quant::ModePolicy::kV2, quant::ModePolicy::kV2a}) {
    const quant::Plan plan = quant::ResolvePlan(rates, {.strict = 0.99, .lazy = 0.96, .head = 0.99}, policy);
    int in_decode_order = 0;
    CompareLoads(plan, {}, PackedLayout::kFastest, &in_decode_order);
    EXPECT_GT(in_decode_order, 4);
    for (const int world_size : {2, 4}) {
      std::vector<std::vector<TensorShare>> shares;
      in_decode_order = 0;
      for (int rank = 0; rank < world_size; ++rank) {
        shares.push_back(CompareLoads(plan, {.rank = rank, .world_size = world_size}, PackedLayout::kFastest, &in_decode_order));
      }
      EXPECT_GT(in_decode_order, 4 * world_size);
      const Result<LoadResult> report = MergeLoads(plan, shares);
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_EQ(report->plan_digest, plan.Digest());
    }
  }
}

// Without the other ranks: what one loads is its own affair.
TEST_F(CudaLoaderTest, LoadsTheShardsThatTheCpuDoes) {
  const Result<quant::RateTable> rates = MeasureRatesOnCuda(*checkpoint_, table_, {}, Device(), *device_, pool_, nullptr);
  ASSERT_TRUE(rates.ok()) << rates.error().message;
  for (const quant::ModePolicy policy : {quant::ModePolicy::kV2, quant::ModePolicy::kV2a}) {
    const quant::Plan plan = quant::ResolvePlan(*rates, {.strict = 0.985, .lazy = 0.95, .head = 0.99}, policy);
    std::vector<std::vector<TensorShare>> shares;
    for (int rank = 0; rank < 4; ++rank) {
      const Shard shard{.rank = rank, .world_size = 4};
      CompareLoads(plan, shard, PackedLayout::kFastest);
      shares.push_back(CompareLoads(plan, shard, PackedLayout::kContainers));
    }
    const Result<LoadResult> report = MergeLoads(plan, shares);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_EQ(report->plan_digest, plan.Digest());
  }
}

// The search is told what the point lacks, not what its next tensor does.
TEST_F(CudaLoaderTest, LacksAllThatIsStillToCome) {
  OpenSynthetic();
  const quant::Plan plan = quant::ResolvePlan(Rates({.v2a = false}), {.strict = 0.99, .lazy = 0.96, .head = 0.99}, quant::ModePolicy::kV2);
  const auto load = [&](int64_t cap) {
    kernels::DeviceMemory memory("cuda:0", cap, kernels::CudaMemory(Device()));
    const Result<LoadedModel> loaded = LoadModelOnCuda(spec_, *checkpoint_, table_, plan, {}, Device(), memory, pool_, nullptr,
                                                       PackedLayout::kFastest);
    HPROC_CHECK(loaded.ok(), loaded.error().message);
    return memory.usage().peak_bytes;
  };
  const int64_t peak = load(0);
  EXPECT_EQ(load(peak), peak);
  for (const int64_t cap : {peak / 20, peak / 2, peak - kernels::DeviceMemory::kGranularity}) {
    try {
      load(cap);
      FAIL();
    } catch (const kernels::DeviceOutOfMemory& refusal) {
      // Decode order pads a little more than the plan counts.
      const int64_t lacking = refusal.requested_bytes() - refusal.available_bytes();
      EXPECT_NEAR(static_cast<double>(lacking), static_cast<double>(peak - cap), static_cast<double>(peak) / 32) << refusal.what();
    }
  }
}

TEST_F(CudaLoaderTest, PeaksAtTheWeightsAndALayer) {
  const quant::Plan plan = KeepEverything(table_);
  Result<LoadedModel> loaded = LoadModelOnCuda(spec_, *checkpoint_, table_, plan, {}, Device(), *device_, pool_, nullptr,
                                               PackedLayout::kContainers);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const kernels::DeviceMemory::Usage usage = device_->usage();
  EXPECT_LE(usage.peak_bytes, usage.live_bytes + LargestLayerBytes());
}

}  // namespace
}  // namespace hproc::worker
