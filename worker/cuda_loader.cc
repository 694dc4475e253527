#include "worker/cuda_loader.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/check.h"
#include "kernels/cuda/arrange.h"
#include "kernels/decode.h"
#include "worker/load_parts.h"

namespace hproc::worker {
namespace {

using kernels::CudaQuantizer;
using kernels::QuantizerOptions;
using kernels::TensorJob;
using kernels::TensorOutcome;

constexpr int64_t kMostWorkspaceBytes = int64_t{1} << 30;
constexpr int64_t kLeastWorkspaceBytes = int64_t{1} << 20;
constexpr int64_t kMeasuringWorkspaceBytes = int64_t{2} << 30;  // nothing else is on the device then

// A job that reads with all threads of the pool: one preads while another waits for the disk.
TensorJob JobOf(const Checkpoint& checkpoint, const ModelTensor& tensor, ThreadPool& pool) {
  TensorJob job;
  job.plan.spec = tensor.spec;
  // The device counts over the whole tensor, so that of several sources none can be named.
  if (tensor.sources.size() == 1) job.label = TensorLabel(checkpoint, *tensor.sources.front().info);
  job.storage = StorageOf(tensor.dtype);
  job.use = MemoryUseOf(tensor.spec.family);
  job.read = [&checkpoint, &tensor, &pool](int64_t first_row, int64_t rows, std::span<std::byte> out) -> Result<void> {
    constexpr int64_t kPieceBytes = int64_t{4} << 20;
    const int64_t row_bytes = tensor.spec.columns * tensor.spec.bytes_per_value;
    const int64_t pieces = std::clamp<int64_t>(rows * row_bytes / kPieceBytes, 1, rows);
    std::vector<Result<void>> read(static_cast<size_t>(pieces));
    pool.ParallelFor(pieces, [&](int64_t piece, int) {
      const int64_t begin = rows * piece / pieces;
      const int64_t end = rows * (piece + 1) / pieces;
      read[static_cast<size_t>(piece)] =
          ReadStoredRows(checkpoint, tensor, first_row + begin, end - begin,
                         out.subspan(static_cast<size_t>(begin * row_bytes), static_cast<size_t>((end - begin) * row_bytes)));
    });
    for (const Result<void>& outcome : read) {
      if (!outcome.ok()) return outcome;
    }
    return Ok();
  };
  job.read_sample = [&checkpoint, &tensor] { return ReadLibrarySample(checkpoint, tensor); };
  return job;
}

int64_t LargestLayerBytes(const TensorTable& table) {
  std::map<int, int64_t> layers;
  int64_t most = 0;
  for (const ModelTensor& tensor : table.tensors) {
    most = std::max(most, layers[tensor.layer] += tensor.layer < 0 ? 0 : tensor.spec.kept_bytes());
  }
  return most;
}

QuantizerOptions LoadOptions(const TensorTable& table) {
  return {.workspace_bytes = std::clamp(LargestLayerBytes(table), kLeastWorkspaceBytes, kMostWorkspaceBytes)};
}

std::vector<TensorJob> LoadJobs(const Checkpoint& checkpoint, const TensorTable& table, const quant::Plan& plan,
                                ThreadPool& pool) {
  std::vector<TensorJob> jobs;
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    TensorJob& job = jobs.emplace_back(JobOf(checkpoint, table.tensors[i], pool));
    job.plan = plan.tensors[i];
    job.kind = job.plan.format ? TensorJob::Kind::kQuantize : TensorJob::Kind::kKeep;
  }
  return jobs;
}

// Small matrices cost no time worth their padding: what the plan says they take, they take.
constexpr int64_t kWideColumns = 1024;

// Whether the fast products can run the matrix, and at next to no bytes.
bool WantsDecodeOrder(const ModelSpec& spec, const ModelTensor& tensor, const quant::TensorPlan& plan) {
  const int64_t columns = tensor.spec.columns;
  if (!kernels::HasDecodeOrder(*plan.format) || columns > kernels::kMaxDecodeColumns || columns % 4 != 0) return false;
  if (tensor.role == TensorRole::kExpertsGateUp || tensor.role == TensorRole::kExpertsDown) {
    const MoeSpec& moe = spec.layers[static_cast<size_t>(tensor.layer)].feed_forward;
    const int64_t rows = tensor.role == TensorRole::kExpertsGateUp ? moe.width : spec.hidden;
    // 48 KB of rounded activations always fit.
    if (rows % kernels::kTileRows != 0 || moe.experts_per_token > kernels::kMaxDecodeTop ||
        2 * moe.experts_per_token * moe.width > 48 << 10) {
      return false;
    }
  }
  const int64_t bytes = kernels::DecodeOrderOf(tensor.spec.rows, columns, *plan.format, plan.outliers).total_bytes;
  return bytes <= plan.bytes || (columns >= kWideColumns && bytes <= plan.bytes + plan.bytes / 200);
}

// The new bytes stand on the family's line; codebooks and outliers stay on theirs, so that what decode order pads shows with the
// weights.
void Arrange(LoadedTensor& loaded, const ModelTensor& tensor, const kernels::CudaDevice& device, kernels::DeviceMemory& memory) {
  const quant::XfpMatrix& xfp = loaded.matrix.xfp;
  const int64_t bytes = kernels::DecodeOrderOf(xfp.rows, xfp.columns, xfp.format, xfp.outliers).total_bytes;
  kernels::DeviceBuffer storage = memory.Allocate(bytes, MemoryUseOf(tensor.spec.family), tensor.spec.name);
  loaded.matrix.decode = kernels::ArrangeForDecode(xfp, device, storage.span().first(static_cast<size_t>(bytes)));
  loaded.matrix.storage = kernels::Storage::kDecodeOrder;
  loaded.matrix.xfp = {};
  loaded.storage = std::move(storage);
}

// Uniform codebooks, those of the INT4 baselines, are made by the host alone: the whole model there, then tensor by tensor to the
// device.
Result<LoadedModel> LoadThroughHost(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                    const quant::Plan& plan, const Shard& shard, const kernels::CudaDevice& device,
                                    kernels::DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  kernels::DeviceMemory host("cpu", 0);
  Result<LoadedModel> loaded = LoadModel(spec, checkpoint, table, plan, shard, host, pool, progress);
  if (!loaded.ok()) return loaded.error();
  std::vector<LoadedTensor> tensors;
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    const ModelTensor& tensor = table.tensors[i];
    const quant::TensorPlan& tensor_plan = plan.tensors[i];
    const kernels::Matrix& made = loaded->model.Get(tensor.role, tensor.layer);
    const int64_t bytes = tensor_plan.format ? tensor_plan.bytes : tensor.spec.kept_bytes();
    const auto* from = static_cast<const std::byte*>(made.data);
    if (tensor_plan.format) {
      const quant::XfpLayout layout = quant::LayoutOf(tensor.spec.rows, tensor.spec.columns, *tensor_plan.format, tensor_plan.outliers);
      from = reinterpret_cast<const std::byte*>(made.xfp.codes) - layout.codes;
    }
    LoadedTensor& there = tensors.emplace_back();
    there.role = tensor.role;
    there.layer = tensor.layer;
    there.storage = memory.Allocate(bytes, MemoryUseOf(tensor.spec.family), tensor.spec.name);
    kernels::CopyToDevice(device, there.storage.span().first(static_cast<size_t>(bytes)),
                          {from, static_cast<size_t>(bytes)});
    there.matrix = made;
    if (tensor_plan.format) {
      there.matrix.xfp = quant::ViewOf(tensor.spec.rows, tensor.spec.columns, *tensor_plan.format, tensor_plan.outliers,
                                       there.storage.span().first(static_cast<size_t>(bytes)));
      AssignLedgerLines(memory, MemoryUseOf(tensor.spec.family), there.matrix.xfp);
    } else {
      there.matrix.data = there.storage.data();
    }
  }
  return FinishLoad(spec, plan, shard, std::move(tensors), std::move(loaded->shares), start);
}

}  // namespace

