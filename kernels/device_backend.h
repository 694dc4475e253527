// DeviceBackend: the operations on a device that has memory and an order of time of its own.
//
// The operations' own headers check their calls and come here where the context's backend is kDevice. The calls are the same,
// but every pointer in them is device memory, that of a span too: the host knows a span's size and may not look inside. So
// nothing in a pass depends on what the device computed, and a pass can be recorded once and replayed.
//
// Work is enqueued, in order; only Download waits. A device that fails throws DeviceError (kernels/device_error.h), now or at a
// later call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/function_ref.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gated_delta.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/sampling.h"

namespace hproc::kernels {

// Thread-compatible.
class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;

  // `from` may be written again on return.
  virtual void Upload(void* to, std::span<const std::byte> from) = 0;
  // Waits for all that was enqueued.
  virtual void Download(std::span<std::byte> to, const void* from) = 0;
  virtual void Zero(void* data, int64_t bytes) = 0;
  // Does what `body` enqueues. Where `key` is the same as in an earlier call, body enqueues the same calls with the same
  // pointers and sizes, and the device may replay what it recorded then. Keys are of one caller.
  virtual void Replay(int64_t key, FunctionRef<void()> body) = 0;

  // What the operations may use between calls, as many bytes as the backend asks for elsewhere; before the first pass.
  virtual void UseWorkspace(std::span<std::byte> workspace) = 0;

  virtual void EmbedTokens(const EmbedCall& call) = 0;
  virtual void Matmul(std::span<const MatmulCall> calls) = 0;  // whole products
  virtual void AddBias(const BiasCall& call) = 0;
  virtual void RmsNorm(const RmsNormCall& call) = 0;
  virtual void CombineAndNorm(const CombineCall& combine, const RmsNormCall& norm) = 0;
  virtual void GatedRmsNorm(const GatedRmsNormCall& call) = 0;
  virtual void RotaryAngles(const RotaryCall& call) = 0;
  virtual void Rotate(const RotateCall& call) = 0;
  virtual void StoreKeysValues(const StoreKvCall& call) = 0;
  virtual void PrepareHeads(const PrepareHeadsCall& call) = 0;
  virtual void Attend(const AttendCall& call) = 0;
  virtual void CausalConvSilu(const CausalConvCall& call) = 0;
  virtual void GatedDeltaRule(const DeltaRuleCall& call) = 0;
  virtual void GatedDeltaNet(const GatedDeltaCall& call) = 0;
  virtual void Route(const RouteCall& call) = 0;
  virtual void NormAndProject(const NormAndProjectCall& call) = 0;
  virtual void SwiGlu(const SwiGluCall& call) = 0;
  virtual void SigmoidGate(const SigmoidGateCall& call) = 0;
  virtual void Combine(const CombineCall& call) = 0;
  virtual void Experts(const ExpertsCall& call) = 0;
  virtual void PickGreedy(const GreedyCall& call) = 0;
  virtual void DrawTokens(const DrawCall& call) = 0;
  // Adds `values` up over the ranks of tensor parallelism, in place: element by element, the same bits on each of them. Every
  // rank calls it, at the same place of the pass.
  virtual void AllReduceSum(float* values, int64_t count) = 0;
};

}  // namespace hproc::kernels
