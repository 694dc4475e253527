#include "worker/cuda_runtime.h"

#include <algorithm>

#include "base/printable.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/nccl_ranks.h"
#include "worker/cuda_loader.h"

namespace hproc::worker {
namespace {

// Whether devices can share the model out.
Result<void> CheckCudaRanks(const ModelSpec& spec, int world_size) {
  if (world_size == 1) return Ok();
  if (const std::string why = kernels::WhyNoNccl(); !why.empty()) {
    return Error{"several ranks on CUDA devices need NCCL: " + Printable(why)};
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto* delta = std::get_if<GatedDeltaSpec>(&spec.layers[i].mixer);
    if (delta == nullptr || delta->key_heads >= world_size) continue;
    return Error{"layer " + std::to_string(i) + ": " + std::to_string(delta->key_heads) + " key heads are fewer than " +
                 std::to_string(world_size) + " ranks, which CUDA devices are not programmed for"};
  }
  return Ok();
}

class CudaRuntime : public Runtime {
 public:
  CudaRuntime(const std::string& device, int threads, int64_t memory_cap_bytes)
      : pool_(threads),
        device_(*kernels::CudaOrdinal(device)),
        memory_(device, memory_cap_bytes, kernels::CudaMemory(device_)),
        backend_(device_),
        context_{.backend = kernels::Backend::kDevice, .pool = &pool_, .device = &backend_} {}

  kernels::DeviceMemory& memory() override { return memory_; }
  const kernels::Context& context() override { return context_; }
  void JoinRanks(Communicator* ranks) override {
    if (ranks == nullptr) return;
    // Rank 0's id of the devices' own communicator, and whether every rank has the library for one.
    std::vector<std::byte> id;
    if (ranks->rank() == 0) id = kernels::MakeNcclId();
    ranks->Broadcast(id, ranks->patience);
    auto devices = std::make_unique<kernels::NcclRanks>(device_, id, ranks->rank(), ranks->world_size());
    memory_.NoteCommunicator(devices->device_bytes());
    backend_.JoinRanks(std::move(devices), [ranks](std::chrono::milliseconds waited) {
      ranks->CheckRanks();
      if (waited < ranks->patience) return;
      throw RankLost(ranks->rank() == 0 ? 1 : 0, true,
                     "the ranks' devices have waited for one another for " + std::to_string(waited.count() / 1000) + " s");
    });
  }

