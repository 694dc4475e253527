#include "kernels/cuda/nccl_ranks.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/handles.h"

namespace hproc::kernels {
namespace {

// The part of nccl.h that is used here; the same since 2.0.
struct NcclUniqueId {
  char internal[128];
};
constexpr int kNcclSuccess = 0;
constexpr int kNcclFloat32 = 7;
constexpr int kNcclSum = 0;

struct Nccl {
  int (*get_unique_id)(NcclUniqueId*) = nullptr;
  int (*comm_init_rank)(void**, int, NcclUniqueId, int) = nullptr;
  int (*all_reduce)(const void*, void*, size_t, int, int, void*, CUstream_st*) = nullptr;
  int (*comm_destroy)(void*) = nullptr;
  int (*comm_abort)(void*) = nullptr;
  const char* (*error_string)(int) = nullptr;
  std::string missing;  // why the rest is not there
};

template <typename F>
void Find(void* library, const char* name, F& function, std::string& missing) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = std::string("libnccl.so.2 has no ") + name;
}

const Nccl& Library() {
  static const Nccl library = [] {
    Nccl nccl;
    // Never closed: it has threads of its own.
    void* handle = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = ::dlerror();
      nccl.missing = why != nullptr ? why : "libnccl.so.2 is not there";
      return nccl;
    }
    Find(handle, "ncclGetUniqueId", nccl.get_unique_id, nccl.missing);
    Find(handle, "ncclCommInitRank", nccl.comm_init_rank, nccl.missing);
    Find(handle, "ncclAllReduce", nccl.all_reduce, nccl.missing);
    Find(handle, "ncclCommDestroy", nccl.comm_destroy, nccl.missing);
    Find(handle, "ncclCommAbort", nccl.comm_abort, nccl.missing);
    Find(handle, "ncclGetErrorString", nccl.error_string, nccl.missing);
    // No multicast, and everything connected at once: what a communicator holds is then known before a model is loaded.
    ::setenv("NCCL_NVLS_ENABLE", "0", 0);
    ::setenv("NCCL_RUNTIME_CONNECT", "0", 0);
    return nccl;
  }();
  return library;
}

const Nccl& NeededLibrary() {
  const Nccl& nccl = Library();
  if (!nccl.missing.empty()) throw DeviceError(DeviceError::Kind::kFault, "several ranks on CUDA devices need NCCL: " + nccl.missing);
  return nccl;
}

void CheckNccl(int code, const char* call) {
  if (code == kNcclSuccess) return;
  throw DeviceError(DeviceError::Kind::kFault, std::string("nccl: ") + call + ": " + Library().error_string(code));
}

}  // namespace

std::string WhyNoNccl() { return Library().missing; }

std::vector<std::byte> MakeNcclId() {
  NcclUniqueId id{};
  CheckNccl(NeededLibrary().get_unique_id(&id), "ncclGetUniqueId");
  std::vector<std::byte> bytes(sizeof id);
  std::memcpy(bytes.data(), &id, sizeof id);
  return bytes;
}

NcclRanks::NcclRanks(const CudaDevice& device, const std::vector<std::byte>& id, int rank, int world_size) : device_(device) {
  const Nccl& nccl = NeededLibrary();
  HPROC_CHECK(id.size() == sizeof(NcclUniqueId), "an id of NCCL");
  NcclUniqueId unique{};
  std::memcpy(&unique, id.data(), sizeof unique);
  const ScopedDevice current(device.ordinal());
  const int64_t before = device.Read().used_bytes;
  CheckNccl(nccl.comm_init_rank(&communicator_, world_size, unique, rank), "ncclCommInitRank");
  // The first sum brings the rest of what it needs: kernels, and what a kind of sum connects.
  try {
    const Stream stream;
    float* values = nullptr;
    constexpr int64_t kValues = 1 << 20;
    HPROC_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&values), kValues * sizeof(float)));
    const std::unique_ptr<float, void (*)(float*)> owner(values, [](float* p) { static_cast<void>(cudaFree(p)); });
    HPROC_CUDA_CHECK(cudaMemsetAsync(values, 0, kValues * sizeof(float), stream.get()));
    for (const int64_t count : {int64_t{1024}, kValues}) AllReduceSum(values, count, stream.get());
    stream.Wait();
  } catch (...) {
    Abort();
    throw;
  }
  device_bytes_ = std::max<int64_t>(0, device.Read().used_bytes - before);
}

NcclRanks::~NcclRanks() {
  if (communicator_ == nullptr) return;
  // Not destroyed, which waits for the others: they may be gone.
  Abort();
}

void NcclRanks::AllReduceSum(float* values, int64_t count, CUstream_st* stream) {
  if (communicator_ == nullptr) throw DeviceError(DeviceError::Kind::kFault, "nccl: a sum after the ranks were given up");
  CheckNccl(Library().all_reduce(values, values, static_cast<size_t>(count), kNcclFloat32, kNcclSum, communicator_, stream),
            "ncclAllReduce");
}

void NcclRanks::Abort() noexcept {
  void* communicator = std::exchange(communicator_, nullptr);
  if (communicator != nullptr) static_cast<void>(Library().comm_abort(communicator));
}

}  // namespace hproc::kernels
