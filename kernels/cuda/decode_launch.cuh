// LaunchDecode's definition; included by the files that instantiate it.
#pragma once

#include <atomic>

#include "kernels/cuda/decode_kernel.cuh"
#include "kernels/cuda/decode_token.cuh"
#include "kernels/cuda/launch.cuh"

namespace hproc::kernels::cuda {

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

template <int kLevels, DecodeWork kWork, TokenInput kInput>
void LaunchDecodeTokenKernel(const DecodeParams& params, int shared_bytes, dim3 grid, bool overlap, cudaStream_t stream) {
  const auto kernel = DecodeTokenKernel<kLevels, kWork, kInput>;
  static std::atomic<uint64_t> raised{0};
  RaiseSharedLimit(kernel, raised);
  LaunchWithShared(kernel, params, grid, kDecodeThreads, shared_bytes, overlap, stream);
}

template <int kLevels>
void LaunchDecodeToken(const DecodeParams& params, int shared_bytes, dim3 grid, bool overlap, cudaStream_t stream) {
  switch (params.work) {
    case DecodeWork::kGateUp:
      return LaunchDecodeTokenKernel<kLevels, DecodeWork::kGateUp, TokenInput::kRounded>(params, shared_bytes, grid, overlap, stream);
    case DecodeWork::kDown:
      return LaunchDecodeTokenKernel<kLevels, DecodeWork::kDown, TokenInput::kFloat>(params, shared_bytes, grid, overlap, stream);
    case DecodeWork::kMatmul:
      break;
  }
  if (params.norm.weight != nullptr) {
    return LaunchDecodeTokenKernel<kLevels, DecodeWork::kMatmul, TokenInput::kNormed>(params, shared_bytes, grid, overlap, stream);
  }
  if (params.rounded == nullptr) {
    return LaunchDecodeTokenKernel<kLevels, DecodeWork::kMatmul, TokenInput::kFloat>(params, shared_bytes, grid, overlap, stream);
  }
  LaunchDecodeTokenKernel<kLevels, DecodeWork::kMatmul, TokenInput::kRounded>(params, shared_bytes, grid, overlap, stream);
}

}  // namespace hproc::kernels::cuda
