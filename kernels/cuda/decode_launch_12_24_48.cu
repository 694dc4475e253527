#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/prefill_launch.cuh"

namespace hproc::kernels::cuda {

template void LaunchDecode<12>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<12>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<24>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<24>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecode<48>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchDecodeToken<48>(const DecodeParams&, int, dim3, bool, cudaStream_t);
template void LaunchPrefill<12>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<24>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchPrefill<48>(const PrefillParams&, dim3, cudaStream_t);
template void LaunchExpandRows<12>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<24>(const ExpandParams&, cudaStream_t);
template void LaunchExpandRows<48>(const ExpandParams&, cudaStream_t);

}  // namespace hproc::kernels::cuda
