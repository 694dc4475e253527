// A CUDA device: which there are, what one holds before and after our context, and its memory as a MemorySource.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/device_memory.h"

namespace hproc::kernels {

// Devices this process can use; 0 without a driver, and `reason` then says why. Never throws.
int CudaDeviceCount(std::string* reason = nullptr);

// "cuda" is 0, "cuda:3" is 3; nullopt for anything else.
std::optional<int> CudaOrdinal(std::string_view device);

// "NVIDIA H200", without making a context; of a device there is. Throws DeviceError.
std::string CudaNameOf(int ordinal);

struct DeviceReading {
  int64_t total_bytes = 0;
  int64_t used_bytes = 0;  // by everyone
};

// What the device holds, asked without making a context on it (through NVML); nullopt where that library is missing. What a
// neighbour holds is the idle baseline that a trial waits for.
std::optional<DeviceReading> ReadIdleDevice(int ordinal);

// An open device: makes the context, and measures it. Immutable; safe from any thread. Throws DeviceError.
class CudaDevice {
 public:
  explicit CudaDevice(int ordinal);

  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }  // "NVIDIA H200"
  int multiprocessors() const { return multiprocessors_; }
  // What others held when it was opened, and what our context added. Without NVML all of it counts as context.
  int64_t idle_bytes() const { return idle_bytes_; }
  int64_t context_bytes() const { return context_bytes_; }
  DeviceReading Read() const;  // cudaMemGetInfo

 private:
  int ordinal_;
  std::string name_;
  int multiprocessors_ = 0;
  int64_t idle_bytes_ = 0;
  int64_t context_bytes_ = 0;
};

// Waits until `to`, of as many bytes, holds what `from` does. Throws DeviceError.
void CopyToDevice(const CudaDevice& device, std::span<std::byte> to, std::span<const std::byte> from);

// The device's memory in pooled slabs (kernels/slab_pool.h); `device` outlives it. A DeviceMemory on top of it gives the
// out_of_memory verdict at the cap or at cudaMalloc's own refusal, whichever comes first.
std::unique_ptr<MemorySource> CudaMemory(const CudaDevice& device);

}  // namespace hproc::kernels
