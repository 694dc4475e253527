// Products a row at a time: with weights of plain storage (the kept matrices, and the whole of a model that was not quantized),
// and with containers that are too small or too odd for decode order. A warp a row of the weight, or a block where rows are few;
// float32 sums.
#include <type_traits>

#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/plain_rows.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;

// Rows of a container (quant/xfp_matrix.h) of any format.
struct ContainerRows {
  quant::XfpMatrix matrix;
  quant::PlaneLayout planes;
  int columns = 0;
  int groups = 0;
  int row_bytes = 0;

  ContainerRows() = default;
  explicit ContainerRows(const Matrix& weight)
      : matrix(weight.xfp),
        planes(quant::PlanesOf(weight.xfp.format.levels)),
        columns(static_cast<int>(weight.columns)),
        groups(static_cast<int>(weight.xfp.groups())),
        row_bytes(static_cast<int>(quant::CodeBytesPerRow(weight.columns, weight.xfp.format.levels))) {}

  __device__ __forceinline__ float Centroid(int64_t entry) const {
    if (matrix.format.centroids == quant::Centroids::kInt8) {
      return static_cast<float>(reinterpret_cast<const int8_t*>(matrix.codebooks)[entry]);
    }
    return quant::HalfToFloat(reinterpret_cast<const uint16_t*>(matrix.codebooks)[entry]);
  }
  __device__ __forceinline__ int CountOf(int64_t row) const {
    return matrix.count_bytes() == 1 ? matrix.outlier_counts[row]
                                     : reinterpret_cast<const uint16_t*>(matrix.outlier_counts)[row];
  }
  __device__ __forceinline__ float Scale(int64_t row, int column) const {
    return quant::Bfloat16ToFloat(matrix.scales[matrix.format.group_scales ? row * groups + matrix.group_of(column) : row]);
  }

  __device__ __forceinline__ void Prefetch(Share, int64_t) const {}

  template <int kTokens>
  __device__ __forceinline__ void Dots(Share share, int64_t row, const float* input, int tokens, float (&sums)[kTokens]) const {
    const int lane = threadIdx.x % 32;
    const uint8_t* codes = matrix.codes + row * row_bytes;
    const bool library = matrix.format.mode == quant::Mode::kV2a;
    const int levels = matrix.format.levels;
    const auto add = [&](int column, float w) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t < tokens) sums[t] = fmaf(w, input[int64_t{t} * columns + column], sums[t]);
      }
    };
    for (int c = share.first; c < columns; c += share.step) {
      const int64_t book = library ? matrix.indices[row * groups + matrix.group_of(c)] : row;
      add(c, Scale(row, c) * Centroid(book * levels + static_cast<int>(quant::CodeAt(codes, planes, c))));
    }
    if (matrix.outliers == 0) return;
    const int64_t block = row / quant::kOutlierRowBlock * quant::kOutlierRowBlock;
    int before = 0;
    for (int64_t r = block + lane; r < row; r += 32) before += CountOf(r);
    const int64_t first = matrix.outlier_starts[row / quant::kOutlierRowBlock] + int64_t{__reduce_add_sync(kAllLanes, before)};
    const int count = CountOf(row);
    for (int i = share.first; i < count; i += share.step) {
      const int column = quant::OutlierColumnBytes(columns) == 2
                             ? reinterpret_cast<const uint16_t*>(matrix.outlier_columns)[first + i]
                             : static_cast<int>(reinterpret_cast<const uint32_t*>(matrix.outlier_columns)[first + i]);
      add(column, Scale(row, column) * quant::HalfToFloat(matrix.outlier_values[first + i]));
    }
  }
};

// Products that share a launch.
template <typename Rows>
struct RowProducts {
  struct Product {
    Rows weight;
    unsigned first_block = 0;
    int64_t rows = 0;
    const float* input = nullptr;
    float* output = nullptr;
    int64_t output_stride = 0;
  };
  Product products[kMostRowProducts];
  int count = 0;
  int64_t tokens = 0;
};

