#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<3>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<3>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<6>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<6>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchPrefill<3>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<6>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchExpandRows<3>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<6>(const ExpandParams&, cudaStream_t);

}  // namespace hproc::kernels::cuda
