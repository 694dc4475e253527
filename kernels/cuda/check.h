// Errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace hproc::kernels::cuda {

// A call of the CUDA runtime that failed: what() holds the call, file:line and the runtime's own words. After a kernel
// fault the context is gone and every later call throws too.
class DeviceError : public std::runtime_error {
 public:
  DeviceError(const std::string& call, const char* file, int line, cudaError_t code)
      : std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " + cudaGetErrorString(code)),
        code_(code) {}
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

inline void Check(cudaError_t code, const char* call, const char* file, int line) {
  if (code != cudaSuccess) throw DeviceError(call, file, line, code);
}

}  // namespace hproc::kernels::cuda

// A macro because the text of the call and its place belong into the message.
#define HPROC_CUDA_CHECK(call) ::hproc::kernels::cuda::Check((call), #call, __FILE__, __LINE__)
