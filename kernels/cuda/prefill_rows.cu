// What comes before the prefill kernels: rows rounded and transposed, routes sorted by their experts.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/prefill_params.h"
#include "kernels/prefill.h"

namespace hproc::kernels {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// The first of the four columns of chunk `chunk` that quarter 0 of a warp's lanes has; the next quarter's are 32 on.
__device__ __forceinline__ int ChunkColumn(int chunk) {
  return chunk / kHalfChunks * kHalfColumns + chunk % kHalfChunks / 2 * 8 + chunk % 2 * 4;
}

// A block a row, a thread a chunk of it after the other.
__global__ void __launch_bounds__(kThreads)
    RoundPrefillRowsKernel(const float* input, int64_t input_stride, const int32_t* source, int columns, int chunks, int8_t* values,
                           float* scales) {
  __shared__ uint32_t parts[kThreads / 32];
  StartBehindKernelInFront();
  const int64_t from = source != nullptr ? source[blockIdx.x] : static_cast<int64_t>(blockIdx.x);
  const float* row = input + from * input_stride;
  const bool wide = input_stride % 4 == 0;
  const auto load = [&](int chunk, float4 (&x)[4]) {
    const int first = ChunkColumn(chunk);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int c = first + 32 * q;
      const auto at = [&](int i) { return c + i < columns ? row[c + i] : 0.0f; };
      x[q] = wide ? LoadFour(row, c, columns) : float4{at(0), at(1), at(2), at(3)};
    }
  };
  constexpr int kKept = 2;  // chunks of a thread that are not read twice
  float4 kept[kKept][4];
  uint32_t bits = 0;
  const auto note = [&](const float4 (&x)[4]) {
#pragma unroll
    for (int q = 0; q < 4; ++q) bits = max(bits, LargestBits(x[q]));
  };
  const auto thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    load(thread + n * kThreads, kept[n]);
    note(kept[n]);
  }
  for (int chunk = thread + kKept * kThreads; chunk < chunks; chunk += kThreads) {
    float4 x[4];
    load(chunk, x);
    note(x);
  }
  bits = __reduce_max_sync(kAllLanes, bits);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = bits;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) bits = max(bits, parts[w]);
  const float inverse = InverseScale(bits);
  const auto store = [&](const float4 (&x)[4], int chunk) {
    if (chunk >= chunks) return;
    uint32_t high[4], low[4];
#pragma unroll
    for (int q = 0; q < 4; ++q) RoundFour(x[q], inverse, high[q], low[q]);
    auto* to = reinterpret_cast<uint4*>(values + (int64_t{chunk} * gridDim.x + blockIdx.x) * kChunkBytes);
    to[0] = uint4{high[0], high[1], high[2], high[3]};
    to[1] = uint4{low[0], low[1], low[2], low[3]};
  };
#pragma unroll
  for (int n = 0; n < kKept; ++n) store(kept[n], thread + n * kThreads);
  for (int chunk = thread + kKept * kThreads; chunk < chunks; chunk += kThreads) {
    float4 x[4];
    load(chunk, x);
    store(x, chunk);
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = ScaleOf(bits);
}

constexpr int kTransposedRows = 32;

// A block 32 rows and a column tile.
__global__ void __launch_bounds__(kThreads) TransposeKernel(const int8_t* values, int rows, int columns, int16_t* transposed) {
  constexpr int kPlace = kChunkBytes + 16;  // of a row's chunk, on other banks than its neighbours
  __shared__ __align__(16) int8_t shared[kTileChunks][kTransposedRows][kPlace];
  StartBehindKernelInFront();
  const int first = static_cast<int>(blockIdx.x) * kTransposedRows;
  for (int i = threadIdx.x; i < kTileChunks * kTransposedRows * 2; i += kThreads) {
    const int chunk = i / (kTransposedRows * 2);
    const int row = i / 2 % kTransposedRows;
    if (first + row >= rows) continue;
    *reinterpret_cast<uint4*>(&shared[chunk][row][i % 2 * 16]) = *reinterpret_cast<const uint4*>(
        values + ((int64_t{blockIdx.y} * kTileChunks + chunk) * rows + first + row) * kChunkBytes + i % 2 * 16);
  }
  __syncthreads();
  const int row = threadIdx.x % 32;
  if (first + row >= rows) return;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < kTileColumns; i += kThreads / 32) {
    const int chunk = i / kChunkColumns;
    const int64_t column = int64_t{blockIdx.y} * kTileColumns + ChunkColumn(chunk) + i % kChunkColumns / 4 * 32 + i % 4;
    if (column >= columns) continue;
    const int8_t* at = &shared[chunk][row][i % kChunkColumns];
    transposed[column * rows + first + row] = static_cast<int16_t>(at[0] * 256 + at[kChunkColumns]);
  }
}

