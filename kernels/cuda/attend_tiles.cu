// Attention of long runs on tensor cores: tiles of queries over chunks of positions, the softmax as it goes (FlashAttention-2, arXiv
// 2307.08691).
//
// Keys and values are exact in float16, int8 ones without their scales, which go into scores and weights; queries, by a power of two
// a row, and weights are pairs of float16, 22 bits. Sums are float32. A weight of zero meets the values of positions behind its row,
// too, as far as they are in the same chunk: where one of those is NaN, so is the row.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/pair_products.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRows = 16 * kWarps;  // queries of a tile
constexpr int kPositions = 32;      // of a chunk
constexpr int kStages = 2;

// Byte offsets in shared memory. Rows are padded, so that eight of them fall on different banks.
template <int kDim>
struct Places {
  static constexpr int kPitch = kDim * 2 + 16;
  static constexpr int kQueryPlane = kRows * kPitch;  // high parts; then the low ones
  static constexpr int kChunkBytes = kPositions * kPitch;
  static constexpr int kStagesAt = 2 * kQueryPlane;  // keys, then values
  static constexpr int kScalesAt = kStagesAt + kStages * 2 * kChunkBytes;  // floats, as the stages
  static constexpr int kUnitsAt = kScalesAt + kStages * 2 * kPositions * 4;
  static constexpr int kBytes = kUnitsAt + kRows * 4;
};

struct AttendTiles {
  AttendCall call;
  const SequenceRun* runs;
  int32_t run_count;
};

