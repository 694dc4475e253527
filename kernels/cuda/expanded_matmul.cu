// Products of many tokens with expanded weights: both operands of the tensor cores come from shared memory.
//
// Persistent blocks, a tile of 128 rows by 128 tokens after the other: one warp of a warpgroup copies, a column half of both operands
// a stage; two warpgroups multiply, 64 rows each by the 256 columns that the tokens' high and low bytes are. The copies of the next tile go on
// while the products of this one are scaled and stored.
#include <algorithm>

#include <cuda_bf16.h>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kTokens = kExpandedTokens;
constexpr int kGroups = 2;    // warpgroups that multiply
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kStages = 4;
constexpr int kTokenBytes = kHalfChunks * kTokens * kChunkBytes;
constexpr int kStageBytes = kExpandedHalfBytes + kTokenBytes;
constexpr int kOutlierBytes = kGroups * 4 * kTileRows * kTokens * 4;  // of a row tile a warp

constexpr int kOutliersAt = kStages * kStageBytes;
constexpr int kScalesAt = kOutliersAt + kOutlierBytes;
constexpr int kBarriersAt = kScalesAt + kGroups * kTokens * 4;
constexpr int kSharedBytes = kBarriersAt + 2 * kStages * 8;

__global__ void __launch_bounds__(kThreads, 1) ExpandedMatmulKernel(const __grid_constant__ ExpandedParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) uint8_t shared[];
  uint64_t* const full = reinterpret_cast<uint64_t*>(shared + kBarriersAt);
  uint64_t* const empty = full + kStages;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  AllowNextKernel();
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      InitBarrier(full + s, 1);
      InitBarrier(empty + s, kGroups);
    }
    ShowBarriers();
  }
  __syncthreads();
  WaitForKernelInFront();
  const int tiles = p.row_blocks * p.token_tiles;
  const auto first_token = [&](int tile) { return tile % p.token_tiles * kTokens; };
  uint32_t step = 0;  // column halves gone through: stage step % kStages for the (step / kStages)th time

  if (warp >= kGroups * 4) {
    GiveRegistersBack<40>();
    if (warp > kGroups * 4) return;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
      const int first = first_token(tile);
      const int token_bytes = min(kTokens, p.input_rows - first) * kChunkBytes;
      const uint8_t* weights = p.expanded + int64_t{tile / p.token_tiles} * p.halves * kExpandedHalfBytes;
      for (int half = 0; half < p.halves; ++half, ++step) {
        const uint32_t stage = step % kStages;
        if (step >= kStages) WaitForPhase(empty + stage, (step / kStages + 1) % 2);
        const uint32_t to = SharedAddress(shared) + stage * kStageBytes;
        if (lane == 0) {
          ArriveExpecting(full + stage, kExpandedHalfBytes + kHalfChunks * token_bytes);
          CopyBulk(to, weights + int64_t{half} * kExpandedHalfBytes, kExpandedHalfBytes, full + stage);
        }
        if (lane < kHalfChunks) {
          CopyBulk(to + kExpandedHalfBytes + lane * kTokens * kChunkBytes,
                   p.input + ((int64_t{half} * kHalfChunks + lane) * p.input_rows + first) * kChunkBytes, token_bytes, full + stage);
        }
      }
    }
    return;
  }

  TakeRegisters<232>();
  const int group = warp / 4;
  const int g = lane / 4;
  const int q = lane % 4;
  const auto sync_group = [&] { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); };
  float* const token_scales = reinterpret_cast<float*>(shared + kScalesAt) + group * kTokens;
  float* const outlier_sums = reinterpret_cast<float*>(shared + kOutliersAt) + warp * kTileRows * kTokens;
  const int last_row_tile = (p.rows + kTileRows - 1) / kTileRows - 1;
  int32_t sum[kTokens];
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    const int first = first_token(tile);
    const int count = min(kTokens, p.input_rows - first);
    const int first_row = p.first_row + tile / p.token_tiles * kExpandedRows + warp * 2 * kTileRows;  // of the warp
    const uint8_t* record[2];
    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      record[i] = p.records + int64_t{min(first_row / kTileRows + i, last_row_tile)} * p.record_bytes;
      scale[i] = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(record[i])[g]);
    }
    if (const int t = thread % 128; t < count) token_scales[t] = p.scales[first + t];

#pragma unroll 1
    for (int half = 0; half < p.halves; ++half, ++step) {
      const uint32_t stage = step % kStages;
      WaitForPhase(full + stage, step / kStages % 2);
      const uint32_t a = SharedAddress(shared) + stage * kStageBytes + group * kExpandedRows / kGroups * kChunkColumns;
      const uint32_t b = SharedAddress(shared) + stage * kStageBytes + kExpandedHalfBytes;
      BeginWarpgroupProducts();
#pragma unroll
      for (int k = 0; k < kHalfChunks / 2; ++k) {
        WarpgroupMultiplyAdd(sum, SharedOperand(a + k * 2 * kExpandedRows * kChunkColumns, 128, kExpandedRows * kChunkColumns),
                             SharedOperand(b + k * 2 * kTokens * kChunkBytes, 128, kTokens * kChunkBytes), half > 0 || k > 0);
      }
      CommitWarpgroupProducts();
      if (half > 0) {
        WaitForWarpgroupProducts<1>();
        if (thread % 128 == 0) Arrive(empty + (step - 1) % kStages);
      }
    }
    WaitForWarpgroupProducts<0>();
    if (thread % 128 == 0) Arrive(empty + (step - 1) % kStages);
    HoldSums(sum);

    sync_group();  // the tokens' scales
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (p.outliers.values != nullptr) {
        __syncwarp();  // the sums before have been read
#pragma unroll 1
        for (int r = 0; r < kTileRows; ++r) {
          float products[kTokens / 32];
          OutlierProducts<kTokens>(p.outliers, record[i], r, first, count, products);
#pragma unroll
          for (int n = 0; n < kTokens / 32; ++n) outlier_sums[r * kTokens + lane + 32 * n] = products[n];
        }
        __syncwarp();
      }
      const int row = first_row + i * kTileRows + g;
      float* const to = p.output + first * p.output_stride + row;
#pragma unroll
      for (int j = 0; j < kTokens / 4; ++j) {
        const int token = 4 * j + q;
        if (token >= count || row >= p.rows) continue;
        float value = WholeSum(sum[4 * j + 2 * i], sum[4 * j + 2 * i + 1]);
        if (p.outliers.values != nullptr) value += outlier_sums[g * kTokens + token];
        to[token * p.output_stride] = value * (scale[i] * token_scales[token]);
      }
    }
    sync_group();  // the scales have been read
  }
#endif
}

}  // namespace

void LaunchExpandedMatmul(const ExpandedParams& params, cudaStream_t stream) {
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(ExpandedMatmulKernel, raised);
  int device = 0;
  int multiprocessors = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const auto blocks = static_cast<unsigned>(std::min(multiprocessors, params.row_blocks * params.token_tiles));
  LaunchWithShared(ExpandedMatmulKernel, params, dim3(blocks), kThreads, kSharedBytes, true, stream);
}

}  // namespace hproc::kernels::cuda
