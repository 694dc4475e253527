#include <cuda_fp16.h>

#include <algorithm>
#include <cfloat>

#include "base/check.h"
#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kLargestHalf = 65504.0f;

__global__ void RotaryAnglesKernel(RotaryCall call, const SequenceRun* runs, int run_count) {
  StartBehindKernelInFront();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= call.rows * call.pairs) return;
  const auto row = static_cast<int>(i / call.pairs);
  const auto position = static_cast<float>(PlaceOf(runs, run_count, row).position);
  // The angle is rounded to float32, as the models were trained with; its sine and cosine as on the host.
  const auto angle = static_cast<double>(position * call.inverse_frequencies[i % call.pairs]);
  call.cosines[i] = static_cast<float>(cos(angle));
  call.sines[i] = static_cast<float>(sin(angle));
}

__global__ void RotateKernel(RotateCall call) {
  StartBehindKernelInFront();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= call.rows * call.heads * call.pairs) return;
  const int64_t pair = i % call.pairs;
  const int64_t row = i / call.pairs / call.heads;
  float* head = call.values + row * call.row_stride + i / call.pairs % call.heads * call.head_stride;
  const float cosine = call.cosines[row * call.pairs + pair];
  const float sine = call.sines[row * call.pairs + pair];
  const float a = head[pair];
  const float b = head[pair + call.pairs];
  head[pair] = a * cosine - b * sine;
  head[pair + call.pairs] = b * cosine + a * sine;
}

__device__ __forceinline__ void StoreCached(const KvCache& cache, void* base, int64_t index, float value) {
  if (cache.storage == Storage::kFloat32) {
    static_cast<float*>(base)[index] = value;
  } else {  // fminf and fmaxf would make a number of NaN
    const float bounded = value > kLargestHalf ? kLargestHalf : value < -kLargestHalf ? -kLargestHalf : value;
    static_cast<__half*>(base)[index] = __float2half_rn(bounded);
  }
}

// A warp's head in int8 units of a scale of its own, which is NaN where a value is NaN or infinite.
__device__ __forceinline__ void StoreCachedInt8(void* base, uint16_t* scales, int64_t row, int dim, const float* values) {
  const int lane = threadIdx.x % 32;
  uint32_t largest = 0;  // magnitudes as bits: NaN and infinity are the largest
  for (int i = lane; i < dim; i += 32) largest = max(largest, __float_as_uint(values[i]) & 0x7FFFFFFFu);
  largest = __reduce_max_sync(kAllLanes, largest);
  const bool finite = largest < 0x7F800000u;
  const uint16_t stored = finite ? KvScale(__uint_as_float(largest)) : uint16_t{0x7FC0};
  const float scale = quant::Bfloat16ToFloat(stored);
  if (lane == 0) scales[row] = stored;
  for (int i = lane; i < dim; i += 32) {
    static_cast<int8_t*>(base)[row * dim + i] = scale > 0 ? static_cast<int8_t>(rintf(values[i] / scale)) : int8_t{0};
  }
}

// A head of keys or values into its place in the cache, by a warp.
__device__ __forceinline__ void StoreHead(const KvCache& cache, void* base, uint16_t* scales, int64_t row, const float* values) {
  const auto dim = static_cast<int>(cache.head_dim);
  if (cache.storage == Storage::kInt8) return StoreCachedInt8(base, scales, row, dim, values);
  for (int i = threadIdx.x % 32; i < dim; i += 32) StoreCached(cache, base, row * dim + i, values[i]);
}

__device__ __forceinline__ int64_t CachedRow(const KvCache& cache, const RowPlace& at, int64_t head) {
  return at.slot * cache.scales_per_slot() + head * cache.context + at.position;
}

// A warp a head of a row.
__global__ void StoreKvKernel(StoreKvCall call, const SequenceRun* runs, int run_count) {
  StartBehindKernelInFront();
  const KvCache& cache = call.cache;
  const int64_t head = blockIdx.x;
  const int64_t row = CachedRow(cache, PlaceOf(runs, run_count, blockIdx.y), head);
  const int64_t from = (blockIdx.y * cache.kv_heads + head) * cache.head_dim;
  StoreHead(cache, cache.keys, cache.key_scales, row, call.keys + from);
  StoreHead(cache, cache.values, cache.value_scales, row, call.values + from);
}

