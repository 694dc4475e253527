#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention_backends.h"
#include "kernels/for_rows.h"
#include "quant/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_cpu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first
#include "hwy/highway.h"
#include "kernels/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hproc::kernels {
namespace HWY_NAMESPACE {

void RotateRows(const RotateCall& call, int64_t begin, int64_t end) {
  const TagF d;
  for (int64_t r = begin; r < end; ++r) {
    const float* cosines = call.cosines + r * call.pairs;
    const float* sines = call.sines + r * call.pairs;
    for (int64_t h = 0; h < call.heads; ++h) {
      float* low = call.values + r * call.row_stride + h * call.head_stride;
      float* high = low + call.pairs;
      OverRow(
          call.pairs,
          [&](int64_t i) HWY_ATTR {
            const auto a = hn::LoadU(d, low + i);
            const auto b = hn::LoadU(d, high + i);
            const auto cosine = hn::LoadU(d, cosines + i);
            const auto sine = hn::LoadU(d, sines + i);
            hn::StoreU(hn::NegMulAdd(b, sine, a * cosine), d, low + i);
            hn::StoreU(hn::MulAdd(a, sine, b * cosine), d, high + i);
          },
          [&](int64_t i) {
            const float a = low[i];
            const float b = high[i];
            low[i] = a * cosines[i] - b * sines[i];
            high[i] = b * cosines[i] + a * sines[i];
          });
    }
  }
}

// A row as int8 in units of its scale, which is returned.
HWY_INLINE uint16_t StoreInt8Row(const float* HWY_RESTRICT from, int64_t size, int8_t* HWY_RESTRICT to) {
  const TagF d;
  auto most = hn::Zero(d);
  float most_at_tail = 0;
  bool is_finite = true;
  OverRow(
      size,
      [&](int64_t i) HWY_ATTR {
        const auto v = hn::LoadU(d, from + i);
        is_finite = is_finite && hn::AllTrue(d, hn::IsFinite(v));
        most = hn::Max(most, hn::Abs(v));
      },
      [&](int64_t i) {
        is_finite = is_finite && std::isfinite(from[i]);
        most_at_tail = std::max(most_at_tail, std::abs(from[i]));
      });
  const float largest = std::max(most_at_tail, hn::GetLane(hn::MaxOfLanes(d, most)));
  const uint16_t stored = is_finite ? KvScale(largest) : quant::FloatToBfloat16(std::numeric_limits<float>::quiet_NaN());
  const float scale = quant::Bfloat16ToFloat(stored);
  if (!(scale > 0)) {
    std::fill_n(to, size, int8_t{0});
    return stored;
  }
  const hn::Rebind<int8_t, TagF> bytes;
  const auto scales = hn::Set(d, scale);
  OverRow(
      size,
      [&](int64_t i) HWY_ATTR {
        hn::StoreU(hn::DemoteTo(bytes, hn::NearestInt(hn::LoadU(d, from + i) / scales)), bytes, to + i);
      },
      [&](int64_t i) { to[i] = static_cast<int8_t>(std::nearbyint(from[i] / scale)); });
  return stored;
}

// float32 to the cache's dtype and back, a row at a time.
HWY_INLINE void StoreRow(const float* HWY_RESTRICT from, int64_t size, Storage storage, void* base, int64_t index) {
  const TagF d;
  if (storage == Storage::kFloat32) {
    std::copy_n(from, size, static_cast<float*>(base) + index);
    return;
  }
  constexpr float kLargestHalf = 65504;
  const hn::Rebind<hwy::float16_t, TagF> half;
  auto* to = static_cast<uint16_t*>(base) + index;
  const auto most = hn::Set(d, kLargestHalf);
  OverRow(
      size,
      [&](int64_t i) HWY_ATTR {
        // Max and Min would make a number of NaN, and the garbage it stands for would go unseen.
        const auto v = hn::LoadU(d, from + i);
        const auto held = hn::IfThenElse(hn::IsNaN(v), v, hn::Min(hn::Max(v, hn::Neg(most)), most));
        hn::StoreU(hn::DemoteTo(half, held), half, reinterpret_cast<hwy::float16_t*>(to + i));
      },
      [&](int64_t i) { to[i] = quant::FloatToHalf(std::clamp(from[i], -kLargestHalf, kLargestHalf)); });
}

// Reads one register of the cache, or the single value at the tail.
struct HalfReader {
  static constexpr bool kScaled = false;
  const uint16_t* base;
  HWY_INLINE VecF Load(int64_t i) const {
    const TagF d;
    const hn::Rebind<hwy::float16_t, TagF> half;
    return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(base + i)));
  }
  HWY_INLINE float At(int64_t i) const { return quant::HalfToFloat(base[i]); }
};
struct FloatReader {
  static constexpr bool kScaled = false;
  const float* base;
  HWY_INLINE VecF Load(int64_t i) const { return hn::LoadU(TagF(), base + i); }
  HWY_INLINE float At(int64_t i) const { return base[i]; }
};

