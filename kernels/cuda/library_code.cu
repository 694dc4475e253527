// V2a: codebooks and scales of the groups. 32 groups at a time lie in shared memory, sorted and summed up; a lane has a group,
// a warp a codebook size. In shared memory 32 lanes that search 32 groups meet in a bank now and then; in global memory every
// step of theirs would be 32 cache lines.
#include <utility>

#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kBlockGroups = 32;
constexpr int kWarps = 8;
constexpr int kSortedStride = quant::kGroupColumns;

struct SharedGroup {
  const float* values;
  const double* sums;
  int count;

  HPROC_HOST_DEVICE int columns() const { return count; }
  HPROC_HOST_DEVICE float Value(int i) const { return values[i]; }
  HPROC_HOST_DEVICE double Sum(int i) const { return sums[i]; }
};

struct GroupTile {
  float values[kBlockGroups][quant::kGroupColumns + 1];
  double sums[kBlockGroups][kGroupSumsStride];
  double square[kBlockGroups];
  uint8_t nearest[kBlockGroups][quant::kNearestClusters];
  int next_format;
};

// The warp's 128 values ascending, four to a lane: a bitonic network (Batcher 1968).
__device__ void SortWarp(float (&v)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto order = [](float& a, float& b, bool up) {
    const float low = fminf(a, b);
    const float high = fmaxf(a, b);
    a = up ? low : high;
    b = up ? high : low;
  };
#pragma unroll
  for (int size = 2; size <= 128; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
      if (stride >= 4) {
        const bool lower = (lane & (stride / 4)) == 0;
        const bool up = ((lane * 4) & size) == 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float other = __shfl_xor_sync(~0u, v[j], stride / 4);
          v[j] = lower == up ? fminf(v[j], other) : fmaxf(v[j], other);
        }
      } else if (stride == 2) {
        const bool up = ((lane * 4) & size) == 0;
        order(v[0], v[2], up);
        order(v[1], v[3], up);
      } else {
        // size 2 turns over within a lane: the second pair descends.
        order(v[0], v[1], size == 2 ? true : ((lane * 4) & size) == 0);
        order(v[2], v[3], size == 2 ? false : ((lane * 4) & size) == 0);
      }
    }
  }
}

__device__ int GroupSize(int columns, int group) { return min(quant::kGroupColumns, columns - group * quant::kGroupColumns); }

// Sums of squares in column order: lane r of the block has segment r; [segments] of `length` columns, the last of a row shorter.
__global__ void __launch_bounds__(32) SquareKernel(Rows rows, int length, int segments_per_row, double* squares,
                                                   PassStatus* status) {
  __shared__ float tile[32][33];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  const int count = static_cast<int>(min(static_cast<int64_t>(32), rows.rows * segments_per_row - first));
  double square = 0;
  int not_finite = 0;
  const int64_t first_row = first / segments_per_row;
  const auto first_segment = static_cast<int>(first % segments_per_row);
  for (int base = 0; base < length; base += 32) {
    int64_t row = first_row;
    int segment = first_segment;
#pragma unroll 16
    for (int r = 0; r < 32; ++r) {
      const int column = segment * length + base + lane;
      const bool inside = r < count && base + lane < length && column < rows.columns;
      const float value = inside ? StoredValue(rows.data, rows.storage, row * rows.columns + column) : 0.0f;
      not_finite += IsFinite(value) ? 0 : 1;
      tile[r][lane] = value;
      if (++segment == segments_per_row) segment = 0, ++row;
    }
    __syncwarp();
#pragma unroll 8
    for (int j = 0; j < 32; ++j) {
      const auto value = static_cast<double>(tile[lane][j]);
      square += value * value;
    }
    __syncwarp();
  }
  if (not_finite > 0) atomicAdd(&status->not_finite, static_cast<unsigned long long>(not_finite));
  if (lane < count) squares[first + lane] = square;
}

__device__ void LoadSorted(GroupTile& tile, const GroupCodes& codes, bool bf16, int64_t first, int64_t total, int warp,
                           int lane) {
  for (int g = warp; g < kBlockGroups && first + g < total; g += kWarps) {
    for (int i = lane; i < quant::kGroupColumns; i += 32) {
      const int64_t at = (first + g) * kSortedStride + i;
      tile.values[g][i] = bf16 ? quant::Bfloat16ToFloat(static_cast<const uint16_t*>(codes.values)[at])
                               : static_cast<const float*>(codes.values)[at];
    }
  }
}

