#include "kernels/attention.h"

#include <cmath>

#include "base/check.h"
#include "kernels/attention_backends.h"

namespace hproc::kernels {
namespace {

void CheckCache(const KvCache& cache, std::span<const SequenceRun> runs) {
  HPROC_CHECK(cache.storage == Storage::kFloat16 || cache.storage == Storage::kFloat32 || cache.storage == Storage::kInt8,
              "storage of a cache");
  HPROC_CHECK(cache.storage != Storage::kInt8 || (cache.key_scales != nullptr && cache.value_scales != nullptr), "scales");
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

void RotaryAngles(int32_t position, std::span<const float> inverse_frequencies, float* cosines, float* sines) {
  for (size_t i = 0; i < inverse_frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies[i];
    cosines[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sines[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void Rotate(const Context& context, const RotateCall& call) {
  context.backend == Backend::kReference ? reference::Rotate(call) : cpu::Rotate(context, call);
}

void StoreKeysValues(const Context& context, const StoreKvCall& call) {
  CheckCache(call.cache, call.runs);
  context.backend == Backend::kReference ? reference::StoreKeysValues(call) : cpu::StoreKeysValues(context, call);
}

void Attend(const Context& context, const AttendCall& call) {
  CheckCache(call.cache, call.runs);
  HPROC_CHECK(call.heads % call.cache.kv_heads == 0, "query heads share kv heads evenly");
  context.backend == Backend::kReference ? reference::Attend(call) : cpu::Attend(context, call);
}

}  // namespace hproc::kernels
