// The gated delta rule of long runs, a chunk of tokens at a time on tensor cores; see kernels/gated_delta.h for the rule. The form of
// chunks is that of Gated DeltaNet (arXiv 2412.06464, section 3.3; DeltaNet, 2406.06484, section 3).
//
// With decays a_t, g_t = a_1 … a_t, and S the state before the chunk, what token t writes is row t of D, and
//
//     (I + L) D = diag(b) (V - diag(g) K S)      L[t][i] = b_t g_t / g_i (k_t . k_i) for i < t
//     O = diag(g) Q S + M D                      M[t][i] = g_t / g_i (q_t . k_i) for i <= t
//     S = g_C S + (diag(g_C / g) K)^T D
//
// The triangle is solved by blocks of 16 tokens, whose own triangles are inverted. Ratios of g come from sums of logarithms, so that
// none overflows.
//
// Products are of bfloat16 pairs: high high + high low + low high, summed in float32. One is off by 3 x 2^-18 of its size at most:
// 2^-18 of either factor is in neither part, and low low is as much.
#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/pair_products.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kChunk = 64;
constexpr int kKeys = 128;    // at most; those that are not there are zeros
constexpr int kColumns = 64;  // of the value, of a block
constexpr int kWarps = 8;
constexpr int kBlock = 16;  // tokens of a triangle that is inverted

// Bytes from row to row: eight rows fall on different banks.
constexpr int kKeyPitch = kKeys * 2 + 16;
constexpr int kColumnPitch = kColumns * 2 + 16;
constexpr int kFloatPitch = kChunk + 4;  // in floats

// Matrices of pairs are all high parts, then all low ones.
constexpr int kKeyPlane = kChunk * kKeyPitch;
constexpr int kStatePlane = kKeys * kColumnPitch;
constexpr int kWrittenPlane = kChunk * kColumnPitch;
struct Places {
  static constexpr int kKeysAt = 0;
  static constexpr int kQueriesAt = kKeysAt + 2 * kKeyPlane;
  static constexpr int kStateAt = kQueriesAt + 2 * kKeyPlane;
  static constexpr int kWrittenAt = kStateAt + 2 * kStatePlane;      // D
  static constexpr int kDecayedAt = kWrittenAt + 2 * kWrittenPlane;  // diag(g_C / g) D
  static constexpr int kTriangleAt = kDecayedAt + 2 * kWrittenPlane;  // -L, its blocks on the diagonal inverses of I + L's
  static constexpr int kRightAt = kTriangleAt + kChunk * kFloatPitch * 4;
  static constexpr int kLogsAt = kRightAt + kChunk * kFloatPitch * 4;
  static constexpr int kBetasAt = kLogsAt + kChunk * 4;
  static constexpr int kBytes = kBetasAt + kChunk * 4;
};

// Two tiles of eight columns, whose operands `m` of LoadMatrices or LoadTransposed are.
__device__ __forceinline__ void MultiplyTwo(float (&first)[4], float (&second)[4], const PairsA& a, const uint32_t (&high)[4],
                                            const uint32_t (&low)[4]) {
  MultiplyBfloat16(first, a.low, high[0], high[1]);
  MultiplyBfloat16(second, a.low, high[2], high[3]);
  MultiplyBfloat16(first, a.high, low[0], low[1]);
  MultiplyBfloat16(second, a.high, low[2], low[3]);
  MultiplyBfloat16(first, a.high, high[0], high[1]);
  MultiplyBfloat16(second, a.high, high[2], high[3]);
}

struct DeltaChunks {
  DeltaRuleCall call;
  const SequenceRun* runs;
  PlainWeights a_log, dt_bias;
};

