// The embedded model through the device's loader: rates, plan, containers and report are the CPU loader's.
#include "worker/cuda_loader.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>

#include "tests/kernels/cuda/gpu.h"
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
    checkpoint_.emplace(*Checkpoint::Open(ModelFolder()));
    spec_ = *ParseModelSpec(checkpoint_->config_json(), checkpoint_->generation_config_json());
    table_ = *BuildTensorTable(spec_, *checkpoint_);
    device_.emplace("cuda:0", 0, kernels::CudaMemory(Device()));
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
    kernels::DeviceMemory host("cpu", 0);
    Result<LoadedModel> expected = LoadModel(spec_, *checkpoint_, table_, plan, {}, host, pool_, nullptr);
    ASSERT_TRUE(expected.ok()) << expected.error().message;
    kernels::DeviceMemory memory("cuda:0", 0, kernels::CudaMemory(Device()));  // a ledger of its own
    Result<LoadedModel> loaded = LoadModelOnCuda(spec_, *checkpoint_, table_, plan, {}, Device(), memory, pool_, nullptr,
                                                 PackedLayout::kContainers);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_EQ(loaded->report.plan_digest, expected->report.plan_digest);
    EXPECT_EQ(loaded->report.weight_bytes, expected->report.weight_bytes);
    int packed = 0;
    for (const ModelTensor& tensor : table_.tensors) {
      const kernels::Matrix* a = loaded->model.Find(tensor.role, tensor.layer);
      const kernels::Matrix* b = expected->model.Find(tensor.role, tensor.layer);
      ASSERT_TRUE(a != nullptr && b != nullptr);
      ASSERT_EQ(a->storage, b->storage);
      const bool is_packed = b->storage == kernels::Storage::kXfp;
      packed += is_packed ? 1 : 0;
      const int64_t bytes =
          is_packed ? LayoutOf(b->rows, b->columns, b->xfp.format, b->xfp.outliers).total_bytes : tensor.spec.kept_bytes();
      std::vector<std::byte> got(static_cast<size_t>(bytes));
      ASSERT_EQ(cudaMemcpy(got.data(), is_packed ? a->xfp.codes : a->data, got.size(), cudaMemcpyDeviceToHost), cudaSuccess);
      const auto* want = static_cast<const std::byte*>(is_packed ? static_cast<const void*>(b->xfp.codes) : b->data);
      EXPECT_TRUE(std::equal(got.begin(), got.end(), want)) << tensor.spec.name;
    }
    EXPECT_GT(packed, 0);
    // The ledger agrees, line by line, but for the workspaces.
    const kernels::DeviceMemory::Usage on_host = host.usage();
    const kernels::DeviceMemory::Usage used = memory.usage();
    EXPECT_EQ(used.live, on_host.live);
    EXPECT_EQ(used.peak[static_cast<size_t>(kernels::MemoryUse::kWorkspace)], CudaLoadWorkspaceBytes(table_, plan));
    EXPECT_LE(used.peak_bytes, used.live_bytes + LargestLayerBytes()) << "the final weights and a layer as stored";
  }
}

// Without the other ranks: what one loads is its own affair.
TEST_F(CudaLoaderTest, LoadsTheShardsThatTheCpuDoes) {
  const Result<quant::RateTable> rates = MeasureRatesOnCuda(*checkpoint_, table_, {}, Device(), *device_, pool_, nullptr);
  ASSERT_TRUE(rates.ok()) << rates.error().message;
  for (const quant::ModePolicy policy : {quant::ModePolicy::kV2, quant::ModePolicy::kV2a}) {
    const quant::Plan plan = quant::ResolvePlan(*rates, {.strict = 0.985, .lazy = 0.95, .head = 0.99}, policy);
    std::vector<std::vector<TensorShare>> shares;
    for (const Shard shard : {Shard{.rank = 0, .world_size = 4}, {.rank = 1, .world_size = 4}, {.rank = 2, .world_size = 4}, {.rank = 3, .world_size = 4}}) {
      kernels::DeviceMemory host("cpu", 0);
      Result<LoadedModel> expected = LoadModel(spec_, *checkpoint_, table_, plan, shard, host, pool_, nullptr);
      ASSERT_TRUE(expected.ok()) << expected.error().message;
      kernels::DeviceMemory memory("cuda:0", 0, kernels::CudaMemory(Device()));
      Result<LoadedModel> loaded = LoadModelOnCuda(spec_, *checkpoint_, table_, plan, shard, Device(), memory, pool_, nullptr,
                                                   PackedLayout::kContainers);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      shares.push_back(loaded->shares);
      for (const ModelTensor& tensor : table_.tensors) {
        const kernels::Matrix* a = loaded->model.Find(tensor.role, tensor.layer);
        const kernels::Matrix* b = expected->model.Find(tensor.role, tensor.layer);
        ASSERT_TRUE(a != nullptr && b != nullptr);
        ASSERT_EQ(a->storage, b->storage);
        ASSERT_EQ(a->rows, b->rows);
        ASSERT_EQ(a->columns, b->columns);
        const bool is_packed = b->storage == kernels::Storage::kXfp;
        ASSERT_EQ(a->xfp.outliers, b->xfp.outliers) << tensor.spec.name;
        const int64_t bytes = is_packed ? LayoutOf(b->rows, b->columns, b->xfp.format, b->xfp.outliers, b->xfp.cut).total_bytes
                                        : b->rows * b->columns * tensor.spec.bytes_per_value;
        std::vector<std::byte> got(static_cast<size_t>(bytes));
        ASSERT_EQ(cudaMemcpy(got.data(), is_packed ? a->xfp.codes : a->data, got.size(), cudaMemcpyDeviceToHost), cudaSuccess);
        const auto* want = static_cast<const std::byte*>(is_packed ? static_cast<const void*>(b->xfp.codes) : b->data);
        EXPECT_TRUE(std::equal(got.begin(), got.end(), want)) << tensor.spec.name << ", rank " << shard.rank;
      }
      EXPECT_EQ(memory.usage().live, host.usage().live);
    }
    const Result<LoadResult> report = MergeLoads(plan, shares);
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_EQ(report->plan_digest, plan.Digest());
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