constexpr int kHeadWarps = 4;

// A warp a head of a row: queries, then keys, then values.
__global__ void __launch_bounds__(kHeadWarps * 32)
    PrepareHeadsKernel(const __grid_constant__ PrepareHeadsCall call, const SequenceRun* runs, int run_count, PlainWeights query_norm,
                       PlainWeights key_norm) {
  __shared__ float shared[kHeadWarps][kMostHeadDim];
  constexpr int kEach = static_cast<int>(kMostHeadDim) / 32;
  AllowNextKernel();
  const KvCache& cache = call.cache;
  const auto dim = static_cast<int>(cache.head_dim);
  const auto pairs = static_cast<int>(call.pairs);
  const int lane = threadIdx.x % 32;
  const int64_t row = blockIdx.y;
  int64_t head = int64_t{blockIdx.x} * kHeadWarps + threadIdx.x / 32;
  if (head >= call.heads + 2 * cache.kv_heads) return;
  const bool is_query = head < call.heads;
  const bool is_value = head >= call.heads + cache.kv_heads;
  const RowPlace place = PlaceOf(runs, run_count, static_cast<int>(row));
  if (is_value) {
    head -= call.heads + cache.kv_heads;
    const int64_t to = CachedRow(cache, place, head);
    WaitForKernelInFront();
    return StoreHead(cache, cache.values, cache.value_scales, to, call.values + (row * cache.kv_heads + head) * dim);
  }
  if (!is_query) head -= call.heads;
  float* from = is_query ? call.queries + row * call.query_stride + head * call.query_head_stride
                         : call.keys + (row * cache.kv_heads + head) * dim;
  float* values = shared[threadIdx.x / 32];
  const PlainWeights norm = is_query ? query_norm : key_norm;
  // All that is read is asked for at once, the norm's weights before the kernel in front is done.
  uint32_t norms[kEach];
#pragma unroll
  for (int n = 0; n < kEach; ++n) norms[n] = norm.data != nullptr && n * 32 + lane < dim ? norm.Bits(n * 32 + lane) : 0u;
  WaitForKernelInFront();
  float own[kEach];
  float cosines[kEach / 2];
  float sines[kEach / 2];
#pragma unroll
  for (int n = 0; n < kEach; ++n) own[n] = n * 32 + lane < dim ? from[n * 32 + lane] : 0.0f;
#pragma unroll
  for (int n = 0; n < kEach / 2; ++n) {
    const int i = n * 32 + lane;
    cosines[n] = i < pairs ? call.cosines[row * pairs + i] : 0.0f;
    sines[n] = i < pairs ? call.sines[row * pairs + i] : 0.0f;
  }
  float square = 0;
#pragma unroll
  for (int n = 0; n < kEach; ++n) square = fmaf(own[n], own[n], square);
  const float inverse = norm.data != nullptr ? 1.0f / sqrtf(WarpSum(square) / static_cast<float>(dim) + call.epsilon) : 1.0f;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    if (norm.data != nullptr) own[n] *= inverse * (norm.Value(norms[n]) + call.norm_offset);
    if (n * 32 + lane < dim) values[n * 32 + lane] = own[n];
  }
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kEach / 2; ++n) {
    const int i = n * 32 + lane;
    if (i >= pairs) break;
    const float cosine = cosines[n];
    const float sine = sines[n];
    const float a = values[i];
    const float b = values[i + pairs];
    values[i] = a * cosine - b * sine;
    values[i + pairs] = b * cosine + a * sine;
  }
  __syncwarp();
  if (is_query) {
    for (int i = lane; i < dim; i += 32) from[i] = values[i];
  } else {
    StoreHead(cache, cache.keys, cache.key_scales, CachedRow(cache, place, head), values);
  }
}

