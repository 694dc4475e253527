// Leaving out routed experts: what the pruned INT4 baseline does to fit where INT4 does not.
//
// No data says which experts matter, so the weights have to: an expert's score is the product of the Frobenius norms of
// its router row, its gate and up projections and its down projection, which bounds how much it can add to the residual
// stream. Each layer keeps those with the highest scores, the router only their rows; what a token would have asked of
// the others goes to the best of those that are left.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/thread_pool.h"
#include "quant/plan.h"
#include "worker/checkpoint.h"
#include "worker/loader.h"
#include "worker/model_spec.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// Makes of a checkpoint's model the one that `plan` is of: where the plan has fewer experts in a layer, the experts with the
// highest scores stay, in their order. Reads the routed experts of these layers, and nothing where the plan has all. A
// token is sent to no more experts than there are. An error names a tensor that cannot be read. `progress` as in LoadModel.
Result<void> PruneExperts(const Checkpoint& checkpoint, const quant::Plan& plan, ModelSpec& spec, TensorTable& table,
                          ThreadPool& pool, const LoadProgress& progress);

}  // namespace hproc::worker
