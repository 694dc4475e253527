// V2a: the outliers of a row, by a block. The columns with the largest errors are found by radix selection on the errors' own
// bits (a double that is not negative orders as its bits do), sorted, and then taken one by one until the cosine does.
#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 2048;
constexpr int kParts = kThreads;  // of kBins / kParts bins each
constexpr int kCachedColumns = 12288;
using Bits = unsigned long long;
constexpr Bits kEnd = Bits{1} << 63;
// Where floats' range begins in a double's exponent: errors below are told apart only if it comes to that.
constexpr Bits kFirstLow = Bits{896} << 52;
constexpr int kFirstShift = 49;  // the exponent and three bits

struct Shared {
  unsigned bins[kBins];
  unsigned parts[kParts];
  double dot, code_square;
  Bits low, high;   // the errors in question: [low, high)
  unsigned above;   // errors >= high
  unsigned inside;  // errors in [low, high)
  unsigned taken;
  int count;        // outliers chosen
  int skip;
  // After each outlier count tried.
  int counts;
  int count_at[kCountsMost];
  double dot_at[kCountsMost], square_at[kCountsMost], cosine_at[kCountsMost];
};

struct Item {
  int64_t row = 0;
  int levels = 0;
  bool group_scales = false;
  const float* books = nullptr;  // [kLibrarySize][kMaxLevels]
  const float* thresholds = nullptr;  // [kLibrarySize][levels - 1], shared; null with group scales
  const uint8_t* book_of = nullptr;  // [groups]
  const uint16_t* scales = nullptr;
};

struct Coded {
  double value, scale, center;
};

// Column j and what its code gives; codes count the thresholds up to the value.
__device__ Coded CodeOf(const Rows& rows, const Item& item, int j) {
  const float value = StoredValue(rows.data, rows.storage, item.row * rows.columns + j);
  const int group = j / quant::kGroupColumns;
  const int book = item.book_of[group];
  const float* centroids = item.books + book * quant::kMaxLevels;
  const double scale = quant::Bfloat16ToFloat(item.scales[item.group_scales ? group : 0]);
  int low = 0;
  int high = item.levels - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    const float threshold = item.group_scales
                                ? quant::CodeThreshold(scale, centroids[middle], centroids[middle + 1])
                                : item.thresholds[book * (item.levels - 1) + middle];
    if (value >= threshold) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {static_cast<double>(value), scale, static_cast<double>(centroids[low])};
}

__device__ Bits ErrorBits(const Coded& c) { return static_cast<Bits>(__double_as_longlong(fabs(c.value - c.scale * c.center))); }

// The bin of `bits` in [low, high).
__device__ int BinOf(Bits bits, bool first, Bits low, int shift) {
  if (!first) return static_cast<int>((bits - low) >> shift);
  if (bits < kFirstLow) return 0;
  const Bits bin = (bits - kFirstLow) >> kFirstShift;
  return bin < kBins - 1 ? static_cast<int>(bin) : kBins - 1;
}

// Narrows [low, high) to the bin in which the `most`-th largest error lies. One warp.
__device__ void NarrowToBin(Shared& s, int most, bool first, int shift) {
  const int lane = static_cast<int>(threadIdx.x);
  unsigned own = 0;
  for (int p = lane * (kParts / 32); p < (lane + 1) * (kParts / 32); ++p) own += s.parts[p];
  unsigned from_here = own;  // of this lane's bins and all above
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_down_sync(~0u, from_here, step);
    if (lane + step < 32) from_here += other;
  }
  const unsigned needed = static_cast<unsigned>(most) - s.above;
  const unsigned reached = __ballot_sync(~0u, from_here >= needed);
  if (lane != 31 - __clz(static_cast<int>(reached))) return;
  unsigned above = from_here - own;
  int bin = (lane + 1) * (kBins / 32) - 1;
  while (above + s.bins[bin] < needed) above += s.bins[bin--];
  s.inside = s.bins[bin];
  s.above += above;
  if (first) {
    s.high = bin == kBins - 1 ? kEnd : kFirstLow + (static_cast<Bits>(bin + 1) << kFirstShift);
    s.low = bin == 0 ? 0 : kFirstLow + (static_cast<Bits>(bin) << kFirstShift);
  } else {
    s.low += static_cast<Bits>(bin) << shift;
    s.high = s.low + (Bits{1} << shift);
  }
}

