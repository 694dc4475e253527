#include "quant/float_sort.h"

#include <array>
#include <bit>
#include <utility>

namespace hproc::quant {
namespace {

constexpr int kDigits = 4;  // bytes of a float
constexpr uint32_t kSign = 0x80000000u;

// Floats as whole numbers of the same order: negative ones turned over, the others above them.
uint32_t Ascending(float value) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 becomes 0
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}
float FloatOf(uint32_t ascending) {
  return std::bit_cast<float>((ascending & kSign) != 0 ? ascending & ~kSign : ~ascending);
}

// Byte `digit` of the value in a key, whose low half is the index.
size_t DigitOf(uint64_t key, int digit) { return (key >> (32 + 8 * digit)) & 255; }

}  // namespace

void FloatSorter::Sort(std::span<const float> values, std::vector<float>& sorted, std::vector<uint32_t>& order) {
  const size_t size = values.size();
  keys_.resize(size);
  other_.resize(size);
  std::array<std::array<uint32_t, 256>, kDigits> counts{};
  for (size_t i = 0; i < size; ++i) {
    const uint64_t key = (uint64_t{Ascending(values[i])} << 32) | i;
    keys_[i] = key;
    for (int digit = 0; digit < kDigits; ++digit) ++counts[static_cast<size_t>(digit)][DigitOf(key, digit)];
  }
  for (int digit = 0; digit < kDigits && size > 0; ++digit) {
    std::array<uint32_t, 256>& places = counts[static_cast<size_t>(digit)];
    if (places[DigitOf(keys_[0], digit)] == size) continue;  // all the same here
    uint32_t next = 0;
    for (uint32_t& place : places) next += std::exchange(place, next);
    for (const uint64_t key : keys_) other_[places[DigitOf(key, digit)]++] = key;
    keys_.swap(other_);
  }
  sorted.resize(size);
  order.resize(size);
  for (size_t i = 0; i < size; ++i) {
    sorted[i] = FloatOf(static_cast<uint32_t>(keys_[i] >> 32));
    order[i] = static_cast<uint32_t>(keys_[i]);
  }
}

}  // namespace hproc::quant
