#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"
#include "kernels/cuda/plain_rows.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kConvThreads = 128;

// A thread a channel of a run, token after token, eight of them fetched ahead.
__global__ void __launch_bounds__(kConvThreads) ConvKernel(CausalConvCall call, const SequenceRun* runs, PlainWeights weight) {
  StartBehindKernelInFront();
  constexpr int kAtOnce = 8;
  const int64_t c = int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  if (c >= call.channels) return;
  const SequenceRun run = runs[blockIdx.y];
  const auto history = static_cast<int>(call.kernel) - 1;
  float taps[kMostConvKernel];    // the last is the newest input's
  float inputs[kMostConvKernel];  // of the last tokens, the newest last
  float* state = call.state + (run.slot * call.channels + c) * history;
#pragma unroll
  for (int k = 0; k < kMostConvKernel; ++k) {
    const int from = k - (static_cast<int>(kMostConvKernel) - 1 - history);  // right-aligned
    taps[k] = from >= 0 ? weight[c * call.kernel + from] : 0.0f;
    inputs[k] = from > 0 ? state[from - 1] : 0.0f;
  }
  float* values = call.values + run.first_row * call.channels + c;
  for (int t = 0; t < run.tokens; t += kAtOnce) {
    float next[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) next[j] = t + j < run.tokens ? values[(t + j) * call.channels] : 0.0f;
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (t + j >= run.tokens) break;
      float sum = 0;
#pragma unroll
      for (int k = 0; k < kMostConvKernel - 1; ++k) {
        inputs[k] = inputs[k + 1];
        sum = fmaf(taps[k], inputs[k], sum);
      }
      inputs[kMostConvKernel - 1] = next[j];
      values[(t + j) * call.channels] = Silu(fmaf(taps[kMostConvKernel - 1], next[j], sum));
    }
  }
#pragma unroll
  for (int k = 0; k < kMostConvKernel; ++k) {
    const int to = k - (static_cast<int>(kMostConvKernel) - 1 - history);
    if (to > 0) state[to - 1] = inputs[k];
  }
}

constexpr int kValueColumns = 32;  // of a block: one a lane
constexpr int kKeyParts = 8;       // a warp each

