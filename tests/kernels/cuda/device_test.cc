#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/cuda/handles.h"
#include "tests/kernels/cuda/gpu.h"

namespace hproc::kernels {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(CudaOrdinal, ReadsTheNamesOfDevices) {
  EXPECT_EQ(CudaOrdinal("cuda"), 0);
  EXPECT_EQ(CudaOrdinal("cuda:7"), 7);
  for (const char* name : {"cpu", "cuda:", "cuda:-1", "cuda:1x", "cuda 1", ""}) EXPECT_EQ(CudaOrdinal(name), std::nullopt);
}

TEST(CudaDeviceCount, SaysWhyThereIsNone) {
  std::string reason;
  const bool none = CudaDeviceCount(&reason) == 0;
  EXPECT_EQ(none, !reason.empty());
}

TEST(DeviceErrors, TellAFaultOfOursFromALostDeviceAndFromWantOfRoom) {
  EXPECT_EQ(KindOf(cudaErrorMemoryAllocation), DeviceError::Kind::kOutOfMemory);
  for (const cudaError_t gone : {cudaErrorNoDevice, cudaErrorDevicesUnavailable, cudaErrorECCUncorrectable}) {
    EXPECT_EQ(KindOf(gone), DeviceError::Kind::kLost) << gone;
  }
  for (const cudaError_t ours : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorInvalidConfiguration}) {
    EXPECT_EQ(KindOf(ours), DeviceError::Kind::kFault) << ours;
  }
}

TEST(DeviceErrors, NameTheCallAndThePlace) {
  try {
    HPROC_CUDA_CHECK(cudaErrorInvalidValue);
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_EQ(error.kind(), DeviceError::Kind::kFault);
    EXPECT_NE(std::string(error.what()).find("cudaErrorInvalidValue: invalid argument ("), std::string::npos) << error.what();
  }
}

class CudaMemoryTest : public GpuTest {};

TEST_F(CudaMemoryTest, MeasuresItsContextAndWhatOthersHold) {
  const CudaDevice& device = Device();
  EXPECT_GT(device.context_bytes(), 50 * kMiB);
  EXPECT_LT(device.context_bytes(), 4096 * kMiB);
  EXPECT_GE(device.idle_bytes(), 0);
  EXPECT_GT(device.multiprocessors(), 0);
  RecordProperty("context_bytes", std::to_string(device.context_bytes()));
  RecordProperty("idle_bytes", std::to_string(device.idle_bytes()));
}

TEST_F(CudaMemoryTest, NamesEveryByteItTakes) {
  DeviceMemory memory("cuda:0", 0, CudaMemory(Device()));
  const int64_t before = memory.usage().overhead.unattributed_bytes;
  {
    const DeviceBuffer large = memory.Allocate(513 * kMiB, MemoryUse::kWeightsLazy, "large");
    const DeviceBuffer small = memory.Allocate(100, MemoryUse::kWeightsKept, "small");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data()) % 256, 0u);
    const int64_t after = memory.usage().overhead.unattributed_bytes;
    EXPECT_LE(after - before, 66 * kMiB) << "a page of the large one, and the small one's slab";
  }
  EXPECT_NEAR(static_cast<double>(memory.usage().overhead.unattributed_bytes), static_cast<double>(before),
              static_cast<double>(4 * kMiB));
}

TEST_F(CudaMemoryTest, TheDevicesOwnEndIsTheSameVerdictAsTheCap) {
  DeviceMemory memory("cuda:0", 0, CudaMemory(Device()));
  const DeviceReading reading = Device().Read();
  const int64_t free = reading.total_bytes - reading.used_bytes;
  try {
    const DeviceBuffer b = memory.Allocate(free + 1024 * kMiB, MemoryUse::kKvCache, "kv");
    FAIL();
  } catch (const DeviceOutOfMemory& refusal) {
    EXPECT_EQ(refusal.purpose(), "kv");
    EXPECT_NEAR(static_cast<double>(refusal.available_bytes()), static_cast<double>(free), static_cast<double>(64 * kMiB));
  }
  EXPECT_EQ(memory.usage().peak_bytes, 0);
  const DeviceBuffer after = memory.Allocate(kMiB, MemoryUse::kKvCache, "the refusal is not sticky");
  const ScopedDevice current(Device().ordinal());
  EXPECT_EQ(cudaMemset(after.data(), 0, 16), cudaSuccess);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

class CudaHandles : public GpuTest {};

TEST_F(CudaHandles, AGraphReplaysWhatWasRecorded) {
  DeviceMemory memory("cuda:0", 0, CudaMemory(Device()));
  const ScopedDevice current(Device().ordinal());
  const DeviceBuffer buffer = memory.Allocate(256, MemoryUse::kWorkspace, "b");
  const PinnedBuffer host(256);
  const Stream stream;
  HPROC_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 1, 256, stream.get()));
  stream.Wait();
  const Graph graph(stream, [&] {
    HPROC_CUDA_CHECK(cudaMemcpyAsync(host.as<void>(), buffer.data(), 256, cudaMemcpyDeviceToHost, stream.get()));
    HPROC_CUDA_CHECK(cudaMemsetAsync(buffer.data(), 7, 256, stream.get()));
  });
  graph.Launch(stream);
  stream.Wait();
  EXPECT_EQ(host.as<uint8_t>()[255], 1);
  const Event start(Event::Timing::kOn);
  const Event end(Event::Timing::kOn);
  start.Record(stream);
  graph.Launch(stream);
  end.Record(stream);
  end.Wait();
  EXPECT_EQ(host.as<uint8_t>()[255], 7);
  EXPECT_GT(end.MillisecondsSince(start), 0);
}

}  // namespace
}  // namespace hproc::kernels