// A block kColumns value columns of a (value head, run). In products with rows of tokens, warps 0 to 3 have 16 keys' rows each, 4 to 7
// the queries'; the state stays in registers, 16 of its rows a warp, with a copy in pairs for the products.
__global__ void __launch_bounds__(kWarps * 32, 1) DeltaChunksKernel(const __grid_constant__ DeltaChunks p) {
  const DeltaRuleCall& call = p.call;
  extern __shared__ __align__(128) uint8_t shared[];
  float* const triangle = reinterpret_cast<float*>(shared + Places::kTriangleAt);
  float* const right = reinterpret_cast<float*>(shared + Places::kRightAt);
  float* const logs = reinterpret_cast<float*>(shared + Places::kLogsAt);
  float* const betas = reinterpret_cast<float*>(shared + Places::kBetasAt);
  const uint32_t base = SharedAddress(shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int g = lane / 4;
  const int q = lane % 4;
  AllowNextKernel();
  const int64_t head = blockIdx.y;
  const SequenceRun run = p.runs[blockIdx.z];
  const auto key_dim = static_cast<int>(call.key_dim);
  const auto value_dim = static_cast<int>(call.value_dim);
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  const float rate = -expf(p.a_log[head]);
  const float bias = p.dt_bias[head];
  const int64_t all_keys = call.key_heads * key_dim;
  const int64_t row_size = 2 * all_keys + call.value_heads * value_dim;
  const float* const queries = call.qkv + run.first_row * row_size + head / (call.value_heads / call.key_heads) * key_dim;
  const float* const values = call.qkv + run.first_row * row_size + 2 * all_keys + head * value_dim;
  const auto has_column = [&](int c) { return first_column + c < value_dim; };

  // Rows 16 warp + g and + 8 of the state, columns 8 n + 2 q and + 1.
  float* const state = call.state + (run.slot * call.value_heads + head) * key_dim * value_dim + first_column;
  float s[8][4];
  const auto state_row = [&](int i) { return 16 * warp + g + 8 * i; };
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float2 both{0, 0};
      if (state_row(i) < key_dim && has_column(8 * n + 2 * q)) {
        both = *reinterpret_cast<const float2*>(state + state_row(i) * value_dim + 8 * n + 2 * q);
      }
      s[n][2 * i] = both.x, s[n][2 * i + 1] = both.y;
    }
  }
  const auto show_state = [&] {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Pair pair = Bfloat16Pair(s[n][2 * i], s[n][2 * i + 1]);
        uint8_t* to = shared + Places::kStateAt + state_row(i) * kColumnPitch + (8 * n + 2 * q) * 2;
        *reinterpret_cast<uint32_t*>(to) = pair.high;
        *reinterpret_cast<uint32_t*>(to + kStatePlane) = pair.low;
      }
    }
  };
  show_state();
  WaitForKernelInFront();

  const bool has_queries = warp >= 4;
  const int m = has_queries ? 7 - warp : warp;  // of the rows, so that the long and the short ones of a triangle share a scheduler
  const auto row = [&](int i) { return kBlock * m + g + 8 * i; };
