// V2: one thread fits one row's codebook, with the CPU's own code; and the rungs that the fits of a chunk reach.
//
// Threads of a warp run rows of one K side by side, so that their loops are about as long as each other. Where rows are few,
// a warp takes fewer of them: half-empty warps on all multiprocessors end sooner than full warps on a few.
#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// The row of this thread, or -1: the first `per_warp` lanes of every warp have one each.
__device__ int64_t RowOfThread(int64_t block, int per_warp, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = (block * kWarps + threadIdx.x / 32) * per_warp + lane;
  return lane < per_warp && row < rows ? row : -1;
}

int RowsPerWarp(int64_t fits, int multiprocessors) {
  int per_warp = 32;
  while (per_warp > 1 && fits / per_warp < static_cast<int64_t>(multiprocessors) * 16) per_warp /= 2;
  return per_warp;
}

// Walks the outlier counts, ascending from 0.
template <typename Channel>
struct OutlierWalk {
  const Channel& channel;
  double mean;
  int count = 0;
  int low = 0;

  // False past the most that a channel may have.
  __device__ bool Next() {
    const auto next = static_cast<int>(quant::NextOutlierCount(count));
    if (next > quant::MostOutliers(channel.columns())) return false;
    for (; count < next; ++count) low += quant::NextOutlierIsLow(channel, mean, low, count - low) ? 1 : 0;
    return true;
  }
};

template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    FitToFloorKernel(SortedRows sorted, int64_t rows, int columns, Target target, double floor, const double* start,
                     RowResults results, PassStatus* status, int per_warp) {
  const int64_t row = RowOfThread(blockIdx.x, per_warp, rows);
  if (row < 0) return;
  const auto channel = ChannelOf<kBf16>(sorted, row, columns);
  const quant::ChannelMoments moments = sorted.moments[row];
  const int levels = target.format.levels;
  quant::CodebookFit<PackedChannel<kBf16>> fit;
  fit.Begin(channel, moments, levels, target.format.centroids, start);
  fit.FitFirst(0, 0);
  fit.RoundAndMeasure(0, 0);
  OutlierWalk<PackedChannel<kBf16>> walk{channel, moments.Mean(columns)};
  while (fit.cosine() < floor && walk.Next()) {
    fit.FitNext(walk.low, walk.count - walk.low);
    fit.RoundAndMeasure(walk.low, walk.count - walk.low);
  }
  const int64_t out_row = target.first_row + row;
  if (!(fit.cosine() >= floor)) atomicMin(&status->unreachable_row, static_cast<long long>(out_row));
  results.outliers[row] = static_cast<uint32_t>(walk.count);
  results.low_outliers[row] = static_cast<uint32_t>(walk.low);
  results.cosine[row] = fit.cosine();
  results.norm_ratio[row] = fit.norm_ratio();
  target.scales[out_row] = fit.scale();
  for (int k = 0; k < levels; ++k) {
    const int64_t at = out_row * levels + k;
    if (target.format.centroids == quant::Centroids::kInt8) {
      target.codebooks[at] = static_cast<uint8_t>(static_cast<int8_t>(fit.centroids()[k]));
    } else {
      reinterpret_cast<uint16_t*>(target.codebooks)[at] = quant::FloatToHalf(fit.centroids()[k]);
    }
  }
}

struct LevelsOf {
  int of[kFormatsMost];
};

// Blocks of the largest K come first: they take longest. Rows of all K follow each other, so that they are still in the L2.
template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    FitAllKernel(SortedRows sorted, int64_t rows, int columns, quant::Centroids centroids, Tables tables,
                 LevelsOf levels_of, FormatRows formats, RowResults results, const int* highest, int per_warp) {
  const int k_index = kFormatsMost - 1 - static_cast<int>(blockIdx.x % kFormatsMost);
  const int64_t row = RowOfThread(blockIdx.x / kFormatsMost, per_warp, rows);
  if (row < 0) return;
  const int format = formats.of[k_index];
  const auto channel = ChannelOf<kBf16>(sorted, row, columns);
  const quant::ChannelMoments moments = sorted.moments[row];
  quant::CodebookFit<PackedChannel<kBf16>> fit;
  fit.Begin(channel, moments, levels_of.of[k_index], centroids, tables.starts + k_index * quant::kMaxLevels);
  fit.FitFirst(0, 0);
  fit.RoundAndMeasure(0, 0);
  double* cosines = results.cosines + static_cast<int64_t>(format) * results.counts * rows + row;
  int tried = 0;
  OutlierWalk<PackedChannel<kBf16>> walk{channel, moments.Mean(columns)};
  while (true) {
    cosines[static_cast<int64_t>(tried++) * rows] = fit.cosine();
    // No rung above the highest that all rows so far have reached can count.
    const int top = *static_cast<const volatile int*>(highest + format);
    if (top < 0 || fit.cosine() >= tables.ladder[top] || !walk.Next()) break;
    fit.FitNext(walk.low, walk.count - walk.low);
    fit.RoundAndMeasure(walk.low, walk.count - walk.low);
  }
  results.tried[static_cast<int64_t>(format) * rows + row] = static_cast<uint16_t>(tried);
}