// kEach values of a cached head from value `first` of its row `row` on, of which `count` exist; `wide`: rows are whole vectors.
template <int kEach, Storage kStorage>
__device__ __forceinline__ void LoadCached(const void* base, const uint16_t* scales, int64_t row, int dim, int first, int count,
                                           bool wide, float (&values)[kEach]) {
  const int64_t index = row * dim + first;
  if (wide && count == kEach) {
    if constexpr (kStorage == Storage::kFloat16 && kEach >= 2) {
      const auto* from = reinterpret_cast<const __half2*>(static_cast<const __half*>(base) + index);
      __half2 pairs[kEach / 2];
      if constexpr (kEach == 8) {
        *reinterpret_cast<uint4*>(pairs) = *reinterpret_cast<const uint4*>(from);
      } else {
#pragma unroll
        for (int i = 0; i < kEach / 2; ++i) pairs[i] = from[i];
      }
#pragma unroll
      for (int i = 0; i < kEach / 2; ++i) {
        const float2 two = __half22float2(pairs[i]);
        values[2 * i] = two.x, values[2 * i + 1] = two.y;
      }
      return;
    } else if constexpr (kStorage == Storage::kFloat32 && kEach >= 4) {
      const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(base) + index);
#pragma unroll
      for (int i = 0; i < kEach / 4; ++i) {
        const float4 four = from[i];
        values[4 * i] = four.x, values[4 * i + 1] = four.y, values[4 * i + 2] = four.z, values[4 * i + 3] = four.w;
      }
      return;
    } else if constexpr (kStorage == Storage::kInt8 && kEach >= 4) {
      const float scale = quant::Bfloat16ToFloat(scales[row]);
      const auto* from = reinterpret_cast<const char4*>(static_cast<const int8_t*>(base) + index);
#pragma unroll
      for (int i = 0; i < kEach / 4; ++i) {
        const char4 four = from[i];
        values[4 * i] = scale * four.x, values[4 * i + 1] = scale * four.y;
        values[4 * i + 2] = scale * four.z, values[4 * i + 3] = scale * four.w;
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i >= count) {
      values[i] = 0;
    } else if constexpr (kStorage == Storage::kFloat16) {
      values[i] = __half2float(static_cast<const __half*>(base)[index + i]);
    } else if constexpr (kStorage == Storage::kInt8) {
      values[i] = quant::Bfloat16ToFloat(scales[row]) * static_cast<float>(static_cast<const int8_t*>(base)[index + i]);
    } else {
      values[i] = static_cast<const float*>(base)[index + i];
    }
  }
}

constexpr int kAttendWarps = 8;
constexpr int kAttendHeads = kAttendWarps;  // query heads of a block, of one kv head
constexpr int kChunk = 32;                  // positions taken at once
constexpr int kWarpPositions = kChunk / kAttendWarps;
constexpr int kValueParts = 2;  // of a chunk's positions, in the sum of values

// Sum i over the lanes of values[i], in lane i.
__device__ __forceinline__ float TransposedSum(float (&values)[32]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float given = upper ? values[i] : values[i + step];
      const float kept = upper ? values[i + step] : values[i];
      values[i] = kept + __shfl_xor_sync(kAllLanes, given, step);
    }
  }
  return values[0];
}