  Result<LoadedModel> Load(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                           const quant::Plan& plan, const Shard& shard, const LoadProgress& progress) override {
    return LoadModelOnCuda(spec, checkpoint, table, plan, shard, device_, memory_, pool_, progress, PackedLayout::kFastest);
  }
  Result<quant::RateTable> Measure(const Checkpoint& checkpoint, const TensorTable& table,
                                   const quant::RateOptions& options, const LoadProgress& progress) override {
    return MeasureRatesOnCuda(checkpoint, table, options, device_, memory_, pool_, progress);
  }
  Result<void> CheckModel(const ModelSpec& spec, int world_size) const override {
    if (Result<void> able = CheckCudaRanks(spec, world_size); !able.ok()) return able;
    if (spec.hidden > kernels::kMostNormColumns) {
      return Error{"a hidden state of " + std::to_string(spec.hidden) + " is wider than CUDA devices are programmed for"};
    }
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      const LayerSpec& layer = spec.layers[i];
      const auto beyond = [&](const char* what, int64_t value, int64_t most) -> Result<void> {
        if (value <= most) return Ok();
        return Error{"layer " + std::to_string(i) + ": " + what + " of " + std::to_string(value) + " is more than the " +
                     std::to_string(most) + " that CUDA devices are programmed for"};
      };
      Result<void> fits = Ok();
      if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
        fits = beyond("an attention head", attention->head_dim, kernels::kMostHeadDim);
      } else {
        const auto& delta = std::get<GatedDeltaSpec>(layer.mixer);
        fits = beyond("a key", delta.key_dim, kernels::kMostKeyDim);
        if (fits.ok()) fits = beyond("a convolution", delta.conv_kernel, kernels::kMostConvKernel);
      }
      if (fits.ok()) fits = beyond("a choice of experts", layer.feed_forward.experts, kernels::kMostExperts);
      if (!fits.ok()) return fits;
    }
    return Ok();
  }
  bool Arranges(const ModelSpec& rank_spec, const ModelTensor& tensor) const override { return RunsInDecodeOrder(rank_spec, tensor); }
  int64_t LoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const Shard& shard, int) const override {
    return MostCudaLoadWorkspaceBytes(spec, table, shard);
  }
  EngineWorkspace WorkspaceOf(const ModelSpec& spec, const EngineShape& shape) const override {
    EngineWorkspace workspace;
    workspace.activation_padding = kernels::kCudaActivationPadding;
    kernels::CudaPass pass{.rows = shape.pass_tokens, .most_columns = spec.hidden, .hidden = spec.hidden,
                           .logit_rows = shape.logit_rows};
    const auto expands = [&](int64_t rows, int64_t columns) {
      pass.expanded_bytes = std::max(pass.expanded_bytes, kernels::PrefillScratchBytes(shape.pass_tokens, rows, columns));
    };
    for (const LayerSpec& layer : spec.layers) {
      const MoeSpec& moe = layer.feed_forward;
      expands(moe.shared_width, spec.hidden);
      expands(spec.hidden, moe.shared_width);
      pass.experts = std::max(pass.experts, moe.experts);
      pass.top = std::max(pass.top, moe.experts_per_token);
      pass.width = std::max(pass.width, moe.width);
      pass.most_columns = std::max({pass.most_columns, moe.width, moe.shared_width});
      if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
        pass.most_columns = std::max(pass.most_columns, attention->heads * attention->head_dim);
        expands(attention->query_columns(), spec.hidden);
        expands(attention->kv_columns(), spec.hidden);
        expands(spec.hidden, attention->heads * attention->head_dim);
        workspace.attention_bytes = std::max(
            workspace.attention_bytes, kernels::CudaAttendWorkspaceBytes(shape.pass_tokens, attention->heads, attention->kv_heads,
                                                                         attention->head_dim, shape.context));
      } else {
        const auto& delta = std::get<GatedDeltaSpec>(layer.mixer);
        pass.most_columns = std::max(pass.most_columns, delta.value_columns());
        expands(delta.conv_channels(), spec.hidden);
        expands(delta.value_columns(), spec.hidden);
        expands(spec.hidden, delta.value_columns());
      }
    }
    workspace.bytes = kernels::CudaWorkspaceBytes(pass);
    return workspace;
  }

 private:
  ThreadPool pool_;
  kernels::CudaDevice device_;
  kernels::DeviceMemory memory_;
  kernels::CudaBackend backend_;
  kernels::Context context_;
};

}  // namespace

bool IsCudaDevice(const std::string& device) { return kernels::CudaOrdinal(device).has_value(); }

Result<void> CheckCudaDevice(const std::string& device) {
  std::string reason = "there are none";
  const int count = kernels::CudaDeviceCount(&reason);
  const int ordinal = kernels::CudaOrdinal(device).value_or(-1);
  if (count == 0) return Error{"device '" + Printable(device) + "': no CUDA device: " + reason};
  if (ordinal < 0 || ordinal >= count) {
    return Error{"device '" + Printable(device) + "': the machine has " + std::to_string(count) + " CUDA devices"};
  }
  return Ok();
}

std::string CudaDeviceName(const std::string& device) { return kernels::CudaNameOf(kernels::CudaOrdinal(device).value_or(0)); }

std::optional<int64_t> FreeCudaBytes(const std::string& device) {
  const std::optional<kernels::DeviceReading> reading = kernels::ReadIdleDevice(kernels::CudaOrdinal(device).value_or(0));
  if (!reading) return std::nullopt;
  return reading->total_bytes - reading->used_bytes;
}

std::unique_ptr<Runtime> OpenCudaRuntime(const std::string& device, int threads, int64_t memory_cap_bytes) {
  return std::make_unique<CudaRuntime>(device, threads, memory_cap_bytes);
}

}  // namespace hproc::worker
