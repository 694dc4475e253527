#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

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

}  // namespace hproc::kernels::cuda
