// Drawing of tokens (kernels/sampling.h), several blocks a row that meet at barriers of their own.
//
// What is kept is found digit by digit of the candidates' keys, highest first: a histogram of the digit among those that have the
// digits found so far, by counts for top_k and by weights for top_p; the digit where the sum from above reaches what is wanted is the
// next. It ends where a digit's candidates are all wanted, which is at the third or fourth of eight unless logits are equal.
// Sums are of whole numbers, so that their order is nothing to the result.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/best_logit.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/sampling_parts.h"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kMostRowBlocks = 64;

using Wide = unsigned long long;

// Of one group of blocks; written and read in turns, so that one of each three histograms is used, one is cleared and the third may
// still be read.
struct DrawSpace {
  Wide weights[3][kDigits];
  unsigned counts[3][kDigits];
  Wide sums[kMostRowBlocks];
  float bests[kMostRowBlocks];
  int tokens[kMostRowBlocks];
  int nonfinite[kMostRowBlocks];
};

__device__ __forceinline__ unsigned Arrivals(const unsigned* counter) {
  unsigned count;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
  return count;
}

__device__ __forceinline__ Wide WarpSumWide(Wide value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

struct Draws {
  DrawCall call;
  int each;  // logits of a block
  DrawSpace* spaces;
  unsigned* counters;  // two a group, zero before and after
};

// A group of blocks: blockIdx.y.
class Group {
 public:
  __device__ Group(const Draws& draws) : counter_(draws.counters + 2 * blockIdx.y), blocks_(gridDim.x) {}

  // All blocks have written before any goes on.
  __device__ void Meet() {
    __syncthreads();
    wanted_ += blocks_;
    if (threadIdx.x == 0) {
      CountIn(counter_);
      while (Arrivals(counter_) < wanted_) {
      }
    }
    __syncthreads();
  }
  // The last to leave clears the counters.
  __device__ void Leave() {
    if (threadIdx.x != 0) return;
    if (CountIn(counter_ + 1) == blocks_ - 1) counter_[0] = counter_[1] = 0;
  }

 private:
  unsigned* counter_;
  unsigned blocks_;
  unsigned wanted_ = 0;
};

struct DrawShared {
  Wide weights[kDigits];
  unsigned counts[kDigits];
  float bests[kWarps];
  int tokens[kWarps];
  int nonfinite[kWarps];
  Wide sums[kWarps];
  // What a warp found out for all.
  int digit;
  bool is_whole;
  Wide left;
  Wide total;
};

// The row of a group, as a block sees it.
struct Row {
  const float* logits;
  int begin;
  int end;
  double scale;
  float highest;

  __device__ __forceinline__ Wide Key(int c) const { return CandidateKey(__float_as_uint(logits[c]), static_cast<uint32_t>(c)); }
  __device__ __forceinline__ Wide Weight(int c) const { return WeightOf(logits[c], highest, scale); }
};

// The least key of the fewest candidates from the front whose counts (or weights) make `wanted`, among those with keys from `least`
// on; by_weight: whose weights make that share of the sum. `turn`: of the histograms, goes on.
template <bool kByWeight>
__device__ Wide Cut(const Row& row, Wide least, Wide wanted, double share, DrawSpace& space, DrawShared& shared, Group& group, int& turn) {
  Wide found = 0;
  for (int shift = 64 - kDigitBits;; shift -= kDigitBits, ++turn) {
    const int now = turn % 3;
    for (int d = threadIdx.x; d < kDigits; d += kThreads) {
      shared.weights[d] = 0, shared.counts[d] = 0;
      if (blockIdx.x == 0) space.weights[(turn + 1) % 3][d] = 0, space.counts[(turn + 1) % 3][d] = 0;
    }
    __syncthreads();
    for (int c = row.begin + static_cast<int>(threadIdx.x); c < row.end; c += kThreads) {
      const Wide key = row.Key(c);
      if (key < least || (shift + kDigitBits < 64 && key >> (shift + kDigitBits) != found)) continue;
      const auto digit = static_cast<int>(key >> shift) & (kDigits - 1);
      atomicAdd(&shared.counts[digit], 1u);
      if constexpr (kByWeight) atomicAdd(&shared.weights[digit], row.Weight(c));
    }
    __syncthreads();
    for (int d = threadIdx.x; d < kDigits; d += kThreads) {
      if (shared.counts[d] == 0) continue;
      atomicAdd(&space.counts[now][d], shared.counts[d]);
      if constexpr (kByWeight) atomicAdd(&space.weights[now][d], shared.weights[d]);
    }
    group.Meet();
    if (threadIdx.x < 32) {  // a lane eight digits, lane 0 the highest
      constexpr int kEach = kDigits / 32;
      const int lane = threadIdx.x;
      Wide values[kEach];
      unsigned counts[kEach];
      Wide sum = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int d = kDigits - 1 - lane * kEach - i;
        counts[i] = __ldcg(&space.counts[now][d]);
        values[i] = kByWeight ? __ldcg(&space.weights[now][d]) : counts[i];
        sum += values[i];
      }
      Wide up_to = sum;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const Wide before = __shfl_up_sync(kAllLanes, up_to, step);
        if (lane >= step) up_to += before;
      }
      const Wide total = __shfl_sync(kAllLanes, up_to, 31);
      if (kByWeight && shift == 64 - kDigitBits) wanted = WeightShare(share, total);
      const unsigned reached = __ballot_sync(kAllLanes, up_to >= wanted);
      if (lane == __ffs(static_cast<int>(reached)) - 1) {
        Wide before = up_to - sum;
        int i = 0;
#pragma unroll
        for (int j = 0; j < kEach - 1; ++j) {
          if (i == j && before + values[j] < wanted) before += values[j], ++i;
        }
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          if (i != j) continue;
          shared.digit = kDigits - 1 - lane * kEach - j;
          shared.left = wanted - before;
          shared.is_whole = counts[j] == 1 || wanted - before == values[j];
        }
      }
    }
    __syncthreads();
    found = found << kDigitBits | static_cast<Wide>(shared.digit);
    wanted = shared.left;
    const bool ends = shared.is_whole || shift == 0;
    __syncthreads();
    if (!ends) continue;
    ++turn;
    return max(least, found << shift);
  }
}

