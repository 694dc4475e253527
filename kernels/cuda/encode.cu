// From fits to the container: where each row's outliers go, codes by counting thresholds, packing.
#include "kernels/cuda/quantize_device.cuh"
#include "quant/gain.h"

namespace hproc::kernels::cuda {
namespace {

constexpr int kScanThreads = 1024;
constexpr int kWarps = 4;

__device__ double GainOf(const Target& target, const RowResults& results, int64_t row) {
  return target.format.group_scales ? 1.0 : quant::LengthGain(results.cosine[row], results.norm_ratio[row]);
}

// One block walks the rows in order: every row's first outlier, the container's starts and counts, and the statistics, whose
// sums so do not depend on which block was first.
__global__ void __launch_bounds__(kScanThreads)
    AssignKernel(int64_t rows, int columns, Target target, RowResults results, uint32_t* starts, PassStatus* status) {
  __shared__ uint32_t warp_sums[32];
  __shared__ double warp_min[32], warp_cosine[32], warp_low[32], warp_high[32];
  const int t = static_cast<int>(threadIdx.x);
  const int lane = t % 32;
  const int warp = t / 32;
  unsigned long long stored = status->outliers;
  const unsigned long long origin = target.of_chunk ? stored : 0;
  double least = 1, sum = 0, low = 1e300, high = -1e300;
  for (int64_t base = 0; base < rows; base += kScanThreads) {
    const int64_t row = base + t;
    const uint32_t own = row < rows ? results.outliers[row] : 0;
    uint32_t up_to = own;
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, up_to, step);
      if (lane >= step) up_to += other;
    }
    if (lane == 31) warp_sums[warp] = up_to;
    __syncthreads();
    uint32_t before = 0;
    uint32_t all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += warp_sums[w];
      all += warp_sums[w];
    }
    __syncthreads();
    if (row < rows) {
      const auto start = static_cast<uint32_t>(stored + before + up_to - own);
      starts[row] = start - static_cast<uint32_t>(origin);
      const int64_t out_row = target.first_row + row;
      if (target.outlier_starts != nullptr) {
        if (out_row % quant::kOutlierRowBlock == 0) target.outlier_starts[out_row / quant::kOutlierRowBlock] = start;
        if (quant::OutlierCountBytes(columns) == 1) {
          target.outlier_counts[out_row] = static_cast<uint8_t>(own);
        } else {
          reinterpret_cast<uint16_t*>(target.outlier_counts)[out_row] = static_cast<uint16_t>(own);
        }
      }
      least = min(least, results.cosine[row]);
      sum += results.cosine[row];
      const double length = results.norm_ratio[row] * GainOf(target, results, row);
      low = min(low, length);
      high = max(high, length);
    }
    stored += all;
  }
  for (int step = 16; step > 0; step /= 2) {
    least = min(least, __shfl_xor_sync(~0u, least, step));
    sum += __shfl_xor_sync(~0u, sum, step);
    low = min(low, __shfl_xor_sync(~0u, low, step));
    high = max(high, __shfl_xor_sync(~0u, high, step));
  }
  if (lane == 0) warp_min[warp] = least, warp_cosine[warp] = sum, warp_low[warp] = low, warp_high[warp] = high;
  __syncthreads();
  if (t != 0) return;
  const bool first = status->channels == 0;
  if (first) status->min_norm_ratio = 1e300, status->max_norm_ratio = -1e300;
  for (int w = 0; w < 32; ++w) {
    status->min_cosine = min(status->min_cosine, warp_min[w]);
    status->sum_cosine += warp_cosine[w];
    status->min_norm_ratio = min(status->min_norm_ratio, warp_low[w]);
    status->max_norm_ratio = max(status->max_norm_ratio, warp_high[w]);
  }
  status->channels += rows;
  status->outliers = stored;
  if (stored > static_cast<unsigned long long>(target.planned_outliers)) status->overflow = 1;
}

