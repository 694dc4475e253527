#include "base/check.h"
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

// One token of each sequence, a block a (value head, run): the rule and the norm of the head. A warp has kWarpColumns value columns
// and all keys, of which a lane has every eighth sixteen and two columns, so that nothing but the norm's sum crosses warps. The state,
// the work of no kernel in front, is asked for before the wait.
constexpr int kStepWarps = 16;
constexpr int kStepKeys = 16;      // of a lane
constexpr int kMostStepDim = 128;  // of keys and of values
static_assert(kStepWarps * kWarpColumns == kMostStepDim && kStepKeys * 8 == kMostStepDim);

struct DeltaStep {
  DeltaRuleCall rule;
  PlainWeights a_log, dt_bias, norm;
  const float* gate;  // [rows, value_heads * value_dim]
  float epsilon;
};

__global__ void __launch_bounds__(kStepWarps * 32) DeltaStepKernel(const __grid_constant__ DeltaStep p, const SequenceRun* runs) {
  AllowNextKernel();
  __shared__ __align__(16) float squares[kStepWarps];
  const DeltaRuleCall& call = p.rule;
  const int lane = threadIdx.x % 32;
  const int64_t head = blockIdx.x;
  const SequenceRun run = runs[blockIdx.y];
  const int64_t row = run.first_row;
  const auto key_dim = static_cast<int>(call.key_dim);
  const auto value_dim = static_cast<int>(call.value_dim);
  const int column = static_cast<int>(threadIdx.x) / 32 * kWarpColumns + lane % 4 * 2;
  const int first_key = lane / 4 * kStepKeys;
  const bool exists = column < value_dim;  // both columns: dimensions are multiples of four
  const int keys_here = exists ? min(kStepKeys, key_dim - first_key) : 0;
  float* state = call.state + ((run.slot * call.value_heads + head) * key_dim + first_key) * value_dim + column;
  const uint32_t rate_bits = p.a_log.Bits(head);
  const uint32_t bias_bits = p.dt_bias.Bits(head);
  const uint4 norm_bits = exists ? p.norm.FourBits(column / 4 * 4) : uint4{0, 0, 0, 0};
  float2 s[kStepKeys];
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    s[i] = float2{0, 0};
    if (i < keys_here) s[i] = *reinterpret_cast<const float2*>(state + i * value_dim);
  }
  const int64_t all_keys = call.key_heads * key_dim;
  const float* query = call.qkv + row * (2 * all_keys + call.value_heads * value_dim) +
                       head / (call.value_heads / call.key_heads) * key_dim + first_key;
  const float* value = call.qkv + row * (2 * all_keys + call.value_heads * value_dim) + 2 * all_keys + head * value_dim + column;
  const int64_t head_at = (row * call.value_heads + head) * value_dim + column;
  WaitForKernelInFront();

  const float a = call.a[row * call.value_heads + head];
  const float b = call.b[row * call.value_heads + head];
  float4 q[kStepKeys / 4];
  float4 k[kStepKeys / 4];
#pragma unroll
  for (int i = 0; i < kStepKeys / 4; ++i) {
    q[i] = k[i] = float4{0, 0, 0, 0};
    if (first_key + 4 * i >= key_dim) continue;
    q[i] = *reinterpret_cast<const float4*>(query + 4 * i);
    k[i] = *reinterpret_cast<const float4*>(query + all_keys + 4 * i);
  }
  float2 v{0, 0};
  float2 gate{0, 0};
  if (exists) {
    v = *reinterpret_cast<const float2*>(value);
    gate = *reinterpret_cast<const float2*>(p.gate + head_at);
  }

  // Of keys as they are: what they are to be divided by comes out of the same exchange.
  float query_square = 0;
  float key_square = 0;
  float2 remembered{0, 0};
#pragma unroll
  for (int i = 0; i < kStepKeys / 4; ++i) {
    const float of_query[4] = {q[i].x, q[i].y, q[i].z, q[i].w};
    const float of_key[4] = {k[i].x, k[i].y, k[i].z, k[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      query_square = fmaf(of_query[j], of_query[j], query_square);
      key_square = fmaf(of_key[j], of_key[j], key_square);
      remembered = {fmaf(s[4 * i + j].x, of_key[j], remembered.x), fmaf(s[4 * i + j].y, of_key[j], remembered.y)};
    }
  }
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    query_square += __shfl_xor_sync(kAllLanes, query_square, step);
    key_square += __shfl_xor_sync(kAllLanes, key_square, step);
    remembered.x += __shfl_xor_sync(kAllLanes, remembered.x, step);
    remembered.y += __shfl_xor_sync(kAllLanes, remembered.y, step);
  }
  const float query_factor = 1.0f / sqrtf((query_square + 1e-6f) * static_cast<float>(key_dim));
  const float key_factor = 1.0f / sqrtf(key_square + 1e-6f);
  const float decay = expf(-expf(p.a_log.Value(rate_bits)) * Softplus(a + p.dt_bias.Value(bias_bits)));
  const float decayed = decay * key_factor;
  const float beta = Sigmoid(b) * key_factor;  // the keys' factor stands by what is added
  const float2 delta{beta * (v.x - decayed * remembered.x), beta * (v.y - decayed * remembered.y)};
  float2 output{0, 0};
#pragma unroll
  for (int i = 0; i < kStepKeys / 4; ++i) {
    const float of_query[4] = {q[i].x, q[i].y, q[i].z, q[i].w};
    const float of_key[4] = {k[i].x, k[i].y, k[i].z, k[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2& at = s[4 * i + j];
      at = {fmaf(of_key[j], delta.x, decay * at.x), fmaf(of_key[j], delta.y, decay * at.y)};
      output = {fmaf(at.x, of_query[j], output.x), fmaf(at.y, of_query[j], output.y)};
    }
  }
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    if (i < keys_here) *reinterpret_cast<float2*>(state + i * value_dim) = s[i];
  }
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    output.x += __shfl_xor_sync(kAllLanes, output.x, step);
    output.y += __shfl_xor_sync(kAllLanes, output.y, step);
  }
  output = {output.x * query_factor, output.y * query_factor};
  float square = output.x * output.x + output.y * output.y;  // columns that are not there give zero
  square += __shfl_xor_sync(kAllLanes, square, 1);
  square += __shfl_xor_sync(kAllLanes, square, 2);
  if (lane == 0) squares[threadIdx.x / 32] = square;
  __syncthreads();
  if (lane >= 4 || !exists) return;
  float mean = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; w += 4) {
    const float4 four = *reinterpret_cast<const float4*>(squares + w);
    mean += four.x + four.y + four.z + four.w;
  }
  const float inverse = 1.0f / sqrtf(mean / static_cast<float>(value_dim) + p.epsilon);
  const float4 norms = p.norm.FourValues(norm_bits);
  const float2 norm = column % 4 == 0 ? float2{norms.x, norms.y} : float2{norms.z, norms.w};
  *reinterpret_cast<float2*>(call.output + head_at) = {output.x * inverse * norm.x * Silu(gate.x), output.y * inverse * norm.y * Silu(gate.y)};
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
                       .a_log = PlainOf(*rule.a_log),
                       .dt_bias = PlainOf(*rule.dt_bias),
                       .norm = PlainOf(*norm.weight),
                       .gate = norm.gate,
                       .epsilon = norm.epsilon};
  const dim3 grid(static_cast<unsigned>(rule.value_heads), static_cast<unsigned>(rule.runs.size()));
  LaunchOverlapped("DeltaStepKernel", DeltaStepKernel, grid, kStepWarps * 32, stream, step, rule.runs.data());
}

}  // namespace hproc::kernels::cuda