// In units of the position's scale.
struct Int8Reader {
  static constexpr bool kScaled = true;
  const int8_t* base;
  const uint16_t* scales;
  HWY_INLINE VecF Load(int64_t i) const {
    const TagF d;
    const hn::Rebind<int8_t, TagF> bytes;
    return hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<TagF>(), hn::LoadU(bytes, base + i)));
  }
  HWY_INLINE float At(int64_t i) const { return base[i]; }
  HWY_INLINE float Scale(int64_t position) const { return quant::Bfloat16ToFloat(scales[position]); }
};

// All query heads of one row that share a kv head.
template <typename Reader>
HWY_INLINE void AttendHeads(const AttendCall& call, int64_t row, int64_t positions, int64_t kv_head, Reader keys,
                            Reader values, float* HWY_RESTRICT weights) {
  const TagF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t dim = call.cache.head_dim;
  const int64_t shared = call.heads / call.cache.kv_heads;
  for (int64_t s = 0; s < shared; ++s) {
    const int64_t h = kv_head * shared + s;
    const float* query = call.queries + row * call.query_stride + h * call.query_head_stride;
    float largest = -std::numeric_limits<float>::infinity();
    bool is_nan = false;  // neither std::max nor hn::Exp pass one on
    for (int64_t p = 0; p < positions; ++p) {
      const int64_t at = p * dim;
      auto sum = hn::Zero(d);
      int64_t i = 0;
      for (; i + lanes <= dim; i += lanes) sum = hn::MulAdd(hn::LoadU(d, query + i), keys.Load(at + i), sum);
      float dot = hn::GetLane(hn::SumOfLanes(d, sum));
      for (; i < dim; ++i) dot += query[i] * keys.At(at + i);
      if constexpr (Reader::kScaled) dot *= keys.Scale(p);
      weights[p] = dot * call.scale;
      is_nan = is_nan || std::isnan(weights[p]);
      largest = std::max(largest, weights[p]);
    }
    float sum = 0;
    {
      const auto most = hn::Set(d, largest);
      auto sums = hn::Zero(d);
      int64_t p = 0;
      for (; p + lanes <= positions; p += lanes) {
        const auto w = hn::Exp(d, hn::LoadU(d, weights + p) - most);
        hn::StoreU(w, d, weights + p);
        sums = sums + w;
      }
      sum = hn::GetLane(hn::SumOfLanes(d, sums));
      for (; p < positions; ++p) sum += weights[p] = std::exp(weights[p] - largest);
    }
    if constexpr (Reader::kScaled) {
      for (int64_t p = 0; p < positions; ++p) weights[p] *= values.Scale(p);
    }
    const float inverse = is_nan ? std::numeric_limits<float>::quiet_NaN() : 1.0f / sum;
    float* out = call.output + (row * call.heads + h) * dim;
    int64_t i = 0;
    for (; i + 4 * lanes <= dim; i += 4 * lanes) {
      auto a = hn::Zero(d);
      auto b = hn::Zero(d);
      auto c = hn::Zero(d);
      auto e = hn::Zero(d);
      for (int64_t p = 0; p < positions; ++p) {
        const auto w = hn::Set(d, weights[p]);
        const int64_t at = p * dim + i;
        a = hn::MulAdd(w, values.Load(at), a);
        b = hn::MulAdd(w, values.Load(at + lanes), b);
        c = hn::MulAdd(w, values.Load(at + 2 * lanes), c);
        e = hn::MulAdd(w, values.Load(at + 3 * lanes), e);
      }
      const auto scale = hn::Set(d, inverse);
      hn::StoreU(a * scale, d, out + i);
      hn::StoreU(b * scale, d, out + i + lanes);
      hn::StoreU(c * scale, d, out + i + 2 * lanes);
      hn::StoreU(e * scale, d, out + i + 3 * lanes);
    }
    for (; i + lanes <= dim; i += lanes) {
      auto a = hn::Zero(d);
      for (int64_t p = 0; p < positions; ++p) a = hn::MulAdd(hn::Set(d, weights[p]), values.Load(p * dim + i), a);
      hn::StoreU(a * hn::Set(d, inverse), d, out + i);
    }
    for (; i < dim; ++i) {
      float a = 0;
      for (int64_t p = 0; p < positions; ++p) a += weights[p] * values.At(p * dim + i);
      out[i] = a * inverse;
    }
  }
}

