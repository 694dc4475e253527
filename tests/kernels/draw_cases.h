// Rows of logits and the draws to make of them, for tests of every backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/sampling.h"

namespace hproc::kernels {

struct DrawCase {
  std::string name;
  std::vector<float> logits;
  int nonfinite = 0;
};

inline std::vector<DrawCase> DrawCases() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 3);
  const auto rows = [&](size_t count) {
    std::vector<float> logits(count);
    for (float& l : logits) l = normal(random);
    return logits;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  std::vector<DrawCase> cases = {{"one", {3}}, {"two equal", {2, 2}}, {"noughts of both signs", {-0.0f, 0.0f, -1, 0.0f}},
                                 {"extremes", {-most, most, 0, most}}, {"odd", rows(1001)}, {"all equal", std::vector<float>(5000, 1.5f)},
                                 {"wide", rows(20000)}};
  DrawCase steps{"few values, many equal", rows(9000)};
  for (float& l : steps.logits) l = std::round(l);
  cases.push_back(steps);
  DrawCase close{"close together", rows(3000)};
  for (float& l : close.logits) l = 1 + l * 1e-6f;
  cases.push_back(close);
  DrawCase far{"one far above", rows(4000)};
  far.logits[2345] = 1e6f;
  cases.push_back(far);
  DrawCase broken{"not finite", rows(3000), 3};
  broken.logits[17] = infinity, broken.logits[1700] = -infinity, broken.logits[2999] = std::nanf("");
  cases.push_back(broken);
  cases.push_back({"none a number", std::vector<float>(2000, std::nanf("")), 2000});
  return cases;
}

// Of a case, with seeds, temperatures and cuts of every kind, edges among them.
inline std::vector<Draw> DrawsOf(const DrawCase& each) {
  std::vector<Draw> draws;
  const auto columns = static_cast<int>(each.logits.size());
  uint64_t seed = 0;
  for (const double temperature : {0.0, 1e-300, 0.05, 0.7, 1.0, 3.0, 1e9}) {
    for (const int top_k : {0, 1, 2, 40, columns - 1, columns, columns + 1}) {
      for (const double top_p : {1.0, 0.95, 0.5, 1e-9, 0.0}) {
        ++seed;
        draws.push_back(DrawOf(temperature, top_k, top_p, seed << 32 | seed, seed % 5));
      }
    }
  }
  for (const uint64_t random : {uint64_t{0}, std::numeric_limits<uint64_t>::max()}) {  // the ends of what may be drawn
    Draw draw = DrawOf(1, 0, 1, 0, 0);
    draw.random = random;
    draws.push_back(draw);
    draw.top_p = 0.9;
    draws.push_back(draw);
  }
  return draws;
}

}  // namespace hproc::kernels
