// Where a device ends, in each phase of a trial in a process of its own: at the cap, and where a neighbour holds the rest; and the end
// of a rank on two devices. The verdict names the phase, or the rank, and whatever it is, nothing is left on a device.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <map>
#include <thread>

#include "controller/worker_client.h"
#include "kernels/cuda/nccl_ranks.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/worker/ranks_fixture.h"
#include "worker/ranks.h"
#include "worker/synthetic_name.h"

namespace hproc::worker {
namespace {

using controller::WorkerClient;
using kernels::DeviceMemory;
using kernels::MemoryUse;

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t UsedBytes(int ordinal) { return kernels::ReadIdleDevice(ordinal)->used_bytes; }

// A process that has ended gives its memory back with its last breath, or shortly after.
void ExpectNothingLeft(int ordinal, int64_t before) {
  for (int i = 0; i < 100 && UsedBytes(ordinal) > before; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(UsedBytes(ordinal), before) << "device " << ordinal;
}

class DeviceEndTest : public kernels::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    if (!kernels::ReadIdleDevice(0)) GTEST_SKIP() << "needs NVML, which says what a device holds";
    // Weights, caches and activations of some hundred MiB each, so that a neighbour's pages and slabs tell them apart.
    SmallCheckpoint small({.layers = "LF", .hidden = 1024, .heads = 8, .kv_heads = 4, .head_dim = 64, .rotary = 0.25, .key_heads = 4,
                           .value_heads = 8, .key_dim = 64, .value_dim = 128, .experts = 64, .top = 4, .width = 512, .shared_width = 512});
    small.text_config["max_position_embeddings"] = 1 << 16;
    small.WriteTo(folder_);
    const Checkpoint checkpoint = *Checkpoint::OpenSynthetic(folder_ / "config.json");
    const ModelSpec spec = *ParseModelSpec(checkpoint.config_json(), checkpoint.generation_config_json());
    plan_json_ = PlanToJson(KeepEverything(*BuildTensorTable(spec, checkpoint)));
    before_ = UsedBytes(0);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    neighbour_.clear();
    ExpectNothingLeft();
  }

  void ExpectNothingLeft() const { worker::ExpectNothingLeft(0, before_); }

  // Takes memory until no more than `rest` bytes are free.
  void LeaveFree(int64_t rest) {
    const kernels::DeviceReading reading = Device().Read();
    const int64_t bytes = reading.total_bytes - reading.used_bytes - rest;
    ASSERT_GT(bytes, 0);
    neighbour_.push_back(others_.Allocate(bytes, MemoryUse::kWeightsKept, "a neighbour"));
  }

  std::unique_ptr<WorkerClient> Start(int64_t cap_bytes = 0) {
    TrialJob job{.model_dir = SyntheticModel((folder_ / "config.json").string()), .plan_json = plan_json_, .memory_cap_bytes = cap_bytes};
    job.deployment = {.device = "cuda", .threads = 2, .context = 1 << 15, .batch = 16, .prefill_chunk = 8192};
    controller::WorkerOptions options;
    options.executable = WorkerPath();
    options.arguments = {"session"};
    ledgers_.clear();
    Result<std::unique_ptr<WorkerClient>> client = WorkerClient::Start(options, job, &observer_);
    HPROC_CHECK(client.ok(), client.error().message);
    return *std::move(client);
  }

  struct Sizes {
    int64_t beside = 0;  // context, and what no line names
    int64_t weights = 0;
    int64_t load_peak = 0;
    int64_t caches = 0;
    int64_t activations = 0;
    int64_t all() const { return weights + caches + activations; }
  };
  // What the model takes where nothing is in its way.
  Sizes Measure() {
    std::unique_ptr<WorkerClient> client = Start();
    Outcome<controller::LoadedModel> loaded = client->AwaitLoad("");
    HPROC_CHECK(loaded.ok(), loaded.verdict().verdict.message);
    EXPECT_EQ(client->Finish().verdict.reason, Reason::kNone);
    ExpectNothingLeft();
    HPROC_CHECK(ledgers_.size() == 2, "a ledger once loaded, and one once ready");
    std::map<std::string, int64_t> lines;
    for (const LedgerLine& line : ledgers_[1].lines) lines[line.name] = line.bytes;
    return {.beside = lines["context"] + lines["unattributed"], .weights = ledgers_[0].live_bytes, .load_peak = ledgers_[0].peak_bytes,
            .caches = lines["kv_cache"] + lines["state"], .activations = lines["activations"]};
  }

  void ExpectOutOfMemory(WorkerClient& client, const std::string& phase) {
    SCOPED_TRACE(phase);
    Outcome<controller::LoadedModel> loaded = client.AwaitLoad("");
    ASSERT_FALSE(loaded.ok());
    const controller::Verdict& verdict = loaded.verdict().verdict;
    EXPECT_EQ(verdict.reason, Reason::kOutOfMemory) << verdict.message;
    EXPECT_EQ(verdict.phase, phase) << verdict.message;
    EXPECT_EQ(verdict.device, "cuda");
    EXPECT_EQ(::kill(client.process().pid(), 0), -1) << "reaped";
  }

  struct Observer : controller::WorkerObserver {
    explicit Observer(std::vector<MemoryEvent>& to) : ledgers(to) {}
    void OnMemory(const MemoryEvent& memory) override { ledgers.push_back(memory); }
    std::vector<MemoryEvent>& ledgers;
  };

