#include "kernels/device_memory.h"

#include <gtest/gtest.h>

namespace hproc::kernels {
namespace {

TEST(DeviceMemory, CountsWhatIsLiveAndThePeak) {
  DeviceMemory memory("cpu", 0);
  DeviceBuffer a = memory.Allocate(100, MemoryUse::kKvCache, "kv");
  {
    const DeviceBuffer b = memory.Allocate(1, MemoryUse::kWorkspace, "w");
    EXPECT_EQ(memory.usage().live_bytes, 128 + 64);
  }
  EXPECT_EQ(memory.usage().live_bytes, 128);
  EXPECT_EQ(memory.usage().peak_bytes, 192);
  EXPECT_EQ(memory.usage().live[static_cast<size_t>(MemoryUse::kWorkspace)], 0);
  EXPECT_EQ(memory.usage().peak[static_cast<size_t>(MemoryUse::kWorkspace)], 64);
  a = DeviceBuffer();
  EXPECT_EQ(memory.usage().live_bytes, 0);
}

TEST(DeviceMemory, RefusesWhatTheCapDoesNotHoldAndSaysForWhat) {
  DeviceMemory memory("cpu", 1024);
  const DeviceBuffer a = memory.Allocate(512, MemoryUse::kWeightsStrict, "a");
  try {
    const DeviceBuffer b = memory.Allocate(513, MemoryUse::kWeightsLazy, "layers.3.mlp");
    FAIL() << "513 bytes round up to 576, more than the 512 left";
  } catch (const DeviceOutOfMemory& refusal) {
    EXPECT_EQ(refusal.requested_bytes(), 576);
    EXPECT_EQ(refusal.available_bytes(), 512);
    EXPECT_EQ(refusal.purpose(), "layers.3.mlp");
    EXPECT_STREQ(refusal.what(), "cpu: out of memory: layers.3.mlp needs 576 B, 512 B are left");
  }
  EXPECT_EQ(memory.usage().live_bytes, 512);
  const DeviceBuffer c = memory.Allocate(512, MemoryUse::kWeightsLazy, "fits to the byte");
  EXPECT_EQ(memory.usage().live_bytes, 1024);
}

TEST(DeviceMemory, MovesBytesBetweenLinesOfTheLedger) {
  DeviceMemory memory("cpu", 0);
  DeviceBuffer a = memory.Allocate(640, MemoryUse::kWeightsStrict, "a");
  memory.Reassign(MemoryUse::kWeightsStrict, MemoryUse::kOutliers, 40);
  EXPECT_EQ(memory.usage().live[static_cast<size_t>(MemoryUse::kWeightsStrict)], 600);
  EXPECT_EQ(memory.usage().live[static_cast<size_t>(MemoryUse::kOutliers)], 40);
  EXPECT_EQ(memory.usage().live_bytes, 640);
}

TEST(DeviceBuffer, MovesLeaveTheSourceEmpty) {
  DeviceMemory memory("cpu", 0);
  DeviceBuffer a = memory.Allocate(64, MemoryUse::kState, "a");
  DeviceBuffer b = std::move(a);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT: the state after a move is part of the contract
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data()) % 64, 0u);
  b = memory.Allocate(128, MemoryUse::kState, "b");
  EXPECT_EQ(memory.usage().live_bytes, 128);
}

}  // namespace
}  // namespace hproc::kernels
