// Causal attention of grouped heads over a cache of keys and values.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"
#include "kernels/sequence.h"
#include "quant/half.h"

namespace hproc::kernels {

// Keys and values of one layer, [slot][kv head][position][head_dim] each, float32, float16 or int8. float16 holds what
// exceeds its range at its largest finite value; NaN stays NaN. int8 is in units of a bfloat16 scale for every position of a
// head, a 127th of its largest magnitude; where one is NaN or infinite, so is the scale, and all of that position is NaN.
struct KvCache {
  Storage storage = Storage::kFloat16;
  void* keys = nullptr;
  void* values = nullptr;
  uint16_t* key_scales = nullptr;  // [slot][kv head][position], of int8
  uint16_t* value_scales = nullptr;
  int64_t context = 0;  // positions a slot holds
  int64_t kv_heads = 0;
  int64_t head_dim = 0;

  constexpr int64_t values_per_slot() const { return kv_heads * context * head_dim; }
  constexpr int64_t scales_per_slot() const { return kv_heads * context; }
};

// Bytes of the keys, or the values, of one position of one head, scales included.
int64_t KvRowBytes(Storage storage, int64_t head_dim);

// The scale for values of which `largest` is the largest magnitude: rounded up, so that none is beyond 127 scales.
constexpr uint16_t KvScale(float largest) {
  const float exact = largest / 127;
  uint16_t scale = quant::FloatToBfloat16(exact);
  if (quant::Bfloat16ToFloat(scale) < exact) ++scale;
  return scale;
}

// cosines[r][i] and sines[r][i] of position of row r * inverse_frequencies[i], in float32 as the models were trained with.
struct RotaryCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;  // of all runs
  const float* inverse_frequencies = nullptr;  // [pairs]
  int64_t pairs = 0;
  float* cosines = nullptr;  // [rows, pairs]
  float* sines = nullptr;
};
void RotaryAngles(const Context& context, const RotaryCall& call);

// Rotates the first 2 * pairs values of every head by its row's angles, value i with value i + pairs (the halves of the
// rotated part, as in GPT-NeoX); the rest of the head stays.
struct RotateCall {
  float* values = nullptr;  // [rows, heads, head], in place
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t row_stride = 0;   // floats from row to row
  int64_t head_stride = 0;  // and from head to head
  int64_t pairs = 0;
  const float* cosines = nullptr;  // [rows, pairs]
  const float* sines = nullptr;
};
void Rotate(const Context& context, const RotateCall& call);

// Writes keys and values of the pass into the cache.
struct StoreKvCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;  // of all runs
  const float* keys = nullptr;    // [rows, kv_heads * head_dim]
  const float* values = nullptr;  // likewise
  KvCache cache;
};
void StoreKeysValues(const Context& context, const StoreKvCall& call);

// What stands between the projections and attention: the heads' norms, where there are weights for them, the rotation, and the way
// into the cache. In place; what is left of the keys on a device is its own.
struct PrepareHeadsCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;  // of all runs
  float* queries = nullptr;  // strided as AttendCall's
  int64_t query_stride = 0;
  int64_t query_head_stride = 0;
  int64_t heads = 0;
  float* keys = nullptr;  // [rows, kv_heads * head_dim]
  const float* values = nullptr;
  const Matrix* query_norm = nullptr;  // [1, head_dim], plain storage
  const Matrix* key_norm = nullptr;
  float norm_offset = 0;  // RmsNormCall::weight_offset
  float epsilon = 1e-6f;
  int64_t pairs = 0;
  const float* cosines = nullptr;  // [rows, pairs]
  const float* sines = nullptr;
  KvCache cache;
};
void PrepareHeads(const Context& context, const PrepareHeadsCall& call);

// output[row] = softmax(query . keys * scale) values over positions [0, position of row], head by head; query head h
// reads kv head h / (heads / kv_heads). The keys and values of the pass itself must be stored before.
struct AttendCall {
  std::span<const SequenceRun> runs;
  int64_t rows = 0;  // of all runs
  const float* queries = nullptr;  // head h of a row at queries + row * query_stride + h * query_head_stride
  int64_t query_stride = 0;
  int64_t query_head_stride = 0;
  int64_t heads = 0;
  float scale = 1;
  KvCache cache;
  const float* gate = nullptr;  // as `queries`; the output is multiplied by its sigmoid, unless null
  float* output = nullptr;  // [rows, heads * head_dim]
  float* workspace = nullptr;  // on a device: where its blocks meet over long sequences, as large as the backend says
};
void Attend(const Context& context, const AttendCall& call);

}  // namespace hproc::kernels
