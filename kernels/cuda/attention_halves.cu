// Attention over float16 caches by tensor cores: the scores of up to 16 query heads that share a kv head, and their sums of values.
//
// Queries and weights are two float16 each, a value and what it leaves, so that products lose no more than float32 does. Warp w has
// dimensions [32 w, 32 w + 32) of keys and values alike, of which every lane reads 16 or 8 bytes straight into the fragments of its
// products: which of a fragment's columns is which dimension is free as long as both sides agree. What older tokens left in the
// cache is asked for before the kernel in front is done.
//
//     chunk of 64 positions:  scores of a warp's dimensions -> shared memory | barrier | softmax, two heads a warp, as it goes
//                             (Milakov and Gimelshein 2018) -> weights | barrier | values of a warp's dimensions
#include <cuda_fp16.h>

#include <cfloat>

#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/op_kernels.h"

namespace hproc::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kWarpDims = 32;
constexpr int kTiles = kHalvesChunk / 8;    // of eight positions, in the products of scores
constexpr int kSteps = kHalvesChunk / 16;   // of sixteen, in the products of values
constexpr int kScoreStride = kHalvesChunk + 8;  // so that rows fall on other banks

// sum[16 x 8] += A[16 x 16] B[16 x 8] in float16.
__device__ __forceinline__ void MultiplyAddHalves(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two values as float16, and what they leave likewise.
__device__ __forceinline__ void Split(float x, float y, uint32_t& high, uint32_t& low) {
  const __half2 rounded = __floats2half2_rn(x, y);
  const float2 back = __half22float2(rounded);
  const __half2 left = __floats2half2_rn(x - back.x, y - back.y);
  high = *reinterpret_cast<const uint32_t*>(&rounded);
  low = *reinterpret_cast<const uint32_t*>(&left);
}

// A block a (part of the positions, kv head and up to kHalvesHeads of its query heads, row).
__global__ void __launch_bounds__(kWarps * 32, 2)
    AttendHalvesKernel(const __grid_constant__ AttendCall call, const SequenceRun* runs, int run_count, int parts, int groups) {
  __shared__ __align__(16) float scores[kWarps][kHalvesHeads][kScoreStride];
  __shared__ __align__(16) __half weights[2][kHalvesHeads][kScoreStride];
  __shared__ float factors[kHalvesHeads];
  AllowNextKernel();
  const KvCache& cache = call.cache;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const int part = blockIdx.x;
  const int kv_head = blockIdx.y / groups;
  const int row = blockIdx.z;
  const auto dim = static_cast<int>(cache.head_dim);
  const int shared = static_cast<int>(call.heads) / static_cast<int>(cache.kv_heads);
  const int first_head = kv_head * shared + static_cast<int>(blockIdx.y) % groups * kHalvesHeads;
  const int heads = min(kHalvesHeads, (kv_head + 1) * shared - first_head);
  const SequenceRun run = runs[RunOf(runs, run_count, row)];
  const int position = run.first_position + row - run.first_row;
  const int each = PartPositions(position + 1, parts, kHalvesChunk);
  const int begin = part * each;
  const int end = min(position + 1, begin + each);
  if (begin >= end) return;  // the first part waits for all
  const int dims_here = dim / kWarpDims;  // warps that have any
  const bool has_dims = warp < dims_here;
  const int64_t head_at = (run.slot * cache.scales_per_slot() + kv_head * cache.context) * dim + warp * kWarpDims;
  const __half* const keys = static_cast<const __half*>(cache.keys) + head_at + 8 * q;
  const __half* const values = static_cast<const __half*>(cache.values) + head_at + 4 * g;

  // Keys: tile t's column g is position 8 t + g, a lane's words are four twos of its dimensions 8 q, …. Values: of step s, positions
  // 2 q, 2 q + 1, 2 q + 8, 2 q + 9 and dimensions 4 g, …. Only those of positions [from, to) are read, the others stay as they are.
  uint4 key[kTiles];
  uint2 value[kSteps][4];
  const auto load_keys = [&](int p, int from, int to) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int at = p + 8 * t + g;
      if (has_dims && at >= from && at < to) key[t] = *reinterpret_cast<const uint4*>(keys + int64_t{at} * dim);
    }
  };
  const auto load_values = [&](int p, int from, int to) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = p + 16 * s + 2 * q + i / 2 * 8 + i % 2;
        if (has_dims && at >= from && at < to) value[s][i] = *reinterpret_cast<const uint2*>(values + int64_t{at} * dim);
      }
    }
  };
  const auto clear_keys = [&] {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) key[t] = uint4{0, 0, 0, 0};
  };
  const auto clear_values = [&] {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) value[s][i] = uint2{0, 0};
    }
  };
  clear_keys();
  clear_values();
  load_keys(begin, 0, min(end, run.first_position));
  load_values(begin, 0, min(end, run.first_position));
  WaitForKernelInFront();
  if (begin + kHalvesChunk > run.first_position) {
    load_keys(begin, run.first_position, end);
    load_values(begin, run.first_position, end);
  }

  // Heads g and g + 8, dimensions 8 q, … of the warp's: for each of two steps.
  uint32_t query[2][4] = {};
  uint32_t query_left[2][4] = {};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!has_dims || g + 8 * r >= heads) continue;
    const float* from = call.queries + row * call.query_stride + (first_head + g + 8 * r) * call.query_head_stride + warp * kWarpDims + 8 * q;
    const float4 first = *reinterpret_cast<const float4*>(from);
    const float4 second = *reinterpret_cast<const float4*>(from + 4);
    Split(first.x, first.y, query[0][r], query_left[0][r]);
    Split(first.z, first.w, query[0][r + 2], query_left[0][r + 2]);
    Split(second.x, second.y, query[1][r], query_left[1][r]);
    Split(second.z, second.w, query[1][r + 2], query_left[1][r + 2]);
  }

  float output[4][4] = {};
  float most[2] = {-FLT_MAX, -FLT_MAX};  // of heads warp and warp + 8
  float sum[2] = {0, 0};
  for (int p = begin; p < end; p += kHalvesChunk) {
    const bool has_next = p + kHalvesChunk < end;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float score[4] = {};
      MultiplyAddHalves(score, query[0], key[t].x, key[t].y);
      MultiplyAddHalves(score, query[1], key[t].z, key[t].w);
      MultiplyAddHalves(score, query_left[0], key[t].x, key[t].y);
      MultiplyAddHalves(score, query_left[1], key[t].z, key[t].w);
      *reinterpret_cast<float2*>(&scores[warp][g][8 * t + 2 * q]) = {score[0], score[1]};
      *reinterpret_cast<float2*>(&scores[warp][g + 8][8 * t + 2 * q]) = {score[2], score[3]};
    }
    if (has_next) load_keys(p + kHalvesChunk, 0, end);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = warp + 8 * r;
      float score[2] = {};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if (w >= dims_here) break;