__device__ void SumGroup(GroupTile& tile, int lane, int size) {
  double sum = 0;
  double square = 0;
  tile.sums[lane][0] = 0;
  for (int i = 0; i < size; ++i) {
    const auto value = static_cast<double>(tile.values[lane][i]);
    sum += value;
    square += value * value;
    tile.sums[lane][i + 1] = sum;
  }
  tile.square[lane] = square;
}

// kFirst: sorts, finds the nearest clusters, chooses codebooks under the scale that the root mean square suggests; with group
// scales goes on to the final scale at once. Else: the products under the rows' final scale.
template <bool kFirst>
__global__ void __launch_bounds__(kWarps * 32)
    GroupKernel(Rows rows, Libraries libraries, GroupCodes codes, const double* start4, int groups) {
  extern __shared__ __align__(16) unsigned char shared[];
  GroupTile& tile = *reinterpret_cast<GroupTile*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t total = rows.rows * groups;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockGroups;
  const bool bf16 = rows.storage == Storage::kBfloat16;
  if (threadIdx.x == 0) tile.next_format = 0;
  if constexpr (kFirst) {
    for (int g = warp; g < kBlockGroups && first + g < total; g += kWarps) {
      const int64_t row = (first + g) / groups;
      const int group = static_cast<int>((first + g) % groups);
      const int size = GroupSize(rows.columns, group);
      const int64_t begin = row * rows.columns + group * quant::kGroupColumns;
      float v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = lane * 4 + j;
        v[j] = i < size ? StoredValue(rows.data, rows.storage, begin + i) : __int_as_float(0x7F800000);
      }
      SortWarp(v);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = lane * 4 + j;
        tile.values[g][i] = v[j];
        const int64_t at = (first + g) * kSortedStride + i;
        if (bf16) {
          static_cast<uint16_t*>(codes.values)[at] = static_cast<uint16_t>(__float_as_uint(v[j]) >> 16);
        } else {
          static_cast<float*>(codes.values)[at] = v[j];
        }
      }
    }
  } else {
    LoadSorted(tile, codes, bf16, first, total, warp, lane);
  }
  __syncthreads();

  const int64_t at = first + lane;
  const bool mine = at < total;
  const int64_t row = mine ? at / groups : 0;
  const int size = mine ? GroupSize(rows.columns, static_cast<int>(at % groups)) : 0;
  const SharedGroup group{tile.values[lane], tile.sums[lane], size};
  const double row_square = codes.row_square[row];
  if (warp == 0 && mine) SumGroup(tile, lane, size);
  __syncwarp();
  double rms = 0;
  if constexpr (kFirst) {
    if (mine) {
      rms = libraries.group_scales ? sqrt(codes.group_square[at] / static_cast<double>(size))
                                   : sqrt(row_square / static_cast<double>(rows.columns));
    }
    if (warp == 0 && mine) {
      float feature[quant::kFeatureLevels] = {};
      if (rms > 0) {
        // As ChannelFitter adds up: in ascending order.
        quant::CodebookFit<SharedGroup, quant::kFeatureLevels> fit;
        fit.Begin(group, {tile.sums[lane][size], tile.square[lane]}, quant::kFeatureLevels, quant::Centroids::kInt8, start4);
        fit.FitFirst(0, 0);
        quant::FeatureOf(fit, rms, feature);
      }
      quant::NearestClusters(feature, libraries.centers, libraries.empty, tile.nearest[lane]);
    }
  }
  __syncthreads();

  while (true) {
    int taken = 0;
    if (lane == 0) taken = atomicAdd(&tile.next_format, 1);
    taken = __shfl_sync(~0u, taken, 0);
    if (taken >= libraries.count) break;
    if (!mine) continue;
    const int f = libraries.count - 1 - taken;  // the largest first
    const int levels = libraries.levels[f];
    const float* books = libraries.codebooks + f * quant::kLibrarySize * quant::kMaxLevels;
    const int64_t slot = f * total + at;
    const int64_t scale_at = libraries.group_scales ? slot : f * rows.rows + row;
    quant::GroupProducts products;
    if constexpr (kFirst) {
      uint8_t book = 0;
      uint16_t scale = 0;
      if (row_square != 0) {
        scale = quant::RoundScale(rms * libraries.units[f]);
        const double scale_value = quant::Bfloat16ToFloat(scale);
        const quant::ChosenCodebook chosen =
            quant::ChooseCodebook(tile.square[lane], tile.nearest[lane], scale_value, [&](uint8_t candidate) {
              return quant::ProductsOf(group, books + candidate * quant::kMaxLevels, levels, scale_value);
            });
        book = chosen.book;
        products = chosen.products;
        if (libraries.group_scales) {
          if (products.square > 0 && products.dot > 0) scale = quant::RoundScale(products.dot / products.square);
          products = quant::ProductsOf(group, books + book * quant::kMaxLevels, levels,
                                       static_cast<double>(quant::Bfloat16ToFloat(scale)));
        }
      }
      codes.books[slot] = book;
      if (libraries.group_scales || at % groups == 0) codes.scales[scale_at] = scale;
    } else if (row_square != 0) {
      products = quant::ProductsOf(group, books + codes.books[slot] * quant::kMaxLevels, levels,
                                   static_cast<double>(quant::Bfloat16ToFloat(codes.scales[scale_at])));
    }
    codes.dots[slot] = products.dot;
    codes.squares[slot] = products.square;
  }
}

