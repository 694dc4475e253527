// The launches behind the CUDA backend (kernels/cuda/backend.h), one a call of an operation: the contracts are those of
// kernels/*.h, every pointer is device memory, plain weights are of any plain storage. They enqueue on `stream` and return, never
// allocate, may be captured into a graph, and throw DeviceError where the launch is refused.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/backend.h"

namespace hproc::kernels::cuda {

// elementwise.cu
void LaunchEmbedTokens(const EmbedCall& call, cudaStream_t stream);
void LaunchAddBias(const BiasCall& call, cudaStream_t stream);
void LaunchSwiGlu(const SwiGluCall& call, cudaStream_t stream);
void LaunchSigmoidGate(const SigmoidGateCall& call, cudaStream_t stream);
void LaunchCombine(const CombineCall& call, cudaStream_t stream);

// norm.cu. Where `combine` has a residual, that is the norm's input and takes the rest in first.
void LaunchRmsNorm(const RmsNormCall& call, const CombineCall& combine, cudaStream_t stream);
void LaunchGatedRmsNorm(const GatedRmsNormCall& call, cudaStream_t stream);

// norm_products.cu: NormAndProject in one launch, for weights of one plain storage; of no products, too. `counters`: kMostProjectedRows, which are zero
// before and after.
bool CanNormAndProject(const NormAndProjectCall& call);
void LaunchNormAndProject(const NormAndProjectCall& call, unsigned* counters, cudaStream_t stream);

// attention.cu
void LaunchRotaryAngles(const RotaryCall& call, cudaStream_t stream);
void LaunchRotate(const RotateCall& call, cudaStream_t stream);
void LaunchStoreKeysValues(const StoreKvCall& call, cudaStream_t stream);
void LaunchPrepareHeads(const PrepareHeadsCall& call, cudaStream_t stream);
void LaunchAttend(const AttendCall& call, cudaStream_t stream);

// attend_tiles.cu: attention of long runs; for caches and devices that CanAttendInTiles.
bool CanAttendInTiles(const AttendCall& call);
void LaunchAttendTiles(const AttendCall& call, cudaStream_t stream);

// gated_delta.cu
void LaunchCausalConvSilu(const CausalConvCall& call, cudaStream_t stream);
void LaunchGatedDeltaRule(const DeltaRuleCall& call, cudaStream_t stream);
// One token of each sequence: the rule, and the norm of what it gives. For shapes that CanStepDelta.
bool CanStepDelta(const DeltaRuleCall& rule);
void LaunchDeltaStep(const DeltaRuleCall& rule, const GatedRmsNormCall& norm, cudaStream_t stream);

// delta_chunks.cu: the delta rule of long runs; for shapes and devices that CanRuleInChunks.
bool CanRuleInChunks(const DeltaRuleCall& call);
void LaunchDeltaChunks(const DeltaRuleCall& call, cudaStream_t stream);

// route.cu
void LaunchRoute(const RouteCall& call, cudaStream_t stream);

// sampling.cu
inline constexpr int64_t kMostPickBlocks = 128;
// What it needs of the workspace; `counters` are zero before and after.
int64_t PickGreedyBytes();
void LaunchPickGreedy(const GreedyCall& call, std::byte* workspace, std::span<unsigned> counters, cudaStream_t stream);
// draw.cu: likewise. Its blocks wait for each other, so that no more are launched than `multiprocessors` hold at once.
inline constexpr int64_t kMostDrawGroups = 16;
int64_t DrawBytes(int64_t rows);
void LaunchDrawTokens(const DrawCall& call, std::byte* workspace, std::span<unsigned> counters, int multiprocessors, cudaStream_t stream);

// row_matmul.cu: weights of any storage but decode order. Up to kMostRowProducts calls of one storage and number of tokens at
// once.
inline constexpr size_t kMostRowProducts = 4;
void LaunchRowMatmul(std::span<const MatmulCall> calls, cudaStream_t stream);
void LaunchRowExpertsGateUp(const ExpertsCall& call, cudaStream_t stream);
void LaunchRowExpertsDown(const ExpertsCall& call, cudaStream_t stream);

}  // namespace hproc::kernels::cuda
