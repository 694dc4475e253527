// Encoded rows into decode order (kernels/decode_order.h), to the bit as WriteDecodeOrder makes it, and the outliers of a part of
// their columns.
#include "kernels/cuda/quantize_device.cuh"
#include "kernels/decode_lane.h"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kScanThreads = 1024;

// A warp a tile of 8 rows and up to 256 columns; a thread one lane's codes of it.
__global__ void ArrangeTilesKernel(int64_t rows, int64_t columns, Target encoded, Arranged to) {
  const int64_t tile = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const DecodeOrder& order = to.order;
  const int64_t row_tile = tile / order.column_tiles;
  const int64_t column_tile = tile % order.column_tiles;
  const int64_t row = row_tile * kTileRows + lane / 4;
  if (row >= rows) return;  // rows that are none are zeros, as all was
  const int levels = encoded.format.levels;
  const quant::PlaneLayout planes = quant::PlanesOf(levels);
  const uint8_t* codes = encoded.codes + row * quant::CodeBytesPerRow(columns, levels);
  const int halves = TileHalves(order, column_tile);
  uint8_t own[2 * kHalfCodes];
  for (int c = 0; c < halves * kHalfCodes; ++c) {
    const int64_t column = column_tile * kTileColumns + ColumnInTile(lane, c);
    own[c] = 0;
    if (column < to.columns) {
      const auto code = static_cast<int>(quant::CodeAt(codes, planes, to.first_column + column));
      own[c] = static_cast<uint8_t>(OrderedCode(encoded.format, code));
    }
  }
  const LaneCodes packed = PackLane(own, levels, halves);
  std::byte* at = to.bytes + order.tiles + (to.first_row / kTileRows + row_tile) * order.row_tile_bytes + column_tile * order.tile_bytes;
  const int words = TileWords(levels, halves);
  for (int w = 0; w < words; ++w) {
    *reinterpret_cast<uint32_t*>(at + TileWordOffset(words, w, lane)) = packed.words[static_cast<size_t>(w)];
  }
  if (TileBytes(levels, halves) > words * 128) at[words * 128 + lane] = std::byte{packed.byte};
}

// A thread a row: its part of its row tile's record.
__global__ void ArrangeRecordsKernel(int64_t rows, int64_t columns, Target encoded, const uint32_t* counts, const uint32_t* starts,
                                     Arranged to) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  const DecodeOrder& order = to.order;
  const auto r = static_cast<int>(row % kTileRows);
  std::byte* record = to.bytes + order.records + (to.first_row + row) / kTileRows * order.record_bytes;
  reinterpret_cast<uint16_t*>(record)[r] = encoded.scales[row];
  auto* rest = reinterpret_cast<uint8_t*>(record + order.record_books);
  const int levels = encoded.format.levels;
  if (encoded.format.mode == quant::Mode::kV2a) {
    const uint8_t* indices = encoded.indices + row * quant::GroupsPerRow(columns) + to.first_column / quant::kGroupColumns;
    const int64_t groups = quant::GroupsPerRow(to.columns);
    for (int64_t g = 0; g < groups; ++g) rest[g * kTileRows + r] = indices[g];
  } else {
    for (int i = 0; i < levels; ++i) {
      rest[r * CodebookStride(levels) + OrderedCode(encoded.format, i)] = encoded.codebooks[row * levels + i];
    }
  }
  if (order.outlier_columns < 0) return;
  std::byte* of_outliers = record + kTileRows * 2 + 4;
  if (quant::OutlierCountBytes(to.columns) == 1) {
    reinterpret_cast<uint8_t*>(of_outliers)[r] = static_cast<uint8_t>(counts[row]);
  } else {
    reinterpret_cast<uint16_t*>(of_outliers)[r] = static_cast<uint16_t>(counts[row]);
  }
  if (r == 0) *reinterpret_cast<uint32_t*>(record + kTileRows * 2) = starts[row];
}

__device__ int64_t ColumnOf(const Target& encoded, int64_t columns, uint32_t at) {
  return quant::OutlierColumnBytes(columns) == 2 ? int64_t{reinterpret_cast<const uint16_t*>(encoded.outlier_columns)[at]}
                                                 : int64_t{reinterpret_cast<const uint32_t*>(encoded.outlier_columns)[at]};
}

// A warp a row: how many of its outliers stay.
__global__ void CountKeptKernel(int64_t rows, int64_t columns, Target encoded, const uint32_t* own, const uint32_t* starts,
                                Arranged to, KeptOutliers kept, const PassStatus* status) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows || status->overflow != 0) return;
  uint32_t count = 0;
  for (uint32_t i = threadIdx.x % 32; i < own[row]; i += 32) {
    const int64_t column = ColumnOf(encoded, columns, starts[row] + i) - to.first_column;
    count += column >= 0 && column < to.columns ? 1u : 0u;
  }
  count = __reduce_add_sync(~0u, count);
  if (threadIdx.x % 32 == 0) kept.counts[row] = count;
}

