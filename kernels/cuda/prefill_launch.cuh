// LaunchPrefill's definition; included by the files that instantiate it.
#pragma once

#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_kernel.cuh"

namespace hproc::kernels::cuda {

template <int kLevels>
void LaunchPrefill(const PrefillParams& params, dim3 grid, cudaStream_t stream) {
  const auto kernel = PrefillKernel<kLevels>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  LaunchWithShared(kernel, params, grid, kPrefillThreads, PrefillSharedBytes<kLevels>(), true, stream);
}

}  // namespace hproc::kernels::cuda