struct Selection {
  Bits* bits;      // [capacity] of the candidates
  int* columns;    // [capacity]
  double* dots;    // [most]
  double* squares; // [most]
  int capacity;    // a power of two, at least `most`
  Bits* cached;    // [columns], or null
};

__device__ void SortCandidates(const Selection& selection, int count) {
  int size = 32;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    selection.bits[i] = 0;
    selection.columns[i] = INT_MAX;
  }
  __syncthreads();
  const auto before = [&](int a, int b) {
    return selection.bits[a] != selection.bits[b] ? selection.bits[a] > selection.bits[b]
                                                  : selection.columns[a] < selection.columns[b];
  };
  for (int width = 2; width <= size; width *= 2) {
    for (int stride = width / 2; stride > 0; stride /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int a = i / stride * stride * 2 + i % stride;
        const int b = a + stride;
        const bool up = (a & width) == 0;
        if (before(b, a) == up) {
          const Bits bits = selection.bits[a];
          const int column = selection.columns[a];
          selection.bits[a] = selection.bits[b];
          selection.columns[a] = selection.columns[b];
          selection.bits[b] = bits;
          selection.columns[b] = column;
        }
      }
      __syncthreads();
    }
  }
}

// The `most` columns with the largest errors, largest first, ties to the lower column, into selection.columns.
__device__ void SelectLargest(const Rows& rows, const Item& item, const Selection& selection, int most, Shared& s) {
  const int t = static_cast<int>(threadIdx.x);
  const auto bits_of = [&](int j) { return selection.cached ? selection.cached[j] : ErrorBits(CodeOf(rows, item, j)); };
  if (t == 0) {
    s.low = 0;
    s.high = kEnd;
    s.above = 0;
    s.inside = static_cast<unsigned>(rows.columns);
    s.taken = 0;
  }
  __syncthreads();
  for (bool first = true;; first = false) {
    const Bits low = s.low;
    const Bits high = s.high;
    if (s.above + s.inside <= static_cast<unsigned>(selection.capacity) || high - low == 1) break;
    const int shift = max(0, 64 - __clzll(static_cast<long long>(high - low - 1)) - 11);
    for (int b = t; b < kBins; b += kThreads) s.bins[b] = 0;
    __syncthreads();
    for (int j = t; j < rows.columns; j += kThreads) {
      Bits bits;
      if (first) {
        bits = ErrorBits(CodeOf(rows, item, j));
        if (selection.cached) selection.cached[j] = bits;
      } else {
        bits = bits_of(j);
      }
      if (bits >= low && bits < high) atomicAdd(&s.bins[BinOf(bits, first, low, shift)], 1u);
    }
    __syncthreads();
    unsigned part = 0;
    for (int b = t * (kBins / kParts); b < (t + 1) * (kBins / kParts); ++b) part += s.bins[b];
    s.parts[t] = part;
    __syncthreads();
    if (t < 32) NarrowToBin(s, most, first, shift);
    __syncthreads();
  }
  const Bits low = s.low;
  const bool ties = s.above + s.inside > static_cast<unsigned>(selection.capacity);  // then all of [low, high) are equal
  const bool none_cached = low == 0 && s.high == kEnd;                               // not one pass was needed
  for (int j = t; j < rows.columns; j += kThreads) {
    const Bits bits = none_cached ? ErrorBits(CodeOf(rows, item, j)) : bits_of(j);
    if (ties ? bits > low : bits >= low) {
      const unsigned at = atomicAdd(&s.taken, 1u);
      selection.bits[at] = bits;
      selection.columns[at] = j;
    }
  }
  __syncthreads();
  if (ties && t < 32) {
    // Equal errors, more than there is room for: the lowest columns.
    unsigned taken = s.taken;
    for (int base = 0; base < rows.columns && taken < static_cast<unsigned>(most); base += 32) {
      const int j = base + t;
      const bool equal = j < rows.columns && bits_of(j) == low;
      const unsigned votes = __ballot_sync(~0u, equal);
      const unsigned at = taken + static_cast<unsigned>(__popc(votes & ((1u << t) - 1)));
      if (equal && at < static_cast<unsigned>(most)) {
        selection.bits[at] = low;
        selection.columns[at] = j;
      }
      taken = min(static_cast<unsigned>(most), taken + static_cast<unsigned>(__popc(votes)));
    }
    if (t == 0) s.taken = taken;
  }
  __syncthreads();
  SortCandidates(selection, static_cast<int>(s.taken));
}

