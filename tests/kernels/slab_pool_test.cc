#include "kernels/slab_pool.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

namespace hproc::kernels {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A device of so many bytes that counts in pages, as the hardware does.
class FakePages : public MemorySource {
 public:
  explicit FakePages(int64_t device_bytes) : device_bytes_(device_bytes) {}
  ~FakePages() override { EXPECT_TRUE(held_.empty()) << "pages outlive the device"; }

  void* Allocate(int64_t bytes) override {
    EXPECT_EQ(bytes % SlabPool::kPageBytes, 0);
    if (bytes > available_bytes()) return nullptr;
    void* data = std::aligned_alloc(256, static_cast<size_t>(bytes));
    held_[data] = bytes;
    used_ += bytes;
    return data;
  }
  void Free(void* data, int64_t bytes) noexcept override {
    EXPECT_EQ(held_[data], bytes);
    held_.erase(data);
    used_ -= bytes;
    std::free(data);
  }
  int64_t available_bytes() const override { return device_bytes_ - used_; }
  Overhead overhead(int64_t live_bytes) const override {
    return {.context_bytes = 5, .unattributed_bytes = used_ - live_bytes};
  }

 private:
  int64_t device_bytes_;
  int64_t used_ = 0;
  std::map<void*, int64_t> held_;
};

DeviceMemory OnFakeDevice(int64_t device_bytes, int64_t cap_bytes) {
  return DeviceMemory("fake", cap_bytes, std::make_unique<SlabPool>(std::make_unique<FakePages>(device_bytes)));
}

TEST(SlabPool, ManySmallBuffersShareAFewPages) {
  DeviceMemory memory = OnFakeDevice(256 * kMiB, 0);
  std::vector<DeviceBuffer> buffers;
  for (int i = 0; i < 1000; ++i) buffers.push_back(memory.Allocate(10000, MemoryUse::kWeightsKept, "norm"));
  EXPECT_EQ(memory.usage().overhead.unattributed_bytes, SlabPool::kSlabBytes - memory.usage().live_bytes);
  EXPECT_EQ(memory.usage().overhead.context_bytes, 5);
}

TEST(SlabPool, GivesSlabsBackWhenTheyAreEmpty) {
  DeviceMemory memory = OnFakeDevice(512 * kMiB, 0);
  std::vector<DeviceBuffer> buffers;
  for (int i = 0; i < 100; ++i) buffers.push_back(memory.Allocate(3 * kMiB, MemoryUse::kWeightsLazy, "w"));
  for (size_t i = 0; i < buffers.size(); i += 2) buffers[i].Reset();
  for (size_t i = 1; i < buffers.size(); i += 2) buffers[i].Reset();
  EXPECT_EQ(memory.usage().overhead.unattributed_bytes, 0);
}

TEST(SlabPool, JoinsNeighboursThatCameBack) {
  SlabPool pool(std::make_unique<FakePages>(SlabPool::kSlabBytes));
  void* a = pool.Allocate(20 * kMiB);
  void* b = pool.Allocate(20 * kMiB);
  void* c = pool.Allocate(20 * kMiB);
  pool.Free(a, 20 * kMiB);
  pool.Free(b, 20 * kMiB);
  EXPECT_EQ(pool.Allocate(40 * kMiB), a);
  pool.Free(a, 40 * kMiB);
  pool.Free(c, 20 * kMiB);
}

TEST(SlabPool, TakesFewerPagesWhereAWholeSlabDoesNotFit) {
  SlabPool pool(std::make_unique<FakePages>(6 * kMiB));
  void* a = pool.Allocate(3 * kMiB);
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(pool.available_bytes(), 3 * kMiB);
  EXPECT_EQ(pool.Allocate(5 * kMiB), nullptr);
  pool.Free(a, 3 * kMiB);
}

// The cap and the device's own end are one verdict.
TEST(DeviceMemory, RefusesWhatTheDeviceDoesNotHoldAsItRefusesAtTheCap) {
  for (const bool by_cap : {true, false}) {
    DeviceMemory memory = OnFakeDevice(by_cap ? 1024 * kMiB : 256 * kMiB, by_cap ? 256 * kMiB : 0);
    const DeviceBuffer a = memory.Allocate(192 * kMiB, MemoryUse::kWeightsLazy, "a");
    try {
      const DeviceBuffer b = memory.Allocate(128 * kMiB, MemoryUse::kKvCache, "kv");
      FAIL();
    } catch (const DeviceOutOfMemory& refusal) {
      EXPECT_EQ(refusal.requested_bytes(), 128 * kMiB);
      EXPECT_EQ(refusal.available_bytes(), 64 * kMiB);
      EXPECT_EQ(refusal.purpose(), "kv");
    }
    EXPECT_EQ(memory.usage().live_bytes, 192 * kMiB);
    EXPECT_EQ(memory.usage().peak_bytes, 192 * kMiB) << "a refusal leaves no trace in the peaks";
    EXPECT_EQ(memory.usage().peak[static_cast<size_t>(MemoryUse::kKvCache)], 0);
  }
}

}  // namespace
}  // namespace hproc::kernels
