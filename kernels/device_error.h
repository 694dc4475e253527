// DeviceError: a device that failed, for those who know no device's own headers.
#pragma once

#include <stdexcept>
#include <string>

namespace hproc::kernels {

// A call of a device's runtime that failed: "cuda: cudaMalloc(&p, n): out of memory (kernels/cuda/x.cc:12)". A fault inside a
// kernel poisons the device context, so that every later call throws too and nothing but the end of the process helps.
class DeviceError : public std::runtime_error {
 public:
  enum class Kind {
    kFault,  // ours: an address, a launch, an argument; a crash of the trial
    kLost,   // the device is gone, or its hardware failed: nothing can be tried on it
    kOutOfMemory,  // the runtime's own: a context, a module, a graph; what models hold is DeviceOutOfMemory
  };
  DeviceError(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

}  // namespace hproc::kernels
