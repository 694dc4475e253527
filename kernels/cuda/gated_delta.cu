#include <atomic>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kConvChannels = 32;
constexpr int kConvSegments = 8;

// A block kConvChannels channels of a run, a thread a segment of its tokens of one channel, token after token, eight of them fetched
// ahead. What a segment needs of the one before is read before any is written over.
__global__ void __launch_bounds__(kConvChannels * kConvSegments) ConvKernel(CausalConvCall call, const SequenceRun* runs, PlainWeights weight) {
  StartBehindKernelInFront();
  constexpr int kAtOnce = 8;
  constexpr int kTaps = static_cast<int>(kMostConvKernel);
  const int64_t c = int64_t{blockIdx.x} * kConvChannels + threadIdx.x % kConvChannels;
  const bool exists = c < call.channels;
  const SequenceRun run = runs[blockIdx.y];
  const auto history = static_cast<int>(call.kernel) - 1;
  const int each = (run.tokens + kConvSegments - 1) / kConvSegments;
  const int begin = static_cast<int>(threadIdx.x) / kConvChannels * each;
  const int end = exists ? min(begin + each, run.tokens) : 0;
  float taps[kTaps];    // the last is the newest input's
  float inputs[kTaps];  // of the last tokens, the newest last
  float* state = call.state + (run.slot * call.channels + c) * history;
  float* values = call.values + run.first_row * call.channels + c;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    const int from = k - (kTaps - 1 - history);  // right-aligned
    taps[k] = exists && from >= 0 ? weight[c * call.kernel + from] : 0.0f;
    const int token = begin - kTaps + k;  // of inputs[k]
    inputs[k] = 0;
    if (from > 0 && begin < end) inputs[k] = token >= 0 ? values[token * call.channels] : state[history + token];
  }
  __syncthreads();
  for (int t = begin; t < end; t += kAtOnce) {
    float next[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) next[j] = t + j < end ? values[(t + j) * call.channels] : 0.0f;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (t + j >= end) break;
      float sum = 0;
#pragma unroll
      for (int k = 0; k < kTaps - 1; ++k) {
        inputs[k] = inputs[k + 1];
        sum = fmaf(taps[k], inputs[k], sum);
      }
      inputs[kTaps - 1] = next[j];
      values[(t + j) * call.channels] = Silu(fmaf(taps[kTaps - 1], next[j], sum));
    }
  }
  if (end != run.tokens || begin >= end) return;  // the last that has any
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    const int to = k - (kTaps - 1 - history);
    if (to > 0) state[to - 1] = inputs[k];
  }
}

constexpr int kRuleWarps = 8;
constexpr int kWarpColumns = 8;                             // value columns of a warp, two a lane
constexpr int kRuleColumns = kRuleWarps * kWarpColumns;     // and of a block
constexpr int kRuleTokens = 16;                             // fetched at once

