// worker/runtime.h on a CUDA device. Built only with CUDA.
#pragma once

#include <memory>
#include <string>

#include "worker/runtime.h"

namespace hproc::worker {

// "cuda" or "cuda:N".
bool IsCudaDevice(const std::string& device);
// Whether the machine has it. Makes no context.
Result<void> CheckCudaDevice(const std::string& device);
std::string CudaDeviceName(const std::string& device);
std::optional<int64_t> FreeCudaBytes(const std::string& device);
std::unique_ptr<Runtime> OpenCudaRuntime(const std::string& device, int threads, int64_t memory_cap_bytes);

}  // namespace hproc::worker
