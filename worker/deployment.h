// What a Deployment (worker/protocol.h) means on this machine.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "worker/engine.h"
#include "worker/protocol.h"
#include "worker/runtime.h"

namespace hproc::worker {

// CPU threads this process may use, or `wanted` where that is given.
int ThreadsFor(const Deployment& deployment);

inline constexpr int kMostThreads = 1024;

// Fails where the deployment asks for what this build or machine cannot do, whatever the model.
Result<void> CheckDeployment(const Deployment& deployment);

// Fails likewise, and where the model cannot do it. EngineShape::workspace is left to the runtime.
Result<EngineShape> EngineShapeOf(const ModelSpec& spec, const Deployment& deployment);

// The ledger's lines beside the weights, as they will be allocated.
// A workspace_peak line is what quantize-on-load needs beside the weights at most.
std::vector<LedgerLine> PredictedLines(const TensorTable& table, const ModelSpec& spec, const EngineShape& shape,
                                       const Runtime& runtime);

}  // namespace hproc::worker
