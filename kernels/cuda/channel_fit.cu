// V2: teams of lanes fit the rows' codebooks (kernels/cuda/team_fit.cuh), threads go on from there with more outliers; and the rungs that the fits of a chunk reach.
#include "kernels/cuda/quantize_device.cuh"
#include "kernels/cuda/team_fit.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kTeam = 8;  // lanes
constexpr int kTeams = kThreads / kTeam;

// How many of the first n outliers of a row are at its low end, for every count that is tried: [counts][rows].
template <bool kBf16>
__global__ void LowsKernel(SortedRows sorted, int64_t rows, int columns, int counts, uint32_t* lows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const auto channel = ChannelOf<kBf16>(sorted, row, columns);
  const double mean = sorted.moments[row].Mean(columns);
  int low = 0;
  int taken = 0;
  int64_t count = 0;
  for (int i = 0; i < counts; ++i) {
    for (; taken < count; ++taken) low += quant::NextOutlierIsLow(channel, mean, low, taken - low) ? 1 : 0;
    lows[i * rows + row] = static_cast<uint32_t>(low);
    count = quant::NextOutlierCount(count);
  }
}

template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    FitToFloorKernel(SortedRows sorted, int64_t rows, int columns, Target target, double floor, const double* start,
                     RowResults results, PassStatus* status) {
  __shared__ TeamState states[kTeams];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTeams + threadIdx.x / kTeam;
  if (row >= rows) return;
  const int levels = target.format.levels;
  TeamFit<PackedChannel<kBf16>, kTeam> fit(ChannelOf<kBf16>(sorted, row, columns), states[threadIdx.x / kTeam]);
  fit.Begin(sorted.moments[row], levels, target.format.centroids, start);
  fit.FitFirst(0, 0);
  fit.RoundAndMeasure(0, 0);
  int64_t count = 0;
  int low = 0;
  for (int i = 1; i < results.counts && fit.cosine() < floor; ++i) {
    count = quant::NextOutlierCount(count);
    low = static_cast<int>(results.lows[i * rows + row]);
    fit.FitNext(low, static_cast<int>(count) - low);
    fit.RoundAndMeasure(low, static_cast<int>(count) - low);
  }
  const int64_t out_row = target.first_row + row;
  for (int k = fit.lane(); k < levels; k += kTeam) {
    const int64_t at = out_row * levels + k;
    if (target.format.centroids == quant::Centroids::kInt8) {
      target.codebooks[at] = static_cast<uint8_t>(static_cast<int8_t>(fit.centroid(k)));
    } else {
      reinterpret_cast<uint16_t*>(target.codebooks)[at] = quant::FloatToHalf(fit.centroid(k));
    }
  }
  if (fit.lane() != 0) return;
  if (!(fit.cosine() >= floor)) atomicMin(&status->unreachable_row, static_cast<long long>(target.rows_before + out_row));
  results.outliers[row] = static_cast<uint32_t>(count);
  results.low_outliers[row] = static_cast<uint32_t>(low);
  results.cosine[row] = fit.cosine();
  results.norm_ratio[row] = fit.norm_ratio();
  target.scales[out_row] = fit.scale();
}

struct LevelsOf {
  int of[kFormatsMost];
  int before[kFormatsMost];
};

// Blocks of the largest K come first: they take longest. Rows of all K follow each other, so that they are still in the L2.
template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    FirstFitsKernel(SortedRows sorted, int64_t rows, int columns, quant::Centroids centroids, Tables tables,
                    LevelsOf levels_of, FormatRows formats, SavedFits saved, RowResults results) {
  __shared__ TeamState states[kTeams];
  const int k_index = kFormatsMost - 1 - static_cast<int>(blockIdx.x % kFormatsMost);
  const int64_t row = static_cast<int64_t>(blockIdx.x / kFormatsMost) * kTeams + threadIdx.x / kTeam;
  if (row >= rows) return;
  TeamFit<PackedChannel<kBf16>, kTeam> fit(ChannelOf<kBf16>(sorted, row, columns), states[threadIdx.x / kTeam]);
  fit.Begin(sorted.moments[row], levels_of.of[k_index], centroids, tables.starts + k_index * quant::kMaxLevels);
  fit.FitFirst(0, 0);
  fit.RoundAndMeasure(0, 0);
  if (fit.lane() == 0) results.cosines[static_cast<int64_t>(formats.of[k_index]) * results.counts * rows + row] = fit.cosine();
  const int64_t before = levels_of.before[k_index];
  fit.Save(saved.centers + before * rows + row, saved.borders + (before + k_index) * rows + row,
           saved.unsettled + k_index * rows + row, rows);
}

struct SavedFit {
  const double* centers;
  const int* borders;
  uint64_t unsettled;
  int64_t stride;

  __device__ double Center(int k) const { return centers[k * stride]; }
  __device__ int Border(int k) const { return borders[k * stride]; }
  __device__ uint64_t Unsettled() const { return unsettled; }
};

