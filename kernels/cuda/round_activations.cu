#include "kernels/cuda/check.h"
#include "kernels/cuda/decode_parts.cuh"
#include "kernels/cuda/launch.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 512;

// One block a token.
__global__ void __launch_bounds__(kThreads)
    RoundActivationsKernel(const float* input, int64_t input_stride, int32_t columns, int32_t padded, int8_t* rounded,
                           float* scales) {
  __shared__ uint32_t largest;
  AllowNextKernel();
  if (threadIdx.x == 0) largest = 0;
  __syncthreads();
  WaitForKernelInFront();
  const float* row = input + blockIdx.x * input_stride;
  const int first = static_cast<int>(threadIdx.x) * 4;
  uint32_t bits = 0;
  for (int c = first; c < padded; c += kThreads * 4) bits = max(bits, LargestBits(LoadFour(row, c, columns)));
  bits = __reduce_max_sync(0xFFFFFFFFu, bits);
  if (threadIdx.x % 32 == 0) atomicMax(&largest, bits);
  __syncthreads();
  const float inverse = InverseScale(largest);
  int8_t* to = rounded + int64_t{blockIdx.x} * 2 * padded;
  for (int c = first; c < padded; c += kThreads * 4) {
    uint32_t high, low;
    RoundFour(LoadFour(row, c, columns), inverse, high, low);
    *reinterpret_cast<uint32_t*>(to + RoundedOffset(c)) = high;
    *reinterpret_cast<uint32_t*>(to + RoundedOffset(c) + kLowOffset) = low;
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = ScaleOf(largest);
}

}  // namespace

void LaunchRoundActivations(const float* input, int64_t input_stride, int32_t tokens, int32_t columns, int32_t padded,
                            int8_t* rounded, float* scales, bool overlap, cudaStream_t stream) {
  HPROC_CUDA_CHECK(Enqueue(RoundActivationsKernel, dim3(static_cast<unsigned>(tokens)), dim3(kThreads), 0, overlap, stream, input,
                           input_stride, columns, padded, rounded, scales));
}

}  // namespace hproc::kernels::cuda