// A warp a row and format: rung r is served by the first outlier count whose cosine reaches it.
__global__ void __launch_bounds__(kThreads)
    CountRungsKernel(int64_t rows, int formats, const double* ladder, RowResults results, RungSums sums) {
  __shared__ double cosines_of[kWarps][kCountsMost];
  __shared__ int count_of[kWarps][kCountsMost];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (item >= rows * formats) return;
  const int64_t row = item % rows;
  const int64_t format = item / rows;
  double* cosines = cosines_of[warp];
  int* counts = count_of[warp];
  const int tried = results.tried[format * rows + row];
  double best = -1;
  for (int i = lane; i < tried; i += 32) {
    cosines[i] = results.cosines[(format * results.counts + i) * rows + row];
    best = max(best, cosines[i]);
  }
  for (int step = 16; step > 0; step /= 2) best = max(best, __shfl_xor_sync(~0u, best, step));
  if (lane == 0) {
    int64_t count = 0;
    for (int i = 0; i < tried; ++i) {
      counts[i] = static_cast<int>(count);
      count = quant::NextOutlierCount(count);
    }
  }
  __syncwarp();
  int low = 0;  // rungs that the row reaches
  int high = quant::kLadderSize;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (best >= ladder[middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  int* highest = sums.highest + format;
  // A row that stopped early, at a cosine that reaches the highest rung, says nothing about the rungs above it.
  if (lane == 0 && low - 1 < *highest) atomicMin(highest, low - 1);
  const auto deficit_of = [&](int i) {
    return static_cast<long long>(llround((1 - cosines[i]) / 0x1p-40));
  };
  const auto server_of = [&](int rung) {
    int i = 0;
    while (cosines[i] < ladder[rung]) ++i;
    return i;
  };
  for (int rung = lane; rung < low; rung += 32) {
    const int server = server_of(rung);
    int* least = sums.min_cosine + format * quant::kLadderSize + rung;
    const int bits = __float_as_int(static_cast<float>(cosines[server]));
    if (bits < *least) atomicMin(least, bits);
    const int before = rung == 0 ? -1 : server_of(rung - 1);
    if (server == before) continue;
    const int64_t at = format * (quant::kLadderSize + 1) + rung;
    const long long outliers = counts[server] - (before < 0 ? 0 : counts[before]);
    const long long deficit = deficit_of(server) - (before < 0 ? 0 : deficit_of(before));
    if (outliers != 0) atomicAdd(reinterpret_cast<unsigned long long*>(sums.outliers + at),
                                 static_cast<unsigned long long>(outliers));
    atomicAdd(reinterpret_cast<unsigned long long*>(sums.deficits + at), static_cast<unsigned long long>(deficit));
  }
}

}  // namespace

void FitToFloor(const Rows& rows, const SortedRows& sorted, const Target& target, double floor, const Tables& tables,
                const RowResults& results, PassStatus* status, int multiprocessors, cudaStream_t stream) {
  int k_index = 0;
  while (quant::kLevelCounts[static_cast<size_t>(k_index)] != target.format.levels) ++k_index;
  const double* start = tables.starts + k_index * quant::kMaxLevels;
  const int per_warp = RowsPerWarp(rows.rows, multiprocessors);
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, per_warp * kWarps));
  if (rows.storage == Storage::kBfloat16) {
    FitToFloorKernel<true><<<blocks, kThreads, 0, stream>>>(sorted, rows.rows, rows.columns, target, floor, start,
                                                            results, status, per_warp);
  } else {
    FitToFloorKernel<false><<<blocks, kThreads, 0, stream>>>(sorted, rows.rows, rows.columns, target, floor, start,
                                                             results, status, per_warp);
  }
  HPROC_CUDA_LAUNCHED("FitToFloorKernel");
}

void FitAll(const Rows& rows, const SortedRows& sorted, quant::Centroids centroids, const Tables& tables,
            const FormatRows& formats, const RowResults& results, const RungSums& sums, int multiprocessors,
            cudaStream_t stream) {
  LevelsOf levels{};
  for (int i = 0; i < kFormatsMost; ++i) levels.of[i] = quant::kLevelCounts[static_cast<size_t>(i)];
  const int per_warp = RowsPerWarp(rows.rows * kFormatsMost, multiprocessors);
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, per_warp * kWarps) * kFormatsMost);
  if (rows.storage == Storage::kBfloat16) {
    FitAllKernel<true><<<blocks, kThreads, 0, stream>>>(sorted, rows.rows, rows.columns, centroids, tables, levels,
                                                        formats, results, sums.highest, per_warp);
  } else {
    FitAllKernel<false><<<blocks, kThreads, 0, stream>>>(sorted, rows.rows, rows.columns, centroids, tables, levels,
                                                         formats, results, sums.highest, per_warp);
  }
  HPROC_CUDA_LAUNCHED("FitAllKernel");
}

void CountRungs(int64_t rows, int formats, const Tables& tables, const RowResults& results,
                const RungSums& sums, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv(rows * formats, kWarps));
  CountRungsKernel<<<blocks, kThreads, 0, stream>>>(rows, formats, tables.ladder, results, sums);
  HPROC_CUDA_LAUNCHED("CountRungsKernel");
}

}  // namespace hproc::kernels::cuda