#pragma unroll 1
  for (int first = 0; first < run.tokens; first += kChunk) {
    const int here = min(kChunk, run.tokens - first);
    // Eight tokens a warp: normalized, in pairs.
    {
      float4 k[8], x[8];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int t = warp * 8 + n;
        const float* from = queries + (first + t) * row_size + lane * 4;
        const bool wanted = t < here && lane * 4 < key_dim;
        x[n] = wanted ? *reinterpret_cast<const float4*>(from) : float4{0, 0, 0, 0};
        k[n] = wanted ? *reinterpret_cast<const float4*>(from + all_keys) : float4{0, 0, 0, 0};
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int t = warp * 8 + n;
        const auto square = [](const float4& v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
        const float query_factor = 1.0f / sqrtf((WarpSum(square(x[n])) + 1e-6f) * static_cast<float>(key_dim));
        const float key_factor = 1.0f / sqrtf(WarpSum(square(k[n])) + 1e-6f);
        const auto store = [&](const float4& v, float factor, int at) {
          const Pair a = Bfloat16Pair(v.x * factor, v.y * factor), b = Bfloat16Pair(v.z * factor, v.w * factor);
          uint8_t* to = shared + at + t * kKeyPitch + lane * 8;
          *reinterpret_cast<uint2*>(to) = uint2{a.high, b.high};
          *reinterpret_cast<uint2*>(to + kKeyPlane) = uint2{a.low, b.low};
        };
        store(x[n], query_factor, Places::kQueriesAt);
        store(k[n], key_factor, Places::kKeysAt);
      }
    }
    if (warp == 0) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = 32 * i + lane;
        const int64_t at = (run.first_row + first + t) * call.value_heads + head;
        float log = t < here ? rate * Softplus(call.a[at] + bias) : 0.0f;
        betas[t] = t < here ? Sigmoid(call.b[at]) : 0.0f;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
          const float before = __shfl_up_sync(kAllLanes, log, step);
          if (lane >= step) log += before;
        }
        log += sum;
        logs[t] = log;
        sum = __shfl_sync(kAllLanes, log, 31);
      }
    }
    // The next chunk's rows on their way to the L2.
    if (first + kChunk + thread / 4 < run.tokens) {
      const float* next = queries + (first + kChunk + thread / 4) * row_size;
      const int at = thread % 4 * 32;
      if (at < key_dim) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(next + at));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(next + all_keys + at));
      }
      if (at < kColumns && has_column(at)) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(values + (first + kChunk + thread / 4) * row_size + first_column + at));
      }
    }
    float v[8][4];
    if (!has_queries) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float2 both{0, 0};
          if (row(i) < here && has_column(8 * n + 2 * q)) {
            both = *reinterpret_cast<const float2*>(values + (first + row(i)) * row_size + first_column + 8 * n + 2 * q);
          }
          v[n][2 * i] = both.x, v[n][2 * i + 1] = both.y;
        }
      }
    }
    __syncthreads();

    // Rows of K or Q by S, and by the keys of all tokens up to theirs.
    float by_state[8][4] = {};
    float by_keys[8][4] = {};
    {
      const uint32_t rows_at = base + (has_queries ? Places::kQueriesAt : Places::kKeysAt) + (kBlock * m + lane % 16) * kKeyPitch + lane / 16 * 16;
      const uint32_t state_at = base + Places::kStateAt + lane % 16 * kColumnPitch + lane / 16 * 16;
      const uint32_t keys_at = base + Places::kKeysAt + (lane % 8 + lane / 16 * 8) * kKeyPitch + lane / 8 % 2 * 16;
#pragma unroll 1
      for (int k = 0; k < kKeys / 16; ++k) {
        if (16 * k >= key_dim) break;
        PairsA a;
        LoadMatrices(a.high, rows_at + k * 32);
        LoadMatrices(a.low, rows_at + k * 32 + kKeyPlane);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t high[4], low[4];
          LoadTransposed(high, state_at + k * 16 * kColumnPitch + j * 32);
          LoadTransposed(low, state_at + k * 16 * kColumnPitch + j * 32 + kStatePlane);
          MultiplyTwo(by_state[2 * j], by_state[2 * j + 1], a, high, low);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j > m) break;
          uint32_t high[4], low[4];
          LoadMatrices(high, keys_at + j * 16 * kKeyPitch + k * 32);
          LoadMatrices(low, keys_at + j * 16 * kKeyPitch + k * 32 + kKeyPlane);
          MultiplyTwo(by_keys[2 * j], by_keys[2 * j + 1], a, high, low);
        }
      }
    }
    const float log[2] = {logs[row(0)], logs[row(1)]};
    const float decay[2] = {expf(log[0]), expf(log[1])};
    const auto ratio = [&](int i, int token) { return expf(log[i] - logs[token]); };
    if (has_queries) {  // M, and O's first part
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          by_state[n][e] *= decay[e / 2];
          const int token = 8 * n + 2 * q + e % 2;
          by_keys[n][e] = token <= row(e / 2) ? by_keys[n][e] * ratio(e / 2, token) : 0.0f;
        }
      }
    } else {  // -L with its inverted blocks, and the right side
      const float beta[2] = {betas[row(0)], betas[row(1)]};
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float2 x;
          x.x = beta[i] * (v[n][2 * i] - decay[i] * by_state[n][2 * i]);
          x.y = beta[i] * (v[n][2 * i + 1] - decay[i] * by_state[n][2 * i + 1]);
          *reinterpret_cast<float2*>(right + row(i) * kFloatPitch + 8 * n + 2 * q) = x;
          if (n / 2 > m) continue;
          const int token = 8 * n + 2 * q;
          x.x = token < row(i) ? -beta[i] * ratio(i, token) * by_keys[n][2 * i] : 0.0f;
          x.y = token + 1 < row(i) ? -beta[i] * ratio(i, token + 1) * by_keys[n][2 * i + 1] : 0.0f;
          *reinterpret_cast<float2*>(triangle + row(i) * kFloatPitch + token) = x;
        }
      }
      __syncwarp();
      float* const own = triangle + kBlock * m * kFloatPitch + kBlock * m;
      float x[kBlock];  // column lane % 16 of the inverse