// A block a (part of the positions, kv head and up to kAttendHeads of its query heads, row), so that keys and values come from the
// memory once for all of them. A chunk of positions at a time: a warp has the scores of kWarpPositions of them and all heads, then
// the softmax of one head, as it goes (Milakov and Gimelshein 2018); a thread two values of every head and half of the positions.
template <Storage kStorage>
__global__ void __launch_bounds__(kAttendWarps * 32)
    AttendKernel(const __grid_constant__ AttendCall call, const SequenceRun* runs, int run_count, int parts, int groups, float* workspace) {
  constexpr int kKeyEach = static_cast<int>(kMostHeadDim) / 32;
  __shared__ __align__(16) float queries[kAttendHeads][kMostHeadDim];
  __shared__ float scores[kAttendHeads][kChunk];
  __shared__ __align__(16) float weights[kChunk][kAttendHeads];
  __shared__ __align__(16) float factors[kAttendHeads];
  __shared__ float2 halves[kMostHeadDim / 2];
  AllowNextKernel();
  const KvCache& cache = call.cache;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int part = blockIdx.x;
  const int kv_head = blockIdx.y / groups;
  const int row = blockIdx.z;
  const auto dim = static_cast<int>(cache.head_dim);
  const int shared = static_cast<int>(call.heads) / static_cast<int>(cache.kv_heads);
  const int64_t first_head = int64_t{kv_head} * shared + blockIdx.y % groups * kAttendHeads;
  const int heads = min(kAttendHeads, shared - static_cast<int>(blockIdx.y % groups) * kAttendHeads);
  const RowPlace at = PlaceOf(runs, run_count, row);
  const int each = PartPositions(at.position + 1, parts, kChunk);
  const int begin = part * each;
  const int end = min(at.position + 1, begin + each);
  if (begin >= end) return;  // the first part waits for all
  WaitForKernelInFront();
  const int64_t first_row = at.slot * cache.scales_per_slot() + kv_head * cache.context;

  const float* query = call.queries + row * call.query_stride + (first_head + warp) * call.query_head_stride;
  for (int i = lane; i < static_cast<int>(kMostHeadDim); i += 32) {
    queries[warp][i] = warp < heads && i < dim ? query[i] * call.scale : 0.0f;
  }
  const int key_first = lane * kKeyEach;
  const int key_count = max(0, min(kKeyEach, dim - key_first));
  const bool wide_keys = dim % kKeyEach == 0;
  const int value_first = static_cast<int>(threadIdx.x) % (kMostHeadDim / 2) * 2;
  const int value_part = static_cast<int>(threadIdx.x) / (kMostHeadDim / 2);
  const int value_count = max(0, min(2, dim - value_first));
  const bool wide_values = dim % 2 == 0;
  float most = -FLT_MAX;
  float sum = 0;
  float2 output[kAttendHeads] = {};
  __syncthreads();

  for (int p = begin; p < end; p += kChunk) {
    const auto cached = [&](int i) { return first_row + min(p + i, end - 1); };
    float values[kChunk / kValueParts][2];
#pragma unroll
    for (int i = 0; i < kChunk / kValueParts; ++i) {
      LoadCached<2, kStorage>(cache.values, cache.value_scales, cached(i * kValueParts + value_part), dim, value_first, value_count,
                              wide_values, values[i]);
    }
    float keys[kWarpPositions][kKeyEach];
#pragma unroll
    for (int i = 0; i < kWarpPositions; ++i) {
      LoadCached<kKeyEach, kStorage>(cache.keys, cache.key_scales, cached(warp * kWarpPositions + i), dim, key_first, key_count,
                                     wide_keys, keys[i]);
    }
    static_assert(kWarpPositions * kAttendHeads == 32 && kKeyEach == 8);
    float dots[32];
#pragma unroll
    for (int h = 0; h < kAttendHeads; ++h) {
      const float4 low = *reinterpret_cast<const float4*>(queries[h] + key_first);
      const float4 high = *reinterpret_cast<const float4*>(queries[h] + key_first + 4);
#pragma unroll
      for (int i = 0; i < kWarpPositions; ++i) {
        const float* key = keys[i];
        float dot = low.x * key[0];
        dot = fmaf(low.y, key[1], dot), dot = fmaf(low.z, key[2], dot), dot = fmaf(low.w, key[3], dot);
        dot = fmaf(high.x, key[4], dot), dot = fmaf(high.y, key[5], dot), dot = fmaf(high.z, key[6], dot);
        dots[i * kAttendHeads + h] = fmaf(high.w, key[7], dot);
      }
    }
    scores[lane % kAttendHeads][warp * kWarpPositions + lane / kAttendHeads] = TransposedSum(dots);
    __syncthreads();
    const float score = p + lane < end ? scores[warp][lane] : -INFINITY;
    float now = fmaxf(most, score);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, step));
    const float weight = p + lane < end ? expf(score - now) : 0.0f;  // NaN stays NaN
    const float factor = expf(most - now);
    sum = sum * factor + WarpSum(weight);
    most = now;
    weights[lane][warp] = weight;
    if (lane == 0) factors[warp] = factor;
    __syncthreads();
#pragma unroll
    for (int h = 0; h < kAttendHeads; ++h) output[h] = {output[h].x * factors[h], output[h].y * factors[h]};
#pragma unroll
    for (int i = 0; i < kChunk / kValueParts; ++i) {
      const float* of = weights[i * kValueParts + value_part];
#pragma unroll
      for (int h = 0; h < kAttendHeads; h += 4) {
        const float4 four = *reinterpret_cast<const float4*>(of + h);
        const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          output[h + j] = {fmaf(w[j], values[i][0], output[h + j].x), fmaf(w[j], values[i][1], output[h + j].y)};
        }
      }
    }
  }

  // factors: the sums now.
  __syncthreads();
  if (lane == 0) {
    factors[warp] = sum;
    if (parts > 1 && warp < heads) {
      float* out = PartAt(call, workspace, row, first_head + warp, parts, part);
      out[0] = most, out[1] = sum;
    }
  }
