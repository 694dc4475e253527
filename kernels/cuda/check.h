// Errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace hproc::kernels {

// A call of the CUDA runtime that failed: "cuda: cudaMalloc(&p, n): out of memory (kernels/cuda/x.cc:12)". A fault inside a
// kernel poisons the device context, so that every later call throws too and nothing but the end of the process helps: the
// worker reports device_lost.
class DeviceError : public std::runtime_error {
 public:
  DeviceError(cudaError_t code, const char* call, const char* file, int line)
      : std::runtime_error(std::string("cuda: ") + call + ": " + cudaGetErrorString(code) + " (" + file + ":" +
                           std::to_string(line) + ")"),
        code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

inline void CheckCuda(cudaError_t code, const char* call, const char* file, int line) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // reported here, not once more at the next launch
  throw DeviceError(code, call, file, line);
}

}  // namespace hproc::kernels

// Macros because the text of the call and its place belong into the message.
#define HPROC_CUDA_CHECK(call) ::hproc::kernels::CheckCuda((call), #call, __FILE__, __LINE__)
// After every launch by <<<>>>.
#define HPROC_CUDA_LAUNCHED(kernel) ::hproc::kernels::CheckCuda(cudaGetLastError(), "launch of " kernel, __FILE__, __LINE__)
