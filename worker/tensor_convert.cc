#include "worker/tensor_convert.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace hproc::worker {
namespace {

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little endian, and so must be the machine");

// The loops below have no branch, so that the compiler turns them into vector code.

template <typename T>
T Load(const std::byte* from, size_t index) {
  T value;
  std::memcpy(&value, from + index * sizeof(T), sizeof(T));
  return value;
}

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Normal numbers, infinities and NaNs move their exponent from bias 15 to 127 by adding; subnormals
// are small integers times 2^-24. All three are computed and one is chosen. No float32 subnormal
// takes part, so that a thread that flushes them to zero gets the same.
float FromF16(uint16_t bits) {
  constexpr uint32_t kRebias = uint32_t{127 - 15} << 23;
  const uint32_t magnitude = bits & 0x7FFFu;
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  uint32_t result = (magnitude << 13) + kRebias;
  result += magnitude >= 0x7C00u ? kRebias : 0;  // exponent 31 becomes 255
  result = magnitude < 0x0400u ? std::bit_cast<uint32_t>(subnormal) : result;
  return std::bit_cast<float>(result | (bits & 0x8000u) << 16);
}

// All ones in the exponent: NaN or infinite. On the bits, so that -ffast-math could not remove it.
int64_t CountNonFinite(std::span<const float> values) {
  int64_t count = 0;
  for (const float value : values) {
    count += (std::bit_cast<uint32_t>(value) & 0x7F800000u) == 0x7F800000u;
  }
  return count;
}

}  // namespace

bool IsConvertibleToFloat(Dtype dtype) {
  return dtype == Dtype::kBF16 || dtype == Dtype::kF16 || dtype == Dtype::kF32 ||
         dtype == Dtype::kF64;
}

int64_t ConvertToFloat(Dtype dtype, std::span<const std::byte> values, std::span<float> out) {
  HPROC_CHECK(IsConvertibleToFloat(dtype), DtypeName(dtype));
  HPROC_CHECK(values.size() == out.size() * static_cast<size_t>(DtypeBits(dtype) / 8),
              "one float for each value");
  const std::byte* from = values.data();
  switch (dtype) {
    case Dtype::kBF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = FromBf16(Load<uint16_t>(from, i));
      break;
    case Dtype::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = FromF16(Load<uint16_t>(from, i));
      break;
    case Dtype::kF32:
      if (!out.empty()) std::memcpy(out.data(), from, values.size());
      break;
    default:
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(Load<double>(from, i));
      break;
  }
  return CountNonFinite(out);
}

}  // namespace hproc::worker
