// Sorting and summing up rows.
//
// Rows of up to a tile (16384 bfloat16 values) are sorted by one block in shared memory, by radix (cub::BlockRadixSort), on
// keys whose unsigned order is the order of the values: bfloat16 and fp16 keys have 16 bits and take half the passes that
// float32 takes. Longer rows are sorted in runs of a tile, and every value then finds its place by binary search in the
// other runs.
#include <cub/block/block_radix_sort.cuh>

#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {
namespace {

template <typename Key>
constexpr Key kSign = static_cast<Key>(Key{1} << (8 * sizeof(Key) - 1));

// Bits of a floating-point number to a key of the same order, and back.
template <typename Key>
__device__ Key KeyOf(Key bits) {
  return static_cast<Key>(bits & kSign<Key> ? ~bits : bits | kSign<Key>);
}
template <typename Key>
__device__ Key BitsOf(Key key) {
  return static_cast<Key>(key & kSign<Key> ? key & ~kSign<Key> : ~key);
}

template <typename Key>
__device__ bool FiniteBits(Key bits, Storage storage) {
  const Key mask = storage == Storage::kFloat32    ? static_cast<Key>(0x7F800000u)
                   : storage == Storage::kBfloat16 ? static_cast<Key>(0x7F80u)
                                                   : static_cast<Key>(0x7C00u);
  return (bits & mask) != mask;
}

// As SortedRows keeps a value.
template <typename Key>
__device__ void Put(void* out, int64_t index, Key bits, Storage storage) {
  if constexpr (sizeof(Key) == 2) {
    if (storage == Storage::kBfloat16) {
      static_cast<uint16_t*>(out)[index] = bits;
    } else {
      static_cast<float*>(out)[index] = quant::HalfToFloat(bits);
    }
  } else {
    static_cast<float*>(out)[index] = __uint_as_float(bits);
  }
}

// Block (run, row): sorts columns [run * run_columns, …) of the row.
template <typename Key, int kThreads, int kItems>
__global__ void __launch_bounds__(kThreads) SortKernel(Rows rows, void* out, int64_t stride, int run_columns,
                                                       PassStatus* status) {
  using Sort = cub::BlockRadixSort<Key, kThreads, kItems>;
  __shared__ typename Sort::TempStorage storage;
  const int64_t row = blockIdx.y + static_cast<int64_t>(blockIdx.z) * gridDim.y;
  if (row >= rows.rows) return;
  const int begin = static_cast<int>(blockIdx.x) * run_columns;
  const int columns = min(run_columns, rows.columns - begin);
  const Key* in = static_cast<const Key*>(rows.data) + row * rows.columns + begin;
  Key keys[kItems];
  int not_finite = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);  // any order will do: it is sorted next
    keys[i] = static_cast<Key>(~Key{0});
    if (at < columns) {
      const Key bits = in[at];
      not_finite += FiniteBits(bits, rows.storage) ? 0 : 1;
      keys[i] = KeyOf(bits);
    }
  }
  if (not_finite > 0) atomicAdd(&status->not_finite, static_cast<unsigned long long>(not_finite));
  Sort(storage).SortBlockedToStriped(keys);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    if (at < columns) {
      Put(out, row * stride + begin + at, BitsOf(keys[i]), rows.storage);
    } else if (begin + at < stride && begin + columns == rows.columns) {
      Put(out, row * stride + begin + at, Key{0}, rows.storage);  // read with the last values, and not used
    }
  }
}

