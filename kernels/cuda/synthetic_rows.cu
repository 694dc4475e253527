#include <algorithm>

#include "kernels/cuda/quantize_device.cuh"

namespace hproc::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// A warp a row, round after round.
__global__ void __launch_bounds__(kThreads)
    SyntheticRowsKernel(SyntheticTensor tensor, const float* deviates, int64_t first_row, int64_t rows, uint16_t* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / 32);
  for (int64_t r = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32; r < rows; r += warps) {
    const SyntheticRow row = SyntheticRowOf(tensor, first_row + r);
    const float* values = deviates + row.first;
    uint16_t* to = out + r * tensor.columns;
    for (int64_t c = lane; c < tensor.columns; c += 32) {
      to[c] = quant::FloatToBfloat16(values[c % kSyntheticDeviates] * row.scale);
    }
  }
}

}  // namespace

void MakeSyntheticRows(const SyntheticTensor& tensor, const float* deviates, int64_t first_row, int64_t rows, void* out,
                       int multiprocessors, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(CeilDiv(rows, kThreads / 32), int64_t{multiprocessors} * 8));
  SyntheticRowsKernel<<<blocks, kThreads, 0, stream>>>(tensor, deviates, first_row, rows, static_cast<uint16_t*>(out));
  HPROC_CUDA_LAUNCHED("SyntheticRowsKernel");
}

}  // namespace hproc::kernels::cuda
