// Products a row at a time: with weights of plain storage (the kept matrices, and the whole of a model that was not quantized),
// and with containers that are too small or too odd for decode order. A warp a row of the weight, float32 sums.
#include <cuda_fp16.h>

#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;

template <Storage kStorage>
struct Stored;
template <>
struct Stored<Storage::kFloat32> {
  static constexpr int kEach = 4;  // values of a 16-byte load
  __device__ static void Unpack(uint4 from, float* values) {
    values[0] = __uint_as_float(from.x), values[1] = __uint_as_float(from.y);
    values[2] = __uint_as_float(from.z), values[3] = __uint_as_float(from.w);
  }
};
template <>
struct Stored<Storage::kBfloat16> {
  static constexpr int kEach = 8;
  __device__ static void Unpack(uint4 from, float* values) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  }
};
template <>
struct Stored<Storage::kFloat16> {
  static constexpr int kEach = 8;
  __device__ static void Unpack(uint4 from, float* values) {
    const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      values[2 * i] = two.x, values[2 * i + 1] = two.y;
    }
  }
};

// Rows of plain storage.
template <Storage kStorage>
struct PlainRows {
  const void* data;
  int columns;
  bool wide;  // whether rows of weights and of float32 activations can be read in 16 bytes

  explicit PlainRows(const Matrix& weight)
      : data(weight.data),
        columns(static_cast<int>(weight.columns)),
        wide(weight.columns % Stored<kStorage>::kEach == 0) {}

  // This lane's share of the dot products of row `row` with kTokens rows of `input`, of which `tokens` exist.
  template <int kTokens>
  __device__ __forceinline__ void LaneDots(int64_t row, const float* input, int tokens, float (&sums)[kTokens]) const {
    constexpr int kEach = Stored<kStorage>::kEach;
    const int lane = threadIdx.x % 32;
    if (wide) {
      const auto* from = reinterpret_cast<const uint4*>(static_cast<const char*>(data) + row * columns * (16 / kEach));
#pragma unroll 2
      for (int c = lane * kEach; c < columns; c += 32 * kEach) {
        float w[kEach];
        Stored<kStorage>::Unpack(__ldg(from + c / kEach), w);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t >= tokens) break;
          const auto* x = reinterpret_cast<const float4*>(input + int64_t{t} * columns + c);
#pragma unroll
          for (int i = 0; i < kEach / 4; ++i) {
            const float4 four = x[i];
            sums[t] = fmaf(w[4 * i], four.x, sums[t]);
            sums[t] = fmaf(w[4 * i + 1], four.y, sums[t]);
            sums[t] = fmaf(w[4 * i + 2], four.z, sums[t]);
            sums[t] = fmaf(w[4 * i + 3], four.w, sums[t]);
          }
        }
      }
      return;
    }
    for (int c = lane; c < columns; c += 32) {
      const float w = StoredValue(data, kStorage, row * columns + c);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (t < tokens) sums[t] = fmaf(w, input[int64_t{t} * columns + c], sums[t]);
      }
    }
  }
};

// Rows of a container (quant/xfp_matrix.h) of any format.
struct ContainerRows {
  quant::XfpMatrix matrix;
  quant::PlaneLayout planes;
  int columns;
  int groups;
  int row_bytes;

  explicit ContainerRows(const Matrix& weight)
      : matrix(weight.xfp),
        planes(quant::PlanesOf(weight.xfp.format.levels)),
        columns(static_cast<int>(weight.columns)),
        groups(static_cast<int>(quant::GroupsPerRow(weight.columns))),
        row_bytes(static_cast<int>(quant::CodeBytesPerRow(weight.columns, weight.xfp.format.levels))) {}

  __device__ __forceinline__ float Centroid(int64_t entry) const {
    if (matrix.format.centroids == quant::Centroids::kInt8) {
      return static_cast<float>(reinterpret_cast<const int8_t*>(matrix.codebooks)[entry]);
    }
    return quant::HalfToFloat(reinterpret_cast<const uint16_t*>(matrix.codebooks)[entry]);
  }
  __device__ __forceinline__ int CountOf(int64_t row) const {
    return quant::OutlierCountBytes(columns) == 1 ? matrix.outlier_counts[row]
                                                  : reinterpret_cast<const uint16_t*>(matrix.outlier_counts)[row];
  }
  __device__ __forceinline__ float Scale(int64_t row, int column) const {
    return quant::Bfloat16ToFloat(
        matrix.scales[matrix.format.group_scales ? row * groups + column / quant::kGroupColumns : row]);
  }

