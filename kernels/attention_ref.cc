#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention_backends.h"
#include "quant/half.h"

namespace hproc::kernels::reference {
namespace {

constexpr float kLargestHalf = 65504;

// Value i of the row that starts at `row` * head_dim.
double Load(const KvCache& cache, const void* base, const uint16_t* scales, int64_t row, int64_t i) {
  const int64_t index = row * cache.head_dim + i;
  switch (cache.storage) {
    case Storage::kFloat32: return static_cast<const float*>(base)[index];
    case Storage::kInt8:
      return static_cast<double>(static_cast<const int8_t*>(base)[index]) * static_cast<double>(quant::Bfloat16ToFloat(scales[row]));
    default: return quant::HalfToFloat(static_cast<const uint16_t*>(base)[index]);
  }
}

void Store(const KvCache& cache, void* base, uint16_t* scales, int64_t row, const float* values) {
  const int64_t first = row * cache.head_dim;
  if (cache.storage == Storage::kInt8) {
    float largest = 0;
    for (int64_t i = 0; i < cache.head_dim; ++i) {
      largest = std::isnan(values[i]) || std::isnan(largest) ? std::numeric_limits<float>::quiet_NaN()
                                                             : std::max(largest, std::abs(values[i]));
    }
    scales[row] = std::isfinite(largest) ? KvScale(largest) : quant::FloatToBfloat16(std::numeric_limits<float>::quiet_NaN());
    const float scale = quant::Bfloat16ToFloat(scales[row]);
    for (int64_t i = 0; i < cache.head_dim; ++i) {
      static_cast<int8_t*>(base)[first + i] = scale > 0 ? static_cast<int8_t>(std::nearbyint(values[i] / scale)) : int8_t{0};
    }
    return;
  }
  for (int64_t i = 0; i < cache.head_dim; ++i) {
    if (cache.storage == Storage::kFloat32) {
      static_cast<float*>(base)[first + i] = values[i];
    } else {
      static_cast<uint16_t*>(base)[first + i] = quant::FloatToHalf(std::clamp(values[i], -kLargestHalf, kLargestHalf));
    }
  }
}

}  // namespace

void Rotate(const RotateCall& call) {
  for (int64_t r = 0; r < call.rows; ++r) {
    for (int64_t h = 0; h < call.heads; ++h) {
      float* head = call.values + r * call.row_stride + h * call.head_stride;
      for (int64_t i = 0; i < call.pairs; ++i) {
        const double cosine = call.cosines[r * call.pairs + i];
        const double sine = call.sines[r * call.pairs + i];
        const double a = head[i];
        const double b = head[i + call.pairs];
        head[i] = static_cast<float>(a * cosine - b * sine);
        head[i + call.pairs] = static_cast<float>(b * cosine + a * sine);
      }
    }
  }
}

void StoreKeysValues(const StoreKvCall& call) {
  const KvCache& cache = call.cache;
  for (const SequenceRun& run : call.runs) {
    for (int64_t t = 0; t < run.tokens; ++t) {
      for (int64_t h = 0; h < cache.kv_heads; ++h) {
        const int64_t from = ((run.first_row + t) * cache.kv_heads + h) * cache.head_dim;
        const int64_t to = run.slot * cache.scales_per_slot() + h * cache.context + run.first_position + t;
        Store(cache, cache.keys, cache.key_scales, to, call.keys + from);
        Store(cache, cache.values, cache.value_scales, to, call.values + from);
      }
    }
  }
}

void Attend(const AttendCall& call) {
  const KvCache& cache = call.cache;
  const int64_t shared = call.heads / cache.kv_heads;
  for (const SequenceRun& run : call.runs) {
    for (int64_t t = 0; t < run.tokens; ++t) {
      const int64_t row = run.first_row + t;
      const int64_t positions = run.first_position + t + 1;
      for (int64_t h = 0; h < call.heads; ++h) {
        const float* query = call.queries + row * call.query_stride + h * call.query_head_stride;
        const int64_t base = run.slot * cache.scales_per_slot() + h / shared * cache.context;
        std::vector<double> weights(static_cast<size_t>(positions));
        for (int64_t p = 0; p < positions; ++p) {
          double dot = 0;
          for (int64_t i = 0; i < cache.head_dim; ++i) {
            dot += static_cast<double>(query[i]) * Load(cache, cache.keys, cache.key_scales, base + p, i);
          }
          weights[static_cast<size_t>(p)] = dot * static_cast<double>(call.scale);
        }
        const double largest = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& w : weights) sum += w = std::exp(w - largest);
        float* out = call.output + (row * call.heads + h) * cache.head_dim;
        for (int64_t i = 0; i < cache.head_dim; ++i) {
          double value = 0;
          for (int64_t p = 0; p < positions; ++p) {
            value += weights[static_cast<size_t>(p)] * Load(cache, cache.values, cache.value_scales, base + p, i);
          }
          out[i] = static_cast<float>(value / sum);
        }
      }
    }
  }
}

}  // namespace hproc::kernels::reference
