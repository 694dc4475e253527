#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_backends.h"
#include "quant/half.h"

namespace hproc::kernels::reference {
namespace {

constexpr float kLargestHalf = 65504;

double Load(const KvCache& cache, const void* base, int64_t index) {
  return cache.storage == Storage::kFloat32 ? static_cast<const float*>(base)[index]
                                            : quant::HalfToFloat(static_cast<const uint16_t*>(base)[index]);
}

void Store(const KvCache& cache, void* base, int64_t index, float value) {
  if (cache.storage == Storage::kFloat32) {
    static_cast<float*>(base)[index] = value;
  } else {
    static_cast<uint16_t*>(base)[index] = quant::FloatToHalf(std::clamp(value, -kLargestHalf, kLargestHalf));
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
        const int64_t to = run.slot * cache.values_per_slot() +
                           (h * cache.context + run.first_position + t) * cache.head_dim;
        for (int64_t i = 0; i < cache.head_dim; ++i) {
          Store(cache, cache.keys, to + i, call.keys[from + i]);
          Store(cache, cache.values, to + i, call.values[from + i]);
        }
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
        const int64_t base = run.slot * cache.values_per_slot() + h / shared * cache.context * cache.head_dim;
        std::vector<double> weights(static_cast<size_t>(positions));
        for (int64_t p = 0; p < positions; ++p) {
          double dot = 0;
          for (int64_t i = 0; i < cache.head_dim; ++i) {
            dot += static_cast<double>(query[i]) * Load(cache, cache.keys, base + p * cache.head_dim + i);
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
            value += weights[static_cast<size_t>(p)] * Load(cache, cache.values, base + p * cache.head_dim + i);
          }
          out[i] = static_cast<float>(value / sum);
        }
      }
    }
  }
}

}  // namespace hproc::kernels::reference
