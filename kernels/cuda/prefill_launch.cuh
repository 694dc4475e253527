// LaunchPrefill's and LaunchExpandRows' definitions; included by the files that instantiate it.
#pragma once

#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/expand_rows.cuh"
#include "kernels/cuda/prefill_kernel.cuh"

namespace hproc::kernels::cuda {

template <int kLevels>
void LaunchPrefill(const PrefillParams& params, dim3 grid, cudaStream_t stream) {
  const auto kernel = PrefillKernel<kLevels>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  LaunchWithShared(kernel, params, grid, kPrefillThreads, PrefillSharedBytes<kLevels>(), true, stream);
}

template <int kLevels>
void LaunchExpandRows(const ExpandParams& params, cudaStream_t stream) {
  const dim3 grid(Blocks(params.row_tiles, kExpandWarps), Blocks(params.column_tiles, kExpandTiles));
  LaunchWithShared(ExpandRowsKernel<kLevels>, params, grid, kExpandWarps * 32, 0, true, stream);
}

}  // namespace hproc::kernels::cuda
