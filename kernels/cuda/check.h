// Errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/device_error.h"

namespace hproc::kernels {

inline DeviceError::Kind KindOf(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return DeviceError::Kind::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorUnknown:  // what a card that fell off its bus answers
      return DeviceError::Kind::kLost;
    default:
      return DeviceError::Kind::kFault;
  }
}

inline void CheckCuda(cudaError_t code, const char* call, const char* file, int line) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // reported here, not once more at the next launch
  throw DeviceError(KindOf(code),
                    std::string("cuda: ") + call + ": " + cudaGetErrorString(code) + " (" + file + ":" + std::to_string(line) + ")");
}

}  // namespace hproc::kernels

// Macros because the text of the call and its place belong into the message.
#define HPROC_CUDA_CHECK(call) ::hproc::kernels::CheckCuda((call), #call, __FILE__, __LINE__)
// After every launch by <<<>>>.
#define HPROC_CUDA_LAUNCHED(kernel) ::hproc::kernels::CheckCuda(cudaGetLastError(), "launch of " kernel, __FILE__, __LINE__)