// A block a (kRuleColumns value columns, value head, run). A warp's columns of the state stay in registers from the first token to the
// last: lane 8 c + k has 4 * kFours keys of columns 2 c and 2 c + 1, keys 32 i + 4 k + [0, 4), so that a token asks for sums over eight
// lanes alone and no warp waits for another. Tokens come through shared memory, kRuleTokens at a time, their queries and keys
// normalized on the way; the next ones are asked for before these are gone through.
template <int kFours>
__global__ void __launch_bounds__(kRuleWarps * 32)
    DeltaRuleKernel(const __grid_constant__ DeltaRuleCall call, const SequenceRun* runs, PlainWeights a_log, PlainWeights dt_bias) {
  constexpr int kKeys = 32 * kFours;
  constexpr int kWarpTokens = kRuleTokens / kRuleWarps;
  constexpr int kLaneFours = (kKeys + 127) / 128;  // fours of a query that a lane fetches
  AllowNextKernel();
  __shared__ __align__(16) float queries[kRuleTokens][kKeys];
  __shared__ __align__(16) float keys[kRuleTokens][kKeys];
  __shared__ float values[kRuleTokens][kRuleColumns];
  __shared__ float decays[kRuleTokens];
  __shared__ float betas[kRuleTokens];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t head = blockIdx.y;
  const SequenceRun run = runs[blockIdx.z];
  const auto key_dim = static_cast<int>(call.key_dim);
  const auto value_dim = static_cast<int>(call.value_dim);
  const int own = warp * kWarpColumns + lane / 8 * 2;  // the lane's first column, of the block's
  const int column = static_cast<int>(blockIdx.x) * kRuleColumns + own;
  const int first_key = lane % 8 * 4;
  float* state = call.state + (run.slot * call.value_heads + head) * key_dim * value_dim + column;
  const auto exists = [&](int i, int j, int c) { return 32 * i + first_key + j < key_dim && column + c < value_dim; };
  float s[kFours][4][2];
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) s[i][j][c] = exists(i, j, c) ? state[(32 * i + first_key + j) * value_dim + c] : 0.0f;
    }
  }
  const float rate = -expf(a_log[head]);
  const float bias = dt_bias[head];
  const int64_t all_keys = call.key_heads * key_dim;
  const int64_t row_size = 2 * all_keys + call.value_heads * value_dim;
  const int64_t key_head = head / (call.value_heads / call.key_heads);
  WaitForKernelInFront();

  // A warp fetches kWarpTokens of the tokens.
  float fetched_queries[kWarpTokens][kLaneFours][4];
  float fetched_keys[kWarpTokens][kLaneFours][4];
  float fetched_values[kWarpTokens][2];
  float fetched_a = 0;
  float fetched_b = 0;
  const auto fetch = [&](int first) {
#pragma unroll
    for (int n = 0; n < kWarpTokens; ++n) {
      const int t = first + warp * kWarpTokens + n;
      const float* row = call.qkv + (run.first_row + min(t, run.tokens - 1)) * row_size;
      const float* query = row + key_head * key_dim;
#pragma unroll
      for (int f = 0; f < kLaneFours; ++f) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int k = f * 128 + j * 32 + lane;
          fetched_queries[n][f][j] = k < key_dim ? query[k] : 0.0f;
          fetched_keys[n][f][j] = k < key_dim ? query[all_keys + k] : 0.0f;
        }
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int from = static_cast<int>(blockIdx.x) * kRuleColumns + c * 32 + lane;
        fetched_values[n][c] = from < value_dim ? row[2 * all_keys + head * value_dim + from] : 0.0f;
      }
    }
    if (threadIdx.x < kRuleTokens) {
      const int64_t row = run.first_row + min(first + static_cast<int>(threadIdx.x), run.tokens - 1);
      fetched_a = call.a[row * call.value_heads + head];
      fetched_b = call.b[row * call.value_heads + head];
    }
  };
  fetch(0);
  for (int first = 0; first < run.tokens; first += kRuleTokens) {
    __syncthreads();  // the tokens before are gone through
#pragma unroll
    for (int n = 0; n < kWarpTokens; ++n) {
      float query_square = 0;
      float key_square = 0;
#pragma unroll
      for (int f = 0; f < kLaneFours; ++f) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          query_square = fmaf(fetched_queries[n][f][j], fetched_queries[n][f][j], query_square);
          key_square = fmaf(fetched_keys[n][f][j], fetched_keys[n][f][j], key_square);
        }
      }
      const float query_factor = 1.0f / sqrtf((WarpSum(query_square) + 1e-6f) * static_cast<float>(key_dim));
      const float key_factor = 1.0f / sqrtf(WarpSum(key_square) + 1e-6f);
      const int t = warp * kWarpTokens + n;
#pragma unroll
      for (int f = 0; f < kLaneFours; ++f) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int k = f * 128 + j * 32 + lane;
          if (k >= kKeys) continue;
          queries[t][k] = fetched_queries[n][f][j] * query_factor;
          keys[t][k] = fetched_keys[n][f][j] * key_factor;
        }
      }
      values[t][lane] = fetched_values[n][0];
      values[t][lane + 32] = fetched_values[n][1];
    }
    if (threadIdx.x < kRuleTokens) {
      decays[threadIdx.x] = expf(rate * Softplus(fetched_a + bias));
      betas[threadIdx.x] = Sigmoid(fetched_b);
    }
    __syncthreads();
    if (first + kRuleTokens < run.tokens) fetch(first + kRuleTokens);
    const int here = min(kRuleTokens, run.tokens - first);
