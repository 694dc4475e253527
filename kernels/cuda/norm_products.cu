// The norm of a few hidden states, the products of plain weights that read it (a router and a shared expert's gate; the gated delta
// net's a and b), and the choice of experts, in one launch.
//
// Every block normalizes the whole row for itself: that is 24 KB out of the L2, where a launch of its own costs more. It holds its
// rows of weights in registers before the kernel in front is done, and since a root divides a product as it divides what goes into
// it, one reduction gives the products, the root and the largest value.
#include "base/check.h"
#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/plain_rows.cuh"
#include "kernels/cuda/route_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int kFours = 2;      // of a thread, of each row
constexpr int kBlockRows = 2;  // of weights
constexpr int kMostProducts = 2;
constexpr int kMostAtOnce = 512;  // experts to choose from
constexpr int64_t kMostColumns = int64_t{4} * kFours * kMostThreads;

struct NormProducts {
  struct Product {
    const void* weight;
    int rows;
    float* output;
    int64_t output_stride;
  };
  int columns;
  const float* input;
  int64_t input_stride;
  const float* added;  // [tokens, columns], or null
  float* sum;          // of both; read by no block of this launch
  PlainWeights norm;
  float norm_offset;
  float epsilon;
  float* output;
  int64_t output_stride;
  int8_t* rounded;  // as decode_params.h says, or null
  float* scales;
  int padded;
  Product products[kMostProducts];
  RouteCall route;  // of the first product; `chosen` is null where there is nothing to choose
  unsigned* counters;
};

// Four stored weights, as many bytes as they take.
template <Storage kStorage>
struct FourStored {
  static constexpr int kWords = kStorage == Storage::kFloat32 ? 4 : 2;
  uint32_t words[kWords] = {};
  __device__ __forceinline__ void Load(const void* data, int64_t index) {
    if constexpr (kStorage == Storage::kFloat32) {
      const uint4 from = __ldg(reinterpret_cast<const uint4*>(static_cast<const float*>(data) + index));
      words[0] = from.x, words[1] = from.y, words[2] = from.z, words[3] = from.w;
    } else {
      const uint2 from = __ldg(reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + index));
      words[0] = from.x, words[1] = from.y;
    }
  }
  __device__ __forceinline__ float Dot(float4 x, float sum) const {
    float values[8];
    if constexpr (kStorage == Storage::kFloat32) {
      Stored<kStorage>::Unpack(uint4{words[0], words[1], words[2], words[3]}, values);
    } else {
      Stored<kStorage>::Unpack(uint4{words[0], words[1], 0, 0}, values);
    }
    return fmaf(values[0], x.x, fmaf(values[1], x.y, fmaf(values[2], x.z, fmaf(values[3], x.w, sum))));
  }
};

// A row of the grid a token. The first block writes the norm; the last to be done chooses.
template <Storage kStorage>
__global__ void __launch_bounds__(kMostThreads) NormProductsKernel(const __grid_constant__ NormProducts p) {
  __shared__ float4 parts[kMostThreads / 32];  // of each warp: the square, two products, the largest as bits
  AllowNextKernel();
  const int lane = threadIdx.x % 32;
  const auto threads = static_cast<int>(blockDim.x);
  const int64_t token = blockIdx.y;
  const auto column = [&](int n) { return (static_cast<int>(threadIdx.x) + n * threads) * 4; };

  const NormProducts::Product* products[kBlockRows];
  int rows[kBlockRows];
  FourStored<kStorage> weights[kBlockRows][kFours];
#pragma unroll
  for (int r = 0; r < kBlockRows; ++r) {
    int row = static_cast<int>(blockIdx.x) * kBlockRows + r;
    products[r] = &p.products[0];
    if (row >= p.products[0].rows) row -= p.products[0].rows, products[r] = &p.products[1];
    rows[r] = row < products[r]->rows ? row : -1;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      if (rows[r] >= 0 && column(n) < p.columns) weights[r][n].Load(products[r]->weight, int64_t{row} * p.columns + column(n));
    }
  }
  uint4 norms[kFours];
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    norms[n] = uint4{0, 0, 0, 0};
    if (column(n) < p.columns) norms[n] = p.norm.FourBits(column(n));
  }
  WaitForKernelInFront();

  float4 values[kFours];
  float4 added[kFours];
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    values[n] = added[n] = float4{0, 0, 0, 0};
    if (column(n) >= p.columns) continue;
    values[n] = *reinterpret_cast<const float4*>(p.input + token * p.input_stride + column(n));
    if (p.added != nullptr) added[n] = *reinterpret_cast<const float4*>(p.added + token * p.columns + column(n));
  }
  float square = 0;
  float dots[kBlockRows] = {};
  uint32_t largest = 0;