// Packs 64 codes, of columns `lane` and 32 + lane, as quant/levels.h draws it.
__device__ void PackUnit(unsigned code0, unsigned code1, quant::PlaneLayout planes, uint8_t* out, int lane) {
  int shift = 0;
  if (planes.low_bits & 4) {
    out[lane] = static_cast<uint8_t>((code0 & 15u) | (code1 & 15u) << 4);
    out += 32;
    shift = 4;
  }
  if (planes.low_bits & 2) {
    const unsigned own = (code0 >> shift & 3u) | (code1 >> shift & 3u) << 4;
    const unsigned next = __shfl_down_sync(~0u, own, 16);
    if (lane < 16) out[lane] = static_cast<uint8_t>((own & 3u) | (next & 3u) << 2 | (own & 0x30u) | (next & 0x30u) << 2);
    out += 16;
    shift += 2;
  }
  if (planes.low_bits & 1) {
    const unsigned low = __ballot_sync(~0u, (code0 >> shift & 1u) != 0);
    const unsigned high = __ballot_sync(~0u, (code1 >> shift & 1u) != 0);
    if (lane < 8) {
      unsigned byte = 0;
      for (int j = 0; j < 4; ++j) byte |= (low >> (lane + 8 * j) & 1u) << j | (high >> (lane + 8 * j) & 1u) << (j + 4);
      out[lane] = static_cast<uint8_t>(byte);
    }
    out += 8;
    shift += 1;
  }
  if (planes.ternary) {
    const unsigned digit0 = code0 >> planes.low_bits;
    const unsigned digit1 = code1 >> planes.low_bits;
    unsigned value = 0;
    for (int j = 0; j < 5; ++j) {
      const int column = j * quant::kTernaryUnitBytes + lane;
      const unsigned from0 = __shfl_sync(~0u, digit0, column % 32);
      const unsigned from1 = __shfl_sync(~0u, digit1, column % 32);
      value = value * 3 + (column < 32 ? from0 : (column < quant::kUnitColumns ? from1 : 0u));
    }
    if (lane < quant::kTernaryUnitBytes) out[lane] = static_cast<uint8_t>((value * 256 + 242) / 243);
  }
}

// Which values of a V2 row are outliers: the `low` smallest and the `high` largest in the order (value, column).
struct Ends {
  bool any_low = false, any_high = false;
  float low_value = 0, high_value = 0;  // the innermost outliers
  int low_ties = 0;                     // of the columns equal to low_value, so many of the first
  int high_ties_skipped = 0;            // of those equal to high_value, all after so many

  template <typename Channel>
  __device__ static Ends Of(const Channel& channel, int low, int high) {
    Ends ends;
    const int columns = channel.columns();
    ends.any_low = low > 0;
    ends.any_high = high > 0;
    if (low > 0) {
      ends.low_value = channel.Value(low - 1);
      ends.low_ties = low - quant::LowerBoundNear(channel, 0, columns, low - 1, ends.low_value);
    }
    if (high > 0) {
      ends.high_value = channel.Value(columns - high);
      ends.high_ties_skipped =
          columns - high - quant::LowerBoundNear(channel, 0, columns, columns - high, ends.high_value);
    }
    return ends;
  }
};

struct WarpTables {
  float thresholds[quant::kMaxLevels];  // the last one is infinite
  float centroids[quant::kMaxLevels];
};