#pragma unroll 1
    for (int t = 0; t < here; ++t) {
      float4 k[kFours];
      float remembered[2][2] = {};
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        k[i] = *reinterpret_cast<const float4*>(keys[t] + 32 * i + first_key);
        const float of[4] = {k[i].x, k[i].y, k[i].z, k[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int c = 0; c < 2; ++c) remembered[j % 2][c] = fmaf(s[i][j][c], of[j], remembered[j % 2][c]);
        }
      }
      const auto over_lanes = [&](float sum) {
#pragma unroll
        for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
        return sum;
      };
      const float decay = decays[t];
      const float beta = betas[t];
      float delta[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        delta[c] = beta * (values[t][own + c] - decay * over_lanes(remembered[0][c] + remembered[1][c]));
      }
      float output[2][2] = {};
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const float4 query = *reinterpret_cast<const float4*>(queries[t] + 32 * i + first_key);
        const float of[4] = {query.x, query.y, query.z, query.w};
        const float with[4] = {k[i].x, k[i].y, k[i].z, k[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            s[i][j][c] = fmaf(with[j], delta[c], decay * s[i][j][c]);
            output[j % 2][c] = fmaf(s[i][j][c], of[j], output[j % 2][c]);
          }
        }
      }
      float* to = call.output + ((run.first_row + first + t) * call.value_heads + head) * value_dim + column;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float sum = over_lanes(output[0][c] + output[1][c]);
        if (lane % 8 == c && column + c < value_dim) to[c] = sum;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (exists(i, j, c)) state[(32 * i + first_key + j) * value_dim + c] = s[i][j][c];
      }
    }
  }
}

// One token of each sequence, a block a (value head, run): the rule and the norm of the head. The state, the work of no kernel in
// front, is copied to shared memory before the wait, by few threads with few registers, so that the block has its place beside one of a
// product (decode_token.cuh) and is ready as that ends, where 227 KB of shared memory have room for both: up to K = 32. A warp has kStepKeys keys and all columns, a lane four of them.
constexpr int kStepWarps = 8;
constexpr int kStepKeys = 16;      // of a warp
constexpr int kMostStepDim = 128;  // of keys and of values
static_assert(kStepWarps * kStepKeys == kMostStepDim && 32 * 4 == kMostStepDim);
constexpr int kStepRegisters = 64;

struct DeltaStep {
  DeltaRuleCall rule;
  const SequenceRun* runs;
  PlainWeights a_log, dt_bias, norm;
  const float* gate;  // [rows, value_heads * value_dim]
  int value_heads_a_key;
  float epsilon;
};

__device__ __forceinline__ float4 Add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ __forceinline__ float Dot(float4 a, float4 b) { return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w))); }
__device__ __forceinline__ float4 MultiplyAdd(float a, float4 b, float4 c) {
  return {fmaf(a, b.x, c.x), fmaf(a, b.y, c.y), fmaf(a, b.z, c.z), fmaf(a, b.w, c.w)};
}