// kRowWarps warps of a block share a row.
template <typename Rows, int kTokens, int kRowWarps>
__global__ void __launch_bounds__(kThreads) RowMatmulKernel(const __grid_constant__ RowProducts<Rows> all) {
  __shared__ float parts[kWarps][kTokens];
  AllowNextKernel();
  int at = 0;
  while (at + 1 < all.count && blockIdx.x >= all.products[at + 1].first_block) ++at;
  const auto& product = all.products[at];
  constexpr int kRowThreads = kRowWarps * 32;
  const int64_t row = int64_t{blockIdx.x - product.first_block} * (kWarps / kRowWarps) + threadIdx.x / kRowThreads;
  const bool exists = row < product.rows;
  const Share share{static_cast<int>(threadIdx.x) % kRowThreads, kRowThreads};
  if (exists) product.weight.Prefetch(share, row);
  WaitForKernelInFront();
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const int here = static_cast<int>(min(int64_t{kTokens}, all.tokens - first));
  float sums[kTokens] = {};
  if (exists) product.weight.Dots(share, row, product.input + first * product.weight.columns, here, sums);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) sums[t] = WarpSum(sums[t]);
  if constexpr (kRowWarps > 1) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (threadIdx.x % 32 == 0) parts[warp][t] = sums[t];
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      sums[t] = 0;
#pragma unroll
      for (int w = 0; w < kRowWarps; ++w) sums[t] += parts[warp / kRowWarps * kRowWarps + w][t];
    }
  }
  if (!exists || share.first != 0) return;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t < here) product.output[(first + t) * product.output_stride + row] = sums[t];
  }
}

// Many tokens with rows of plain storage: tiles of kTile tokens and as many rows, both through shared memory, four products a
// thread.
constexpr int kTile = 32;
constexpr int kTileDepth = 64;  // columns at once

template <Storage kStorage>
__global__ void __launch_bounds__(kThreads) TiledMatmulKernel(const __grid_constant__ RowProducts<PlainRows<kStorage>> all) {
  __shared__ __align__(16) float weights[kTile][kTileDepth + 4];
  __shared__ __align__(16) float inputs[kTile][kTileDepth + 4];
  StartBehindKernelInFront();
  int at = 0;
  while (at + 1 < all.count && blockIdx.x >= all.products[at + 1].first_block) ++at;
  const auto& product = all.products[at];
  const int columns = product.weight.columns;
  const int64_t first_row = int64_t{blockIdx.x - product.first_block} * kTile;
  const int64_t first_token = int64_t{blockIdx.y} * kTile;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  constexpr int kEach = kTile / kWarps;  // rows, and tokens, that a warp fetches
  float sums[kEach] = {};
  float fetched_weights[2][kEach];
  float fetched_inputs[2][kEach];
  const auto fetch = [&](int from) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int c = from + half * 32 + lane;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int64_t row = first_row + warp * kEach + i;
        const int64_t token = first_token + warp * kEach + i;
        fetched_weights[half][i] = c < columns && row < product.rows ? StoredValue(product.weight.data, kStorage, row * columns + c) : 0.0f;
        fetched_inputs[half][i] = c < columns && token < all.tokens ? product.input[token * columns + c] : 0.0f;
      }
    }
  };
  fetch(0);
  for (int from = 0; from < columns; from += kTileDepth) {
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        weights[warp * kEach + i][half * 32 + lane] = fetched_weights[half][i];
        inputs[warp * kEach + i][half * 32 + lane] = fetched_inputs[half][i];
      }
    }
    __syncthreads();
    if (from + kTileDepth < columns) fetch(from + kTileDepth);
#pragma unroll 4
    for (int c = 0; c < kTileDepth; c += 4) {
      const float4 weight = *reinterpret_cast<const float4*>(weights[lane] + c);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(inputs[warp * kEach + i] + c);
        sums[i] = fmaf(weight.x, x.x, fmaf(weight.y, x.y, fmaf(weight.z, x.z, fmaf(weight.w, x.w, sums[i]))));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t token = first_token + warp * kEach + i;
    if (token < all.tokens && first_row + lane < product.rows) product.output[token * product.output_stride + first_row + lane] = sums[i];
  }
}

template <typename Rows>
__global__ void __launch_bounds__(kThreads) RowGateUpKernel(ExpertsCall call, const float* all_input, Rows weight) {
  StartBehindKernelInFront();
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= call.width) return;
  const int64_t route = blockIdx.y;
  const int64_t gate_row = call.chosen[route] * 2 * call.width + row;
  const float* input = all_input + route / call.top * weight.columns;
  float gate[1] = {};
  float up[1] = {};
  const Share share{static_cast<int>(threadIdx.x) % 32, 32};
  weight.Dots(share, gate_row, input, 1, gate);
  weight.Dots(share, gate_row + call.width, input, 1, up);
  const float g = WarpSum(gate[0]);
  const float u = WarpSum(up[0]);
  if (threadIdx.x % 32 == 0) call.hidden.values[route * call.width + row] = Silu(g) * u;
}

template <typename Rows>
__global__ void __launch_bounds__(kThreads) RowDownKernel(ExpertsCall call, Rows weight) {
  StartBehindKernelInFront();
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= call.columns) return;
  const int64_t token = blockIdx.y;
  float sum = 0;
  for (int64_t route = token * call.top; route < (token + 1) * call.top; ++route) {
    float dot[1] = {};
    weight.Dots(Share{static_cast<int>(threadIdx.x) % 32, 32}, call.chosen[route] * call.columns + row,
                call.hidden.values + route * weight.columns, 1, dot);
    sum = fmaf(call.weights[route], dot[0], sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) call.output[token * call.columns + row] = sum;
}

