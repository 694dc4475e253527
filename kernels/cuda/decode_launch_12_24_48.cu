#include "kernels/cuda/decode_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<12>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<24>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<48>(const DecodeParams&, int, dim3, bool, cudaStream_t);

}  // namespace hproc::kernels::cuda
