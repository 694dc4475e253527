#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/route_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kWarps = 4;

// A warp a row.
__global__ void __launch_bounds__(kWarps * 32) RouteKernel(const __grid_constant__ RouteCall call) {
  StartBehindKernelInFront();
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row < call.rows) ChooseExperts<static_cast<int>(kMostExperts)>(call, row);
}

}  // namespace

void LaunchRoute(const RouteCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.experts <= kMostExperts, "experts of a layer on a CUDA device");
  LaunchOverlapped("RouteKernel", RouteKernel, Blocks(call.rows, kWarps), kWarps * 32, stream, call);
}

}  // namespace hproc::kernels::cuda
