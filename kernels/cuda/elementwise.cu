#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/op_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One block a row and kThreads columns.
dim3 RowGrid(int64_t rows, int64_t columns) { return {Blocks(columns, kThreads), static_cast<unsigned>(rows)}; }

__global__ void EmbedKernel(PlainWeights weight, const int32_t* tokens, int columns, float* output) {
  StartBehindKernelInFront();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= columns) return;
  output[int64_t{blockIdx.y} * columns + c] = weight[int64_t{tokens[blockIdx.y]} * columns + c];
}

__global__ void AddBiasKernel(PlainWeights bias, int columns, float* values) {
  StartBehindKernelInFront();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c < columns) values[int64_t{blockIdx.y} * columns + c] += bias[c];
}

__global__ void SwiGluKernel(const float* gate, const float* up, int64_t input_stride, int columns, float* output) {
  StartBehindKernelInFront();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t in = blockIdx.y * input_stride + c;
  output[int64_t{blockIdx.y} * columns + c] = Silu(gate[in]) * up[in];
}

__global__ void SigmoidGateKernel(float* values, const float* gate, int64_t row_stride, int64_t head_stride, int heads,
                                  int columns) {
  StartBehindKernelInFront();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= heads * columns) return;
  const int head = i / columns;
  values[int64_t{blockIdx.y} * heads * columns + i] *= Sigmoid(gate[blockIdx.y * row_stride + head * head_stride + i % columns]);
}

__global__ void CombineKernel(CombineCall call) {
  StartBehindKernelInFront();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= call.columns) return;
  const int64_t row = blockIdx.y;
  call.into()[row * call.columns + c] = Combined(call, row, c);
}

}  // namespace

void LaunchEmbedTokens(const EmbedCall& call, cudaStream_t stream) {
  LaunchOverlapped("EmbedKernel", EmbedKernel, RowGrid(call.rows, call.weight->columns), kThreads, stream, PlainOf(*call.weight),
                   call.tokens, static_cast<int>(call.weight->columns), call.output);
}

void LaunchAddBias(const BiasCall& call, cudaStream_t stream) {
  LaunchOverlapped("AddBiasKernel", AddBiasKernel, RowGrid(call.rows, call.bias->columns), kThreads, stream, PlainOf(*call.bias),
                   static_cast<int>(call.bias->columns), call.values);
}

void LaunchSwiGlu(const SwiGluCall& call, cudaStream_t stream) {
  LaunchOverlapped("SwiGluKernel", SwiGluKernel, RowGrid(call.rows, call.columns), kThreads, stream, call.gate, call.up,
                   call.input_stride, static_cast<int>(call.columns), call.output);
}

void LaunchSigmoidGate(const SigmoidGateCall& call, cudaStream_t stream) {
  LaunchOverlapped("SigmoidGateKernel", SigmoidGateKernel, RowGrid(call.rows, call.heads * call.columns), kThreads, stream,
                   call.values, call.gate, call.gate_row_stride, call.gate_head_stride, static_cast<int>(call.heads),
                   static_cast<int>(call.columns));
}

void LaunchCombine(const CombineCall& call, cudaStream_t stream) {
  LaunchOverlapped("CombineKernel", CombineKernel, RowGrid(call.rows, call.columns), kThreads, stream, call);
}

}  // namespace hproc::kernels::cuda
