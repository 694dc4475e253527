// Runtime: what a deployment's device is to the worker: its memory, how a model comes onto it, and what runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/context.h"
#include "kernels/device_memory.h"
#include "worker/communicator.h"
#include "worker/engine.h"
#include "worker/loader.h"
#include "worker/protocol.h"

namespace hproc::worker {

// Thread-compatible. Outlives what it loaded.
class Runtime {
 public:
  virtual ~Runtime() = default;

  virtual kernels::DeviceMemory& memory() = 0;
  virtual const kernels::Context& context() = 0;

  // Before anything is loaded: the device of this rank and those of the others add up among themselves (null: there are none).
  // Every rank calls it. Throws RankLost and kernels::DeviceError.
  virtual void JoinRanks(Communicator* /*ranks*/) {}

  // As LoadModel and MeasureRates (worker/loader.h), onto this device.
  virtual Result<LoadedModel> Load(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                   const quant::Plan& plan, const Shard& shard, const LoadProgress& progress) = 0;
  virtual Result<quant::RateTable> Measure(const Checkpoint& checkpoint, const TensorTable& table,
                                           const quant::RateOptions& options, const LoadProgress& progress) = 0;
  // Whether the model's blocks are among those that the device's operations know, and can be shared out among so many
  // ranks; the error names what is not.
  virtual Result<void> CheckModel(const ModelSpec& spec, int world_size) const = 0;

  // Whether Load puts the tensor into decode order where its format makes that worth it (quant::ArrangedBytes); `rank_spec` is what
  // a rank runs.
  virtual bool Arranges(const ModelSpec& /*rank_spec*/, const ModelTensor& /*tensor*/) const { return false; }
  // The most that Load takes beside the weights, whatever the plan, on a pool of `threads`; `spec` and `table` as for Load.
  virtual int64_t LoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const Shard& shard, int threads) const = 0;
  // EngineShape::workspace of an engine of this shape; `spec` is what the rank runs.
  virtual EngineWorkspace WorkspaceOf(const ModelSpec& spec, const EngineShape& shape) const = 0;
};

// Whether this build and this machine have such a device: "cpu", "cuda" or "cuda:N"; the error says what is missing. Opens
// nothing.
Result<void> CheckDevice(const std::string& device);
// "AMD EPYC 9B14, 2 threads, AVX3_DL"; "NVIDIA H200"; the word itself for a device that is not there.
std::string DeviceName(const std::string& device, int threads);
// Bytes that the device has free now, asked without opening it; nothing where nobody says.
std::optional<int64_t> FreeDeviceBytes(const std::string& device);
// Opens the device, with a pool of `threads` and a ledger under `memory_cap_bytes` (0: the device alone is the limit).
// CheckDevice must have passed. Throws kernels::DeviceError.
std::unique_ptr<Runtime> OpenRuntime(const std::string& device, int threads, int64_t memory_cap_bytes);
// The reference backend on the CPU, for checks.
std::unique_ptr<Runtime> OpenReferenceRuntime(int threads);

}  // namespace hproc::worker