// A block a (query head, tile of a run), the last tiles first. kDim: values of a head, those that are not there zeros.
template <int kDim>
__global__ void __launch_bounds__(kWarps * 32, 1) AttendTilesKernel(const __grid_constant__ AttendTiles p) {
  using At = Places<kDim>;
  extern __shared__ __align__(128) uint8_t shared[];
  StartBehindKernelInFront();
  const AttendCall& call = p.call;
  const KvCache& cache = call.cache;
  int tile = static_cast<int>(gridDim.y - 1 - blockIdx.y);
  int r = 0;
  for (; r < p.run_count; ++r) {
    const int tiles = (p.runs[r].tokens + kRows - 1) / kRows;
    if (tile < tiles) break;
    tile -= tiles;
  }
  if (r == p.run_count) return;
  const SequenceRun run = p.runs[r];
  const int first = tile * kRows;
  const int count = min(kRows, run.tokens - first);
  const int64_t first_row = run.first_row + first;
  const int first_position = run.first_position + first;
  const int end = first_position + count;
  const int64_t head = blockIdx.x;
  const int64_t cached = run.slot * cache.scales_per_slot() + head / (call.heads / cache.kv_heads) * cache.context;
  const auto dim = static_cast<int>(cache.head_dim);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int g = lane / 4;
  const int q = lane % 4;
  const uint32_t base = SharedAddress(shared);
  float* const scales = reinterpret_cast<float*>(shared + At::kScalesAt);
  float* const units = reinterpret_cast<float*>(shared + At::kUnitsAt);
  const bool is_int8 = cache.storage == Storage::kInt8;

  if (dim < kDim) {
    for (int i = thread; i < kStages * 2 * At::kChunkBytes / 16; i += kWarps * 32) {
      reinterpret_cast<uint4*>(shared + At::kStagesAt)[i] = uint4{0, 0, 0, 0};
    }
    __syncthreads();
  }
  const auto copy = [&](int chunk) {
    const int stage = chunk % kStages;
    constexpr int kPieces = kDim / 8;  // of a row
#pragma unroll
    for (int n = 0; n < kPositions * kPieces / (kWarps * 32); ++n) {
      const int i = thread + n * kWarps * 32;
      const int column = i % kPieces * 8;
      if (column >= dim) continue;
      const int64_t from = (cached + min(chunk * kPositions + i / kPieces, end - 1)) * dim + column;
      const int to = At::kStagesAt + stage * 2 * At::kChunkBytes + i / kPieces * At::kPitch + column * 2;
#pragma unroll
      for (int of = 0; of < 2; ++of) {
        const void* source = of == 0 ? cache.keys : cache.values;
        if (is_int8) {
          const uint2 eight = *reinterpret_cast<const uint2*>(static_cast<const int8_t*>(source) + from);
          const auto at = [&](uint32_t word, int j) { return static_cast<float>(static_cast<int8_t>(word >> (8 * j))); };
          *reinterpret_cast<uint4*>(shared + to + of * At::kChunkBytes) =
              uint4{PackedHalf(at(eight.x, 0), at(eight.x, 1)), PackedHalf(at(eight.x, 2), at(eight.x, 3)),
                    PackedHalf(at(eight.y, 0), at(eight.y, 1)), PackedHalf(at(eight.y, 2), at(eight.y, 3))};
        } else {
          CopyAsync<16>(base + to + of * At::kChunkBytes, static_cast<const __half*>(source) + from, true);
        }
      }
    }
    if (is_int8 && thread < 2 * kPositions) {
      const uint16_t* from = thread < kPositions ? cache.key_scales : cache.value_scales;
      scales[stage * 2 * kPositions + thread] = quant::Bfloat16ToFloat(from[cached + min(chunk * kPositions + thread % kPositions, end - 1)]);
    }
    CommitCopies();
  };
  copy(0);

  // This warp's queries.
  constexpr int kEach = kDim / 32;
#pragma unroll 1
  for (int i = 0; i < 16; ++i) {
    const int row = warp * 16 + i;
    const float* from = call.queries + (first_row + row) * call.query_stride + head * call.query_head_stride;
    float values[kEach];
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int c = lane * kEach + j;
      values[j] = row < count && c < dim ? from[c] : 0.0f;
      largest = max(largest, __float_as_uint(values[j]) & 0x7FFFFFFFu);
    }
    const uint32_t exponent = max(1u, min(__reduce_max_sync(kAllLanes, largest) >> 23, 253u));
    const float inverse = __uint_as_float((254 - exponent) << 23);
    if (lane == 0) units[row] = __uint_as_float(exponent << 23) * (call.scale * 1.44269504088896f);  // for powers of two
    uint8_t* to = shared + row * At::kPitch + lane * kEach * 2;
#pragma unroll
    for (int j = 0; j < kEach; j += 2) {
      const Pair pair = HalfPair(values[j] * inverse, values[j + 1] * inverse);
      *reinterpret_cast<uint32_t*>(to + j * 2) = pair.high;
      *reinterpret_cast<uint32_t*>(to + j * 2 + At::kQueryPlane) = pair.low;
    }
  }
  __syncwarp();
  const int row[2] = {warp * 16 + g, warp * 16 + g + 8};
  const float unit[2] = {units[row[0]], units[row[1]]};
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
  float output[kDim / 8][4] = {};
  const uint32_t queries_at = base + (warp * 16 + lane % 16) * At::kPitch + lane / 16 * 16;
  const uint32_t keys_at = base + At::kStagesAt + (lane % 8 + lane / 16 * 8) * At::kPitch + lane / 8 % 2 * 16;
  const uint32_t values_at = base + At::kStagesAt + At::kChunkBytes + lane % 16 * At::kPitch + lane / 16 * 16;
  const int chunks = (end + kPositions - 1) / kPositions;
  const int last = first_position + min(count, warp * 16 + 16) - 1;  // position of this warp's rows
  const bool works = warp * 16 < count;
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) {
      copy(chunk + 1);
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    __syncthreads();
    if (works && chunk * kPositions <= last) {
      const int stage = chunk % kStages;
      const uint32_t stage_at = stage * 2 * At::kChunkBytes;
      float score[kPositions / 8][4] = {};
#pragma unroll 4
      for (int k = 0; k < kDim / 16; ++k) {
        PairsA a;
        LoadMatrices(a.high, queries_at + k * 32);
        LoadMatrices(a.low, queries_at + k * 32 + At::kQueryPlane);
#pragma unroll
        for (int j = 0; j < kPositions / 16; ++j) {
          uint32_t b[4];
          LoadMatrices(b, keys_at + stage_at + j * 16 * At::kPitch + k * 32);
          MultiplyHalf(score[2 * j], a.low, b[0], b[1]);
          MultiplyHalf(score[2 * j + 1], a.low, b[2], b[3]);
          MultiplyHalf(score[2 * j], a.high, b[0], b[1]);
          MultiplyHalf(score[2 * j + 1], a.high, b[2], b[3]);
        }
      }
      const float* scales_of = scales + stage * 2 * kPositions;
      float now[2] = {most[0], most[1]};
#pragma unroll
      for (int n = 0; n < kPositions / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = 8 * n + 2 * q + e % 2;
          float value = score[n][e] * unit[e / 2];
          if (is_int8) value *= scales_of[i];
          score[n][e] = chunk * kPositions + i <= first_position + row[e / 2] ? value : -INFINITY;
          now[e / 2] = fmaxf(now[e / 2], score[n][e]);
        }
      }
      float factor[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        now[i] = fmaxf(now[i], __shfl_xor_sync(kAllLanes, now[i], 1));
        now[i] = fmaxf(now[i], __shfl_xor_sync(kAllLanes, now[i], 2));
        factor[i] = exp2f(most[i] - now[i]);
        most[i] = now[i];
        sum[i] *= factor[i];
      }
#pragma unroll
      for (int n = 0; n < kPositions / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float weight = exp2f(score[n][e] - now[e / 2]);
          sum[e / 2] += weight;
          score[n][e] = weight;
          if (is_int8) score[n][e] = weight == 0 ? 0 : weight * scales_of[kPositions + 8 * n + 2 * q + e % 2];
        }
      }
      if (__any_sync(kAllLanes, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) output[n][e] *= factor[e / 2];
        }
      }