__global__ void __maxnreg__(kStepRegisters) DeltaStepKernel(const __grid_constant__ DeltaStep p) {
  extern __shared__ float4 stepped[];                // [key][value_dim / 4]
  __shared__ float4 parts[kStepWarps][32];           // of each warp: sums over its keys
  __shared__ float4 keys_of_warp[kStepWarps][kStepKeys / 4];
  __shared__ float4 queries_of_warp[kStepWarps][kStepKeys / 4];
  AllowNextKernel();
  const DeltaRuleCall& call = p.rule;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t head = blockIdx.x;
  const SequenceRun run = p.runs[blockIdx.y];
  const int64_t row = run.first_row;
  const auto key_fours = static_cast<int>(call.key_dim) / 4;
  const auto value_fours = static_cast<int>(call.value_dim) / 4;
  auto* const state = reinterpret_cast<float4*>(call.state + (run.slot * call.value_heads + head) * call.key_dim * call.value_dim);
#pragma unroll 4
  for (int i = threadIdx.x; i < 4 * key_fours * value_fours; i += kStepWarps * 32) CopyAsync<16>(SharedAddress(stepped + i), state + i, true);
  CommitCopies();
  const bool has_keys = lane < key_fours;
  const bool has_values = lane < value_fours;
  const uint32_t rate_bits = p.a_log.Bits(head);
  const uint32_t bias_bits = p.dt_bias.Bits(head);
  const uint4 norm_bits = warp == 0 && has_values ? p.norm.FourBits(4 * lane) : uint4{0, 0, 0, 0};
  const int64_t all_keys = call.key_heads * call.key_dim;
  const float* const from = call.qkv + row * (2 * all_keys + call.value_heads * call.value_dim);
  const float* const query_from = from + static_cast<int>(head) / p.value_heads_a_key * call.key_dim + 4 * lane;
  const int64_t head_at = (row * call.value_heads + head) * call.value_dim + 4 * lane;
  WaitForKernelInFront();

  const float a = call.a[row * call.value_heads + head];
  const float b = call.b[row * call.value_heads + head];
  float4 query{0, 0, 0, 0};
  float4 key{0, 0, 0, 0};
  float4 value{0, 0, 0, 0};
  float4 gate{0, 0, 0, 0};
  if (has_keys) {
    query = *reinterpret_cast<const float4*>(query_from);
    key = *reinterpret_cast<const float4*>(query_from + all_keys);
  }
  if (has_values) {
    value = *reinterpret_cast<const float4*>(from + 2 * all_keys + head * call.value_dim + 4 * lane);
    if (warp == 0) gate = *reinterpret_cast<const float4*>(p.gate + head_at);
  }
  if (lane / (kStepKeys / 4) == warp) {
    queries_of_warp[warp][lane % (kStepKeys / 4)] = query;
    keys_of_warp[warp][lane % (kStepKeys / 4)] = key;
  }
  const float query_factor = 1.0f / sqrtf((WarpSum(Dot(query, query)) + 1e-6f) * static_cast<float>(call.key_dim));
  const float key_factor = 1.0f / sqrtf(WarpSum(Dot(key, key)) + 1e-6f);
  const float decay = expf(-expf(p.a_log.Value(rate_bits)) * Softplus(a + p.dt_bias.Value(bias_bits)));
  const float beta = Sigmoid(b) * key_factor;  // the keys' factor stands by what is added
  WaitForCopies<0>();
  __syncthreads();

  // Of keys as they are. Keys that are not there are zero.
  const int first_key = warp * kStepKeys;
  const int keys_here = min(kStepKeys, 4 * key_fours - first_key);
  const float4* const of_warp = stepped + first_key * value_fours + lane;
  float4 remembered{0, 0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < keys_here && has_values; i += 4) {
    const float4 with = keys_of_warp[warp][i / 4];
    remembered = MultiplyAdd(with.x, of_warp[i * value_fours], remembered);
    remembered = MultiplyAdd(with.y, of_warp[(i + 1) * value_fours], remembered);
    remembered = MultiplyAdd(with.z, of_warp[(i + 2) * value_fours], remembered);
    remembered = MultiplyAdd(with.w, of_warp[(i + 3) * value_fours], remembered);
  }
  parts[warp][lane] = remembered;
  __syncthreads();
  remembered = float4{0, 0, 0, 0};
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) remembered = Add(remembered, parts[w][lane]);
  const float decayed = decay * key_factor;
  const float4 delta{beta * (value.x - decayed * remembered.x), beta * (value.y - decayed * remembered.y),
                     beta * (value.z - decayed * remembered.z), beta * (value.w - decayed * remembered.w)};
  float4 output{0, 0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < keys_here && has_values; i += 4) {
    const float4 keys_now = keys_of_warp[warp][i / 4];
    const float4 queries_now = queries_of_warp[warp][i / 4];
    const float with[4] = {keys_now.x, keys_now.y, keys_now.z, keys_now.w};
    const float of[4] = {queries_now.x, queries_now.y, queries_now.z, queries_now.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 before = of_warp[(i + j) * value_fours];
      const float4 now = MultiplyAdd(with[j], delta, {decay * before.x, decay * before.y, decay * before.z, decay * before.w});
      state[(first_key + i + j) * value_fours + lane] = now;
      output = MultiplyAdd(of[j], now, output);
    }
  }
  __syncthreads();  // the sums of the remembered are read
  parts[warp][lane] = output;
  __syncthreads();
  if (warp != 0) return;
  output = float4{0, 0, 0, 0};
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) output = Add(output, parts[w][lane]);
  output = {output.x * query_factor, output.y * query_factor, output.z * query_factor, output.w * query_factor};
  // Columns that are not there give zero.
  const float inverse = 1.0f / sqrtf(WarpSum(Dot(output, output)) / static_cast<float>(call.value_dim) + p.epsilon);
  if (!has_values) return;
  const float4 norm = p.norm.FourValues(norm_bits);
  *reinterpret_cast<float4*>(call.output + head_at) = {
      output.x * inverse * norm.x * Silu(gate.x), output.y * inverse * norm.y * Silu(gate.y), output.z * inverse * norm.z * Silu(gate.z),
      output.w * inverse * norm.w * Silu(gate.w)};
}