#pragma unroll
  for (int h = 0; h < kAttendHeads; ++h) {
    __syncthreads();
    if (value_part == 1) halves[value_first / 2] = output[h];
    __syncthreads();
    if (value_part == 1 || h >= heads) continue;
    const float2 other = halves[value_first / 2];
    const float both[2] = {output[h].x + other.x, output[h].y + other.y};
    for (int i = 0; i < value_count; ++i) {
      if (parts == 1) {
        call.output[(row * call.heads + first_head + h) * dim + value_first + i] =
            Gated(call, row, first_head + h, value_first + i, both[i] / factors[h]);
      } else {
        PartAt(call, workspace, row, first_head + h, parts, part)[kPartHeader + value_first + i] = both[i];
      }
    }
  }
}

constexpr int kMostParts = 160;
constexpr int kJoinAhead = 16;

// A block a head of a row, a thread a value of it; the values of the first parts are asked for with what they count.
__global__ void __launch_bounds__(kMostHeadDim)
    JoinPartsKernel(const __grid_constant__ AttendCall call, const SequenceRun* runs, int run_count, int parts, int chunk) {
  __shared__ float weights[kMostParts];
  AllowNextKernel();
  const auto heads = static_cast<int>(call.heads);
  const int64_t row = static_cast<int>(blockIdx.x) / heads;
  const int64_t head = static_cast<int>(blockIdx.x) % heads;
  const auto dim = static_cast<int>(call.cache.head_dim);
  const int lane = threadIdx.x % 32;
  const int positions = PlaceOf(runs, run_count, static_cast<int>(row)).position + 1;
  const int each = PartPositions(positions, parts, chunk);
  const int used = (positions + each - 1) / each;
  const auto i = static_cast<int>(threadIdx.x);
  const int64_t stride = dim + kPartHeader;
  const float* const from = PartAt(call, call.workspace, row, head, parts, 0);
  WaitForKernelInFront();
  float values[kJoinAhead];
#pragma unroll
  for (int p = 0; p < kJoinAhead; ++p) values[p] = p < used && i < dim ? from[p * stride + kPartHeader + i] : 0.0f;
  // Every warp for itself; one writes what all read.
  constexpr int kEach = kMostParts / 32;
  float2 parts_of_lane[kEach];  // largest score, sum of weights
  float most = -FLT_MAX;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int p = n * 32 + lane;
    parts_of_lane[n] = float2{-INFINITY, 0};
    if (p < used) parts_of_lane[n] = {from[p * stride], from[p * stride + 1]};
    most = fmaxf(most, parts_of_lane[n].x);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const float weight = expf(parts_of_lane[n].x - most);
    sum = fmaf(weight, parts_of_lane[n].y, sum);
    if (threadIdx.x < 32) weights[n * 32 + lane] = weight;
  }
  sum = WarpSum(sum);
  __syncthreads();
  if (i >= dim) return;
  float value = 0;
#pragma unroll
  for (int p = 0; p < kJoinAhead; ++p) {
    if (p < used) value = fmaf(weights[p], values[p], value);
  }
#pragma unroll 8
  for (int p = kJoinAhead; p < used; ++p) value = fmaf(weights[p], from[p * stride + kPartHeader + i], value);
  call.output[(row * call.heads + head) * dim + i] = Gated(call, row, head, i, value / sum);
}

// How many blocks share the positions of a row, whose queries take `row_blocks` of them, in chunks of `chunk`: as many as fill the
// device, none with less than a chunk.
int64_t PartsOf(int64_t rows, int64_t row_blocks, int64_t context, int64_t chunk) {
  return std::clamp<int64_t>(kMostParts / (rows * row_blocks), 1, (context + chunk - 1) / chunk);
}
int64_t RowBlocks(int64_t heads, int64_t kv_heads, int block_heads) { return kv_heads * Blocks(heads / kv_heads, block_heads); }

}  // namespace
}  // namespace cuda

