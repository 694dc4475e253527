#include "controller/clock.h"

#include <gtest/gtest.h>

namespace hproc::controller {
namespace {

using std::chrono::milliseconds;
using std::chrono::sys_days;

TEST(FormatUtc, WritesRfc3339ToTheMillisecond) {
  constexpr sys_days kDay = std::chrono::year{2026} / 11 / 23;
  EXPECT_EQ(FormatUtc(kDay), "2026-11-23T00:00:00.000Z");
  EXPECT_EQ(FormatUtc(kDay + milliseconds(86'399'042)), "2026-11-23T23:59:59.042Z");
  EXPECT_EQ(FormatUtc(sys_days(std::chrono::year{2024} / 2 / 29)), "2024-02-29T00:00:00.000Z");
}

TEST(FormatUtc, RoundsTowardsThePast) {
  constexpr sys_days kEpoch = std::chrono::year{1970} / 1 / 1;
  EXPECT_EQ(FormatUtc(kEpoch + std::chrono::microseconds(1'999)), "1970-01-01T00:00:00.001Z");
  EXPECT_EQ(FormatUtc(kEpoch - milliseconds(1)), "1969-12-31T23:59:59.999Z");
}

}  // namespace
}  // namespace hproc::controller
