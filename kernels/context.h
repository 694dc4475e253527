// Context: where an operation runs. Passed to every operation; there is no global device.
#pragma once

#include <span>

#include "base/thread_pool.h"

namespace hproc::kernels {

struct MatmulCall;

// kReference: plain loops that accumulate in double; what every other backend is held against. kCpu: SIMD, threads.
enum class Backend { kReference, kCpu };

// Thread-compatible: one operation at a time on one context. `pool` outlives it.
struct Context {
  Backend backend = Backend::kCpu;
  ThreadPool* pool = nullptr;
  // Where set, takes the place of the backend's own matrix products; the benches put a BLAS here.
  void (*matmul)(const Context&, std::span<const MatmulCall>) = nullptr;
};

}  // namespace hproc::kernels