void StoreRun(const StoreKvCall& call, const SequenceRun& run) {
  const KvCache& cache = call.cache;
  for (int64_t t = 0; t < run.tokens; ++t) {
    for (int64_t h = 0; h < cache.kv_heads; ++h) {
      const int64_t from = ((run.first_row + t) * cache.kv_heads + h) * cache.head_dim;
      const int64_t row = run.slot * cache.scales_per_slot() + h * cache.context + run.first_position + t;
      const int64_t to = row * cache.head_dim;
      if (cache.storage == Storage::kInt8) {
        cache.key_scales[row] = StoreInt8Row(call.keys + from, cache.head_dim, static_cast<int8_t*>(cache.keys) + to);
        cache.value_scales[row] = StoreInt8Row(call.values + from, cache.head_dim, static_cast<int8_t*>(cache.values) + to);
        continue;
      }
      StoreRow(call.keys + from, cache.head_dim, cache.storage, cache.keys, to);
      StoreRow(call.values + from, cache.head_dim, cache.storage, cache.values, to);
    }
  }
}

void AttendTask(const AttendCall& call, const SequenceRun& run, int64_t token, int64_t kv_head) {
  const KvCache& cache = call.cache;
  thread_local std::vector<float> weights;
  const int64_t positions = run.first_position + token + 1;
  if (weights.size() < static_cast<size_t>(positions)) weights.resize(static_cast<size_t>(cache.context));
  const int64_t base = run.slot * cache.values_per_slot() + kv_head * cache.context * cache.head_dim;
  if (cache.storage == Storage::kFloat32) {
    AttendHeads(call, run.first_row + token, positions, kv_head,
                FloatReader{static_cast<const float*>(cache.keys) + base},
                FloatReader{static_cast<const float*>(cache.values) + base}, weights.data());
  } else if (cache.storage == Storage::kInt8) {
    const int64_t first = run.slot * cache.scales_per_slot() + kv_head * cache.context;
    AttendHeads(call, run.first_row + token, positions, kv_head,
                Int8Reader{static_cast<const int8_t*>(cache.keys) + base, cache.key_scales + first},
                Int8Reader{static_cast<const int8_t*>(cache.values) + base, cache.value_scales + first}, weights.data());
  } else {
    AttendHeads(call, run.first_row + token, positions, kv_head,
                HalfReader{static_cast<const uint16_t*>(cache.keys) + base},
                HalfReader{static_cast<const uint16_t*>(cache.values) + base}, weights.data());
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hproc::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hproc::kernels {
HWY_EXPORT(RotateRows);
HWY_EXPORT(StoreRun);
HWY_EXPORT(AttendTask);

namespace cpu {

void Rotate(const Context& context, const RotateCall& call) {
  ForRows(context, call.rows, 4 * call.heads * call.pairs,
          [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(RotateRows)(call, begin, end); });
}

void StoreKeysValues(const Context& context, const StoreKvCall& call) {
  const auto runs = static_cast<int64_t>(call.runs.size());
  const int64_t row_cost = call.runs.empty() ? 0 : call.runs[0].tokens * call.cache.kv_heads * call.cache.head_dim;
  ForRows(context, runs, row_cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) HWY_DYNAMIC_DISPATCH(StoreRun)(call, call.runs[static_cast<size_t>(i)]);
  });
}

void Attend(const Context& context, const AttendCall& call) {
  // One task a row and kv head; the run of a row is found by walking along.
  thread_local std::vector<std::pair<int32_t, int32_t>> rows;  // run, token
  rows.clear();
  for (size_t r = 0; r < call.runs.size(); ++r) {
    for (int32_t t = 0; t < call.runs[r].tokens; ++t) rows.emplace_back(static_cast<int32_t>(r), t);
  }
  const auto& work = rows;
  context.pool->ParallelFor(static_cast<int64_t>(work.size()) * call.cache.kv_heads, [&](int64_t i, int) {
    const auto& [run, token] = work[static_cast<size_t>(i / call.cache.kv_heads)];
    HWY_DYNAMIC_DISPATCH(AttendTask)(call, call.runs[static_cast<size_t>(run)], token, i % call.cache.kv_heads);
  });
}

}  // namespace cpu
}  // namespace hproc::kernels
#endif  // HWY_ONCE
