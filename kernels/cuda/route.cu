#include "base/check.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/cuda/route_parts.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RouteKernel(const __grid_constant__ RouteCall call) {
  __shared__ RouteShared shared;
  StartBehindKernelInFront();
  ChooseExperts<kThreads>(call, blockIdx.x, shared);
}

}  // namespace

void LaunchRoute(const RouteCall& call, cudaStream_t stream) {
  HPROC_CHECK(call.experts <= kMostExperts, "experts of a layer on a CUDA device");
  LaunchOverlapped("RouteKernel", RouteKernel, static_cast<unsigned>(call.rows), kThreads, stream, call);
}

}  // namespace hproc::kernels::cuda