template <bool kBf16>
__global__ void __launch_bounds__(kWarps * 32)
    EncodeKernel(Rows rows, Target target, SortedRows sorted, const float* library, GroupCodes groups_of,
                 RowResults results, const uint32_t* starts, const PassStatus* status) {
  __shared__ WarpTables tables_of[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (row >= rows.rows) return;
  WarpTables& tables = tables_of[warp];
  const int columns = rows.columns;
  const int64_t out_row = target.first_row + row;
  const int levels = target.format.levels;
  const bool v2a = target.format.mode == quant::Mode::kV2a;
  const int groups = (columns + quant::kGroupColumns - 1) / quant::kGroupColumns;
  const bool zero_row = v2a && groups_of.row_square[row] == 0;
  const double gain = GainOf(target, results, row);
  double scale = 0;  // as fitted: codes and outliers are in its units
  const auto set_tables = [&](const auto& centroid_of) {
    __syncwarp();
    for (int k = lane; k < levels; k += 32) tables.centroids[k] = centroid_of(k);
    __syncwarp();
    for (int k = lane; k < levels; k += 32) {
      tables.thresholds[k] = k + 1 < levels ? quant::CodeThreshold(scale, tables.centroids[k], tables.centroids[k + 1])
                                            : __int_as_float(0x7F800000);
    }
    __syncwarp();
  };
  if (v2a) {
    const int scales = target.format.group_scales ? groups : 1;
    for (int i = lane; i < groups; i += 32) target.indices[out_row * groups + i] = groups_of.books[row * groups + i];
    for (int i = lane; i < scales; i += 32) {
      target.scales[out_row * scales + i] = quant::GainedScale(groups_of.scales[row * scales + i], gain);
    }
  } else {
    scale = quant::Bfloat16ToFloat(target.scales[out_row]);
    set_tables([&](int k) {
      const int64_t at = out_row * levels + k;
      return target.format.centroids == quant::Centroids::kInt8
                 ? static_cast<float>(static_cast<int8_t>(target.codebooks[at]))
                 : quant::HalfToFloat(reinterpret_cast<const uint16_t*>(target.codebooks)[at]);
    });
  }
  const uint32_t outliers = results.outliers[row];
  Ends ends;
  if (!v2a && outliers > 0) {
    const auto low = static_cast<int>(results.low_outliers[row]);
    ends = Ends::Of(ChannelOf<kBf16>(sorted, row, columns), low, static_cast<int>(outliers) - low);
  }
  const bool store = status->overflow == 0;
  uint32_t next = starts[row];
  int low_seen = 0;   // columns equal to ends.low_value so far
  int high_seen = 0;
  const uint32_t below = (1u << lane) - 1;
  const quant::PlaneLayout planes = quant::PlanesOf(levels);
  uint8_t* out = target.codes + out_row * quant::CodeBytesPerRow(columns, levels);
  for (int base = 0; base < columns; base += quant::kUnitColumns, out += planes.unit_bytes()) {
    if (v2a && base % quant::kGroupColumns == 0) {
      const int group = base / quant::kGroupColumns;
      scale = quant::Bfloat16ToFloat(groups_of.scales[target.format.group_scales ? row * groups + group : row]);
      const float* book = library + groups_of.books[row * groups + group] * quant::kMaxLevels;
      set_tables([&](int k) { return book[k]; });
    }
    unsigned code[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = base + half * 32 + lane;
      const bool inside = column < columns;
      const float value = inside ? StoredValue(rows.data, rows.storage, row * columns + column) : 0.0f;
      unsigned own = 0;
#pragma unroll 4
      for (int k = 0; k < levels - 1; ++k) own += value >= tables.thresholds[k] ? 1u : 0u;
      if (!inside || zero_row) own = 0;
      code[half] = own;
      if (outliers == 0) continue;
      bool is_outlier = false;
      if (v2a) {
        is_outlier = inside && (results.mask[row * MaskWords(columns) + column / 32] >> (column % 32) & 1) != 0;
      } else {
        const bool at_low = inside && ends.any_low && value == ends.low_value;
        const bool at_high = inside && ends.any_high && value == ends.high_value;
        const unsigned low_votes = __ballot_sync(~0u, at_low);
        const unsigned high_votes = __ballot_sync(~0u, at_high);
        is_outlier = inside && ((ends.any_low && value < ends.low_value) || (ends.any_high && value > ends.high_value) ||
                                (at_low && low_seen + __popc(low_votes & below) < ends.low_ties) ||
                                (at_high && high_seen + __popc(high_votes & below) >= ends.high_ties_skipped));
        low_seen += __popc(low_votes);
        high_seen += __popc(high_votes);
      }
      const unsigned votes = __ballot_sync(~0u, is_outlier);
      if (is_outlier && store) {
        const uint32_t at = next + static_cast<uint32_t>(__popc(votes & below));
        if (quant::OutlierColumnBytes(columns) == 2) {
          reinterpret_cast<uint16_t*>(target.outlier_columns)[at] = static_cast<uint16_t>(column);
        } else {
          reinterpret_cast<uint32_t*>(target.outlier_columns)[at] = static_cast<uint32_t>(column);
        }
        target.outlier_values[at] =
            quant::OutlierResidual(static_cast<double>(value), scale, static_cast<double>(tables.centroids[own]));
      }
      next += static_cast<uint32_t>(__popc(votes));
    }
    PackUnit(code[0], code[1], planes, out, lane);
  }
  if (!v2a && lane == 0) target.scales[out_row] = quant::GainedScale(target.scales[out_row], gain);
}

__global__ void FiniteKernel(Rows rows, PassStatus* status) {
  const int64_t count = rows.rows * rows.columns;
  int not_finite = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    not_finite += IsFinite(StoredValue(rows.data, rows.storage, i)) ? 0 : 1;
  }
  if (not_finite > 0) atomicAdd(&status->not_finite, static_cast<unsigned long long>(not_finite));
}

}  // namespace

void AssignOutliers(const Rows& rows, const Target& target, const RowResults& results, uint32_t* starts,
                    PassStatus* status, cudaStream_t stream) {
  AssignKernel<<<1, kScanThreads, 0, stream>>>(rows.rows, rows.columns, target, results, starts, status);
  HPROC_CUDA_LAUNCHED("AssignKernel");
}

void Encode(const Rows& rows, const Target& target, const SortedRows& sorted, const Libraries& libraries,
            const GroupCodes& codes, const RowResults& results, const uint32_t* starts, const PassStatus* status,
            cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, kWarps));
  const auto kernel = rows.storage == Storage::kBfloat16 ? EncodeKernel<true> : EncodeKernel<false>;
  kernel<<<blocks, kWarps * 32, 0, stream>>>(rows, target, sorted, libraries.codebooks, codes, results, starts, status);
  HPROC_CUDA_LAUNCHED("EncodeKernel");
}

void CountNotFinite(const Rows& rows, PassStatus* status, int multiprocessors, cudaStream_t stream) {
  FiniteKernel<<<static_cast<unsigned>(multiprocessors) * 8, 256, 0, stream>>>(rows, status);
  HPROC_CUDA_LAUNCHED("FiniteKernel");
}

}  // namespace hproc::kernels::cuda
