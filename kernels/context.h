// Context: where an operation runs. Passed to every operation; there is no global device.
#pragma once

#include <span>

#include "base/thread_pool.h"

namespace hproc::kernels {

struct MatmulCall;
class DeviceBackend;

// kReference: plain loops that accumulate in double; what every other backend is held against. kCpu: SIMD, threads.
// kDevice: a device of its own, kernels/device_backend.h.
enum class Backend { kReference, kCpu, kDevice };

// Thread-compatible: one operation at a time on one context. `pool` outlives it.
struct Context {
  Backend backend = Backend::kCpu;
  ThreadPool* pool = nullptr;
  DeviceBackend* device = nullptr;  // for kDevice, which it outlives; null for the others
  // Where set, takes the place of the backend's own matrix products; the benches put a BLAS here.
  void (*matmul)(const Context&, std::span<const MatmulCall>) = nullptr;
};

}  // namespace hproc::kernels