Result<LoadedModel> LoadModelOnCuda(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                    const quant::Plan& plan, const Shard& shard, const kernels::CudaDevice& device,
                                    kernels::DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress,
                                    PackedLayout layout) {
  if (shard.world_size != 1) return Error{"tensor parallelism on CUDA devices is not there yet"};
  const auto start = std::chrono::steady_clock::now();
  if (Result<void> fits = CheckPlanFits(plan, table); !fits.ok()) return fits.error();
  const auto is_uniform = [](const quant::TensorPlan& tensor) { return tensor.format && tensor.codebooks == quant::Codebooks::kUniform; };
  if (std::ranges::any_of(plan.tensors, is_uniform)) {
    return LoadThroughHost(spec, checkpoint, table, plan, shard, device, memory, pool, progress);
  }
  const std::vector<TensorJob> jobs = LoadJobs(checkpoint, table, plan, pool);
  std::vector<LoadedTensor> tensors(jobs.size());
  std::vector<TensorShare> shares(jobs.size());
  const int64_t total = StoredBytes(table);
  int64_t done_bytes = 0;
  CudaQuantizer quantizer(device, memory, LoadOptions(table));
  Result<void> done = quantizer.Run(jobs, [&](size_t i, TensorOutcome outcome) {
    const ModelTensor& tensor = table.tensors[i];
    const quant::TensorPlan& tensor_plan = plan.tensors[i];
    LoadedTensor& loaded = tensors[i];
    loaded.role = tensor.role;
    loaded.layer = tensor.layer;
    loaded.storage = std::move(outcome.storage);
    loaded.matrix.rows = tensor.spec.rows;
    loaded.matrix.columns = tensor.spec.columns;
    if (tensor_plan.format) {
      loaded.matrix.storage = kernels::Storage::kXfp;
      loaded.matrix.xfp = quant::ViewOf(tensor.spec.rows, tensor.spec.columns, *tensor_plan.format, tensor_plan.outliers,
                                        loaded.storage.span().first(static_cast<size_t>(tensor_plan.bytes)));
      AssignLedgerLines(memory, MemoryUseOf(tensor.spec.family), loaded.matrix.xfp);
      shares[i] = {.outliers = tensor_plan.outliers, .stats = outcome.stats};
    } else {
      loaded.matrix.storage = StorageOf(tensor.dtype);
      loaded.matrix.data = loaded.storage.data();
    }
    done_bytes += tensor.spec.kept_bytes();
    if (progress) progress(done_bytes, total);
  });
  if (!done.ok()) return done.error();
  for (size_t i = 0; layout == PackedLayout::kFastest && i < tensors.size(); ++i) {
    if (!plan.tensors[i].format || !WantsDecodeOrder(spec, table.tensors[i], plan.tensors[i])) continue;
    Arrange(tensors[i], table.tensors[i], device, memory);
  }
  return FinishLoad(spec, plan, shard, std::move(tensors), std::move(shares), start);
}