#pragma unroll
      for (int i = 0; i < kBlock; ++i) {
        float even = i == lane % kBlock ? 1.0f : 0.0f;
        float odd = 0;
#pragma unroll
        for (int k = 0; k < i; ++k) {
          float& sum = (i - k) % 2 == 0 ? even : odd;
          sum = fmaf(own[i * kFloatPitch + k], x[k], sum);
        }
        x[i] = even + odd;
      }
      __syncwarp();
      if (lane < kBlock) {
#pragma unroll
        for (int i = 0; i < kBlock; ++i) own[i * kFloatPitch + lane] = x[i];
      }
    }
    __syncthreads();

    // D, eight columns a warp, block after block.
    {
      const float last = logs[kChunk - 1];
      const auto block_at = [&](int rows, int columns) {
        PairsA a;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 both = *reinterpret_cast<const float2*>(triangle + (kBlock * rows + g + e % 2 * 8) * kFloatPitch + kBlock * columns +
                                                               2 * q + e / 2 * 8);
          const Pair pair = Bfloat16Pair(both.x, both.y);
          a.high[e] = pair.high, a.low[e] = pair.low;
        }
        return a;
      };
      struct PairsB {  // a [16 x 8] operand
        uint32_t high[2], low[2];
      };
      const auto operand_of = [&](const float (&sum)[4]) {
        PairsB b;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const Pair pair = Bfloat16Pair(sum[2 * i], sum[2 * i + 1]);
          b.high[i] = Transposed(pair.high);
          b.low[i] = Transposed(pair.low);
        }
        return b;
      };
      const auto multiply = [](float (&sum)[4], const PairsA& a, const PairsB& b) {
        MultiplyBfloat16(sum, a.low, b.high[0], b.high[1]);
        MultiplyBfloat16(sum, a.high, b.low[0], b.low[1]);
        MultiplyBfloat16(sum, a.high, b.high[0], b.high[1]);
      };
      PairsB written[4];
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        float sum[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float2 both = *reinterpret_cast<const float2*>(right + (kBlock * block + g + 8 * i) * kFloatPitch + 8 * warp + 2 * q);
          sum[2 * i] = both.x, sum[2 * i + 1] = both.y;
        }