// Calls `launch` with the weight's rows.
template <typename Launch>
void WithRows(const Matrix& weight, Launch&& launch) {
  switch (weight.storage) {
    case Storage::kBfloat16:
      return launch(PlainRows<Storage::kBfloat16>(weight));
    case Storage::kFloat16:
      return launch(PlainRows<Storage::kFloat16>(weight));
    case Storage::kFloat32:
      return launch(PlainRows<Storage::kFloat32>(weight));
    case Storage::kXfp:
      return launch(ContainerRows(weight));
    case Storage::kDecodeOrder:
    case Storage::kInt8:
      break;
  }
  HPROC_CHECK(false, "weights that are read by rows");
}

constexpr int64_t kMostWarpTokens = 16;  // beyond, tiles
// So many warps fill a device; with fewer rows than that, a block takes one.
constexpr int64_t kFewRows = 2048;

// The products as a launch takes them, in blocks of `block_rows` rows; `blocks` is how many.
template <typename Rows>
RowProducts<Rows> ProductsOf(std::span<const MatmulCall> calls, int64_t block_rows, unsigned& blocks) {
  RowProducts<Rows> all;
  all.tokens = calls.front().tokens;
  blocks = 0;
  for (const MatmulCall& call : calls) {
    HPROC_CHECK(call.weight->storage == calls.front().weight->storage && call.tokens == all.tokens, "products of a launch");
    all.products[all.count++] = {.weight = Rows(*call.weight),
                                 .first_block = blocks,
                                 .rows = call.weight->rows,
                                 .input = call.input->values,
                                 .output = call.output,
                                 .output_stride = call.output_stride};
    blocks += Blocks(call.weight->rows, block_rows);
  }
  return all;
}

template <int kTokens, int kRowWarps, typename Rows>
void LaunchOf(std::span<const MatmulCall> calls, cudaStream_t stream) {
  unsigned blocks = 0;
  const RowProducts<Rows> all = ProductsOf<Rows>(calls, kWarps / kRowWarps, blocks);
  LaunchOverlapped("RowMatmulKernel", RowMatmulKernel<Rows, kTokens, kRowWarps>, dim3(blocks, Blocks(all.tokens, kTokens)),
                   kThreads, stream, all);
}

}  // namespace

void LaunchRowMatmul(std::span<const MatmulCall> calls, cudaStream_t stream) {
  HPROC_CHECK(!calls.empty() && calls.size() <= kMostRowProducts, "products of a launch");
  int64_t rows = 0;
  for (const MatmulCall& call : calls) rows += call.weight->rows;
  WithRows(*calls.front().weight, [&](const auto& first) {
    using Rows = std::decay_t<decltype(first)>;
    const int64_t tokens = calls.front().tokens;
    if constexpr (!std::is_same_v<Rows, ContainerRows>) {
      if (tokens > kMostWarpTokens) {
        unsigned blocks = 0;
        const RowProducts<Rows> all = ProductsOf<Rows>(calls, kTile, blocks);
        return LaunchOverlapped("TiledMatmulKernel", TiledMatmulKernel<Rows::kStored>, dim3(blocks, Blocks(tokens, kTile)), kThreads,
                                stream, all);
      }
    }
    const bool few = rows * Blocks(tokens, 8) <= kFewRows;
    if (tokens == 1) return few ? LaunchOf<1, kWarps, Rows>(calls, stream) : LaunchOf<1, 1, Rows>(calls, stream);
    if (tokens <= 4) return few ? LaunchOf<4, kWarps, Rows>(calls, stream) : LaunchOf<4, 1, Rows>(calls, stream);
    few ? LaunchOf<8, kWarps, Rows>(calls, stream) : LaunchOf<8, 1, Rows>(calls, stream);
  });
}

void LaunchRowExpertsGateUp(const ExpertsCall& call, cudaStream_t stream) {
  WithRows(*call.gate_up, [&](const auto& weight) {
    const dim3 grid(Blocks(call.width, kWarps), static_cast<unsigned>(call.rows * call.top));
    LaunchOverlapped("RowGateUpKernel", RowGateUpKernel<std::decay_t<decltype(weight)>>, grid, kThreads, stream, call,
                     call.input->values, weight);
  });
}

void LaunchRowExpertsDown(const ExpertsCall& call, cudaStream_t stream) {
  WithRows(*call.down, [&](const auto& weight) {
    const dim3 grid(Blocks(call.columns, kWarps), static_cast<unsigned>(call.rows));
    LaunchOverlapped("RowDownKernel", RowDownKernel<std::decay_t<decltype(weight)>>, grid, kThreads, stream, call, weight);
  });
}

}  // namespace hproc::kernels::cuda
