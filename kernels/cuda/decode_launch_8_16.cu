#include "kernels/cuda/decode_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<8>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<16>(const DecodeParams&, int, dim3, bool, cudaStream_t);

}  // namespace hproc::kernels::cuda
