// Sole owners of CUDA handles, on the device that was current when they were made. Move-only; destructors never throw.
// Device memory itself is a DeviceBuffer (kernels/device_memory.h) from a CudaMemory (kernels/cuda/device.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

#include "kernels/cuda/check.h"

namespace hproc::kernels {

// Makes `ordinal` the thread's device until the end of the scope.
class ScopedDevice {
 public:
  explicit ScopedDevice(int ordinal) {
    HPROC_CUDA_CHECK(cudaGetDevice(&before_));
    HPROC_CUDA_CHECK(cudaSetDevice(ordinal));
  }
  ~ScopedDevice() { static_cast<void>(cudaSetDevice(before_)); }
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;

 private:
  int before_ = 0;
};

template <typename Handle, cudaError_t (*kDestroy)(Handle)>
struct DestroyHandle {
  using pointer = Handle;
  void operator()(Handle handle) const noexcept { static_cast<void>(kDestroy(handle)); }
};
template <typename Handle, cudaError_t (*kDestroy)(Handle)>
using UniqueHandle = std::unique_ptr<std::remove_pointer_t<Handle>, DestroyHandle<Handle, kDestroy>>;

// A stream that does not wait for the default stream.
class Stream {
 public:
  Stream() {
    cudaStream_t stream = nullptr;
    HPROC_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    handle_.reset(stream);
  }
  cudaStream_t get() const { return handle_.get(); }
  void Wait() const { HPROC_CUDA_CHECK(cudaStreamSynchronize(get())); }

 private:
  UniqueHandle<cudaStream_t, cudaStreamDestroy> handle_;
};

class Event {
 public:
  enum class Timing { kOff, kOn };
  Event() : Event(Timing::kOff) {}
  explicit Event(Timing timing) {
    cudaEvent_t event = nullptr;
    HPROC_CUDA_CHECK(cudaEventCreateWithFlags(&event, timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming));
    handle_.reset(event);
  }
  cudaEvent_t get() const { return handle_.get(); }
  void Record(const Stream& stream) const { HPROC_CUDA_CHECK(cudaEventRecord(get(), stream.get())); }
  void Wait() const { HPROC_CUDA_CHECK(cudaEventSynchronize(get())); }
  // Work given to `stream` from now on starts after this event.
  void Hold(const Stream& stream) const { HPROC_CUDA_CHECK(cudaStreamWaitEvent(stream.get(), get(), 0)); }
  // Both recorded with timing, and over.
  double MillisecondsSince(const Event& start) const {
    float ms = 0;
    HPROC_CUDA_CHECK(cudaEventElapsedTime(&ms, start.get(), get()));
    return static_cast<double>(ms);
  }

 private:
  UniqueHandle<cudaEvent_t, cudaEventDestroy> handle_;
};

// What `record` gives to a stream, recorded once and replayed with one call.
class Graph {
 public:
  template <typename Record>
  Graph(const Stream& stream, Record&& record) {
    HPROC_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      record();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream.get(), &graph));
      if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
      throw;
    }
    HPROC_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
    const UniqueHandle<cudaGraph_t, cudaGraphDestroy> owner(graph);
    cudaGraphExec_t executable = nullptr;
    HPROC_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    handle_.reset(executable);
  }
  void Launch(const Stream& stream) const { HPROC_CUDA_CHECK(cudaGraphLaunch(handle_.get(), stream.get())); }

 private:
  UniqueHandle<cudaGraphExec_t, cudaGraphExecDestroy> handle_;
};

// Page-locked host memory: what a copy engine can read while the processor works on.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes) : bytes_(bytes) {
    void* data = nullptr;
    HPROC_CUDA_CHECK(cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault));
    handle_.reset(data);
  }
  int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(handle_.get()), static_cast<size_t>(bytes_)}; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(handle_.get());
  }

 private:
  UniqueHandle<void*, cudaFreeHost> handle_;
  int64_t bytes_ = 0;
};

}  // namespace hproc::kernels
