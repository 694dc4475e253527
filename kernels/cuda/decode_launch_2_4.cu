#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<2>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<2>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<4>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<4>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchPrefill<2>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<4>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchExpandRows<2>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<4>(const ExpandParams&, cudaStream_t);

}  // namespace hproc::kernels::cuda
