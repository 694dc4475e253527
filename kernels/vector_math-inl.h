// Element-wise functions shared by the CPU kernels; included once per target.
#if defined(HPROC_KERNELS_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HPROC_KERNELS_VECTOR_MATH_INL_H_
#undef HPROC_KERNELS_VECTOR_MATH_INL_H_
#else
#define HPROC_KERNELS_VECTOR_MATH_INL_H_
#endif

#include <cmath>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using TagF = hn::ScalableTag<float>;
using VecF = hn::Vec<TagF>;

// hn::Exp is made for arguments up to 104, where it is infinite already; not far beyond, its exponent wraps around. Of NaN
// it makes 0, which would be a sigmoid of 1.
HWY_INLINE VecF Sigmoid(VecF x) {
  const TagF d;
  const auto one = hn::Set(d, 1.0f);
  const auto power = hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 104.0f)));
  return hn::IfThenElse(hn::IsNaN(x), x, one / (one + power));
}

HWY_INLINE VecF Silu(VecF x) { return x * Sigmoid(x); }

inline float ScalarSigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// whole(index) for every whole register of [0, size), index its first value; then rest(index) for what is left, value by
// value. Rows of models are mostly multiples of the register.
template <typename Whole, typename Rest>
HWY_INLINE void OverRow(int64_t size, Whole&& whole, Rest&& rest) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) whole(i);
  for (; i < size; ++i) rest(i);
}

// The same where a value must have the same bits in a register or in what is left, wherever in the row it stands (a rank of
// several has a part of it): what is left is brought into a register, too. each(inputs) is given a register of each of the
// kInputs rows and gives the register of the result; rows do not overlap but where `output` is one of them.
template <int kInputs, typename Each>
HWY_INLINE void OverRowAlike(int64_t size, const float* const (&inputs)[kInputs], float* output, Each&& each) {
  const TagF d;
  VecF v[kInputs];
  OverRow(
      size / static_cast<int64_t>(hn::Lanes(d)) * static_cast<int64_t>(hn::Lanes(d)),
      [&](int64_t i) HWY_ATTR {
        for (int k = 0; k < kInputs; ++k) v[k] = hn::LoadU(d, inputs[k] + i);
        hn::StoreU(each(v), d, output + i);
      },
      [](int64_t) {});
  const auto left = static_cast<size_t>(size) % hn::Lanes(d);
  if (left == 0) return;
  const int64_t at = size - static_cast<int64_t>(left);
  HWY_ALIGN float padded[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int k = 0; k < kInputs; ++k) {
    for (size_t i = 0; i < left; ++i) padded[i] = inputs[k][at + static_cast<int64_t>(i)];
    v[k] = hn::Load(d, padded);
  }
  hn::Store(each(v), d, padded);
  for (size_t i = 0; i < left; ++i) output[at + static_cast<int64_t>(i)] = padded[i];
}

HWY_INLINE float SumOfSquares(const float* values, int64_t size) {
  const TagF d;
  auto sum = hn::Zero(d);
  float rest = 0;
  OverRow(
      size,
      [&](int64_t i) HWY_ATTR {
        const auto v = hn::LoadU(d, values + i);
        sum = hn::MulAdd(v, v, sum);
      },
      [&](int64_t i) { rest += values[i] * values[i]; });
  return hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard, toggled per target
