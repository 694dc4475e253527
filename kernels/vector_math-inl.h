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

// body(index, lanes) for whole registers of [0, size), then body of the rest, value by value: the body is written once
// with loads and stores that take the count. Rows of models are multiples of the register but for tests.
template <typename Whole, typename Rest>
HWY_INLINE void OverRow(int64_t size, Whole&& whole, Rest&& rest) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(TagF()));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) whole(i);
  for (; i < size; ++i) rest(i);
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