// The first `per_warp` lanes of a warp have a row each: where rows are few, half-empty warps on all multiprocessors end sooner
// than full ones on some.
template <bool kBf16>
__global__ void __launch_bounds__(kThreads)
    NextFitsKernel(SortedRows sorted, int64_t rows, int columns, quant::Centroids centroids, Tables tables,
                   LevelsOf levels_of, FormatRows formats, SavedFits saved, RowResults results, const int* highest,
                   int per_warp) {
  const int k_index = kFormatsMost - 1 - static_cast<int>(blockIdx.x % kFormatsMost);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row =
      (static_cast<int64_t>(blockIdx.x / kFormatsMost) * kWarps + threadIdx.x / 32) * per_warp + lane;
  if (lane >= per_warp || row >= rows) return;
  const int format = formats.of[k_index];
  double* cosines = results.cosines + static_cast<int64_t>(format) * results.counts * rows + row;
  // No rung above the highest that all rows so far have reached can count.
  const int top = highest[format];
  const double enough = top < 0 ? 0 : tables.ladder[top];
  double cosine = cosines[0];
  int tried = 1;
  if (cosine < enough && results.counts > 1) {
    const int64_t before = levels_of.before[k_index];
    quant::CodebookFit<PackedChannel<kBf16>> fit;
    fit.Resume(ChannelOf<kBf16>(sorted, row, columns), sorted.moments[row], levels_of.of[k_index], centroids,
               SavedFit{saved.centers + before * rows + row, saved.borders + (before + k_index) * rows + row,
                        saved.unsettled[k_index * rows + row], rows});
    int64_t count = 0;
    while (cosine < enough && tried < results.counts) {
      count = quant::NextOutlierCount(count);
      const auto low = static_cast<int>(results.lows[tried * rows + row]);
      fit.FitNext(low, static_cast<int>(count) - low);
      fit.RoundAndMeasure(low, static_cast<int>(count) - low);
      cosine = fit.cosine();
      cosines[static_cast<int64_t>(tried++) * rows] = cosine;
    }
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

void CountLows(const Rows& rows, const SortedRows& sorted, const RowResults& results, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, 64));
  const auto kernel = rows.storage == Storage::kBfloat16 ? LowsKernel<true> : LowsKernel<false>;
  kernel<<<blocks, 64, 0, stream>>>(sorted, rows.rows, rows.columns, results.counts, results.lows);
  HPROC_CUDA_LAUNCHED("LowsKernel");
}

void FitToFloor(const Rows& rows, const SortedRows& sorted, const Target& target, double floor, const Tables& tables,
                const RowResults& results, PassStatus* status, cudaStream_t stream) {
  int k_index = 0;
  while (quant::kLevelCounts[static_cast<size_t>(k_index)] != target.format.levels) ++k_index;
  const double* start = tables.starts + k_index * quant::kMaxLevels;
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, kTeams));
  const auto kernel = rows.storage == Storage::kBfloat16 ? FitToFloorKernel<true> : FitToFloorKernel<false>;
  kernel<<<blocks, kThreads, 0, stream>>>(sorted, rows.rows, rows.columns, target, floor, start, results, status);
  HPROC_CUDA_LAUNCHED("FitToFloorKernel");
}

void FitAll(const Rows& rows, const SortedRows& sorted, quant::Centroids centroids, const Tables& tables,
            const FormatRows& formats, const SavedFits& saved, const RowResults& results, const RungSums& sums,
            int multiprocessors, cudaStream_t stream) {
  LevelsOf levels{};
  for (int i = 0; i < kFormatsMost; ++i) {
    levels.of[i] = quant::kLevelCounts[static_cast<size_t>(i)];
    levels.before[i] = LevelsBefore(i);
  }
  const bool bf16 = rows.storage == Storage::kBfloat16;
  const auto first = bf16 ? FirstFitsKernel<true> : FirstFitsKernel<false>;
  first<<<static_cast<unsigned>(CeilDiv(rows.rows, kTeams) * kFormatsMost), kThreads, 0, stream>>>(
      sorted, rows.rows, rows.columns, centroids, tables, levels, formats, saved, results);
  HPROC_CUDA_LAUNCHED("FirstFitsKernel");
  int per_warp = 32;
  while (per_warp > 1 && rows.rows * kFormatsMost / per_warp < static_cast<int64_t>(multiprocessors) * 32) per_warp /= 2;
  const auto next = bf16 ? NextFitsKernel<true> : NextFitsKernel<false>;
  next<<<static_cast<unsigned>(CeilDiv(rows.rows, per_warp * kWarps) * kFormatsMost), kThreads, 0, stream>>>(
      sorted, rows.rows, rows.columns, centroids, tables, levels, formats, saved, results, sums.highest, per_warp);
  HPROC_CUDA_LAUNCHED("NextFitsKernel");
}

void CountRungs(int64_t rows, int formats, const Tables& tables, const RowResults& results,
                const RungSums& sums, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv(rows * formats, kWarps));
  CountRungsKernel<<<blocks, kThreads, 0, stream>>>(rows, formats, tables.ladder, results, sums);
  HPROC_CUDA_LAUNCHED("CountRungsKernel");
}

}  // namespace hproc::kernels::cuda
