// LaunchDecode's definition; included by the files that instantiate it.
#pragma once

#include <atomic>

#include "kernels/cuda/check.h"
#include "kernels/cuda/decode_kernel.cuh"

namespace hproc::kernels::cuda {

template <int kLevels, int kTokenTiles, DecodeWork kWork>
void LaunchDecodeKernel(const DecodeParams& params, dim3 grid, bool overlap, cudaStream_t stream) {
  const auto kernel = DecodeKernel<kLevels, kTokenTiles, kWork>;
  int device = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  // The dynamic limit is raised once a device; doing it twice does no harm.
  static std::atomic<uint64_t> raised{0};
  const uint64_t bit = uint64_t{1} << (device % 64);
  if ((raised.load(std::memory_order_acquire) & bit) == 0) {
    int limit = 0;
    HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
    HPROC_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
    raised.fetch_or(bit, std::memory_order_release);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kDecodeThreads);
  config.dynamicSmemBytes = static_cast<size_t>(params.at.total);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  HPROC_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

template <int kLevels>
void LaunchDecode(const DecodeParams& params, int token_tiles, dim3 grid, bool overlap, cudaStream_t stream) {
  switch (params.work) {
    case DecodeWork::kGateUp:
      return LaunchDecodeKernel<kLevels, 1, DecodeWork::kGateUp>(params, grid, overlap, stream);
    case DecodeWork::kDown:
      return LaunchDecodeKernel<kLevels, 1, DecodeWork::kDown>(params, grid, overlap, stream);
    case DecodeWork::kMatmul:
      break;
  }
  switch (token_tiles) {
    case 1:
      return LaunchDecodeKernel<kLevels, 1, DecodeWork::kMatmul>(params, grid, overlap, stream);
    case 2:
      return LaunchDecodeKernel<kLevels, 2, DecodeWork::kMatmul>(params, grid, overlap, stream);
    default:
      return LaunchDecodeKernel<kLevels, 4, DecodeWork::kMatmul>(params, grid, overlap, stream);
  }
}

}  // namespace hproc::kernels::cuda
