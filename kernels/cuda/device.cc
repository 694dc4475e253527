#include "kernels/cuda/device.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/handles.h"
#include "kernels/slab_pool.h"

namespace hproc::kernels {
namespace {

// The part of NVML that is used here, found at run time: a machine without a driver has no such library. nvml.h: nvmlMemory_t.
struct NvmlMemory {
  unsigned long long total, free, used;
};

class PageSource : public MemorySource {
 public:
  explicit PageSource(const CudaDevice& device) : device_(device) {}

  void* Allocate(int64_t bytes) override {
    const ScopedDevice current(device_.ordinal());
    void* data = nullptr;
    const cudaError_t code = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (code == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());  // a refusal is an answer, not an error to stumble over later
      return nullptr;
    }
    CheckCuda(code, "cudaMalloc", __FILE__, __LINE__);
    return data;
  }

  void Free(void* data, int64_t) noexcept override { static_cast<void>(cudaFree(data)); }

  int64_t available_bytes() const override {
    const DeviceReading reading = device_.Read();
    return reading.total_bytes - reading.used_bytes;
  }

  Overhead overhead(int64_t live_bytes) const override {
    const int64_t named = device_.idle_bytes() + device_.context_bytes() + live_bytes;
    return {.context_bytes = device_.context_bytes(), .unattributed_bytes = device_.Read().used_bytes - named};
  }

 private:
  const CudaDevice& device_;
};

}  // namespace

int CudaDeviceCount(std::string* reason) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  if (reason != nullptr) *reason = cudaGetErrorString(code);
  return 0;
}

std::optional<int> CudaOrdinal(std::string_view device) {
  if (device == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  if (!device.starts_with(kPrefix)) return std::nullopt;
  device.remove_prefix(kPrefix.size());
  int ordinal = -1;
  const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), ordinal);
  if (error != std::errc{} || end != device.data() + device.size() || ordinal < 0) return std::nullopt;
  return ordinal;
}

std::string CudaNameOf(int ordinal) {
  cudaDeviceProp properties{};
  HPROC_CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  return properties.name;
}

std::optional<DeviceReading> ReadIdleDevice(int ordinal) {
  // By bus address: NVML counts all devices of the machine, CUDA those this process may see.
  std::array<char, 32> bus{};
  if (cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), ordinal) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return std::nullopt;
  }
  void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return std::nullopt;
  const auto init = reinterpret_cast<int (*)()>(::dlsym(library, "nvmlInit_v2"));
  const auto shutdown = reinterpret_cast<int (*)()>(::dlsym(library, "nvmlShutdown"));
  const auto handle_of =
      reinterpret_cast<int (*)(const char*, void**)>(::dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto memory_of = reinterpret_cast<int (*)(void*, NvmlMemory*)>(::dlsym(library, "nvmlDeviceGetMemoryInfo"));
  std::optional<DeviceReading> reading;
  if (init != nullptr && shutdown != nullptr && handle_of != nullptr && memory_of != nullptr && init() == 0) {
    void* handle = nullptr;
    NvmlMemory memory{};
    if (handle_of(bus.data(), &handle) == 0 && memory_of(handle, &memory) == 0) {
      reading = DeviceReading{static_cast<int64_t>(memory.total), static_cast<int64_t>(memory.used)};
    }
    shutdown();
  }
  ::dlclose(library);
  return reading;
}

CudaDevice::CudaDevice(int ordinal) : ordinal_(ordinal) {
  const std::optional<DeviceReading> before = ReadIdleDevice(ordinal);
  const ScopedDevice current(ordinal);
  HPROC_CUDA_CHECK(cudaFree(nullptr));  // makes the context
  cudaDeviceProp properties{};
  HPROC_CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  name_ = properties.name;
  multiprocessors_ = properties.multiProcessorCount;
  const int64_t used = Read().used_bytes;
  context_bytes_ = used;
  if (before) {
    // NVML's own sum has the driver's reserve in it; the difference of two of its readings has not.
    const std::optional<DeviceReading> after = ReadIdleDevice(ordinal);
    if (after) context_bytes_ = std::clamp<int64_t>(after->used_bytes - before->used_bytes, 0, used);
  }
  idle_bytes_ = used - context_bytes_;
}

DeviceReading CudaDevice::Read() const {
  const ScopedDevice current(ordinal_);
  size_t free = 0;
  size_t total = 0;
  HPROC_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {static_cast<int64_t>(total), static_cast<int64_t>(total - free)};
}

void CopyToDevice(const CudaDevice& device, std::span<std::byte> to, std::span<const std::byte> from) {
  HPROC_CHECK(to.size() == from.size(), "bytes of a copy");
  const ScopedDevice current(device.ordinal());
  HPROC_CUDA_CHECK(cudaMemcpy(to.data(), from.data(), from.size(), cudaMemcpyHostToDevice));
}

std::unique_ptr<MemorySource> CudaMemory(const CudaDevice& device) {
  return std::make_unique<SlabPool>(std::make_unique<PageSource>(device));
}

}  // namespace hproc::kernels
