// What a session and the commands beside it begin with: a model opened for a deployment, and the ledger as an event.
#pragma once

#include <string>

#include "kernels/device_memory.h"
#include "worker/engine.h"
#include "worker/protocol.h"
#include "worker/runtime.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

struct OpenModel {
  Checkpoint checkpoint;
  ModelSpec spec;
  TensorTable table;
  EngineShape shape;
};

// `model` is a folder or synthetic:CONFIG.json. On an error `fault`, where given, says whose it is.
Result<OpenModel> OpenModelAt(const std::string& model, const Deployment& deployment, const Runtime& runtime,
                              ErrorKind* fault = nullptr);

MemoryEvent LedgerOf(const kernels::DeviceMemory& memory);

}  // namespace hproc::worker
