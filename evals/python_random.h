// CPython's random.Random, as far as prompts and orders need it: the shots of GSM8K are drawn with
// it (lm-evaluation-harness, fewshot sampler, seed 1234), so the same prompts need the same draws.
//
// Source of each algorithm: CPython's Modules/_randommodule.c for the seeding by init_by_array, and
// its Lib/random.py for _randbelow_with_getrandbits, sample and shuffle; what they draw has not
// changed since Python 3.2.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace hproc::evals {

// Thread-compatible. Portable: nothing here depends on the standard library's distributions.
class PythonRandom {
 public:
  // random.Random(seed) for a non-negative integer.
  explicit PythonRandom(uint64_t seed);

  // random._randbelow(bound): uniform in [0, bound); bound >= 1. The top bits of a draw, drawn
  // again while too large.
  uint32_t Below(uint32_t bound);

  // random.sample(range(population), count): distinct, in the order drawn. 0 <= count <=
  // population.
  std::vector<int> Sample(int population, int count);

  // random.shuffle(values).
  void Shuffle(std::span<int> values);

 private:
  std::mt19937 engine_;
};

}  // namespace hproc::evals