#pragma unroll
  for (int n = 0; n < kFours; ++n) {
    float4& x = values[n];
    x = {x.x + added[n].x, x.y + added[n].y, x.z + added[n].z, x.w + added[n].w};
    if (blockIdx.x == 0 && p.added != nullptr && column(n) < p.columns) {
      *reinterpret_cast<float4*>(p.sum + token * p.columns + column(n)) = x;
    }
    square = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, square))));
    const float4 norm = p.norm.FourValues(norms[n]);  // where there are no columns, x is zero
    x = {x.x * (norm.x + p.norm_offset), x.y * (norm.y + p.norm_offset), x.z * (norm.z + p.norm_offset), x.w * (norm.w + p.norm_offset)};
    largest = max(largest, LargestBits(x));
#pragma unroll
    for (int r = 0; r < kBlockRows; ++r) dots[r] = weights[r][n].Dot(x, dots[r]);
  }
  const auto over_lanes = [&] {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      square += __shfl_xor_sync(kAllLanes, square, step);
#pragma unroll
      for (int r = 0; r < kBlockRows; ++r) dots[r] += __shfl_xor_sync(kAllLanes, dots[r], step);
    }
    largest = __reduce_max_sync(kAllLanes, largest);
  };
  over_lanes();
  static_assert(kBlockRows == 2);
  if (lane == 0) parts[threadIdx.x / 32] = {square, dots[0], dots[1], __uint_as_float(largest)};
  __syncthreads();
  if (threadIdx.x >= 32 && blockIdx.x != 0) return;
  const float4 part = lane < threads / 32 ? parts[lane] : float4{0, 0, 0, 0};
  square = part.x, dots[0] = part.y, dots[1] = part.z, largest = __float_as_uint(part.w);
  over_lanes();
  const float inverse = 1.0f / sqrtf(square / static_cast<float>(p.columns) + p.epsilon);
  bool chooses = false;
  if (threadIdx.x < 32) {
    if (lane == 0) {
#pragma unroll
      for (int r = 0; r < kBlockRows; ++r) {
        if (rows[r] >= 0) products[r]->output[token * products[r]->output_stride + rows[r]] = dots[r] * inverse;
      }
    }
    if (p.route.chosen != nullptr) {
      if (lane == 0) chooses = CountIn(p.counters + token) == gridDim.x - 1;
      chooses = __shfl_sync(kAllLanes, static_cast<int>(chooses), 0) != 0;
    }
  }
  if (blockIdx.x == 0) {
    largest = __float_as_uint(__uint_as_float(largest) * inverse);
    const float whole = InverseScale(largest);
    int8_t* rounded = p.rounded + token * 2 * p.padded;
#pragma unroll
    for (int n = 0; n < kFours; ++n) {
      const int c = column(n);
      const float4 x{values[n].x * inverse, values[n].y * inverse, values[n].z * inverse, values[n].w * inverse};
      if (c < p.columns) *reinterpret_cast<float4*>(p.output + token * p.output_stride + c) = x;
      if (p.rounded == nullptr || c >= p.padded) continue;
      uint32_t high, low;
      RoundFour(x, whole, high, low);
      *reinterpret_cast<uint32_t*>(rounded + RoundedOffset(c)) = high;
      *reinterpret_cast<uint32_t*>(rounded + RoundedOffset(c) + kLowOffset) = low;
    }
    if (p.rounded != nullptr && threadIdx.x == 0) p.scales[token] = ScaleOf(largest);
  }
  if (!chooses) return;
  if (lane == 0) p.counters[token] = 0;
  ChooseExperts<kMostAtOnce>(p.route, token);
}

}  // namespace

