#include "kernels/attention.h"

#include <cmath>

#include "base/check.h"
#include "kernels/device_backend.h"
#include "kernels/attention_backends.h"
#include "kernels/moe.h"
#include "kernels/norm.h"

namespace hproc::kernels {
namespace {

void CheckCache(const Context& context, const KvCache& cache, std::span<const SequenceRun> runs) {
  HPROC_CHECK(cache.storage == Storage::kFloat16 || cache.storage == Storage::kFloat32 || cache.storage == Storage::kInt8,
              "storage of a cache");
  HPROC_CHECK(cache.storage != Storage::kInt8 || (cache.key_scales != nullptr && cache.value_scales != nullptr), "scales");
  if (context.device != nullptr) return;  // the runs are there, not here
  for (const SequenceRun& run : runs) {
    HPROC_CHECK(run.first_position >= 0 && run.first_position + run.tokens <= cache.context, "positions of the cache");
  }
}

}  // namespace

int64_t KvRowBytes(Storage storage, int64_t head_dim) {
  switch (storage) {
    case Storage::kFloat32: return 4 * head_dim;
    case Storage::kInt8: return head_dim + 2;
    default: return 2 * head_dim;
  }
}

void RotaryAngles(const Context& context, const RotaryCall& call) {
  if (context.device != nullptr) return context.device->RotaryAngles(call);
  for (const SequenceRun& run : call.runs) {
    for (int32_t t = 0; t < run.tokens; ++t) {
      const auto position = static_cast<float>(run.first_position + t);
      const int64_t at = (run.first_row + t) * call.pairs;
      for (int64_t i = 0; i < call.pairs; ++i) {
        const float angle = position * call.inverse_frequencies[i];
        call.cosines[at + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        call.sines[at + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  }
}

void Rotate(const Context& context, const RotateCall& call) {
  if (context.device != nullptr) return context.device->Rotate(call);
  context.backend == Backend::kReference ? reference::Rotate(call) : cpu::Rotate(context, call);
}

void StoreKeysValues(const Context& context, const StoreKvCall& call) {
  CheckCache(context, call.cache, call.runs);
  if (context.device != nullptr) return context.device->StoreKeysValues(call);
  context.backend == Backend::kReference ? reference::StoreKeysValues(call) : cpu::StoreKeysValues(context, call);
}

void Attend(const Context& context, const AttendCall& call) {
  CheckCache(context, call.cache, call.runs);
  HPROC_CHECK(call.heads % call.cache.kv_heads == 0, "query heads share kv heads evenly");
  if (context.device != nullptr) return context.device->Attend(call);
  context.backend == Backend::kReference ? reference::Attend(call) : cpu::Attend(context, call);
  if (call.gate == nullptr) return;
  SigmoidGate(context, {.values = call.output, .gate = call.gate, .gate_row_stride = call.query_stride,
                        .gate_head_stride = call.query_head_stride, .rows = call.rows, .heads = call.heads,
                        .columns = call.cache.head_dim});
}

void PrepareHeads(const Context& context, const PrepareHeadsCall& call) {
  if (context.device != nullptr) {
    CheckCache(context, call.cache, call.runs);
    return context.device->PrepareHeads(call);
  }
  const int64_t dim = call.cache.head_dim;
  const auto shape = [&](const Matrix* norm, float* heads, int64_t count, int64_t row_stride, int64_t stride) {
    HPROC_CHECK(row_stride == count * stride, "heads one after the other");
    if (norm != nullptr) {
      RmsNorm(context, {.input = heads, .input_stride = stride, .output = heads, .output_stride = stride, .rows = call.rows * count,
                        .columns = dim, .weight = norm, .weight_offset = call.norm_offset, .epsilon = call.epsilon});
    }
    Rotate(context, {.values = heads, .rows = call.rows, .heads = count, .row_stride = row_stride, .head_stride = stride,
                     .pairs = call.pairs, .cosines = call.cosines, .sines = call.sines});
  };
  shape(call.query_norm, call.queries, call.heads, call.query_stride, call.query_head_stride);
  shape(call.key_norm, call.keys, call.cache.kv_heads, call.cache.kv_heads * dim, dim);
  StoreKeysValues(context, {.runs = call.runs, .rows = call.rows, .keys = call.keys, .values = call.values, .cache = call.cache});
}

}  // namespace hproc::kernels
