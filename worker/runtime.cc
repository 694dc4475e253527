#include "worker/runtime.h"

#include <fstream>

#include "base/printable.h"
#include "kernels/matmul_backends.h"
#include "worker/idle_gate.h"
#if HPROC_CUDA
#include "worker/cuda_runtime.h"
#endif

namespace hproc::worker {
namespace {

class CpuRuntime : public Runtime {
 public:
  CpuRuntime(kernels::Backend backend, int threads, int64_t memory_cap_bytes)
      : pool_(threads), memory_("cpu", memory_cap_bytes), context_{.backend = backend, .pool = &pool_} {}

  kernels::DeviceMemory& memory() override { return memory_; }
  const kernels::Context& context() override { return context_; }
  Result<LoadedModel> Load(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                           const quant::Plan& plan, const Shard& shard, const LoadProgress& progress) override {
    return LoadModel(spec, checkpoint, table, plan, shard, memory_, pool_, progress);
  }
  Result<quant::RateTable> Measure(const Checkpoint& checkpoint, const TensorTable& table,
                                   const quant::RateOptions& options, const LoadProgress& progress) override {
    return MeasureRates(checkpoint, table, options, pool_, progress);
  }
  Result<void> CheckModel(const ModelSpec&, int) const override { return Ok(); }
  int64_t LoadWorkspaceBytes(const ModelSpec&, const TensorTable& table, const Shard&, int threads) const override {
    return worker::LoadWorkspaceBytes(table, threads);
  }
  EngineWorkspace WorkspaceOf(const ModelSpec&, const EngineShape&) const override {
    return {.sums_in_double = true};
  }

 private:
  ThreadPool pool_;
  kernels::DeviceMemory memory_;
  kernels::Context context_;
};

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

}  // namespace

Result<void> CheckDevice(const std::string& device) {
  if (device == "cpu") return Ok();
#if HPROC_CUDA
  if (IsCudaDevice(device)) return CheckCudaDevice(device);
#else
  if (device.starts_with("cuda")) return Error{"device '" + Printable(device) + "': this build has no CUDA"};
#endif
  return Error{"device '" + Printable(device) + "' is neither cpu nor cuda nor cuda:N"};
}

std::string DeviceName(const std::string& device, int threads) {
  if (device == "cpu") {
    return ProcessorName() + ", " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") +
           kernels::cpu::TargetName();
  }
#if HPROC_CUDA
  if (CheckDevice(device).ok()) return CudaDeviceName(device);
#endif
  return Printable(device);
}

std::optional<int64_t> FreeDeviceBytes(const std::string& device) {
#if HPROC_CUDA
  if (IsCudaDevice(device)) return FreeCudaBytes(device);
#endif
  return FreeBytesOf(device);
}

std::unique_ptr<Runtime> OpenRuntime([[maybe_unused]] const std::string& device, int threads, int64_t memory_cap_bytes) {
#if HPROC_CUDA
  if (IsCudaDevice(device)) return OpenCudaRuntime(device, threads, memory_cap_bytes);
#endif
  return std::make_unique<CpuRuntime>(kernels::Backend::kCpu, threads, memory_cap_bytes);
}

std::unique_ptr<Runtime> OpenReferenceRuntime(int threads) {
  return std::make_unique<CpuRuntime>(kernels::Backend::kReference, threads, 0);
}

}  // namespace hproc::worker
