#include "kernels/cuda/backend.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/check.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/decode.h"

namespace hproc::kernels {

int64_t CudaWorkspaceBytes(int64_t rows, int64_t most_columns) {
  int64_t bytes = 0;
  for (int64_t tokens = 1; tokens <= std::min<int64_t>(rows, kMaxDecodeTokens); ++tokens) {
    bytes = std::max(bytes, DecodeWorkspaceBytes(tokens, most_columns));
  }
  return bytes;
}

struct CudaBackend::State {
  explicit State(const CudaDevice& device) : current(device.ordinal()) {}

  // Rows [first, first + n) of every call with at most kMaxDecodeTokens rows: what the decode kernels take at once.
  template <typename Body>
  static void InPieces(int64_t rows, Body&& body) {
    for (int64_t first = 0; first < rows; first += kMaxDecodeTokens) body(first, std::min<int64_t>(kMaxDecodeTokens, rows - first));
  }

  DecodeStream decode() const { return {.stream = stream.get(), .overlap = true, .workspace = workspace.data()}; }

  ScopedDevice current;
  Stream stream;
  std::span<std::byte> workspace;
  std::map<int64_t, std::optional<Graph>> graphs;  // by key; empty after the first time
};

CudaBackend::CudaBackend(const CudaDevice& device) : state_(std::make_unique<State>(device)) {}
CudaBackend::~CudaBackend() = default;

void CudaBackend::Upload(void* to, std::span<const std::byte> from) {
  if (from.empty()) return;
  // From pageable memory: staged before it returns.
  HPROC_CUDA_CHECK(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, state_->stream.get()));
}

void CudaBackend::Download(std::span<std::byte> to, const void* from) {
  HPROC_CUDA_CHECK(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDeviceToHost, state_->stream.get()));
  state_->stream.Wait();
}

void CudaBackend::Zero(void* data, int64_t bytes) {
  if (bytes > 0) HPROC_CUDA_CHECK(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), state_->stream.get()));
}

void CudaBackend::Replay(int64_t key, FunctionRef<void()> body) {
  const auto [at, is_first] = state_->graphs.try_emplace(key);
  if (is_first) return body();
  if (!at->second) at->second.emplace(state_->stream, body);
  at->second->Launch(state_->stream);
}

void CudaBackend::UseWorkspace(std::span<std::byte> workspace) {
  state_->graphs.clear();
  state_->workspace = workspace;
}

void CudaBackend::Matmul(std::span<const MatmulCall> calls) {
  for (const MatmulCall& call : calls) {
    HPROC_CHECK(call.rows == call.weight->rows && call.input_tokens == nullptr && call.output_rows == nullptr,
                "whole products on a device");
  }
  while (!calls.empty()) {
    const MatmulCall& call = calls.front();
    size_t count = 1;
    if (call.weight->storage == Storage::kDecodeOrder) {
      State::InPieces(call.tokens, [&](int64_t first, int64_t tokens) {
        DecodeMatmul(state_->decode(), {.weight = call.weight->decode, .input = call.input->values + first * call.input->columns,
                                        .input_stride = call.input->columns, .tokens = tokens,
                                        .output = call.output + first * call.output_stride, .output_stride = call.output_stride});
      });
    } else {
      while (count < std::min(calls.size(), cuda::kMostRowProducts) && calls[count].weight->storage == call.weight->storage &&
             calls[count].tokens == call.tokens) {
        ++count;
      }
      cuda::LaunchRowMatmul(calls.first(count), state_->stream.get());
    }
    calls = calls.subspan(count);
  }
}

void CudaBackend::ExpertsGateUp(const ExpertsGateUpCall& call) {
  if (call.weight->storage != Storage::kDecodeOrder) return cuda::LaunchRowExpertsGateUp(call, state_->stream.get());
  const int64_t columns = call.weight->columns;
  State::InPieces(call.rows, [&](int64_t first, int64_t tokens) {
    DecodeGateUp(state_->decode(), {.weight = call.weight->decode, .width = call.width, .input = call.input + first * columns,
                                    .input_stride = columns, .tokens = tokens, .top = call.top,
                                    .experts = call.chosen + first * call.top,
                                    .output = call.output + first * call.top * call.width});
  });
}

void CudaBackend::ExpertsDown(const ExpertsDownCall& call) {
  if (call.weight->storage != Storage::kDecodeOrder) return cuda::LaunchRowExpertsDown(call, state_->stream.get());
  State::InPieces(call.rows, [&](int64_t first, int64_t tokens) {
    DecodeDown(state_->decode(), {.weight = call.weight->decode, .hidden = call.columns,
                                  .input = call.input + first * call.top * call.weight->columns, .tokens = tokens,
                                  .top = call.top, .experts = call.chosen + first * call.top,
                                  .route_weights = call.weights + first * call.top,
                                  .output = call.residual + first * call.columns, .accumulate = true});
  });
}

void CudaBackend::Attend(const AttendCall& call) {
  cuda::LaunchAttend(call, state_->stream.get());
}

void CudaBackend::EmbedTokens(const EmbedCall& call) { cuda::LaunchEmbedTokens(call, state_->stream.get()); }
void CudaBackend::AddBias(const BiasCall& call) { cuda::LaunchAddBias(call, state_->stream.get()); }
void CudaBackend::RmsNorm(const RmsNormCall& call) { cuda::LaunchRmsNorm(call, {}, state_->stream.get()); }
void CudaBackend::CombineAndNorm(const CombineCall& combine, const RmsNormCall& norm) {
  cuda::LaunchRmsNorm(norm, combine, state_->stream.get());
}
void CudaBackend::GatedRmsNorm(const GatedRmsNormCall& call) { cuda::LaunchGatedRmsNorm(call, state_->stream.get()); }
void CudaBackend::RotaryAngles(const RotaryCall& call) { cuda::LaunchRotaryAngles(call, state_->stream.get()); }
void CudaBackend::Rotate(const RotateCall& call) { cuda::LaunchRotate(call, state_->stream.get()); }
void CudaBackend::StoreKeysValues(const StoreKvCall& call) { cuda::LaunchStoreKeysValues(call, state_->stream.get()); }
void CudaBackend::CausalConvSilu(const CausalConvCall& call) { cuda::LaunchCausalConvSilu(call, state_->stream.get()); }
void CudaBackend::GatedDeltaRule(const DeltaRuleCall& call) { cuda::LaunchGatedDeltaRule(call, state_->stream.get()); }
void CudaBackend::Route(const RouteCall& call) { cuda::LaunchRoute(call, state_->stream.get()); }
void CudaBackend::SwiGlu(const SwiGluCall& call) { cuda::LaunchSwiGlu(call, state_->stream.get()); }
void CudaBackend::SigmoidGate(const SigmoidGateCall& call) { cuda::LaunchSigmoidGate(call, state_->stream.get()); }
void CudaBackend::PickGreedy(const GreedyCall& call) { cuda::LaunchPickGreedy(call, state_->stream.get()); }
void CudaBackend::AllReduceSum(float*, int64_t) { HPROC_CHECK(false, "a communicator"); }
void CudaBackend::Combine(const CombineCall& call) { cuda::LaunchCombine(call, state_->stream.get()); }

}  // namespace hproc::kernels