template <int kFours>
void LaunchRule(const DeltaRuleCall& call, cudaStream_t stream) {
  const dim3 grid(Blocks(call.value_dim, kRuleColumns), static_cast<unsigned>(call.value_heads),
                  static_cast<unsigned>(call.runs.size()));
  LaunchOverlapped("DeltaRuleKernel", DeltaRuleKernel<kFours>, grid, kRuleWarps * 32, stream, call, call.runs.data(),
                   PlainOf(*call.a_log), PlainOf(*call.dt_bias));
}

}  // namespace

void LaunchCausalConvSilu(const CausalConvCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.kernel <= kMostConvKernel, "taps of a convolution on a CUDA device");
  const dim3 grid(Blocks(call.channels, kConvChannels), static_cast<unsigned>(call.runs.size()));
  LaunchOverlapped("ConvKernel", ConvKernel, grid, kConvChannels * kConvSegments, stream, call, call.runs.data(), PlainOf(*call.weight));
}

void LaunchGatedDeltaRule(const DeltaRuleCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.key_dim <= kMostKeyDim, "values of a key on a CUDA device");
  constexpr int64_t kLeastChunkTokens = 16;  // of a run: a chunk takes what some 12 tokens one by one take
  if (call.rows >= kLeastChunkTokens * static_cast<int64_t>(call.runs.size()) && CanRuleInChunks(call)) return LaunchDeltaChunks(call, stream);
  if (call.key_dim <= 64) {
    LaunchRule<2>(call, stream);
  } else if (call.key_dim <= 128) {
    LaunchRule<4>(call, stream);
  } else {
    LaunchRule<8>(call, stream);
  }
}

bool CanStepDelta(const DeltaRuleCall& rule) {
  return rule.key_dim <= kMostStepDim && rule.value_dim <= kMostStepDim && rule.key_dim % 4 == 0 && rule.value_dim % 4 == 0;
}

void LaunchDeltaStep(const DeltaRuleCall& rule, const GatedRmsNormCall& norm, cudaStream_t stream) {
  HPROC_CHECK(CanStepDelta(rule), "a step of the delta rule");
  const DeltaStep step{.rule = rule,
                       .runs = rule.runs.data(),
                       .a_log = PlainOf(*rule.a_log),
                       .dt_bias = PlainOf(*rule.dt_bias),
                       .norm = PlainOf(*norm.weight),
                       .gate = norm.gate,
                       .value_heads_a_key = static_cast<int>(rule.value_heads / rule.key_heads),
                       .epsilon = norm.epsilon};
  const dim3 grid(static_cast<unsigned>(rule.value_heads), static_cast<unsigned>(rule.runs.size()));
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(DeltaStepKernel, raised);
  LaunchWithShared(DeltaStepKernel, step, grid, kStepWarps * 32, static_cast<int>(rule.key_dim * rule.value_dim * 4), true, stream);
}

}  // namespace hproc::kernels::cuda
