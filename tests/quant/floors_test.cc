#include "quant/floors.h"

#include <gtest/gtest.h>

namespace hproc::quant {
namespace {

TEST(FloorLadder, RisesFromOneHalfToOne) {
  EXPECT_EQ(LadderFloor(0), 0.5);
  EXPECT_EQ(LadderFloor(kLadderSize - 1), 1.0);
  EXPECT_EQ(LadderFloor(kLadderSize - 2), 0.9999);
  for (int i = 1; i < kLadderSize; ++i) EXPECT_GT(LadderFloor(i), LadderFloor(i - 1)) << i;
}

TEST(FloorLadder, HoldsTheDecimalsThatPeopleWrite) {
  for (double floor : {0.5, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0}) {
    EXPECT_EQ(LadderFloor(LadderIndex(floor)), floor);
  }
}

TEST(FloorLadder, RaisesAFloorBetweenTwoRungs) {
  EXPECT_EQ(LadderFloor(LadderIndex(0.8001)), 0.805);
  EXPECT_EQ(LadderFloor(LadderIndex(0.99991)), 1.0);
  EXPECT_EQ(LadderFloor(LadderIndex(0.01)), 0.5);
  for (int i = 0; i < kLadderSize; ++i) EXPECT_EQ(LadderIndex(LadderFloor(i)), i);
}

}  // namespace
}  // namespace hproc::quant
