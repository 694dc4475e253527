// SlabPool: many small allocations out of few large ones.
//
// A CUDA allocation occupies whole pages of 2 MiB: a model of some thousand small tensors would hold a gigabyte that no line
// of the ledger names. The pool takes slabs from the source below and hands out ranges of them, best fit, neighbours joined
// when they come back. Large requests go below as they are, in whole pages. Rejected: cudaMallocAsync's pool (it keeps what is
// freed, so that the end of the device shows late) and mapping pages into one reserved range (no gain while weights stay).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/device_memory.h"

namespace hproc::kernels {

// Thread-safe. All ranges must have come back before it goes.
class SlabPool : public MemorySource {
 public:
  static constexpr int64_t kPageBytes = int64_t{2} << 20;
  static constexpr int64_t kSlabBytes = int64_t{64} << 20;  // requests from here on are not pooled
  static constexpr int64_t kAlignment = 256;                // as cudaMalloc's: what vector and bulk loads ask for

  // `source` allocates whole pages.
  explicit SlabPool(std::unique_ptr<MemorySource> source) : source_(std::move(source)) {}
  ~SlabPool() override;

  void* Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) noexcept override;
  int64_t available_bytes() const override;
  // What slabs hold beyond what was asked for counts as unattributed.
  Overhead overhead(int64_t live_bytes) const override { return source_->overhead(live_bytes); }

 private:
  struct Slab {
    std::byte* base = nullptr;
    int64_t bytes = 0;
    std::map<int64_t, int64_t> free;  // offset to bytes, never touching each other
  };

  void* TakeFrom(Slab& slab, int64_t offset, int64_t bytes);

  const std::unique_ptr<MemorySource> source_;
  mutable std::mutex mutex_;
  std::vector<Slab> slabs_;
};

}  // namespace hproc::kernels
