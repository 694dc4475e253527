// Launches that may overlap with the kernel in front, and of kernels that want more shared memory than a launch gets unasked.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/check.h"

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
  cudaFuncAttributes attributes{};
  HPROC_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  limit -= static_cast<int>(attributes.sharedSizeBytes);
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit));
  HPROC_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  raised.fetch_or(bit, std::memory_order_release);
}

// Enqueues kernel(args…); with `overlap` it may start before the kernel in front of it ends.
template <typename... Params, typename... Args>
[[nodiscard]] cudaError_t Enqueue(void (*kernel)(Params...), dim3 grid, dim3 threads, int shared_bytes, bool overlap, cudaStream_t stream,
                                  const Args&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

template <typename Params>
void LaunchWithShared(void (*kernel)(Params), const std::decay_t<Params>& params, dim3 grid, int threads, int shared_bytes, bool overlap,
                      cudaStream_t stream) {
  HPROC_CUDA_CHECK(Enqueue(kernel, grid, dim3(static_cast<unsigned>(threads)), shared_bytes, overlap, stream, params));
}

}  // namespace hproc::kernels::cuda