int64_t CudaAttendWorkspaceBytes(int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context) {
  int64_t most = 0;
  for (int64_t r = 1; r <= rows; ++r) {
    for (const auto& [block_heads, chunk] : {std::pair(cuda::kAttendHeads, cuda::kChunk), std::pair(cuda::kHalvesHeads, cuda::kHalvesChunk)}) {
      const int64_t parts = cuda::PartsOf(r, cuda::RowBlocks(heads, kv_heads, block_heads), context, chunk);
      if (parts > 1) most = std::max(most, r * heads * parts * (head_dim + cuda::kPartHeader) * 4);
    }
  }
  return most;
}

namespace cuda {

void LaunchRotaryAngles(const RotaryCall& call, cudaStream_t stream) {
  if (call.rows * call.pairs == 0) return;
  LaunchOverlapped("RotaryAnglesKernel", RotaryAnglesKernel, Blocks(call.rows * call.pairs, kThreads), kThreads, stream, call,
                   call.runs.data(), static_cast<int>(call.runs.size()));
}

void LaunchRotate(const RotateCall& call, cudaStream_t stream) {
  const int64_t work = call.rows * call.heads * call.pairs;
  if (work == 0) return;
  LaunchOverlapped("RotateKernel", RotateKernel, Blocks(work, kThreads), kThreads, stream, call);
}

void LaunchStoreKeysValues(const StoreKvCall& call, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(call.cache.kv_heads), static_cast<unsigned>(call.rows));
  LaunchOverlapped("StoreKvKernel", StoreKvKernel, grid, 32, stream, call, call.runs.data(), static_cast<int>(call.runs.size()));
}

void LaunchPrepareHeads(const PrepareHeadsCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.cache.head_dim <= kMostHeadDim, "values of an attention head on a CUDA device");
  const dim3 grid(Blocks(call.heads + 2 * call.cache.kv_heads, kHeadWarps), static_cast<unsigned>(call.rows));
  const auto norm = [](const Matrix* matrix) { return matrix != nullptr ? PlainOf(*matrix) : PlainWeights{}; };
  LaunchOverlapped("PrepareHeadsKernel", PrepareHeadsKernel, grid, kHeadWarps * 32, stream, call, call.runs.data(),
                   static_cast<int>(call.runs.size()), norm(call.query_norm), norm(call.key_norm));
}

void LaunchAttend(const AttendCall& call, cudaStream_t stream) {
  float* const workspace = call.workspace;
  const int64_t dim = call.cache.head_dim;
  HPROC_CHECK(dim <= kMostHeadDim, "values of an attention head on a CUDA device");
  constexpr int64_t kLeastTileTokens = 16;  // of a run, on average: below, most rows of a tile are nobody's
  if (call.rows >= kLeastTileTokens * static_cast<int64_t>(call.runs.size()) && CanAttendInTiles(call)) return LaunchAttendTiles(call, stream);
  const bool halves = CanAttendHalves(call);
  const int chunk = halves ? kHalvesChunk : kChunk;
  const int64_t row_blocks = RowBlocks(call.heads, call.cache.kv_heads, halves ? kHalvesHeads : kAttendHeads);
  const auto parts = static_cast<int>(PartsOf(call.rows, row_blocks, call.cache.context, chunk));
  HPROC_CHECK(parts == 1 || workspace != nullptr, "workspace of attention");
  const auto run_count = static_cast<int>(call.runs.size());
  if (halves) {
    LaunchAttendHalves(call, parts, stream);
  } else {
    const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(row_blocks), static_cast<unsigned>(call.rows));
    const auto launch = [&](auto kernel) {
      LaunchOverlapped("AttendKernel", kernel, grid, kAttendWarps * 32, stream, call, call.runs.data(), run_count, parts,
                       static_cast<int>(row_blocks / call.cache.kv_heads), workspace);
    };
    switch (call.cache.storage) {
      case Storage::kFloat16: launch(AttendKernel<Storage::kFloat16>); break;
      case Storage::kInt8: launch(AttendKernel<Storage::kInt8>); break;
      default: launch(AttendKernel<Storage::kFloat32>);
    }
  }
  if (parts == 1) return;
  LaunchOverlapped("JoinPartsKernel", JoinPartsKernel, static_cast<unsigned>(call.rows * call.heads),
                   static_cast<unsigned>((dim + 31) / 32 * 32), stream, call, call.runs.data(), run_count, parts, chunk);
}

}  // namespace cuda
}  // namespace hproc::kernels
