#include "kernels/cuda/decode_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<2>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<4>(const DecodeParams&, int, dim3, bool, cudaStream_t);

}  // namespace hproc::kernels::cuda