#pragma unroll
      for (int k = 0; k < kPositions / 16; ++k) {
        PairsA a;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Pair pair = HalfPair(score[2 * k + e / 2][e % 2 * 2], score[2 * k + e / 2][e % 2 * 2 + 1]);
          a.high[e] = pair.high, a.low[e] = pair.low;
        }
#pragma unroll
        for (int j = 0; j < kDim / 16; ++j) {
          uint32_t b[4];
          LoadTransposed(b, values_at + stage_at + k * 16 * At::kPitch + j * 32);
          MultiplyHalf(output[2 * j], a.low, b[0], b[1]);
          MultiplyHalf(output[2 * j + 1], a.low, b[2], b[3]);
          MultiplyHalf(output[2 * j], a.high, b[0], b[1]);
          MultiplyHalf(output[2 * j + 1], a.high, b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }
  if (!works) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 1);
    sum[i] += __shfl_xor_sync(kAllLanes, sum[i], 2);
    if (row[i] >= count) continue;
    float* to = call.output + ((first_row + row[i]) * call.heads + head) * dim;
    const float inverse = 1.0f / sum[i];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const int c = 8 * n + 2 * q;
      if (c >= dim) continue;
      *reinterpret_cast<float2*>(to + c) = float2{Gated(call, first_row + row[i], head, c, output[n][2 * i] * inverse),
                                                  Gated(call, first_row + row[i], head, c + 1, output[n][2 * i + 1] * inverse)};
    }
  }
}

template <int kDim>
void Launch(const AttendCall& call, cudaStream_t stream) {
  const auto kernel = AttendTilesKernel<kDim>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  const auto runs = static_cast<int64_t>(call.runs.size());
  const dim3 grid(static_cast<unsigned>(call.heads), static_cast<unsigned>(std::min(call.rows, call.rows / kRows + runs)));
  const AttendTiles params{.call = call, .runs = call.runs.data(), .run_count = static_cast<int32_t>(runs)};
  LaunchWithShared(kernel, params, grid, kWarps * 32, Places<kDim>::kBytes, true, stream);
}

}  // namespace

bool CanAttendInTiles(const AttendCall& call) {
  const KvCache& cache = call.cache;
  if (cache.storage == Storage::kFloat32 || cache.head_dim % 8 != 0 || cache.head_dim > kMostHeadDim) return false;
  int device = 0;
  int shared_bytes = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return shared_bytes >= (cache.head_dim <= 128 ? Places<128>::kBytes : Places<256>::kBytes);
}

void LaunchAttendTiles(const AttendCall& call, cudaStream_t stream) {
  HPROC_CHECK(CanAttendInTiles(call), "attention in tiles");
  static_assert(kMostHeadDim == 256);
  if (call.cache.head_dim <= 128) return Launch<128>(call, stream);
  Launch<256>(call, stream);
}

}  // namespace hproc::kernels::cuda
