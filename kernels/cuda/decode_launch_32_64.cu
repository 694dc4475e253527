#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<32>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<32>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<64>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<64>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchPrefill<32>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<64>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchExpandRows<32>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<64>(const ExpandParams&, cudaStream_t);

}  // namespace hproc::kernels::cuda