constexpr int kSortThreads = 1024;  // at least as many as there are experts

// One block. `experts` in [1, kSortThreads].
__global__ void __launch_bounds__(kSortThreads) SortRoutesKernel(const int32_t* chosen, int routes, int top, int experts,
                                                                 int32_t* token_of, int32_t* route_of, PrefillTile* tiles, int most_tiles) {
  __shared__ int counts[kSortThreads];
  __shared__ int2 scan[kSortThreads];  // places and tiles up to this expert's
  StartBehindKernelInFront();
  const auto e = static_cast<int>(threadIdx.x);
  counts[e] = 0;
  __syncthreads();
  for (int i = e; i < routes; i += kSortThreads) atomicAdd(counts + chosen[i], 1);
  __syncthreads();
  const int count = counts[e];
  const int own_tiles = (count + kPrefillTokens - 1) / kPrefillTokens;
  scan[e] = {count, own_tiles};
  __syncthreads();
  for (int step = 1; step < kSortThreads; step *= 2) {
    int2 before{0, 0};
    if (e >= step) before = scan[e - step];
    __syncthreads();
    scan[e] = {scan[e].x + before.x, scan[e].y + before.y};
    __syncthreads();
  }
  const int first = scan[e].x - count;
  const int all_tiles = scan[kSortThreads - 1].y;
  for (int t = 0; t < own_tiles; ++t) {
    tiles[scan[e].y - own_tiles + t] = {e, first + t * kPrefillTokens, min(kPrefillTokens, count - t * kPrefillTokens)};
  }
  for (int t = all_tiles + e; t < most_tiles; t += kSortThreads) tiles[t] = {0, 0, 0};
  counts[e] = first;
  __syncthreads();
  for (int i = e; i < routes; i += kSortThreads) {  // in any order: what becomes of a route does not depend on its neighbours
    const int place = atomicAdd(counts + chosen[i], 1);
    token_of[place] = i / top;
    route_of[place] = i;
  }
}

}  // namespace
}  // namespace cuda

void RoundPrefillRows(CUstream_st* stream, const float* input, int64_t input_stride, const int32_t* source, const PrefillRows& to) {
  cuda::LaunchOverlapped("RoundPrefillRowsKernel", cuda::RoundPrefillRowsKernel, static_cast<unsigned>(to.rows), cuda::kThreads, stream,
                         input, input_stride, source, static_cast<int>(to.columns),
                         static_cast<int>(RoundedRowBytes(to.columns) / cuda::kChunkBytes), reinterpret_cast<int8_t*>(to.values), to.scales);
}

void TransposePrefillRows(CUstream_st* stream, const PrefillRows& rows) {
  const dim3 grid(cuda::Blocks(rows.rows, cuda::kTransposedRows), cuda::Blocks(rows.columns, kTileColumns));
  cuda::LaunchOverlapped("TransposeKernel", cuda::TransposeKernel, grid, cuda::kThreads, stream,
                         reinterpret_cast<const int8_t*>(rows.values), static_cast<int>(rows.rows), static_cast<int>(rows.columns),
                         rows.transposed);
}

int64_t MostPrefillTiles(int64_t routes, int64_t experts) { return std::min(routes, experts) + routes / kPrefillTokens; }

void SortRoutes(CUstream_st* stream, const int32_t* chosen, int64_t routes, int64_t top, int64_t experts, int32_t* token_of,
                int32_t* route_of, PrefillTile* tiles) {
  HPROC_CHECK(experts <= cuda::kSortThreads, "experts of a layer on a CUDA device");
  cuda::LaunchOverlapped("SortRoutesKernel", cuda::SortRoutesKernel, 1, cuda::kSortThreads, stream, chosen, static_cast<int>(routes),
                         static_cast<int>(top), static_cast<int>(experts), token_of, route_of, tiles,
                         static_cast<int>(MostPrefillTiles(routes, experts)));
}

}  // namespace hproc::kernels