__global__ void __launch_bounds__(kThreads) DrawKernel(const __grid_constant__ Draws p) {
  __shared__ DrawShared shared;
  DrawSpace& space = p.spaces[blockIdx.y];
  Group group(p);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const auto columns = static_cast<int>(p.call.columns);
  int turn = 0;
  for (int d = threadIdx.x; blockIdx.x == 0 && d < kDigits; d += kThreads) space.weights[0][d] = 0, space.counts[0][d] = 0;

  for (int64_t r = blockIdx.y; r < p.call.rows; r += gridDim.y) {
    const Draw draw = p.call.draws[r];
    Row row{.logits = p.call.logits + r * columns, .begin = static_cast<int>(blockIdx.x) * p.each, .end = 0, .scale = draw.scale, .highest = 0};
    row.end = min(row.begin + p.each, columns);

    // The highest, which also clears the first histogram for whoever comes first.
    Best best;
    for (int c = row.begin + static_cast<int>(threadIdx.x); c < row.end; c += kThreads) best.Take(row.logits[c], c);
    best.OverLanes();
    if (lane == 0) shared.bests[warp] = best.logit, shared.tokens[warp] = best.token, shared.nonfinite[warp] = best.nonfinite;
    __syncthreads();
    if (warp == 0) {
      best = {shared.bests[lane], shared.tokens[lane], shared.nonfinite[lane]};
      best.OverLanes();
      if (lane == 0) space.bests[blockIdx.x] = best.logit, space.tokens[blockIdx.x] = best.token, space.nonfinite[blockIdx.x] = best.nonfinite;
    }
    group.Meet();
    best = Best{};
    for (unsigned b = lane; b < gridDim.x; b += 32) {
      best.Keep(__ldcg(&space.bests[b]), __ldcg(&space.tokens[b]));
      best.nonfinite += __ldcg(&space.nonfinite[b]);
    }
    best.OverLanes();
    if (draw.scale <= 0 || best.nonfinite > 0) {
      if (blockIdx.x == 0 && threadIdx.x == 0) p.call.choices[r] = best.Choice();
      group.Meet();  // before the next row's are written
      continue;
    }
    row.highest = best.logit;

    Wide least = 0;
    if (draw.top_k > 0 && draw.top_k < columns) {
      least = Cut<false>(row, least, static_cast<Wide>(draw.top_k), 0, space, shared, group, turn);
    }
    if (draw.top_p < 1) least = Cut<true>(row, least, 0, draw.top_p, space, shared, group, turn);

    // In the order of ids: the block, then the stretch of it, then the token where the sum goes beyond the draw.
    const auto kept_weight = [&](int c) { return c < row.end && row.Key(c) >= least ? row.Weight(c) : Wide{0}; };
    Wide sum = 0;
    for (int c = row.begin + static_cast<int>(threadIdx.x); c < row.end; c += kThreads) sum += kept_weight(c);
    sum = WarpSumWide(sum);
    if (lane == 0) shared.sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
      sum = WarpSumWide(shared.sums[lane]);
      if (lane == 0) space.sums[blockIdx.x] = sum;
    }
    group.Meet();
    if (warp == 0) {
      Wide before = 0;
      Wide all = 0;
      for (unsigned b = lane; b < gridDim.x; b += 32) {
        const Wide of_block = __ldcg(&space.sums[b]);
        all += of_block;
        if (b < blockIdx.x) before += of_block;
      }
      all = WarpSumWide(all);
      before = WarpSumWide(before);
      if (lane == 0) {
        const Wide drawn = MultiplyHigh(draw.random, all);
        shared.is_whole = drawn >= before && drawn < before + __ldcg(&space.sums[blockIdx.x]);  // it is here
        shared.left = drawn - before;
      }
    }
    __syncthreads();
    if (shared.is_whole) {
      Wide left = shared.left;
      for (int first = row.begin; first < row.end; first += kThreads) {
        const int c = first + static_cast<int>(threadIdx.x);
        const Wide own = kept_weight(c);
        Wide up_to = own;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const Wide before = __shfl_up_sync(kAllLanes, up_to, step);
          if (lane >= step) up_to += before;
        }
        __syncthreads();
        if (lane == 31) shared.sums[warp] = up_to;
        __syncthreads();
        Wide before = 0;
        Wide all = 0;
        for (int w = 0; w < kWarps; ++w) {
          if (w < warp) before += shared.sums[w];
          all += shared.sums[w];
        }
        up_to += before;
        if (left < up_to && left >= up_to - own) p.call.choices[r] = {c, 0, row.logits[c]};
        if (left < all) break;
        left -= all;
      }
    }
    group.Meet();  // before the next row's sums are written
  }
  group.Leave();
}

}  // namespace

int64_t DrawBytes(int64_t rows) { return std::min(rows, kMostDrawGroups) * static_cast<int64_t>(sizeof(DrawSpace)); }

void LaunchDrawTokens(const DrawCall& call, std::byte* workspace, std::span<unsigned> counters, int multiprocessors, cudaStream_t stream) {
  // All blocks are on the device together, or they would wait for ever.
  const int64_t groups = std::min({call.rows, kMostDrawGroups, static_cast<int64_t>(counters.size()) / 2, int64_t{multiprocessors}});
  const int64_t blocks = std::clamp<int64_t>(std::min<int64_t>(multiprocessors / groups, (call.columns + kThreads - 1) / kThreads), 1, kMostRowBlocks);
  Draws draws{.call = call, .each = static_cast<int>((call.columns + blocks - 1) / blocks), .spaces = reinterpret_cast<DrawSpace*>(workspace),
              .counters = counters.data()};
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(groups));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = 1;
  HPROC_CUDA_CHECK(cudaLaunchKernelEx(&config, DrawKernel, draws));
}

}  // namespace hproc::kernels::cuda