template <bool kRates>
__global__ void __launch_bounds__(kThreads)
    OutlierKernel(Rows rows, Libraries libraries, GroupCodes codes, Tables tables, FormatRows formats, const int* highest,
                  double floor, int64_t first_row, RowResults results, PassStatus* status, int most, int capacity,
                  bool cache) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Shared s;
  Selection selection;
  selection.capacity = capacity;
  selection.bits = reinterpret_cast<Bits*>(memory);
  selection.dots = reinterpret_cast<double*>(selection.bits + capacity);
  selection.squares = selection.dots + most;
  auto* rest = reinterpret_cast<Bits*>(selection.squares + most);
  selection.cached = cache ? rest : nullptr;
  if (cache) rest += rows.columns;
  selection.columns = reinterpret_cast<int*>(rest);
  auto* thresholds = reinterpret_cast<float*>(selection.columns + capacity);
  const int t = static_cast<int>(threadIdx.x);
  const auto groups = (rows.columns + quant::kGroupColumns - 1) / quant::kGroupColumns;
  const int64_t items = rows.rows * libraries.count;
  for (int64_t n = blockIdx.x; n < items; n += gridDim.x) {
    const int f = libraries.count - 1 - static_cast<int>(n % libraries.count);
    const int64_t row = n / libraries.count;
    const int64_t slot = f * rows.rows + row;
    const double square = codes.row_square[row];
    const int64_t format = kRates ? formats.of[f] : 0;
    double* cosines = kRates ? results.cosines + format * results.counts * rows.rows + row : nullptr;
    __syncthreads();
    if (t == 0) {
      s.dot = codes.row_dot[slot];
      s.code_square = codes.row_code_square[slot];
      s.skip = 0;
      double cosine = square == 0 ? 1.0 : (s.code_square > 0 ? min(1.0, s.dot / sqrt(s.code_square * square)) : 0.0);
      if constexpr (kRates) {
        cosines[0] = cosine;
        const int top = *static_cast<const volatile int*>(highest + format);
        s.skip = top < 0 || cosine >= tables.ladder[top] || most == 0 ? 1 : 0;
        if (s.skip) results.tried[format * rows.rows + row] = 1;
      } else {
        results.outliers[row] = 0;
        results.cosine[row] = cosine;
        results.norm_ratio[row] = square == 0 ? 1.0 : sqrt(s.code_square / square);
        s.skip = cosine >= floor || most == 0 ? 1 : 0;
        if (!(cosine >= floor) && most == 0) {
          atomicMin(&status->unreachable_row, static_cast<long long>(first_row + row));
        }
      }
    }
    __syncthreads();
    if (s.skip) continue;
    Item item;
    item.row = row;
    item.levels = libraries.levels[f];
    item.group_scales = libraries.group_scales;
    item.book_of = codes.books + slot * groups;
    item.scales = codes.scales + (libraries.group_scales ? slot * groups : slot);
    item.books = libraries.codebooks + static_cast<int64_t>(f) * quant::kLibrarySize * quant::kMaxLevels;
    item.thresholds = libraries.group_scales ? nullptr : thresholds;
    if (!libraries.group_scales) {
      const double scale = quant::Bfloat16ToFloat(item.scales[0]);
      for (int i = t; i < quant::kLibrarySize * (item.levels - 1); i += kThreads) {
        const float* from = item.books + i / (item.levels - 1) * quant::kMaxLevels + i % (item.levels - 1);
        thresholds[i] = quant::CodeThreshold(scale, from[0], from[1]);
      }
    }
    __syncthreads();
    SelectLargest(rows, item, selection, most, s);
    for (int i = t; i < most; i += kThreads) {
      const Coded c = CodeOf(rows, item, selection.columns[i]);
      const double given_back =
          c.scale * (c.center + quant::HalfToFloat(quant::OutlierResidual(c.value, c.scale, c.center)));
      selection.dots[i] = (given_back - c.scale * c.center) * c.value;
      selection.squares[i] = given_back * given_back - c.scale * c.center * c.scale * c.center;
    }
    __syncthreads();
    // The sums have an order, so one thread makes them; the cosines of all counts follow side by side.
    if (t == 0) {
      double dot = s.dot;
      double code_square = s.code_square;
      int taken = 0;
      int i = 0;
      for (int64_t next = 1; next <= most; next = quant::NextOutlierCount(next), ++i) {
#pragma unroll 4
        for (; taken < next; ++taken) {
          dot += selection.dots[taken];
          code_square += selection.squares[taken];
        }
        s.dot_at[i] = dot;
        s.square_at[i] = code_square;
        s.count_at[i] = taken;
      }
      s.counts = i;
    }
    __syncthreads();
    if (t < s.counts) {
      const double code_square = s.square_at[t];
      s.cosine_at[t] = code_square > 0 ? min(1.0, s.dot_at[t] / sqrt(code_square * square)) : 0.0;
      if constexpr (kRates) cosines[static_cast<int64_t>(t + 1) * rows.rows] = s.cosine_at[t];
    }
    __syncthreads();
    if (t == 0) {
      if constexpr (kRates) {
        results.tried[format * rows.rows + row] = static_cast<uint16_t>(s.counts + 1);
      } else {
        int i = 0;
        while (i + 1 < s.counts && !(s.cosine_at[i] >= floor)) ++i;
        s.count = s.count_at[i];
        results.outliers[row] = static_cast<uint32_t>(s.count);
        results.cosine[row] = s.cosine_at[i];
        results.norm_ratio[row] = sqrt(s.square_at[i] / square);
        if (!(s.cosine_at[i] >= floor)) atomicMin(&status->unreachable_row, static_cast<long long>(first_row + row));
      }
    }
    if constexpr (!kRates) {
      __syncthreads();
      uint32_t* mask = results.mask + row * MaskWords(rows.columns);
      for (int i = t; i < s.count; i += kThreads) {
        atomicOr(mask + selection.columns[i] / 32, 1u << (selection.columns[i] % 32));
      }
    }
  }
}

}  // namespace