  template <int kTokens>
  __device__ __forceinline__ void LaneDots(int64_t row, const float* input, int tokens, float (&sums)[kTokens]) const {
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
    for (int c = lane; c < columns; c += 32) {
      const int64_t book = library ? matrix.indices[row * groups + c / quant::kGroupColumns] : row;
      add(c, Scale(row, c) * Centroid(book * levels + static_cast<int>(quant::CodeAt(codes, planes, c))));
    }
    if (matrix.outliers == 0) return;
    const int64_t block = row / quant::kOutlierRowBlock * quant::kOutlierRowBlock;
    int before = 0;
    for (int64_t r = block + lane; r < row; r += 32) before += CountOf(r);
    const int64_t first = matrix.outlier_starts[row / quant::kOutlierRowBlock] + int64_t{__reduce_add_sync(kAllLanes, before)};
    const int count = CountOf(row);
    for (int i = lane; i < count; i += 32) {
      const int column = quant::OutlierColumnBytes(columns) == 2
                             ? reinterpret_cast<const uint16_t*>(matrix.outlier_columns)[first + i]
                             : static_cast<int>(reinterpret_cast<const uint32_t*>(matrix.outlier_columns)[first + i]);
      add(column, Scale(row, column) * quant::HalfToFloat(matrix.outlier_values[first + i]));
    }
  }
};

template <typename Rows, int kTokens>
__global__ void __launch_bounds__(kThreads) RowMatmulKernel(Rows weight, int64_t rows, const float* input, int64_t tokens,
                                                            float* output, int64_t output_stride) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t first = int64_t{blockIdx.y} * kTokens;
  const int here = static_cast<int>(min(int64_t{kTokens}, tokens - first));
  float sums[kTokens] = {};
  weight.LaneDots(row, input + first * weight.columns, here, sums);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float sum = WarpSum(sums[t]);
    if (t < here && threadIdx.x % 32 == 0) output[(first + t) * output_stride + row] = sum;
  }
}

template <typename Rows>
__global__ void __launch_bounds__(kThreads) RowGateUpKernel(ExpertsGateUpCall call, Rows weight) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= call.width) return;
  const int64_t route = blockIdx.y;
  const int64_t gate_row = call.chosen[route] * 2 * call.width + row;
  const float* input = call.input + route / call.top * weight.columns;
  float gate[1] = {};
  float up[1] = {};
  weight.LaneDots(gate_row, input, 1, gate);
  weight.LaneDots(gate_row + call.width, input, 1, up);
  const float g = WarpSum(gate[0]);
  const float u = WarpSum(up[0]);
  if (threadIdx.x % 32 == 0) call.output[route * call.width + row] = Silu(g) * u;
}

template <typename Rows>
__global__ void __launch_bounds__(kThreads) RowDownKernel(ExpertsDownCall call, Rows weight) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= call.columns) return;
  const int64_t token = blockIdx.y;
  float sum = 0;
  for (int64_t route = token * call.top; route < (token + 1) * call.top; ++route) {
    float dot[1] = {};
    weight.LaneDots(call.chosen[route] * call.columns + row, call.input + route * weight.columns, 1, dot);
    sum = fmaf(call.weights[route], dot[0], sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) call.residual[token * call.columns + row] += sum;
}

// Calls `launch` with the weight's rows.
template <typename Launch>
void WithRows(const Matrix& weight, Launch&& launch) {
  switch (weight.storage) {
    case Storage::kBfloat16: return launch(PlainRows<Storage::kBfloat16>(weight));
    case Storage::kFloat16: return launch(PlainRows<Storage::kFloat16>(weight));
    case Storage::kFloat32: return launch(PlainRows<Storage::kFloat32>(weight));
    case Storage::kXfp: return launch(ContainerRows(weight));
    case Storage::kDecodeOrder: break;
  }
  HPROC_CHECK(false, "weights that are read by rows");
}

template <int kTokens, typename Rows>
void LaunchTokens(const MatmulCall& call, const Rows& weight, cudaStream_t stream) {
  const dim3 grid(Blocks(call.weight->rows, kWarps), Blocks(call.tokens, kTokens));
  RowMatmulKernel<Rows, kTokens><<<grid, kThreads, 0, stream>>>(weight, call.weight->rows, call.input->values, call.tokens,
                                                               call.output, call.output_stride);
  HPROC_CUDA_LAUNCHED("RowMatmulKernel");
}

}  // namespace

void LaunchRowMatmul(const MatmulCall& call, cudaStream_t stream) {
  WithRows(*call.weight, [&](const auto& weight) {
    if (call.tokens == 1) return LaunchTokens<1>(call, weight, stream);
    if (call.tokens <= 4) return LaunchTokens<4>(call, weight, stream);
    LaunchTokens<8>(call, weight, stream);
  });
}

void LaunchRowExpertsGateUp(const ExpertsGateUpCall& call, cudaStream_t stream) {
  WithRows(*call.weight, [&](const auto& weight) {
    const dim3 grid(Blocks(call.width, kWarps), static_cast<unsigned>(call.rows * call.top));
    RowGateUpKernel<<<grid, kThreads, 0, stream>>>(call, weight);
    HPROC_CUDA_LAUNCHED("RowGateUpKernel");
  });
}

void LaunchRowExpertsDown(const ExpertsDownCall& call, cudaStream_t stream) {
  WithRows(*call.weight, [&](const auto& weight) {
    const dim3 grid(Blocks(call.columns, kWarps), static_cast<unsigned>(call.rows));
    RowDownKernel<<<grid, kThreads, 0, stream>>>(call, weight);
    HPROC_CUDA_LAUNCHED("RowDownKernel");
  });
}

}  // namespace hproc::kernels::cuda
