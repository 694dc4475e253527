#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<8>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<8>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<16>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<16>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchPrefill<8>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<16>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchExpandRows<8>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<16>(const ExpandParams&, cudaStream_t);

}  // namespace hproc::kernels::cuda
