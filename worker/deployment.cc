#include "worker/deployment.h"

#include <sched.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <thread>

#include "base/printable.h"
#include "worker/runtime.h"
#include "worker/sharding.h"

namespace hproc::worker {
namespace {

// On the CPU the products gain little beyond it and the activations cost memory.
constexpr int kDefaultPrefillChunk = 32;

// A device wants more tokens at once the wider the model; activations grow with the width, weights with its square.
int DefaultPrefillChunk(const ModelSpec& spec, const std::string& device) {
  if (device == "cpu") return kDefaultPrefillChunk;
  return static_cast<int>(std::clamp<int64_t>(spec.hidden * spec.hidden / 4608, kDefaultPrefillChunk, 2048));
}

std::optional<kernels::Storage> KvStorageOf(std::string_view dtype) {
  if (dtype == "f16") return kernels::Storage::kFloat16;
  if (dtype == "f32") return kernels::Storage::kFloat32;
  if (dtype == "i8") return kernels::Storage::kInt8;
  return std::nullopt;
}

}  // namespace

int ThreadsFor(const Deployment& deployment) {
  // The ranks of a machine share what there is.
  const auto share = [&](int threads) { return std::max(1, threads / deployment.world_size); };
  if (deployment.threads > 0) return share(deployment.threads);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return share(CPU_COUNT(&allowed));
  return share(static_cast<int>(std::thread::hardware_concurrency()));
}

Result<void> CheckDeployment(const Deployment& deployment) {
  if (Result<void> there = CheckDevice(deployment.device); !there.ok()) return there;
  if (deployment.threads > kMostThreads) {
    return Error{std::to_string(deployment.threads) + " CPU threads are more than the " + std::to_string(kMostThreads) +
                 " allowed"};
  }
  if (deployment.batch < 1) return Error{"a batch of " + std::to_string(deployment.batch) + " sequences is none"};
  if (!KvStorageOf(deployment.kv_dtype)) {
    return Error{"kv dtype '" + Printable(deployment.kv_dtype) + "' is none of f16, f32, i8"};
  }
  return Ok();
}

Result<EngineShape> EngineShapeOf(const ModelSpec& spec, const Deployment& deployment) {
  if (Result<void> able = CheckDeployment(deployment); !able.ok()) return able.error();
  if (Result<void> divides = CheckSharding(spec, deployment.world_size); !divides.ok()) return divides.error();
  if (deployment.context < 2 || deployment.context > spec.max_positions) {
    return Error{"a context of " + std::to_string(deployment.context) + " is not within the model's 2 to " +
                 std::to_string(spec.max_positions) + " positions"};
  }
  EngineShape shape;
  shape.shard = {.rank = deployment.rank, .world_size = deployment.world_size};
  shape.slots = deployment.batch;
  shape.context = deployment.context;
  const int chunk = deployment.prefill_chunk > 0 ? deployment.prefill_chunk : DefaultPrefillChunk(spec, deployment.device);
  shape.pass_tokens = std::max(std::min(chunk, deployment.context), deployment.batch);
  shape.logit_rows = deployment.batch;
  shape.kv_storage = *KvStorageOf(deployment.kv_dtype);
  return shape;
}

std::vector<LedgerLine> PredictedLines(const TensorTable& table, const ModelSpec& spec, const EngineShape& shape,
                                       const Runtime& runtime, int threads) {
  const EngineBytes bytes = EngineBytesOf(ShardSpec(spec, shape.shard), shape);
  return {{.name = "kv_cache", .bytes = bytes.kv_cache},
          {.name = "state", .bytes = bytes.state},
          {.name = "activations", .bytes = bytes.activations},
          {.name = "workspace_peak", .bytes = runtime.LoadWorkspaceBytes(spec, table, shape.shard, threads)}};
}

RankForecast ForecastOf(const TensorTable& table, const ModelSpec& spec, const EngineShape& shape, int rank,
                        const Runtime& runtime, int threads) {
  EngineShape own = shape;
  own.shard.rank = rank;
  own.workspace = runtime.WorkspaceOf(ShardSpec(spec, own.shard), own);
  RankForecast forecast;
  forecast.predicted = PredictedLines(table, spec, own, runtime, threads);
  for (const ModelTensor& tensor : table.tensors) {
    const TensorShard part = ShardOf(spec, tensor, own.shard);
    forecast.parts.push_back({.rows = part.row_count(), .columns = part.column_count(), .first_column = part.columns.front().first});
  }
  return forecast;
}

std::string ArrangedTensors(const TensorTable& table, const ModelSpec& rank_spec, const Runtime& runtime) {
  std::string arranged;
  for (const ModelTensor& tensor : table.tensors) arranged += runtime.Arranges(rank_spec, tensor) ? '1' : '0';
  return arranged.find('1') == std::string::npos ? std::string() : arranged;
}

}  // namespace hproc::worker