void TakeOutliers(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, const Tables& tables,
                  const FormatRows& formats, const RungSums& sums, double floor, int64_t first_row,
                  const RowResults& results, PassStatus* status, int multiprocessors, cudaStream_t stream) {
  const auto most = static_cast<int>(quant::MostOutliers(rows.columns));
  int capacity = 128;
  while (capacity < most + most / 4) capacity *= 2;
  int levels = 0;
  for (int f = 0; f < libraries.count; ++f) levels = std::max(levels, libraries.levels[f]);
  size_t shared = static_cast<size_t>(capacity) * 12 + static_cast<size_t>(most) * 16 +
                  static_cast<size_t>(quant::kLibrarySize * levels) * 4;
  // The errors are kept where there is room (227 KB a block on Hopper, 99 KB on Blackwell workstations), else made again.
  int device = 0;
  int most_shared = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const size_t errors = static_cast<size_t>(rows.columns) * 8;
  const bool cache = rows.columns <= kCachedColumns &&
                     shared + errors + sizeof(Shared) <= static_cast<size_t>(most_shared);
  if (cache) shared += errors;
  const bool rates = floor <= 0;
  const auto kernel = rates ? OutlierKernel<true> : OutlierKernel<false>;
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  if (!rates) {
    HPROC_CUDA_CHECK(cudaMemsetAsync(results.mask, 0, static_cast<size_t>(rows.rows * MaskWords(rows.columns)) * 4, stream));
  }
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>(rows.rows * libraries.count, static_cast<int64_t>(multiprocessors) * 16));
  kernel<<<blocks, kThreads, shared, stream>>>(rows, libraries, codes, tables, formats, sums.highest, floor, first_row,
                                               results, status, most, capacity, cache);
  HPROC_CUDA_LAUNCHED("OutlierKernel");
}

}  // namespace hproc::kernels::cuda
