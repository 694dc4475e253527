// Sums over devices. With one device the ranks are one; with several, two of them.
#include "kernels/cuda/nccl_ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kernels/cuda/handles.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/kernels/device_array.h"

namespace hproc::kernels {
namespace {

class NcclRanksTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    if (const std::string why = WhyNoNccl(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(NcclRanksTest, AddsUpInsideACapturedGraph) {
  NcclRanks ranks(Device(), MakeNcclId(), 0, 1);
  const ScopedDevice current(Device().ordinal());
  EXPECT_GE(ranks.device_bytes(), 0);
  const std::vector<float> host = {1, 2, 3, 4, 5};
  const DeviceArray<float> values(host);
  const Stream stream;
  const Graph graph(stream, [&] {
    for (int i = 0; i < 3; ++i) ranks.AllReduceSum(values.get(), 5, stream.get());
  });
  for (int i = 0; i < 4; ++i) graph.Launch(stream);
  stream.Wait();
  EXPECT_EQ(values.ToHost(), host);
}

TEST_F(NcclRanksTest, GivesEveryRankTheSameBits) {
  if (CudaDeviceCount() < 2) GTEST_SKIP() << "one CUDA device";
  constexpr int kRanks = 2;
  for (const size_t count : {size_t{7}, size_t{3072}, size_t{100000}}) {
    const std::vector<std::byte> own_id = MakeNcclId();
    std::vector<std::vector<float>> sums(kRanks);
    {
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < kRanks; ++rank) {
        threads.emplace_back([&, rank] {
          const CudaDevice device(rank);
          const ScopedDevice current(rank);
          NcclRanks ranks(device, own_id, rank, kRanks);
          std::vector<float> host(count);
          for (size_t i = 0; i < count; ++i) host[i] = 1.0f / static_cast<float>(i + 1 + static_cast<size_t>(rank) * 977);
          const DeviceArray<float> values(host);
          const Stream stream;
          const Graph graph(stream, [&] { ranks.AllReduceSum(values.get(), static_cast<int64_t>(count), stream.get()); });
          graph.Launch(stream);
          stream.Wait();
          sums[static_cast<size_t>(rank)] = values.ToHost();
        });
      }
    }
    EXPECT_EQ(sums[0], sums[1]);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_FLOAT_EQ(sums[0][i], 1.0f / static_cast<float>(i + 1) + 1.0f / static_cast<float>(i + 978));
    }
  }
}

TEST_F(NcclRanksTest, GivesUpOnARankThatIsGone) {
  if (CudaDeviceCount() < 2) GTEST_SKIP() << "one CUDA device";
  const std::vector<std::byte> id = MakeNcclId();
  std::atomic<bool> met = false;
  std::jthread other([&] {
    const CudaDevice device(1);
    const NcclRanks ranks(device, id, 1, 2);
    met = true;  // and goes
  });
  NcclRanks ranks(Device(), id, 0, 2);
  while (!met) std::this_thread::yield();
  other.join();
  const ScopedDevice current(Device().ordinal());
  const DeviceArray<float> values(std::vector<float>(64, 1.0f));
  const Stream stream;
  ranks.AllReduceSum(values.get(), 64, stream.get());
  const auto start = std::chrono::steady_clock::now();
  while (cudaStreamQuery(stream.get()) == cudaErrorNotReady && std::chrono::steady_clock::now() - start < std::chrono::milliseconds(300)) {
  }
  ranks.Abort();
  static_cast<void>(cudaStreamSynchronize(stream.get()));
  static_cast<void>(cudaGetLastError());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_THROW(ranks.AllReduceSum(values.get(), 64, stream.get()), DeviceError);
}

}  // namespace
}  // namespace hproc::kernels
