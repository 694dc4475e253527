// CudaBackend: the operations of a pass on a CUDA device.
//
// Arithmetic. Weights in decode order are multiplied with activations of 16 bits: kMaxDecodeTokens tokens by the decode kernels
// (kernels/decode.h), more by the prefill kernels (kernels/prefill.h) where the device has them; all others in float32. Everything
// else is float32.
//
// No CUDA types here: callers are compiled by the host compiler alone.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "kernels/cuda/device.h"
#include "kernels/cuda/nccl_ranks.h"
#include "kernels/decode.h"
#include "kernels/device_backend.h"
#include "kernels/prefill.h"

namespace hproc::kernels {

// What the kernels are programmed for; a model beyond is refused before it is loaded.
inline constexpr int64_t kMostHeadDim = 256;
inline constexpr int64_t kMostKeyDim = 256;
inline constexpr int64_t kMostConvKernel = kMaxDecodeTaps;
inline constexpr int64_t kMostExperts = 1024;
inline constexpr int64_t kMostNormColumns = 16384;

// Rows of rounded activations are padded with zeros to a multiple of this.
inline constexpr int64_t kCudaActivationPadding = kTileColumns;

// What UseWorkspace must be given for passes of up to `rows` tokens on the current device.
struct CudaPass {
  int64_t rows = 0;
  int64_t most_columns = 0;  // of any weight in decode order
  int64_t expanded_bytes = 0;  // the most PrefillScratchBytes of any but the experts'
  int64_t hidden = 0;
  // The most of any layer.
  int64_t experts = 0;
  int64_t top = 0;
  int64_t width = 0;  // of a routed expert
  int64_t logit_rows = 0;  // whose tokens are drawn
};
int64_t CudaWorkspaceBytes(const CudaPass& pass);
// What AttendCall::workspace must hold for passes of up to `rows` tokens.
int64_t CudaAttendWorkspaceBytes(int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context);

// Thread-compatible; calls come from one thread, on which it makes `device` current. `device` outlives it.
class CudaBackend : public DeviceBackend {
 public:
  explicit CudaBackend(const CudaDevice& device);
  ~CudaBackend() override;

  void Upload(void* to, std::span<const std::byte> from) override;
  void Download(std::span<std::byte> to, const void* from) override;
  void Zero(void* data, int64_t bytes) override;
  // Enqueues as it comes the first time, records the second.
  void Replay(int64_t key, FunctionRef<void()> body) override;
  // Forgets what was recorded.
  void UseWorkspace(std::span<std::byte> workspace) override;

  void EmbedTokens(const EmbedCall& call) override;
  void Matmul(std::span<const MatmulCall> calls) override;
  void AddBias(const BiasCall& call) override;
  void RmsNorm(const RmsNormCall& call) override;
  void CombineAndNorm(const CombineCall& combine, const RmsNormCall& norm) override;
  void GatedRmsNorm(const GatedRmsNormCall& call) override;
  void RotaryAngles(const RotaryCall& call) override;
  void Rotate(const RotateCall& call) override;
  void StoreKeysValues(const StoreKvCall& call) override;
  void PrepareHeads(const PrepareHeadsCall& call) override;
  void Attend(const AttendCall& call) override;
  void CausalConvSilu(const CausalConvCall& call) override;
  void GatedDeltaRule(const DeltaRuleCall& call) override;
  void GatedDeltaNet(const GatedDeltaCall& call) override;
  void Route(const RouteCall& call) override;
  void NormAndProject(const NormAndProjectCall& call) override;
  void SwiGlu(const SwiGluCall& call) override;
  void SigmoidGate(const SigmoidGateCall& call) override;
  void Combine(const CombineCall& call) override;
  void Experts(const ExpertsCall& call) override;
  void PickGreedy(const GreedyCall& call) override;
  void DrawTokens(const DrawCall& call) override;
  void AllReduceSum(float* values, int64_t count) override;

  // Before the first pass of one of several ranks. While a Download waits, `check` is called with how long it has; where it
  // throws, the device is made to give up and what it threw goes on.
  void JoinRanks(std::unique_ptr<NcclRanks> ranks, std::function<void(std::chrono::milliseconds waited)> check);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hproc::kernels