// A block a (run, value head, 32 value columns). The state's columns stay in registers from the first token to the last: a lane
// has kEach keys of its column. The state is the work of an earlier pass, so that it is read before the kernel in front is done.
// What a token asks of all keys is summed over the warps through shared memory.
template <int kEach>
__global__ void __launch_bounds__(kKeyParts * 32)
    DeltaRuleKernel(DeltaRuleCall call, const SequenceRun* runs, PlainWeights a_log, PlainWeights dt_bias) {
  AllowNextKernel();
  __shared__ float remembered_parts[2][kKeyParts][kValueColumns];
  __shared__ float output_parts[2][kKeyParts][kValueColumns];
  const int lane = threadIdx.x % 32;
  const int part = threadIdx.x / 32;
  const int64_t column = int64_t{blockIdx.x} * kValueColumns + lane;
  const int64_t head = blockIdx.y;
  const SequenceRun run = runs[blockIdx.z];
  const bool exists = column < call.value_dim;
  const auto key_dim = static_cast<int>(call.key_dim);
  const int first_key = part * kEach;
  const int keys = max(0, min(kEach, key_dim - first_key));
  float* state = call.state + ((run.slot * call.value_heads + head) * key_dim + first_key) * call.value_dim + column;
  float s[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) s[i] = exists && i < keys ? state[i * call.value_dim] : 0.0f;

  const float rate = -expf(a_log[head]);
  const float bias = dt_bias[head];
  const int64_t all_keys = call.key_heads * call.key_dim;
  const int64_t row_size = 2 * all_keys + call.value_heads * call.value_dim;
  const int64_t key_head = head / (call.value_heads / call.key_heads);
  WaitForKernelInFront();
  for (int t = 0; t < run.tokens; ++t) {
    const int64_t row = run.first_row + t;
    const float* query = call.qkv + row * row_size + key_head * key_dim;
    const float* key = query + all_keys;
    float query_square = 0;
    float key_square = 0;
    for (int i = lane; i < key_dim; i += 32) {
      query_square = fmaf(query[i], query[i], query_square);
      key_square = fmaf(key[i], key[i], key_square);
    }
    const float query_factor = 1.0f / sqrtf((WarpSum(query_square) + 1e-6f) * static_cast<float>(key_dim));
    const float key_factor = 1.0f / sqrtf(WarpSum(key_square) + 1e-6f);
    float k[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) k[i] = i < keys ? key[first_key + i] * key_factor : 0.0f;
    const float decay = expf(rate * Softplus(call.a[row * call.value_heads + head] + bias));
    const float beta = Sigmoid(call.b[row * call.value_heads + head]);
    const float value = exists ? call.qkv[row * row_size + 2 * all_keys + head * call.value_dim + column] : 0.0f;

    float remembered = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      s[i] *= decay;
      remembered = fmaf(s[i], k[i], remembered);
    }
    remembered_parts[t % 2][part][lane] = remembered;
    __syncthreads();
    remembered = 0;
#pragma unroll
    for (int p = 0; p < kKeyParts; ++p) remembered += remembered_parts[t % 2][p][lane];
    const float delta = beta * (value - remembered);
    float output = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      s[i] = fmaf(k[i], delta, s[i]);
      if (i < keys) output = fmaf(s[i], query[first_key + i], output);
    }
    output_parts[t % 2][part][lane] = output * query_factor;
    __syncthreads();
    // The buffers alternate, so that this is over before they are written again: two barriers of the next token lie between.
    if (part == t % kKeyParts && exists) {
      output = 0;
#pragma unroll
      for (int p = 0; p < kKeyParts; ++p) output += output_parts[t % 2][p][lane];
      call.output[(row * call.value_heads + head) * call.value_dim + column] = output;
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (exists && i < keys) state[i * call.value_dim] = s[i];
  }
}

// One token of each sequence, a block a (value head, run), which takes the whole of it: the products behind a and b, the rule, and
// the norm of the head. A lane has four value columns, a warp kStepKeys keys; the state and the weights of a and b, the work of no
// kernel in front, are asked for before the wait.
constexpr int kStepWarps = 16;
constexpr int kStepKeys = 8;
constexpr int kMostStepDim = 128;  // of keys and of values

template <Storage kStorage>
struct DeltaStep {
  DeltaRuleCall rule;
  PlainWeights a_log, dt_bias, norm;
  PlainRows<kStorage> a, b;
  const float* input;  // what a and b are products of
  const float* gate;  // [rows, value_heads * value_dim]
  float epsilon;
};