bool CanNormAndProject(const NormAndProjectCall& call) {
  const CombineCall& combine = call.combine;
  const bool adds = combine.residual != nullptr;
  if (adds && (combine.routed != nullptr || combine.shared == nullptr || combine.shared_gate != nullptr || combine.sum == nullptr)) {
    return false;
  }
  for (const MatmulCall& product : call.products) {
    if (IsPacked(product.weight->storage) || product.weight->storage != call.products.front().weight->storage) return false;
  }
  const RmsNormCall& norm = call.norm;
  const int64_t padded = norm.rounded != nullptr ? RoundedRowBytes(norm.columns) / 2 : 0;
  return call.products.size() <= kMostProducts && norm.rows <= kMostProjectedRows && norm.columns % 4 == 0 && norm.input_rows == nullptr &&
         norm.input_stride % 4 == 0 && norm.output_stride % 4 == 0 && std::max(norm.columns, padded) <= kMostColumns &&
         (call.route == nullptr || call.route->experts <= kMostAtOnce);
}

void LaunchNormAndProject(const NormAndProjectCall& call, unsigned* counters, cudaStream_t stream) {
  HPROC_CHECK(CanNormAndProject(call), "a norm and its products in one launch");
  const RmsNormCall& norm = call.norm;
  NormProducts p{.columns = static_cast<int>(norm.columns),
                 .input = norm.input,
                 .input_stride = norm.input_stride,
                 .added = call.combine.residual != nullptr ? call.combine.shared : nullptr,
                 .sum = call.combine.sum,
                 .norm = PlainOf(*norm.weight),
                 .norm_offset = norm.weight_offset,
                 .epsilon = norm.epsilon,
                 .output = norm.output,
                 .output_stride = norm.output_stride,
                 .rounded = nullptr,
                 .scales = nullptr,
                 .padded = 0,
                 .products = {},
                 .route = {},
                 .counters = counters};
  if (p.added != nullptr) p.input = call.combine.residual;
  if (norm.rounded != nullptr) {
    p.rounded = reinterpret_cast<int8_t*>(norm.rounded->quantized);
    p.scales = norm.rounded->scales;
    p.padded = static_cast<int>(RoundedRowBytes(norm.columns) / 2);
  }
  int64_t rows = 0;
  for (size_t i = 0; i < call.products.size(); ++i) {
    const MatmulCall& product = call.products[i];
    p.products[i] = {.weight = product.weight->data, .rows = static_cast<int>(product.weight->rows), .output = product.output,
                     .output_stride = product.output_stride};
    rows += product.weight->rows;
  }
  if (call.route != nullptr) p.route = *call.route;
  const int64_t columns = std::max<int64_t>(p.columns, p.padded);
  const dim3 grid(std::max(Blocks(rows, kBlockRows), 1u), static_cast<unsigned>(norm.rows));
  const unsigned threads = Blocks(columns, kFours * 128) * 32;
  const auto launch = [&](auto kernel) { LaunchOverlapped("NormProductsKernel", kernel, grid, threads, stream, p); };
  switch (call.products.empty() ? Storage::kFloat32 : call.products.front().weight->storage) {
    case Storage::kBfloat16: return launch(NormProductsKernel<Storage::kBfloat16>);
    case Storage::kFloat16: return launch(NormProductsKernel<Storage::kFloat16>);
    default: return launch(NormProductsKernel<Storage::kFloat32>);
  }
}

}  // namespace hproc::kernels::cuda
