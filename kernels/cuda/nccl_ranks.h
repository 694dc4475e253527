// The devices of several ranks add up among themselves, through NCCL. The library is found at run time (libnccl.so.2): a machine
// with one device does without it.
//
// What a sum costs: an all-reduce moves 2 (n - 1) / n of its bytes out of every device, so its bus bandwidth is
// bytes * 2 (n - 1) / n / time, which can be held against the links whatever n is (nccl-tests, PERFORMANCE.md). A decode step's
// sums are a few KB, though, and take the links' latency.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

struct CUstream_st;

namespace hproc::kernels {

// Why there is no NCCL here; empty where there is.
std::string WhyNoNccl();

// What rank 0 makes and the others must get before they can meet. Throws DeviceError.
std::vector<std::byte> MakeNcclId();

// One rank's end. Thread-compatible, but for Abort. NVLink multicast is left off (NCCL_NVLS_ENABLE, unless the environment says
// otherwise): it holds memory for sums far larger than a decode step's.
class NcclRanks {
 public:
  // Waits for the other ranks, which must be there. Buffers and connections are made now, not inside a pass. Throws DeviceError.
  NcclRanks(const CudaDevice& device, const std::vector<std::byte>& id, int rank, int world_size);
  ~NcclRanks();
  NcclRanks(const NcclRanks&) = delete;
  NcclRanks& operator=(const NcclRanks&) = delete;

  // Enqueues the sum over the ranks, in place, the same bits on each. May be captured into a graph.
  void AllReduceSum(float* values, int64_t count, CUstream_st* stream);

  // Has the device give up what it waits for, for good: another rank is gone. Thread-safe.
  void Abort() noexcept;

  int64_t device_bytes() const { return device_bytes_; }  // taken on this device

 private:
  const CudaDevice& device_;
  void* communicator_ = nullptr;  // ncclComm_t
  int64_t device_bytes_ = 0;
};

}  // namespace hproc::kernels