// A thread a row and format: the least-squares scale, or with kLast the products with the final scales.
template <bool kLast>
__global__ void RowKernel(int64_t rows, int groups, int count, bool group_scales, GroupCodes codes) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= rows * count) return;
  const int64_t first = item * groups;
  if (kLast && group_scales) {
    double dot = 0;
    double square = 0;
    for (int g = 0; g < groups; ++g) {
      const double scale = quant::Bfloat16ToFloat(codes.scales[first + g]);
      dot += scale * codes.dots[first + g];
      square += scale * scale * codes.squares[first + g];
    }
    codes.row_dot[item] = dot;
    codes.row_code_square[item] = square;
    return;
  }
  double dot = 0;
  double square = 0;
  for (int g = 0; g < groups; ++g) {
    dot += codes.dots[first + g];
    square += codes.squares[first + g];
  }
  if (kLast) {
    const double scale = quant::Bfloat16ToFloat(codes.scales[item]);
    codes.row_dot[item] = scale * dot;
    codes.row_code_square[item] = scale * scale * square;
  } else if (square > 0 && dot > 0) {
    codes.scales[item] = quant::RoundScale(dot / square);
  }
}

}  // namespace

void SumSquares(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, PassStatus* status,
                cudaStream_t stream) {
  SquareKernel<<<static_cast<unsigned>(CeilDiv(rows.rows, 32)), 32, 0, stream>>>(rows, rows.columns, 1, codes.row_square,
                                                                                 status);
  HPROC_CUDA_LAUNCHED("SquareKernel");
  if (!libraries.group_scales) return;
  const auto groups = static_cast<int>(quant::GroupsPerRow(rows.columns));
  SquareKernel<<<static_cast<unsigned>(CeilDiv(rows.rows * groups, 32)), 32, 0, stream>>>(
      rows, quant::kGroupColumns, groups, codes.group_square, status);
  HPROC_CUDA_LAUNCHED("SquareKernel");
}

void CodeRows(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, const Tables& tables,
              cudaStream_t stream) {
  const auto groups = static_cast<int>(quant::GroupsPerRow(rows.columns));
  int k4 = 0;
  while (quant::kLevelCounts[static_cast<size_t>(k4)] != quant::kFeatureLevels) ++k4;
  const double* start4 = tables.starts + k4 * quant::kMaxLevels;
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows * groups, kBlockGroups));
  const auto row_blocks = static_cast<unsigned>(CeilDiv(rows.rows * libraries.count, 256));
  constexpr int kShared = static_cast<int>(sizeof(GroupTile));
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(GroupKernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(GroupKernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  GroupKernel<true><<<blocks, kWarps * 32, kShared, stream>>>(rows, libraries, codes, start4, groups);
  HPROC_CUDA_LAUNCHED("GroupKernel");
  if (!libraries.group_scales) {
    RowKernel<false><<<row_blocks, 256, 0, stream>>>(rows.rows, groups, libraries.count, false, codes);
    HPROC_CUDA_LAUNCHED("RowKernel");
    GroupKernel<false><<<blocks, kWarps * 32, kShared, stream>>>(rows, libraries, codes, start4, groups);
    HPROC_CUDA_LAUNCHED("GroupKernel");
  }
  RowKernel<true><<<row_blocks, 256, 0, stream>>>(rows.rows, groups, libraries.count, libraries.group_scales, codes);
  HPROC_CUDA_LAUNCHED("RowKernel");
}

}  // namespace hproc::kernels::cuda
