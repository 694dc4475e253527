#include "base/check.h"
#include "kernels/cuda/arrange.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/quantize_device.cuh"
#include "kernels/decode_lane.h"

namespace hproc::kernels {
namespace {

constexpr int kThreads = 128;

// A warp a tile of 8 rows and up to 256 columns; a thread one lane's codes of it.
__global__ void ArrangeTilesKernel(quant::XfpMatrix matrix, DecodeOrder order, std::byte* out) {
  const int64_t tile = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int64_t row_tile = tile / order.column_tiles;
  const int64_t column_tile = tile % order.column_tiles;
  const int64_t row = row_tile * kTileRows + lane / 4;
  if (row_tile >= order.row_tiles || row >= matrix.rows) return;  // rows that are none are zeros, as all was
  const int levels = matrix.format.levels;
  const quant::PlaneLayout planes = quant::PlanesOf(levels);
  const uint8_t* codes = matrix.codes + row * quant::CodeBytesPerRow(matrix.columns, levels);
  const int halves = TileHalves(order, column_tile);
  uint8_t own[2 * kHalfCodes];
  for (int c = 0; c < halves * kHalfCodes; ++c) {
    const int64_t column = column_tile * kTileColumns + ColumnInTile(lane, c);
    own[c] = column < matrix.columns ? static_cast<uint8_t>(quant::CodeAt(codes, planes, column)) : uint8_t{0};
  }
  const LaneCodes packed = PackLane(own, levels, halves);
  std::byte* at = out + order.tiles + row_tile * order.row_tile_bytes + column_tile * order.tile_bytes;
  const int words = TileWords(levels, halves);
  for (int w = 0; w < words; ++w) {
    *reinterpret_cast<uint32_t*>(at + TileWordOffset(words, w, lane)) = packed.words[static_cast<size_t>(w)];
  }
  if (TileBytes(levels, halves) > words * 128) at[words * 128 + lane] = std::byte{packed.byte};
}

__device__ unsigned CountOf(const quant::XfpMatrix& matrix, int64_t row) {
  return quant::OutlierCountBytes(matrix.columns) == 1 ? matrix.outlier_counts[row]
                                                      : reinterpret_cast<const uint16_t*>(matrix.outlier_counts)[row];
}

// A thread a row: its part of its row tile's record.
__global__ void ArrangeRecordsKernel(quant::XfpMatrix matrix, DecodeOrder order, std::byte* out) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= matrix.rows) return;
  const auto r = static_cast<int>(row % kTileRows);
  std::byte* record = out + order.records + row / kTileRows * order.record_bytes;
  reinterpret_cast<uint16_t*>(record)[r] = matrix.scales[row];
  auto* rest = reinterpret_cast<uint8_t*>(record + order.record_books);
  const int levels = matrix.format.levels;
  if (matrix.format.mode == quant::Mode::kV2a) {
    const int64_t groups = quant::GroupsPerRow(matrix.columns);
    for (int64_t g = 0; g < groups; ++g) rest[g * kTileRows + r] = matrix.indices[row * groups + g];
  } else {
    for (int i = 0; i < levels; ++i) rest[r * CodebookStride(levels) + i] = matrix.codebooks[row * levels + i];
  }
  if (matrix.outliers == 0) return;
  std::byte* counts = record + kTileRows * 2 + 4;
  if (quant::OutlierCountBytes(matrix.columns) == 1) {
    reinterpret_cast<uint8_t*>(counts)[r] = static_cast<uint8_t>(CountOf(matrix, row));
  } else {
    reinterpret_cast<uint16_t*>(counts)[r] = static_cast<uint16_t>(CountOf(matrix, row));
  }
  if (r > 0) return;
  uint32_t before = matrix.outlier_starts[row / quant::kOutlierRowBlock];
  for (int64_t i = row / quant::kOutlierRowBlock * quant::kOutlierRowBlock; i < row; ++i) before += CountOf(matrix, i);
  *reinterpret_cast<uint32_t*>(record + kTileRows * 2) = before;
}

}  // namespace

DecodeMatrix ArrangeForDecode(const quant::XfpMatrix& matrix, const CudaDevice& device, std::span<std::byte> bytes) {
  const DecodeOrder order = DecodeOrderOf(matrix.rows, matrix.columns, matrix.format, matrix.outliers);
  HPROC_CHECK(static_cast<int64_t>(bytes.size()) >= order.total_bytes, "size of a matrix in decode order");
  const ScopedDevice current(device.ordinal());
  const Stream stream;
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  std::byte* out = bytes.data();
  HPROC_CUDA_CHECK(cudaMemsetAsync(out, 0, bytes.size(), stream.get()));
  const auto copy = [&](int64_t at, const void* from, int64_t size, int64_t pitch, int64_t count) {
    HPROC_CUDA_CHECK(cudaMemcpy2DAsync(out + at, static_cast<size_t>(pitch), from, static_cast<size_t>(size),
                                       static_cast<size_t>(size), static_cast<size_t>(count), cudaMemcpyDeviceToDevice,
                                       stream.get()));
  };
  const int levels = matrix.format.levels;
  if (order.library >= 0) copy(order.library, matrix.codebooks, levels, CodebookStride(levels), quant::kLibrarySize);
  if (matrix.outliers > 0) {
    const int64_t column_bytes = matrix.outliers * quant::OutlierColumnBytes(matrix.columns);
    const int64_t value_bytes = matrix.outliers * quant::kOutlierValueBytes;
    HPROC_CUDA_CHECK(cudaMemcpyAsync(out + order.outlier_columns, matrix.outlier_columns, static_cast<size_t>(column_bytes),
                                     cudaMemcpyDeviceToDevice, stream.get()));
    HPROC_CUDA_CHECK(cudaMemcpyAsync(out + order.outlier_values, matrix.outlier_values, static_cast<size_t>(value_bytes),
                                     cudaMemcpyDeviceToDevice, stream.get()));
  }
  const auto blocks = [](int64_t threads) { return static_cast<unsigned>(cuda::CeilDiv(threads, kThreads)); };
  ArrangeRecordsKernel<<<blocks(matrix.rows), kThreads, 0, stream.get()>>>(matrix, order, out);
  HPROC_CUDA_LAUNCHED("ArrangeRecordsKernel");
  ArrangeTilesKernel<<<blocks(order.row_tiles * order.column_tiles * 32), kThreads, 0, stream.get()>>>(matrix, order, out);
  HPROC_CUDA_LAUNCHED("ArrangeTilesKernel");
  stream.Wait();
  return {matrix.rows, matrix.columns, matrix.format, matrix.outliers, out};
}

}  // namespace hproc::kernels