#pragma unroll
        for (int i = 0; i < 2; ++i) score[i] += scores[w][head][lane + 32 * i];
      }
      float now = most[r];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        score[i] = p + lane + 32 * i < end ? score[i] * call.scale : -INFINITY;
        now = fmaxf(now, score[i]);
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) now = fmaxf(now, __shfl_xor_sync(kAllLanes, now, step));
      float added = 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float weight = p + lane + 32 * i < end ? expf(score[i] - now) : 0.0f;  // NaN stays NaN
        added += weight;
        const __half high = __float2half_rn(weight);
        weights[0][head][lane + 32 * i] = high;
        weights[1][head][lane + 32 * i] = __float2half_rn(weight - __half2float(high));
      }
      const float factor = expf(most[r] - now);
      sum[r] = sum[r] * factor + WarpSum(added);
      most[r] = now;
      if (lane == 0) factors[head] = factor;
    }
    __syncthreads();
    const float factor[2] = {factors[g], factors[g + 8]};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) output[j][i] *= factor[i / 2];
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      uint32_t a[2][4];
#pragma unroll
      for (int l = 0; l < 2; ++l) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[l][i] = *reinterpret_cast<const uint32_t*>(&weights[l][g + i % 2 * 8][16 * s + 2 * q + i / 2 * 8]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // tile j's column n is dimension 4 n + j
        const auto two = [&](int i) {
          const uint32_t x = j < 2 ? value[s][i].x : value[s][i].y;
          const uint32_t y = j < 2 ? value[s][i + 1].x : value[s][i + 1].y;
          return __byte_perm(x, y, j % 2 == 0 ? 0x5410 : 0x7632);
        };
        MultiplyAddHalves(output[j], a[0], two(0), two(2));
        MultiplyAddHalves(output[j], a[1], two(0), two(2));
      }
    }
    if (!has_next) break;
    clear_values();  // where the next chunk is not whole
    load_values(p + kHalvesChunk, 0, end);
  }

  if (parts == 1) {
    __syncthreads();
    if (lane == 0) factors[warp] = sum[0], factors[warp + 8] = sum[1];
    __syncthreads();
  } else if (lane < 2 && warp + 8 * lane < heads) {
    float* to = PartAt(call, call.workspace, row, first_head + warp + 8 * lane, parts, part);
    to[0] = lane == 0 ? most[0] : most[1];
    to[1] = lane == 0 ? sum[0] : sum[1];
  }
  if (!has_dims) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = g + 8 * r;
    if (head >= heads) continue;
    const int first = warp * kWarpDims + 8 * q;
    float all[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) all[j] = output[j][2 * r], all[j + 4] = output[j][2 * r + 1];
    float* to = PartAt(call, call.workspace, row, first_head + head, parts, part) + kPartHeader + first;
    if (parts == 1) {
      to = call.output + (int64_t{row} * call.heads + first_head + head) * dim + first;
#pragma unroll
      for (int i = 0; i < 8; ++i) all[i] = Gated(call, row, first_head + head, first + i, all[i] / factors[head]);
    }
    reinterpret_cast<float4*>(to)[0] = {all[0], all[1], all[2], all[3]};
    reinterpret_cast<float4*>(to)[1] = {all[4], all[5], all[6], all[7]};
  }
}

}  // namespace

bool CanAttendHalves(const AttendCall& call) {
  return call.cache.storage == Storage::kFloat16 && call.cache.head_dim % kWarpDims == 0 && call.cache.head_dim <= kWarps * kWarpDims &&
         call.query_stride % 4 == 0 && call.query_head_stride % 4 == 0;
}

void LaunchAttendHalves(const AttendCall& call, int parts, cudaStream_t stream) {
  const auto groups = static_cast<int>(Blocks(call.heads / call.cache.kv_heads, kHalvesHeads));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(call.cache.kv_heads * groups), static_cast<unsigned>(call.rows));
  LaunchOverlapped("AttendHalvesKernel", AttendHalvesKernel, grid, kWarps * 32, stream, call, call.runs.data(),
                   static_cast<int>(call.runs.size()), parts, groups);
}

}  // namespace hproc::kernels::cuda