template <bool kBf16>
__global__ void MergeKernel(const void* runs, void* out, int64_t rows, int columns, int64_t stride, int run_columns) {
  const int64_t row = blockIdx.y + static_cast<int64_t>(blockIdx.z) * gridDim.y;
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row >= rows || at >= stride) return;
  if (at >= columns) {  // read with the last values, and not used
    if constexpr (kBf16) {
      static_cast<uint16_t*>(out)[row * stride + at] = 0;
    } else {
      static_cast<float*>(out)[row * stride + at] = 0;
    }
    return;
  }
  const PackedChannel<kBf16> whole{static_cast<const char*>(runs) + row * stride * (kBf16 ? 2 : 4), nullptr, columns};
  const float value = whole.Value(at);
  const int own = at / run_columns;
  int64_t place = at - own * run_columns;
  for (int run = 0; run * run_columns < columns; ++run) {
    if (run == own) continue;
    // Equal values of earlier runs come before this one, those of later runs after it.
    int low = run * run_columns;
    int high = min(low + run_columns, columns);
    const int begin = low;
    while (low < high) {
      const int middle = (low + high) / 2;
      const float other = whole.Value(middle);
      if (other < value || (run < own && other == value)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    place += low - begin;
  }
  if constexpr (kBf16) {
    static_cast<uint16_t*>(out)[row * stride + place] = static_cast<const uint16_t*>(whole.values)[at];
  } else {
    static_cast<float*>(out)[row * stride + place] = value;
  }
}

// One warp sums up 32 rows, a lane a row, in order; tiles of 32 columns go through shared memory to be read whole.
template <bool kBf16>
__global__ void __launch_bounds__(32) SumKernel(SortedRows sorted, int64_t rows, int columns) {
  __shared__ float tile[32][33];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 32;
  const int count = static_cast<int>(min(static_cast<int64_t>(32), rows - first));
  double* sums = sorted.sums + (first + lane) * sorted.sums_stride;
  double sum = 0;
  double square = 0;
  for (int base = 0; base < columns; base += 32) {
#pragma unroll 8
    for (int r = 0; r < count; ++r) {
      tile[r][lane] = base + lane < columns ? ChannelOf<kBf16>(sorted, first + r, columns).Value(base + lane) : 0.0f;
    }
    __syncwarp();
    if (lane < count) {
#pragma unroll 8
      for (int j = 0; j < 32; ++j) {
        if (j % kValuesPerSum == 0 && base + j <= columns) sums[(base + j) / kValuesPerSum] = sum;
        const auto value = static_cast<double>(tile[lane][j]);  // zeros at the end change nothing
        sum += value;
        square += value * value;
      }
    }
    __syncwarp();
  }
  if (lane >= count) return;
  if (columns % 32 == 0) sums[columns / kValuesPerSum] = sum;
  sorted.moments[first + lane] = {sum, square};
}

constexpr int kMostGridY = 32768;

dim3 RowGrid(int64_t x, int64_t rows) {
  const auto y = static_cast<unsigned>(min(rows, static_cast<int64_t>(kMostGridY)));
  return {static_cast<unsigned>(x), y, static_cast<unsigned>(CeilDiv(rows, y))};
}

template <typename Key, int kThreads, int kItems>
void LaunchSort(const Rows& rows, void* out, int64_t stride, int run_columns, PassStatus* status, cudaStream_t stream) {
  const dim3 grid = RowGrid(CeilDiv(rows.columns, run_columns), rows.rows);
  SortKernel<Key, kThreads, kItems><<<grid, kThreads, 0, stream>>>(rows, out, stride, run_columns, status);
  HPROC_CUDA_LAUNCHED("SortKernel");
}

}  // namespace

int LongestSortedRun(Storage storage) { return storage == Storage::kFloat32 ? 8192 : 16384; }

void SortRows(const Rows& rows, const SortedRows& sorted, void* runs, PassStatus* status, cudaStream_t stream) {
  const int run = LongestSortedRun(rows.storage);
  const bool merge = rows.columns > run;
  void* out = merge ? runs : sorted.values;
  const int64_t stride = sorted.values_stride;
  const int columns = merge ? run : rows.columns;
  if (rows.storage == Storage::kFloat32) {
    if (columns <= 512) {
      LaunchSort<uint32_t, 64, 8>(rows, out, stride, run, status, stream);
    } else if (columns <= 2048) {
      LaunchSort<uint32_t, 128, 16>(rows, out, stride, run, status, stream);
    } else {
      LaunchSort<uint32_t, 512, 16>(rows, out, stride, run, status, stream);
    }
  } else if (columns <= 128) {
    LaunchSort<uint16_t, 32, 4>(rows, out, stride, run, status, stream);
  } else if (columns <= 512) {
    LaunchSort<uint16_t, 64, 8>(rows, out, stride, run, status, stream);
  } else if (columns <= 1024) {
    LaunchSort<uint16_t, 64, 16>(rows, out, stride, run, status, stream);
  } else if (columns <= 2048) {
    LaunchSort<uint16_t, 128, 16>(rows, out, stride, run, status, stream);
  } else if (columns <= 3072) {
    LaunchSort<uint16_t, 192, 16>(rows, out, stride, run, status, stream);
  } else if (columns <= 4096) {
    LaunchSort<uint16_t, 256, 16>(rows, out, stride, run, status, stream);
  } else if (columns <= 8192) {
    LaunchSort<uint16_t, 512, 16>(rows, out, stride, run, status, stream);
  } else {
    LaunchSort<uint16_t, 1024, 16>(rows, out, stride, run, status, stream);
  }
  if (!merge) return;
  const dim3 grid = RowGrid(CeilDiv(stride, 256), rows.rows);
  if (rows.storage == Storage::kBfloat16) {
    MergeKernel<true><<<grid, 256, 0, stream>>>(runs, sorted.values, rows.rows, rows.columns, stride, run);
  } else {
    MergeKernel<false><<<grid, 256, 0, stream>>>(runs, sorted.values, rows.rows, rows.columns, stride, run);
  }
  HPROC_CUDA_LAUNCHED("MergeKernel");
}

void SumRows(const Rows& rows, const SortedRows& sorted, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(CeilDiv(rows.rows, 32));
  if (rows.storage == Storage::kBfloat16) {
    SumKernel<true><<<blocks, 32, 0, stream>>>(sorted, rows.rows, rows.columns);
  } else {
    SumKernel<false><<<blocks, 32, 0, stream>>>(sorted, rows.rows, rows.columns);
  }
  HPROC_CUDA_LAUNCHED("SumKernel");
}

}  // namespace hproc::kernels::cuda
