#include "evals/python_random.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "base/check.h"

namespace hproc::evals {
namespace {

constexpr size_t kStateWords = std::mt19937::state_size;  // 624

// A seed sequence whose words are the state that init_by_array leaves (Matsumoto and Nishimura,
// mt19937ar.c, 2002). std::mt19937 takes the words of a seed sequence for its state as they are, so
// its own recurrence does the rest. Its one-word constructor is init_genrand instead, which gives
// other numbers.
class InitByArray {
 public:
  using result_type = uint32_t;

  explicit InitByArray(std::span<const uint32_t> key) {
    state_[0] = 19650218u;
    for (size_t i = 1; i < kStateWords; ++i)
      state_[i] = Mixed(i, 1812433253u) + static_cast<uint32_t>(i);
    size_t i = 1;
    size_t j = 0;
    const auto step = [&i, this] {
      if (++i == kStateWords) {
        state_[0] = state_[kStateWords - 1];
        i = 1;
      }
    };
    for (size_t k = std::max(kStateWords, key.size()); k > 0; --k) {
      state_[i] = (state_[i] ^ Mixed(i, 1664525u)) + key[j] + static_cast<uint32_t>(j);
      j = (j + 1) % key.size();
      step();
    }
    for (size_t k = kStateWords - 1; k > 0; --k) {
      state_[i] = (state_[i] ^ Mixed(i, 1566083941u)) - static_cast<uint32_t>(i);
      step();
    }
    state_[0] = 0x80000000u;
  }

  // What std::mersenne_twister_engine asks of a seed sequence.
  template <typename Iterator>
  void generate(Iterator begin, Iterator end) const {
    HPROC_CHECK(end - begin == static_cast<std::ptrdiff_t>(kStateWords),
                "not the state of an mt19937");
    std::copy(state_.begin(), state_.end(), begin);
  }

 private:
  uint32_t Mixed(size_t i, uint32_t factor) const {
    return (state_[i - 1] ^ (state_[i - 1] >> 30)) * factor;
  }

  std::array<uint32_t, kStateWords> state_{};
};

std::mt19937 SeededEngine(uint64_t seed) {
  const std::array<uint32_t, 2> words{static_cast<uint32_t>(seed),
                                      static_cast<uint32_t>(seed >> 32)};
  // CPython's key has as many words as the number needs, but at least one.
  InitByArray sequence{std::span(words).first(words[1] == 0 ? 1 : 2)};
  return std::mt19937(sequence);
}

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) : engine_(SeededEngine(seed)) {}

uint32_t PythonRandom::Below(uint32_t bound) {
  HPROC_CHECK(bound >= 1, "nothing lies below 0");
  const auto bits = static_cast<int>(std::bit_width(bound));
  uint32_t draw = 0;
  do {
    draw = static_cast<uint32_t>(engine_()) >> (32 - bits);
  } while (draw >= bound);
  return draw;
}

std::vector<int> PythonRandom::Sample(int population, int count) {
  HPROC_CHECK(count >= 0 && count <= population, "a sample is no larger than its population");
  // CPython compares the size of a set of `count` members with that of a list of the whole
  // population, and draws differently for each. The table of a set holds 21 members at first, then
  // the first power of four above 3 * count.
  int64_t set_size = 21;
  if (count > 5) {
    int64_t table = 1;
    while (table < int64_t{3} * count) table *= 4;
    set_size += table;
  }
  std::vector<int> sample;
  sample.reserve(static_cast<size_t>(count));
  if (population <= set_size) {
    std::vector<int> pool(static_cast<size_t>(population));
    std::iota(pool.begin(), pool.end(), 0);
    for (int i = 0; i < count; ++i) {
      const uint32_t j = Below(static_cast<uint32_t>(population - i));
      sample.push_back(pool[j]);
      pool[j] = pool[static_cast<size_t>(population - i - 1)];
    }
  } else {
    std::unordered_set<int> seen;
    while (std::ssize(sample) < count) {
      const int j = static_cast<int>(Below(static_cast<uint32_t>(population)));
      if (seen.insert(j).second) sample.push_back(j);
    }
  }
  return sample;
}

void PythonRandom::Shuffle(std::span<int> values) {
  for (size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[Below(static_cast<uint32_t>(i))]);
}

}  // namespace hproc::evals