// One block: where each row's begin, behind those of the rows before.
__global__ void __launch_bounds__(kScanThreads) PlaceKeptKernel(int64_t rows, KeptOutliers kept, PassStatus* status) {
  __shared__ uint32_t warp_sums[32];
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % 32;
  if (status->overflow != 0) return;
  unsigned long long placed = status->kept;
  for (int64_t base = 0; base < rows; base += kScanThreads) {
    const int64_t row = base + t;
    const uint32_t own = row < rows ? kept.counts[row] : 0;
    uint32_t up_to = own;
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, up_to, step);
      if (lane >= step) up_to += other;
    }
    if (lane == 31) warp_sums[t / 32] = up_to;
    __syncthreads();
    uint32_t before = 0;
    uint32_t all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < t / 32) before += warp_sums[w];
      all += warp_sums[w];
    }
    __syncthreads();
    if (row < rows) kept.starts[row] = static_cast<uint32_t>(placed + before + up_to - own);
    placed += all;
  }
  if (t == 0) status->kept = placed;
}

// A warp a row: those that stay, in order.
__global__ void KeepKernel(int64_t rows, int64_t columns, Target encoded, const uint32_t* own, const uint32_t* starts, Arranged to,
                           KeptOutliers kept, const PassStatus* status) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows || status->overflow != 0) return;
  const int lane = threadIdx.x % 32;
  uint32_t next = kept.starts[row];
  for (uint32_t base = 0; base < own[row]; base += 32) {
    const uint32_t at = starts[row] + base + static_cast<uint32_t>(lane);
    const bool inside = base + static_cast<uint32_t>(lane) < own[row];
    const int64_t column = inside ? ColumnOf(encoded, columns, at) - to.first_column : -1;
    const bool stays = column >= 0 && column < to.columns;
    const unsigned votes = __ballot_sync(~0u, stays);
    if (stays) {
      const uint32_t place = next + static_cast<uint32_t>(__popc(votes & ((1u << lane) - 1)));
      if (quant::OutlierColumnBytes(to.columns) == 2) {
        reinterpret_cast<uint16_t*>(kept.columns)[place] = static_cast<uint16_t>(column);
      } else {
        reinterpret_cast<uint32_t*>(kept.columns)[place] = static_cast<uint32_t>(column);
      }
      kept.values[place] = encoded.outlier_values[at];
    }
    next += static_cast<uint32_t>(__popc(votes));
  }
}

unsigned Blocks(int64_t threads) { return static_cast<unsigned>(CeilDiv(threads, kThreads)); }

}  // namespace

void KeepOutliers(const Rows& rows, const Target& encoded, const RowResults& results, const uint32_t* starts, const Arranged& to,
                  const KeptOutliers& kept, PassStatus* status, cudaStream_t stream) {
  CountKeptKernel<<<Blocks(rows.rows * 32), kThreads, 0, stream>>>(rows.rows, rows.columns, encoded, results.outliers, starts, to, kept,
                                                                   status);
  HPROC_CUDA_LAUNCHED("CountKeptKernel");
  PlaceKeptKernel<<<1, kScanThreads, 0, stream>>>(rows.rows, kept, status);
  HPROC_CUDA_LAUNCHED("PlaceKeptKernel");
  KeepKernel<<<Blocks(rows.rows * 32), kThreads, 0, stream>>>(rows.rows, rows.columns, encoded, results.outliers, starts, to, kept,
                                                              status);
  HPROC_CUDA_LAUNCHED("KeepKernel");
}

void ArrangeRows(const Rows& rows, const Target& encoded, const uint32_t* counts, const uint32_t* starts, const Arranged& to,
                 cudaStream_t stream) {
  ArrangeRecordsKernel<<<Blocks(rows.rows), kThreads, 0, stream>>>(rows.rows, rows.columns, encoded, counts, starts, to);
  HPROC_CUDA_LAUNCHED("ArrangeRecordsKernel");
  const int64_t row_tiles = CeilDiv(rows.rows, kTileRows);
  ArrangeTilesKernel<<<Blocks(row_tiles * to.order.column_tiles * 32), kThreads, 0, stream>>>(rows.rows, rows.columns, encoded, to);
  HPROC_CUDA_LAUNCHED("ArrangeTilesKernel");
}

}  // namespace hproc::kernels::cuda