  TestFolder folder_;
  std::string plan_json_;
  int64_t before_ = 0;
  std::vector<MemoryEvent> ledgers_;
  Observer observer_{ledgers_};
  DeviceMemory others_{"cuda", 0, kernels::CudaDeviceCount() > 0 ? kernels::CudaMemory(Device()) : nullptr};
  std::vector<kernels::DeviceBuffer> neighbour_;
};

TEST_F(DeviceEndTest, IsTheCapToTheByteInEveryPhase) {
  const Sizes sizes = Measure();
  const int64_t step = DeviceMemory::kGranularity;
  for (const auto& [cap, phase] : {std::pair{sizes.load_peak - step, "load"}, std::pair{sizes.weights + sizes.caches - step, "cache"},
                                   std::pair{sizes.all() - step, "warmup"}}) {
    ExpectOutOfMemory(*Start(cap), phase);
    ExpectNothingLeft();
  }
  std::unique_ptr<WorkerClient> enough = Start(std::max(sizes.all(), sizes.load_peak));
  EXPECT_TRUE(enough->AwaitLoad("").ok());
  EXPECT_EQ(enough->Finish().verdict.reason, Reason::kNone);
}

TEST_F(DeviceEndTest, IsWhereANeighbourBeginsInEveryPhase) {
  const Sizes sizes = Measure();
  ASSERT_GT(sizes.caches, 256 * kMiB);
  ASSERT_GT(sizes.activations, 128 * kMiB);
  ASSERT_LT(sizes.load_peak, sizes.weights + sizes.caches - 128 * kMiB);
  for (const auto& [room, phase] : {std::pair{sizes.weights / 2, "load"},
                                    std::pair{std::max(sizes.load_peak, sizes.weights + sizes.caches / 2), "cache"},
                                    std::pair{sizes.weights + sizes.caches + sizes.activations / 2, "warmup"}}) {
    LeaveFree(sizes.beside + room);
    ExpectOutOfMemory(*Start(), phase);
    neighbour_.clear();
    ExpectNothingLeft();
  }
}

// No room for a context says nothing about the model.
TEST_F(DeviceEndTest, BeforeTheModelIsContamination) {
  LeaveFree(32 * kMiB);
  std::unique_ptr<WorkerClient> client = Start();
  Outcome<controller::LoadedModel> loaded = client->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kContaminated) << loaded.verdict().verdict.message;
}

// What it runs with it has once it is ready: who comes later takes nothing away.
TEST_F(DeviceEndTest, IsOfNoMatterToAModelThatIsReady) {
  std::unique_ptr<WorkerClient> client = Start();
  ASSERT_TRUE(client->AwaitLoad("").ok());
  LeaveFree(4 * kMiB);
  Outcome<std::vector<evals::ThroughputSample>> samples = client->Throughput(
      {.prompt_tokens = 1000, .short_decode_tokens = 8, .long_decode_tokens = 16, .batch = 16, .repetitions = 1, .warmups = 0});
  EXPECT_TRUE(samples.ok()) << samples.verdict().verdict.message;
  EXPECT_EQ(client->Finish().verdict.reason, Reason::kNone);
}

class RanksOnDevicesTest : public RanksFixture {
 protected:
  RanksOnDevicesTest() : RanksFixture("cuda") {}
  void SetUp() override {
    std::string reason = "no devices";
    const int devices = kernels::CudaDeviceCount(&reason);
    if (devices < 2) GTEST_SKIP() << "needs two CUDA devices, there are " << devices << ": " << reason;
    if (const std::string why = kernels::WhyNoNccl(); !why.empty()) GTEST_SKIP() << "needs NCCL: " << why;
    if (!kernels::ReadIdleDevice(0)) GTEST_SKIP() << "needs NVML, which says what a device holds";
    RanksFixture::SetUp();
    for (const int ordinal : {0, 1}) before_.push_back(UsedBytes(ordinal));
  }
  void TearDown() override {
    for (size_t ordinal = 0; ordinal < before_.size(); ++ordinal) ExpectNothingLeft(static_cast<int>(ordinal), before_[ordinal]);
  }
  std::vector<int64_t> before_;
};

TEST_F(RanksOnDevicesTest, EndWithOneThatIsKilledInAnyPhase) { EndsWithOneThatIsKilledInAnyPhase(2, {0, 1}); }

// One pass over the checkpoint, shared out between the devices.
TEST_F(RanksOnDevicesTest, MeasureTogetherWhatOneMeasuresAlone) {
  before_.clear();  // this process itself keeps its contexts
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder_.path());
  const std::unique_ptr<Runtime> first = OpenRuntime("cuda:0", 1, 0);
  const std::unique_ptr<Runtime> second = OpenRuntime("cuda:1", 1, 0);
  const std::vector<Runtime*> both{first.get(), second.get()};
  const Result<quant::RateTable> together = MeasureTogether(both, opened.checkpoint, opened.table, {}, {});
  ASSERT_TRUE(together.ok()) << together.error().message;
  EXPECT_EQ(quant::EncodeRateTable(*together), quant::EncodeRateTable(opened.Rates(pool_)));
}

}  // namespace
}  // namespace hproc::worker
