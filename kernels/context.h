// Context: where an operation runs. Passed to every operation; there is no global device.
#pragma once

#include "base/thread_pool.h"

namespace hproc::kernels {

// kReference: plain loops that accumulate in double; what every other backend is held against. kCpu: SIMD, threads.
enum class Backend { kReference, kCpu };

// Thread-compatible: one operation at a time on one context. `pool` outlives it.
struct Context {
  Backend backend = Backend::kCpu;
  ThreadPool* pool = nullptr;
};

}  // namespace hproc::kernels
