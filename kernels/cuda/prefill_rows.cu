// What comes before the prefill kernels: rows rounded and transposed, routes sorted by their experts.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/prefill.h"

namespace hproc::kernels {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Where the high bytes of columns [column, column + 4) stand in a row rounded for prefill; the low ones come kPrefillLowOffset later.
// [column tile][step of a half tile][first or second four of a lane's eight][high or low][quarter of the lanes][4].
constexpr int kPrefillLowOffset = 16;
__device__ __forceinline__ int PrefillOffset(int column) {
  const auto c = static_cast<unsigned>(column);
  return static_cast<int>(c / 256 * 512 + (c % 256 / 128 * 8 + c % 32 / 8 * 2 + c % 8 / 4) * 32 + c % 128 / 32 * 4 + c % 4);
}

// A block a row.
__global__ void __launch_bounds__(kThreads)
    RoundPrefillRowsKernel(const float* input, int64_t input_stride, const int32_t* source, int columns, int padded, int8_t* values,
                           float* scales) {
  __shared__ uint32_t parts[kThreads / 32];
  StartBehindKernelInFront();
  const int64_t from = source != nullptr ? source[blockIdx.x] : static_cast<int64_t>(blockIdx.x);
  const float* row = input + from * input_stride;
  const bool wide = input_stride % 4 == 0;
  const auto load = [&](int c) {
    if (wide) return LoadFour(row, c, columns);
    const auto at = [&](int i) { return i < columns ? row[i] : 0.0f; };
    return float4{at(c), at(c + 1), at(c + 2), at(c + 3)};
  };
  constexpr int kKept = 4;  // fours of a thread that are not read twice
  float4 kept[kKept];
  uint32_t bits = 0;
#pragma unroll
  for (int n = 0; n < kKept; ++n) {
    kept[n] = load((static_cast<int>(threadIdx.x) + n * kThreads) * 4);
    bits = max(bits, LargestBits(kept[n]));
  }
  for (int c = (static_cast<int>(threadIdx.x) + kKept * kThreads) * 4; c < padded; c += kThreads * 4) bits = max(bits, LargestBits(load(c)));
  bits = __reduce_max_sync(kAllLanes, bits);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = bits;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) bits = max(bits, parts[w]);
  const float inverse = InverseScale(bits);
  int8_t* to = values + int64_t{blockIdx.x} * 2 * padded;
  const auto store = [&](float4 x, int c) {
    if (c >= padded) return;
    uint32_t high, low;
    RoundFour(x, inverse, high, low);
    *reinterpret_cast<uint32_t*>(to + PrefillOffset(c)) = high;
    *reinterpret_cast<uint32_t*>(to + PrefillOffset(c) + kPrefillLowOffset) = low;
  };
#pragma unroll
  for (int n = 0; n < kKept; ++n) store(kept[n], (static_cast<int>(threadIdx.x) + n * kThreads) * 4);
  for (int c = (static_cast<int>(threadIdx.x) + kKept * kThreads) * 4; c < padded; c += kThreads * 4) store(load(c), c);
  if (threadIdx.x == 0) scales[blockIdx.x] = ScaleOf(bits);
}

constexpr int kTransposedRows = 32;

// A block 32 rows and a column tile.
__global__ void __launch_bounds__(kThreads)
    TransposeKernel(const int8_t* values, int rows, int columns, int row_bytes, int16_t* transposed) {
  __shared__ __align__(16) int8_t shared[kTransposedRows][512 + 16];
  StartBehindKernelInFront();
  const int first = static_cast<int>(blockIdx.x) * kTransposedRows;
  for (int i = threadIdx.x; i < kTransposedRows * 32; i += kThreads) {
    const int row = min(first + i / 32, rows - 1);
    *reinterpret_cast<uint4*>(&shared[i / 32][i % 32 * 16]) =
        *reinterpret_cast<const uint4*>(values + int64_t{row} * row_bytes + blockIdx.y * 512 + i % 32 * 16);
  }
  __syncthreads();
  const int row = threadIdx.x % 32;
  if (first + row >= rows) return;
  for (int c = static_cast<int>(threadIdx.x) / 32; c < kTileColumns; c += kThreads / 32) {
    const int64_t column = int64_t{blockIdx.y} * kTileColumns + c;
    if (column >= columns) return;
    const int8_t* at = &shared[row][PrefillOffset(c)];
    transposed[column * rows + first + row] = static_cast<int16_t>(at[0] * 256 + at[kPrefillLowOffset]);
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
                         input, input_stride, source, static_cast<int>(to.columns), static_cast<int>(RoundedRowBytes(to.columns) / 2),
                         reinterpret_cast<int8_t*>(to.values), to.scales);
}

void TransposePrefillRows(CUstream_st* stream, const PrefillRows& rows) {
  const auto row_bytes = static_cast<int>(RoundedRowBytes(rows.columns));
  const dim3 grid(cuda::Blocks(rows.rows, cuda::kTransposedRows), static_cast<unsigned>(row_bytes / 512));
  cuda::LaunchOverlapped("TransposeKernel", cuda::TransposeKernel, grid, cuda::kThreads, stream,
                         reinterpret_cast<const int8_t*>(rows.values), static_cast<int>(rows.rows), static_cast<int>(rows.columns),
                         row_bytes, rows.transposed);
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
