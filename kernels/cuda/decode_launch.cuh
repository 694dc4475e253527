// LaunchDecode's definition; included by the files that instantiate it.
#pragma once

#include <atomic>
#include <type_traits>

#include "kernels/cuda/check.h"
#include "kernels/cuda/decode_kernel.cuh"
#include "kernels/cuda/decode_token.cuh"

namespace hproc::kernels::cuda {

// Raises the kernel's limit of dynamic shared memory to the device's, once a device; doing it twice does no harm.
template <typename Params>
void RaiseSharedLimit(void (*kernel)(Params), std::atomic<uint64_t>& raised) {
  int device = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  const uint64_t bit = uint64_t{1} << (device % 64);
  if ((raised.load(std::memory_order_acquire) & bit) != 0) return;
  int limit = 0;
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  raised.fetch_or(bit, std::memory_order_release);
}

template <typename Params>
void LaunchWithShared(void (*kernel)(Params), const std::decay_t<Params>& params, dim3 grid, int threads, int shared_bytes, bool overlap,
                      cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  HPROC_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

template <int kLevels, int kTokenTiles, DecodeWork kWork>
void LaunchDecodeKernel(const DecodeParams& params, dim3 grid, bool overlap, cudaStream_t stream) {
  const auto kernel = DecodeKernel<kLevels, kTokenTiles, kWork>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  LaunchWithShared(kernel, params, grid, kDecodeThreads, params.at.total, overlap, stream);
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

template <int kLevels, DecodeWork kWork, bool kGiven>
void LaunchDecodeTokenKernel(const DecodeParams& params, dim3 grid, bool overlap, cudaStream_t stream) {
  const auto kernel = DecodeTokenKernel<kLevels, kWork, kGiven>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  const int shared_bytes = DecodeTokenSharedOf(params, params.virtual_tiles, TokenSlotBytes(kLevels)).total;
  LaunchWithShared(kernel, params, grid, kDecodeThreads, shared_bytes, overlap, stream);
}

template <int kLevels>
void LaunchDecodeToken(const DecodeParams& params, dim3 grid, bool overlap, cudaStream_t stream) {
  switch (params.work) {
    case DecodeWork::kGateUp:
      return LaunchDecodeTokenKernel<kLevels, DecodeWork::kGateUp, true>(params, grid, overlap, stream);
    case DecodeWork::kDown:
      return LaunchDecodeTokenKernel<kLevels, DecodeWork::kDown, false>(params, grid, overlap, stream);
    case DecodeWork::kMatmul:
      if (params.rounded == nullptr) return LaunchDecodeTokenKernel<kLevels, DecodeWork::kMatmul, false>(params, grid, overlap, stream);
      return LaunchDecodeTokenKernel<kLevels, DecodeWork::kMatmul, true>(params, grid, overlap, stream);
  }
}

}  // namespace hproc::kernels::cuda
