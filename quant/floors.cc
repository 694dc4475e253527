#include "quant/floors.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"

namespace hproc::quant {
namespace {

// Rungs are multiples of 0.000005, so they are kept as whole numbers of it: equal floors are equal bits.
constexpr int64_t kUnitsPerOne = 200000;

constexpr std::array<int64_t, kLadderSize> MakeLadder() {
  std::array<int64_t, kLadderSize> ladder{};
  int n = 0;
  for (int64_t u = 100000; u < 180000; u += 1000) ladder[static_cast<size_t>(n++)] = u;  // 0.5 by 0.005
  for (int64_t u = 180000; u < 198000; u += 100) ladder[static_cast<size_t>(n++)] = u;   // 0.9 by 0.0005
  for (int64_t u = 198000; u < 199800; u += 10) ladder[static_cast<size_t>(n++)] = u;    // 0.99 by 0.00005
  for (int64_t u = 199800; u <= 199980; u += 1) ladder[static_cast<size_t>(n++)] = u;    // 0.999 by 0.000005
  ladder[static_cast<size_t>(n++)] = kUnitsPerOne;
  return ladder;
}

constexpr std::array<int64_t, kLadderSize> kLadder = MakeLadder();
constexpr std::array<double, kLadderSize> MakeFloors() {
  std::array<double, kLadderSize> floors{};
  for (size_t i = 0; i < floors.size(); ++i) floors[i] = static_cast<double>(kLadder[i]) / static_cast<double>(kUnitsPerOne);
  return floors;
}
constexpr std::array<double, kLadderSize> kFloors = MakeFloors();  // asked for a thousand times a channel

static_assert(kLadder.back() == kUnitsPerOne && kLadder[kLadderSize - 2] == 199980);

}  // namespace

std::string_view FamilyName(Family family) {
  switch (family) {
    case Family::kStrict: return "strict";
    case Family::kLazy: return "lazy";
    case Family::kHead: return "head";
    case Family::kKept: return "kept";
  }
  return "?";
}

double LadderFloor(int index) {
  HPROC_CHECK(index >= 0 && index < kLadderSize, "rung outside the ladder");
  return kFloors[static_cast<size_t>(index)];
}

int LadderIndex(double floor) {
  HPROC_CHECK(floor > 0 && floor <= 1, "a floor is in (0, 1]");
  // The 1e-4 of a rung forgives the rounding of a decimal that names one.
  const auto units = static_cast<int64_t>(std::ceil(floor * static_cast<double>(kUnitsPerOne) - 1e-4));
  const auto it = std::lower_bound(kLadder.begin(), kLadder.end(), units);
  return static_cast<int>(it - kLadder.begin());
}

}  // namespace hproc::quant
