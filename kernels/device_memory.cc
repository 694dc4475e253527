#include "kernels/device_memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/bytes.h"
#include "base/check.h"

namespace hproc::kernels {

std::string_view MemoryUseName(MemoryUse use) {
  switch (use) {
    case MemoryUse::kWeightsStrict: return "weights_strict";
    case MemoryUse::kWeightsLazy: return "weights_lazy";
    case MemoryUse::kWeightsHead: return "weights_head";
    case MemoryUse::kWeightsKept: return "weights_kept";
    case MemoryUse::kOutliers: return "outliers";
    case MemoryUse::kCodebooks: return "codebooks";
    case MemoryUse::kKvCache: return "kv_cache";
    case MemoryUse::kState: return "state";
    case MemoryUse::kActivations: return "activations";
    case MemoryUse::kWorkspace: return "workspace";
  }
  return "?";
}

DeviceOutOfMemory::DeviceOutOfMemory(std::string device, int64_t requested_bytes, int64_t available_bytes,
                                     std::string what)
    : std::runtime_error(device + ": out of memory: " + what + " needs " + FormatBytes(requested_bytes) + ", " +
                         FormatBytes(available_bytes) + " are left"),
      device_(std::move(device)),
      requested_bytes_(requested_bytes),
      available_bytes_(available_bytes),
      purpose_(std::move(what)) {}

DeviceMemory::DeviceMemory(std::string device, int64_t cap_bytes, std::unique_ptr<MemorySource> source)
    : device_(std::move(device)), source_(std::move(source)) {
  HPROC_CHECK(cap_bytes >= 0, "a cap is not negative");
  usage_.cap_bytes = cap_bytes;
}

DeviceMemory::~DeviceMemory() { HPROC_CHECK(usage_.live_bytes == 0, "buffers outlive their device"); }

DeviceBuffer DeviceMemory::Allocate(int64_t bytes, MemoryUse use, std::string_view purpose) {
  HPROC_CHECK(bytes >= 0, "a size is not negative");
  const int64_t rounded = std::max(Rounded(bytes), kGranularity);
  const auto line = static_cast<size_t>(use);
  // The lock is held over the allocation, so that a refusal leaves no trace in the peaks.
  const std::scoped_lock lock(mutex_);
  const int64_t under_cap = usage_.cap_bytes > 0 ? usage_.cap_bytes - usage_.live_bytes : INT64_MAX;
  if (rounded > under_cap) throw DeviceOutOfMemory(device_, rounded, under_cap, std::string(purpose));
  void* data = source_ ? source_->Allocate(rounded) : std::aligned_alloc(kGranularity, static_cast<size_t>(rounded));
  if (data == nullptr) {
    if (!source_) throw std::bad_alloc();
    throw DeviceOutOfMemory(device_, rounded, std::min(under_cap, source_->available_bytes()), std::string(purpose));
  }
  usage_.live_bytes += rounded;
  usage_.live[line] += rounded;
  usage_.peak_bytes = std::max(usage_.peak_bytes, usage_.live_bytes);
  usage_.peak[line] = std::max(usage_.peak[line], usage_.live[line]);
  DeviceBuffer buffer;
  buffer.data_ = data;
  buffer.memory_ = this;
  buffer.bytes_ = rounded;
  buffer.use_ = use;
  return buffer;
}

void DeviceMemory::Reassign(MemoryUse from, MemoryUse to, int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  const auto source = static_cast<size_t>(from);
  const auto target = static_cast<size_t>(to);
  usage_.live[source] -= bytes;
  usage_.live[target] += bytes;
  usage_.peak[target] = std::max(usage_.peak[target], usage_.live[target]);
}

DeviceMemory::Usage DeviceMemory::usage() const {
  const std::scoped_lock lock(mutex_);
  Usage usage = usage_;
  if (source_) {
    usage.overhead = source_->overhead(usage.live_bytes);
    usage.overhead.communicator_bytes = communicator_bytes_;
    usage.overhead.unattributed_bytes -= communicator_bytes_;
  }
  return usage;
}

void DeviceMemory::NoteCommunicator(int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  communicator_bytes_ = bytes;
}

void DeviceMemory::Release(void* data, int64_t bytes, MemoryUse use) noexcept {
  const std::scoped_lock lock(mutex_);
  if (source_) {
    source_->Free(data, bytes);
  } else {
    std::free(data);
  }
  usage_.live_bytes -= bytes;
  usage_.live[static_cast<size_t>(use)] -= bytes;
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this != &other) {
    Reset();
    memory_ = std::exchange(other.memory_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    use_ = other.use_;
  }
  return *this;
}

void DeviceBuffer::Reset() noexcept {
  if (memory_ != nullptr) memory_->Release(data_, bytes_, use_);
  memory_ = nullptr;
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace hproc::kernels