#pragma unroll
        for (int before = 0; before < block; ++before) multiply(sum, block_at(block, before), written[before]);
        float solved[4] = {};
        multiply(solved, block_at(block, block), operand_of(sum));
        if (block < 3) written[block] = operand_of(solved);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int t = kBlock * block + g + 8 * i;
          const float factor = expf(last - logs[t]);
          const Pair plain = Bfloat16Pair(solved[2 * i], solved[2 * i + 1]);
          const Pair decayed = Bfloat16Pair(solved[2 * i] * factor, solved[2 * i + 1] * factor);
          uint8_t* to = shared + Places::kWrittenAt + t * kColumnPitch + (8 * warp + 2 * q) * 2;
          *reinterpret_cast<uint32_t*>(to) = plain.high;
          *reinterpret_cast<uint32_t*>(to + kWrittenPlane) = plain.low;
          to += Places::kDecayedAt - Places::kWrittenAt;
          *reinterpret_cast<uint32_t*>(to) = decayed.high;
          *reinterpret_cast<uint32_t*>(to + kWrittenPlane) = decayed.low;
        }
      }
    }
    __syncthreads();

    const uint32_t written_at = base + Places::kWrittenAt + lane % 16 * kColumnPitch + lane / 16 * 16;
    if (has_queries) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k > m) break;
        PairsA a;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Pair pair = Bfloat16Pair(by_keys[2 * k + e / 2][e % 2 * 2], by_keys[2 * k + e / 2][e % 2 * 2 + 1]);
          a.high[e] = pair.high, a.low[e] = pair.low;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t high[4], low[4];
          LoadTransposed(high, written_at + k * 16 * kColumnPitch + j * 32);
          LoadTransposed(low, written_at + k * 16 * kColumnPitch + j * 32 + kWrittenPlane);
          MultiplyTwo(by_state[2 * j], by_state[2 * j + 1], a, high, low);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row(i) >= here) continue;
        float* to = call.output + ((run.first_row + first + row(i)) * call.value_heads + head) * value_dim + first_column;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          if (has_column(8 * n + 2 * q)) *reinterpret_cast<float2*>(to + 8 * n + 2 * q) = float2{by_state[n][2 * i], by_state[n][2 * i + 1]};
        }
      }
    }
    {
      const float whole = expf(logs[kChunk - 1]);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] *= whole;
      }
      const uint32_t keys_at = base + Places::kKeysAt + (lane % 8 + lane / 16 * 8) * kKeyPitch + (2 * warp + lane / 8 % 2) * 16;
      const uint32_t decayed_at = written_at + Places::kDecayedAt - Places::kWrittenAt;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        PairsA a;
        LoadTransposed(a.high, keys_at + k * 16 * kKeyPitch);
        LoadTransposed(a.low, keys_at + k * 16 * kKeyPitch + kKeyPlane);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t high[4], low[4];
          LoadTransposed(high, decayed_at + k * 16 * kColumnPitch + j * 32);
          LoadTransposed(low, decayed_at + k * 16 * kColumnPitch + j * 32 + kWrittenPlane);
          MultiplyTwo(s[2 * j], s[2 * j + 1], a, high, low);
        }
      }
      show_state();
    }
    __syncthreads();  // keys and queries have been read, the state is shown
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (state_row(i) < key_dim && has_column(8 * n + 2 * q)) {
        *reinterpret_cast<float2*>(state + state_row(i) * value_dim + 8 * n + 2 * q) = float2{s[n][2 * i], s[n][2 * i + 1]};
      }
    }
  }
}

}  // namespace

bool CanRuleInChunks(const DeltaRuleCall& call) {
  if (call.key_dim > kKeys || call.key_dim % 4 != 0 || call.value_dim % 4 != 0) return false;
  int device = 0;
  int shared_bytes = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return shared_bytes >= Places::kBytes;
}

void LaunchDeltaChunks(const DeltaRuleCall& call, cudaStream_t stream) {
  HPROC_CHECK(CanRuleInChunks(call), "a delta rule in chunks");
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(DeltaChunksKernel, raised);
  const dim3 grid(Blocks(call.value_dim, kColumns), static_cast<unsigned>(call.value_heads), static_cast<unsigned>(call.runs.size()));
  const DeltaChunks params{.call = call, .runs = call.runs.data(), .a_log = PlainOf(*call.a_log), .dt_bias = PlainOf(*call.dt_bias)};
  LaunchWithShared(DeltaChunksKernel, params, grid, kWarps * 32, Places::kBytes, true, stream);
}

}  // namespace hproc::kernels::cuda
