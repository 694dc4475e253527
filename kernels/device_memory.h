// DeviceMemory: every byte that a trial puts on a device goes through here, so that a cap is as real as the hardware's
// own end and the ledger can name what holds it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hproc::kernels {

// The lines of the ledger, as the reports name them.
enum class MemoryUse {
  kWeightsStrict,
  kWeightsLazy,
  kWeightsHead,
  kWeightsKept,
  kOutliers,
  kCodebooks,
  kKvCache,
  kState,
  kActivations,
  kWorkspace,  // quantize-on-load's own, gone after load
};
inline constexpr int kMemoryUseCount = 10;
std::string_view MemoryUseName(MemoryUse use);  // "weights_strict", …

// An allocation that the cap (or the device) refused: the out_of_memory verdict. Thrown by Allocate, caught where the
// trial's phases are run.
class DeviceOutOfMemory : public std::runtime_error {
 public:
  DeviceOutOfMemory(std::string device, int64_t requested_bytes, int64_t available_bytes, std::string what);

  const std::string& device() const { return device_; }
  int64_t requested_bytes() const { return requested_bytes_; }
  int64_t available_bytes() const { return available_bytes_; }
  const std::string& purpose() const { return purpose_; }

 private:
  std::string device_;
  int64_t requested_bytes_;
  int64_t available_bytes_;
  std::string purpose_;
};

// Where a device's bytes come from. Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;

  // At least `bytes` bytes aligned to DeviceMemory::kGranularity, or nullptr where the device has no room for them. Any other
  // trouble is an exception.
  virtual void* Allocate(int64_t bytes) = 0;
  // What Allocate(bytes) gave.
  virtual void Free(void* data, int64_t bytes) noexcept = 0;
  // About how much it could still give.
  virtual int64_t available_bytes() const = 0;

  // What is in use on the device beside the `live_bytes` that were asked for.
  struct Overhead {
    int64_t context_bytes = 0;       // the device context: code, stacks, the driver's own
    int64_t communicator_bytes = 0;  // what sums over several devices hold
    int64_t unattributed_bytes = 0;  // held by this process or another since the context was made, and named by no line
  };
  virtual Overhead overhead(int64_t live_bytes) const = 0;
};

class DeviceBuffer;

// One device's budget. Thread-safe. Must outlive its buffers.
class DeviceMemory {
 public:
  // Allocations are counted in whole multiples of this.
  static constexpr int64_t kGranularity = 64;
  static constexpr int64_t Rounded(int64_t bytes) { return (bytes + kGranularity - 1) / kGranularity * kGranularity; }

  // `cap_bytes` 0: only the device itself is the limit. Without a `source` the bytes are the host's, and a host that has
  // none left is a std::bad_alloc, not a verdict on the device.
  DeviceMemory(std::string device, int64_t cap_bytes, std::unique_ptr<MemorySource> source = nullptr);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Uninitialized memory aligned to kGranularity. `purpose` names the tensor or buffer in the refusal, which is the same
  // DeviceOutOfMemory whether the cap or the device has no room.
  DeviceBuffer Allocate(int64_t bytes, MemoryUse use, std::string_view purpose);

  // Moves `bytes` of what was allocated under `from` to the line `to`: a container is one allocation, but its codes,
  // codebooks and outliers are lines of their own.
  void Reassign(MemoryUse from, MemoryUse to, int64_t bytes);

  // Names what a communicator took of the device by itself, past this. Like the context it is not counted against the cap.
  void NoteCommunicator(int64_t bytes);

  struct Usage {
    int64_t cap_bytes = 0;
    int64_t live_bytes = 0;
    int64_t peak_bytes = 0;
    std::array<int64_t, kMemoryUseCount> live{};  // by MemoryUse
    std::array<int64_t, kMemoryUseCount> peak{};
    MemorySource::Overhead overhead;  // as read just now; not counted against the cap
  };
  Usage usage() const;
  const std::string& device() const { return device_; }

 private:
  friend class DeviceBuffer;
  void Release(void* data, int64_t bytes, MemoryUse use) noexcept;

  const std::string device_;
  const std::unique_ptr<MemorySource> source_;
  mutable std::mutex mutex_;
  int64_t communicator_bytes_ = 0;
  Usage usage_;
};

// Sole owner of one allocation. Move-only; may be empty.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { Reset(); }

  void Reset() noexcept;
  int64_t bytes() const { return bytes_; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::span<std::byte> span() const { return {data(), static_cast<size_t>(bytes_)}; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  friend class DeviceMemory;
  DeviceMemory* memory_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  MemoryUse use_{};
};

}  // namespace hproc::kernels
