#include "worker/idle_gate.h"

#include <gtest/gtest.h>

namespace hproc::worker {
namespace {

using std::chrono::milliseconds;

TEST(IdleGate, OpensAtOnceWhereEnoughIsFree) {
  const auto never = [] { FAIL() << "waited"; };
  EXPECT_EQ(WaitForFreeBytes(5, milliseconds(60'000), [] { return std::optional<int64_t>(5); }, never), 5);
}

TEST(IdleGate, OpensWhenTheNeighbourIsGone) {
  int64_t free = 1;
  EXPECT_EQ(WaitForFreeBytes(3, milliseconds(60'000), [&] { return std::optional<int64_t>(free); }, [&] { ++free; }), 3);
}

TEST(IdleGate, SaysWhatIsFreeWhenTheWaitIsOver) {
  int looks = 0;
  const auto look = [&] {
    ++looks;
    return std::optional<int64_t>(2);
  };
  EXPECT_EQ(WaitForFreeBytes(3, milliseconds(1), look, [] {}), 2);
  EXPECT_GE(looks, 2) << "the last look is after the wait";
  EXPECT_EQ(WaitForFreeBytes(3, milliseconds(0), look, [] {}), 2);
}

TEST(IdleGate, WaitsForNobodyWhereTheSystemDoesNotSay) {
  const auto never = [] { FAIL() << "waited"; };
  EXPECT_EQ(WaitForFreeBytes(3, milliseconds(60'000), [] { return std::optional<int64_t>(); }, never), std::nullopt);
  EXPECT_EQ(FreeBytesOf("a device of another build"), std::nullopt);
}

TEST(IdleGate, SeesTheHostsMemory) {
  const std::optional<int64_t> free = FreeBytesOf("cpu");
  ASSERT_TRUE(free.has_value());
  EXPECT_GT(*free, int64_t{16} << 20) << "this test runs in some";
}

}  // namespace
}  // namespace hproc::worker