Result<quant::RateTable> MeasureRatesOnCuda(const Checkpoint& checkpoint, const TensorTable& table,
                                            const quant::RateOptions& options, const kernels::CudaDevice& device,
                                            kernels::DeviceMemory& memory, ThreadPool& pool,
                                            const LoadProgress& progress) {
  quant::RateTable rates;
  Result<std::string> fingerprint = checkpoint.Fingerprint();
  if (!fingerprint.ok()) return fingerprint.error();
  rates.fingerprint = std::move(*fingerprint);
  const int64_t total = StoredBytes(table);
  int64_t done_bytes = 0;
  std::vector<TensorJob> jobs;
  std::vector<size_t> places;  // of the jobs' tensors in the table
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    rates.tensors.push_back({.spec = table.tensors[i].spec, .candidates = {}});
    if (table.tensors[i].spec.family == quant::Family::kKept) {
      done_bytes += table.tensors[i].spec.kept_bytes();
      continue;
    }
    TensorJob& job = jobs.emplace_back(JobOf(checkpoint, table.tensors[i], pool));
    job.kind = TensorJob::Kind::kMeasure;
    job.rate_options = options;
    places.push_back(i);
  }
  CudaQuantizer quantizer(device, memory, {.workspace_bytes = kMeasuringWorkspaceBytes});
  Result<void> done = quantizer.Run(jobs, [&](size_t job, TensorOutcome outcome) {
    const size_t i = places[job];
    rates.tensors[i] = std::move(outcome.rates);
    done_bytes += rates.tensors[i].spec.kept_bytes();
    if (progress) progress(done_bytes, total);
  });
  if (!done.ok()) return done.error();
  return rates;
}

int64_t MostCudaLoadWorkspaceBytes(const TensorTable& table) {
  int64_t most = LoadOptions(table).workspace_bytes;
  // 6 bits of 16 and the tables.
  for (const ModelTensor& tensor : table.tensors) {
    if (tensor.spec.family != quant::Family::kKept) most = std::max(most, tensor.spec.weights() * 7 / 8);
  }
  return kernels::DeviceMemory::Rounded(most);
}

int64_t CudaLoadWorkspaceBytes(const TensorTable& table, const quant::Plan& plan) {
  std::vector<TensorJob> jobs(table.tensors.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].storage = StorageOf(table.tensors[i].dtype);
    jobs[i].plan = plan.tensors[i];
    jobs[i].kind = jobs[i].plan.format ? TensorJob::Kind::kQuantize : TensorJob::Kind::kKeep;
  }
  return kernels::QuantizerWorkspaceBytes(jobs, LoadOptions(table));
}

}  // namespace hproc::worker
