// What a Deployment (worker/protocol.h) means on this machine.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "worker/engine.h"
#include "worker/protocol.h"
#include "worker/runtime.h"

namespace hproc::worker {

// CPU threads of a rank: its share of what this process may use, or of what the deployment says.
int ThreadsFor(const Deployment& deployment);

inline constexpr int kMostThreads = 1024;

// Fails where the deployment asks for what this build or machine cannot do, whatever the model.
Result<void> CheckDeployment(const Deployment& deployment);

// Fails likewise, and where the model, the whole one, cannot do it or does not divide among the ranks. EngineShape::workspace is left to the runtime.
Result<EngineShape> EngineShapeOf(const ModelSpec& spec, const Deployment& deployment);

// The ledger's lines beside the weights, as the shape's rank will allocate them; `spec` is the whole model's.
// A workspace_peak line is what quantize-on-load needs beside the weights at most, on `threads`.
std::vector<LedgerLine> PredictedLines(const TensorTable& table, const ModelSpec& spec, const EngineShape& shape,
                                       const Runtime& runtime, int threads);

// The same of one of several ranks (but for device and free bytes), with the parts it holds. `shape` is any rank's.
RankForecast ForecastOf(const TensorTable& table, const ModelSpec& spec, const EngineShape& shape, int rank,
                        const Runtime& runtime, int threads);

// MeasureResult::arranged; `rank_spec` is what a rank runs.
std::string ArrangedTensors(const TensorTable& table, const ModelSpec& rank_spec, const Runtime& runtime);

}  // namespace hproc::worker
