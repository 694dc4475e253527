#include "kernels/slab_pool.h"

#include <algorithm>

#include "base/check.h"

namespace hproc::kernels {
namespace {

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

SlabPool::~SlabPool() { HPROC_CHECK(slabs_.empty(), "ranges outlive their pool"); }

void* SlabPool::TakeFrom(Slab& slab, int64_t offset, int64_t bytes) {
  const auto range = slab.free.find(offset);
  const int64_t rest = range->second - bytes;
  slab.free.erase(range);
  if (rest > 0) slab.free.emplace(offset + bytes, rest);
  return slab.base + offset;
}

void* SlabPool::Allocate(int64_t bytes) {
  bytes = RoundUp(bytes, kAlignment);
  const std::scoped_lock lock(mutex_);
  if (bytes >= kSlabBytes) return source_->Allocate(RoundUp(bytes, kPageBytes));
  Slab* best_slab = nullptr;
  int64_t best_offset = 0;
  int64_t best_bytes = INT64_MAX;
  for (Slab& slab : slabs_) {
    for (const auto& [offset, size] : slab.free) {
      if (size < bytes || size >= best_bytes) continue;
      best_slab = &slab;
      best_offset = offset;
      best_bytes = size;
    }
  }
  if (best_slab != nullptr) return TakeFrom(*best_slab, best_offset, bytes);
  // Near the device's end a slab of just the pages needed may still fit.
  for (const int64_t slab_bytes : {kSlabBytes, RoundUp(bytes, kPageBytes)}) {
    void* base = source_->Allocate(slab_bytes);
    if (base == nullptr) continue;
    Slab& slab = slabs_.emplace_back(Slab{.base = static_cast<std::byte*>(base), .bytes = slab_bytes, .free = {}});
    slab.free.emplace(0, slab_bytes);
    return TakeFrom(slab, 0, bytes);
  }
  return nullptr;
}

void SlabPool::Free(void* data, int64_t bytes) noexcept {
  bytes = RoundUp(bytes, kAlignment);
  const std::scoped_lock lock(mutex_);
  if (bytes >= kSlabBytes) {
    source_->Free(data, RoundUp(bytes, kPageBytes));
    return;
  }
  auto* at = static_cast<std::byte*>(data);
  const auto slab = std::find_if(slabs_.begin(), slabs_.end(),
                                 [&](const Slab& s) { return at >= s.base && at < s.base + s.bytes; });
  HPROC_CHECK(slab != slabs_.end(), "a range of the pool");
  int64_t offset = at - slab->base;
  auto next = slab->free.lower_bound(offset);
  if (next != slab->free.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = slab->free.erase(next);
  }
  if (next != slab->free.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      bytes += before->second;
      slab->free.erase(before);
    }
  }
  if (bytes == slab->bytes) {
    source_->Free(slab->base, slab->bytes);
    slabs_.erase(slab);
  } else {
    slab->free.emplace(offset, bytes);
  }
}

int64_t SlabPool::available_bytes() const {
  const std::scoped_lock lock(mutex_);
  int64_t bytes = source_->available_bytes();
  for (const Slab& slab : slabs_) {
    for (const auto& [offset, size] : slab.free) bytes += size;
  }
  return bytes;
}

}  // namespace hproc::kernels