template <Storage kStorage>
__global__ void __launch_bounds__(kStepWarps * 32)
    DeltaStepKernel(const __grid_constant__ DeltaStep<kStorage> p, const SequenceRun* runs) {
  AllowNextKernel();
  __shared__ float4 remembered_parts[kStepWarps][32];
  __shared__ float4 output_parts[kStepWarps][32];
  __shared__ float gates[2][kStepWarps];
  __shared__ float squares[kMostStepDim / 32];
  const DeltaRuleCall& call = p.rule;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t head = blockIdx.x;
  const SequenceRun run = runs[blockIdx.y];
  const int64_t row = run.first_row;
  const auto key_dim = static_cast<int>(call.key_dim);
  const auto value_dim = static_cast<int>(call.value_dim);
  const bool exists = lane * 4 < value_dim;
  const int first_key = warp * kStepKeys;
  float* state = call.state + ((run.slot * call.value_heads + head) * key_dim + first_key) * value_dim + lane * 4;
  float4 s[kStepKeys];
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    s[i] = float4{0, 0, 0, 0};
    if (exists && first_key + i < key_dim) s[i] = *reinterpret_cast<const float4*>(state + i * value_dim);
  }
  const Share share{static_cast<int>(threadIdx.x), kStepWarps * 32};
  p.a.Prefetch(share, head);
  p.b.Prefetch(share, head);
  const float rate = -expf(p.a_log[head]);
  const float bias = p.dt_bias[head];
  const int64_t all_keys = call.key_heads * key_dim;
  const int64_t row_size = 2 * all_keys + call.value_heads * value_dim;
  const float* query = call.qkv + row * row_size + head / (call.value_heads / call.key_heads) * key_dim;
  const float* key = query + all_keys;
  const int64_t head_at = (row * call.value_heads + head) * value_dim;
  WaitForKernelInFront();

  const float* input = p.input + row * p.a.columns;
  float a[1] = {};
  float b[1] = {};
  p.a.Dots(share, head, input, 1, a);
  p.b.Dots(share, head, input, 1, b);
  const bool has_key = lane * 4 < key_dim;
  float4 q4{0, 0, 0, 0};
  float4 k4{0, 0, 0, 0};
  if (has_key) {
    q4 = *reinterpret_cast<const float4*>(query + lane * 4);
    k4 = *reinterpret_cast<const float4*>(key + lane * 4);
  }
  float q[kStepKeys];
  float k[kStepKeys];
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    q[i] = first_key + i < key_dim ? query[first_key + i] : 0.0f;
    k[i] = first_key + i < key_dim ? key[first_key + i] : 0.0f;
  }
  float4 value{0, 0, 0, 0};
  if (exists) value = *reinterpret_cast<const float4*>(call.qkv + row * row_size + 2 * all_keys + head * value_dim + lane * 4);
  float gate = 0;
  float norm = 0;
  if (static_cast<int>(threadIdx.x) < value_dim) {
    gate = p.gate[head_at + threadIdx.x];
    norm = p.norm[threadIdx.x];
  }

  const float query_factor =
      1.0f / sqrtf((WarpSum(q4.x * q4.x + q4.y * q4.y + q4.z * q4.z + q4.w * q4.w) + 1e-6f) * static_cast<float>(key_dim));
  const float key_factor = 1.0f / sqrtf(WarpSum(k4.x * k4.x + k4.y * k4.y + k4.z * k4.z + k4.w * k4.w) + 1e-6f);
  // Undecayed, so that a and b are summed over the warps behind the same barrier.
  float4 remembered{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    k[i] *= key_factor;
    remembered = {fmaf(s[i].x, k[i], remembered.x), fmaf(s[i].y, k[i], remembered.y), fmaf(s[i].z, k[i], remembered.z),
                  fmaf(s[i].w, k[i], remembered.w)};
  }
  remembered_parts[warp][lane] = remembered;
  a[0] = WarpSum(a[0]);
  b[0] = WarpSum(b[0]);
  if (lane == 0) gates[0][warp] = a[0], gates[1][warp] = b[0];
  __syncthreads();
  remembered = float4{0, 0, 0, 0};
  float rate_input = bias;
  float beta_input = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) {
    const float4 part = remembered_parts[w][lane];
    remembered = {remembered.x + part.x, remembered.y + part.y, remembered.z + part.z, remembered.w + part.w};
    rate_input += gates[0][w];
    beta_input += gates[1][w];
  }
  const float decay = expf(rate * Softplus(rate_input));
  const float beta = Sigmoid(beta_input);
  const float4 delta{beta * (value.x - decay * remembered.x), beta * (value.y - decay * remembered.y),
                     beta * (value.z - decay * remembered.z), beta * (value.w - decay * remembered.w)};
  float4 output{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    s[i] = {fmaf(k[i], delta.x, decay * s[i].x), fmaf(k[i], delta.y, decay * s[i].y), fmaf(k[i], delta.z, decay * s[i].z),
            fmaf(k[i], delta.w, decay * s[i].w)};
    output = {fmaf(s[i].x, q[i], output.x), fmaf(s[i].y, q[i], output.y), fmaf(s[i].z, q[i], output.z),
              fmaf(s[i].w, q[i], output.w)};
  }
  output_parts[warp][lane] = output;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kStepKeys; ++i) {
    if (exists && first_key + i < key_dim) *reinterpret_cast<float4*>(state + i * value_dim) = s[i];
  }
  constexpr int kColumnWarps = kMostStepDim / 32;
  if (warp >= kColumnWarps) return;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kStepWarps; ++w) sum += reinterpret_cast<const float*>(output_parts[w])[threadIdx.x];
  sum *= query_factor;
  const float square = WarpSum(sum * sum);  // columns that are not there give zero
  if (lane == 0) squares[warp] = square;
  asm volatile("bar.sync 1, %0;" ::"n"(kColumnWarps * 32) : "memory");
  float mean = 0;
