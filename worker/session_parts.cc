#include "worker/session_parts.h"

#include <algorithm>

#include "worker/deployment.h"
#include "worker/sharding.h"
#include "worker/synthetic.h"

namespace hproc::worker {

using kernels::DeviceMemory;
using kernels::MemoryUse;

Result<OpenModel> OpenModelAt(const std::string& model, const Deployment& deployment, const Runtime& runtime, ErrorKind* fault) {
  const auto failed = [&](ErrorKind kind, const Error& error) {
    if (fault != nullptr) *fault = kind;
    return error;
  };
  const std::string config = SyntheticConfig(model);
  Result<Checkpoint> checkpoint = config.empty() ? Checkpoint::Open(model) : Checkpoint::OpenSynthetic(config);
  if (!checkpoint.ok()) return failed(ErrorKind::kBadCheckpoint, checkpoint.error());
  Result<ModelSpec> spec = ParseModelSpec(checkpoint->config_json(), checkpoint->generation_config_json());
  if (!spec.ok()) return failed(ErrorKind::kBadCheckpoint, spec.error());
  Result<TensorTable> table = BuildTensorTable(*spec, *checkpoint);
  if (!table.ok()) return failed(ErrorKind::kLoaderFault, table.error());
  if (Result<void> able = runtime.CheckModel(*spec, deployment.world_size); !able.ok()) return failed(ErrorKind::kBadJob, able.error());
  Result<EngineShape> shape = EngineShapeOf(*spec, deployment);
  if (!shape.ok()) return failed(ErrorKind::kBadJob, shape.error());
  shape->workspace = runtime.WorkspaceOf(ShardSpec(*spec, shape->shard), *shape);
  return OpenModel{std::move(*checkpoint), std::move(*spec), std::move(*table), *shape};
}

MemoryEvent LedgerOf(const DeviceMemory& memory) {
  const DeviceMemory::Usage usage = memory.usage();
  MemoryEvent event;
  event.device = memory.device();
  event.live_bytes = usage.live_bytes;
  event.peak_bytes = usage.peak_bytes;
  event.cap_bytes = usage.cap_bytes;
  for (int u = 0; u < kernels::kMemoryUseCount; ++u) {
    const auto use = static_cast<MemoryUse>(u);
    if (use == MemoryUse::kWorkspace) continue;  // gone by now; its peak is a line of its own
    event.lines.push_back({.name = std::string(MemoryUseName(use)), .bytes = usage.live[static_cast<size_t>(u)]});
  }
  event.lines.push_back(
      {.name = "workspace_peak", .bytes = usage.peak[static_cast<size_t>(MemoryUse::kWorkspace)]});
  if (usage.overhead.context_bytes != 0 || usage.overhead.unattributed_bytes != 0) {  // a device with memory of its own
    event.lines.push_back({.name = "context", .bytes = usage.overhead.context_bytes});
    if (usage.overhead.communicator_bytes > 0) {
      event.lines.push_back({.name = "communicator", .bytes = usage.overhead.communicator_bytes});
    }
    event.lines.push_back({.name = "unattributed", .bytes = std::max<int64_t>(0, usage.overhead.unattributed_bytes)});
  }
  return event;
}

}  // namespace hproc::worker