#pragma unroll
  for (int w = 0; w < kColumnWarps; ++w) mean += squares[w];
  const float inverse = 1.0f / sqrtf(mean / static_cast<float>(value_dim) + p.epsilon);
  if (static_cast<int>(threadIdx.x) < value_dim) call.output[head_at + threadIdx.x] = sum * inverse * norm * Silu(gate);
}

template <int kEach>
void LaunchRule(const DeltaRuleCall& call, cudaStream_t stream) {
  const dim3 grid(Blocks(call.value_dim, kValueColumns), static_cast<unsigned>(call.value_heads),
                  static_cast<unsigned>(call.runs.size()));
  LaunchOverlapped("DeltaRuleKernel", DeltaRuleKernel<kEach>, grid, kKeyParts * 32, stream, call, call.runs.data(),
                   PlainOf(*call.a_log), PlainOf(*call.dt_bias));
}

}  // namespace

void LaunchCausalConvSilu(const CausalConvCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.kernel <= kMostConvKernel, "taps of a convolution on a CUDA device");
  const dim3 grid(Blocks(call.channels, kConvThreads), static_cast<unsigned>(call.runs.size()));
  LaunchOverlapped("ConvKernel", ConvKernel, grid, kConvThreads, stream, call, call.runs.data(), PlainOf(*call.weight));
}

void LaunchGatedDeltaRule(const DeltaRuleCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.key_dim <= kMostKeyDim, "values of a key on a CUDA device");
  if (call.key_dim <= 64) {
    LaunchRule<8>(call, stream);
  } else if (call.key_dim <= 128) {
    LaunchRule<16>(call, stream);
  } else {
    LaunchRule<32>(call, stream);
  }
}

bool CanStepDelta(const GatedDeltaCall& call) {
  const DeltaRuleCall& rule = call.rule;
  return rule.key_dim <= kMostStepDim && rule.value_dim <= kMostStepDim && rule.key_dim % 4 == 0 && rule.value_dim % 4 == 0 &&
         !IsPacked(call.projections[2].weight->storage) &&
         call.projections[2].weight->storage == call.projections[3].weight->storage;
}

void LaunchDeltaStep(const GatedDeltaCall& call, cudaStream_t stream) {
  HPROC_CHECK(CanStepDelta(call), "a step of the delta rule");
  const auto launch = [&]<Storage kStorage>() {
    const DeltaStep<kStorage> step{.rule = call.rule,
                                   .a_log = PlainOf(*call.rule.a_log),
                                   .dt_bias = PlainOf(*call.rule.dt_bias),
                                   .norm = PlainOf(*call.norm.weight),
                                   .a = PlainRows<kStorage>(*call.projections[2].weight),
                                   .b = PlainRows<kStorage>(*call.projections[3].weight),
                                   .input = call.projections[2].input->values,
                                   .gate = call.norm.gate,
                                   .epsilon = call.norm.epsilon};
    const dim3 grid(static_cast<unsigned>(call.rule.value_heads), static_cast<unsigned>(call.rule.runs.size()));
    LaunchOverlapped("DeltaStepKernel", DeltaStepKernel<kStorage>, grid, kStepWarps * 32, stream, step, call.rule.runs.data());
  };
  switch (call.projections[2].weight->storage) {
    case Storage::kBfloat16: return launch.template operator()<Storage::kBfloat16>();
    case Storage::kFloat16: return launch.template operator()<Storage::kFloat16>();
    default: return launch.template operator()<Storage::kFloat32>();
  }
}

}  // namespace hproc::kernels::cuda
