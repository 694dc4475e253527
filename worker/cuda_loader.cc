#include "worker/cuda_loader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/check.h"
#include "kernels/cuda/cut_container.h"
#include "kernels/decode.h"
#include "worker/load_parts.h"
#include "worker/sharding.h"
#include "worker/synthetic.h"

namespace hproc::worker {
namespace {

using kernels::CudaQuantizer;
using kernels::QuantizerOptions;
using kernels::TensorJob;
using kernels::TensorOutcome;

constexpr int64_t kMostWorkspaceBytes = int64_t{1} << 30;
constexpr int64_t kLeastWorkspaceBytes = int64_t{1} << 20;
constexpr int64_t kMeasuringWorkspaceBytes = int64_t{2} << 30;  // nothing else is on the device then

// Rows [first_row, …) of the rank's rows as stored, as many as `out` holds, with the columns asked for alone.
Result<void> ReadPart(const Checkpoint& checkpoint, const ModelTensor& tensor, const std::vector<Range>& all_rows,
                      const std::vector<Range>& columns, int64_t first_row, int64_t rows, std::span<std::byte> out) {
  const int64_t value_bytes = tensor.spec.bytes_per_value;
  const int64_t whole_bytes = tensor.spec.columns * value_bytes;
  const bool whole_rows = columns.size() == 1 && columns.front().count == tensor.spec.columns;
  std::vector<std::byte> row(whole_rows ? 0 : static_cast<size_t>(whole_bytes));
  size_t at = 0;
  for (const Range& range : all_rows) {
    const int64_t begin = std::max<int64_t>(0, first_row);
    const int64_t count = std::min(range.count - begin, rows);
    first_row -= range.count;
    if (count <= 0) continue;
    rows -= count;
    for (int64_t r = range.first + begin; r < range.first + begin + count;) {
      if (whole_rows) {
        const auto size = static_cast<size_t>(count * whole_bytes);
        if (Result<void> read = ReadStoredRows(checkpoint, tensor, r, count, out.subspan(at, size)); !read.ok()) return read;
        at += size;
        break;
      }
      if (Result<void> read = ReadStoredRows(checkpoint, tensor, r++, 1, row); !read.ok()) return read;
      for (const Range& part : columns) {
        const auto size = static_cast<size_t>(part.count * value_bytes);
        std::copy_n(row.begin() + part.first * value_bytes, size, out.begin() + static_cast<std::ptrdiff_t>(at));
        at += size;
      }
    }
  }
  return Ok();
}

// The job of `rows` and `columns` of a tensor, but for what reads them.
TensorJob JobOf(const ModelTensor& tensor, const TensorShard& part) {
  TensorJob job;
  job.plan.spec = tensor.spec;
  job.plan.spec.rows = part.row_count();
  job.plan.spec.columns = part.column_count();
  job.storage = StorageOf(tensor.dtype);
  job.use = MemoryUseOf(tensor.spec.family);
  if (tensor.sources.empty() && part.column_count() == tensor.spec.columns) {
    job.synthetic.emplace(TensorJob::Synthetic{.tensor = SyntheticTensorOf(tensor.spec), .rows = {}});
    for (const Range& range : part.rows) job.synthetic->rows.push_back({.first = range.first, .count = range.count});
  }
  return job;
}

// … which are all threads of the pool: one preads while another waits for the disk.
void ReadFrom(const Checkpoint& checkpoint, const ModelTensor& tensor, ThreadPool& pool, const TensorShard& part, TensorJob& job) {
  // The device counts over the whole tensor, so that of several sources none can be named.
  if (tensor.sources.size() == 1) job.label = TensorLabel(checkpoint, *tensor.sources.front().info);
  job.read = [&checkpoint, &tensor, &pool, part](int64_t first_row, int64_t rows, std::span<std::byte> out) -> Result<void> {
    constexpr int64_t kPieceBytes = int64_t{4} << 20;
    const int64_t row_bytes = part.column_count() * tensor.spec.bytes_per_value;
    const int64_t pieces = std::clamp<int64_t>(rows * row_bytes / kPieceBytes, 1, rows);
    std::vector<Result<void>> read(static_cast<size_t>(pieces));
    pool.ParallelFor(pieces, [&](int64_t piece, int) {
      const int64_t begin = rows * piece / pieces;
      const int64_t end = rows * (piece + 1) / pieces;
      read[static_cast<size_t>(piece)] =
          ReadPart(checkpoint, tensor, part.rows, part.columns, first_row + begin, end - begin,
                   out.subspan(static_cast<size_t>(begin * row_bytes), static_cast<size_t>((end - begin) * row_bytes)));
    });
    for (const Result<void>& outcome : read) {
      if (!outcome.ok()) return outcome;
    }
    return Ok();
  };
  job.read_sample = [&checkpoint, &tensor] { return ReadLibrarySample(checkpoint, tensor); };
}

int64_t LargestLayerBytes(const TensorTable& table) {
  std::map<int, int64_t> layers;
  int64_t most = 0;
  for (const ModelTensor& tensor : table.tensors) {
    most = std::max(most, layers[tensor.layer] += tensor.layer < 0 ? 0 : tensor.spec.kept_bytes());
  }
  return most;
}

TensorShard WholeOf(const ModelTensor& tensor) {
  return {.rows = {{.first = 0, .count = tensor.spec.rows}}, .columns = {{.first = 0, .count = tensor.spec.columns}}};
}
bool IsWhole(const ModelTensor& tensor, const TensorShard& part) {
  return part.row_count() == tensor.spec.rows && part.column_count() == tensor.spec.columns;
}

QuantizerOptions LoadOptions(const TensorTable& table) {
  return {.workspace_bytes = std::clamp(LargestLayerBytes(table), kLeastWorkspaceBytes, kMostWorkspaceBytes)};
}

// A matrix as a rank runs it.
struct PartShape {
  int64_t rows = 0;
  int64_t columns = 0;
  quant::ColumnCut cut;
};

// What a rank reads of a tensor: its part, or, where it quantizes some columns of all rows, all of it.
TensorShard ReadOf(const ModelTensor& tensor, const TensorShard& part, bool is_quantized) {
  return is_quantized && part.column_count() < tensor.spec.columns ? WholeOf(tensor) : part;
}

// The outliers that a part of a tensor has, if they are spread evenly.
int64_t EvenShare(const ModelTensor& tensor, const TensorShard& part, int64_t outliers) {
  const double share = static_cast<double>(part.row_count() * part.column_count()) / static_cast<double>(tensor.spec.weights());
  return static_cast<int64_t>(std::ceil(static_cast<double>(outliers) * share));
}

// What a rank does with a tensor under its plan, but for what reads it. `rank_spec` is what the rank runs.
TensorJob LoadJob(const ModelSpec& rank_spec, const ModelTensor& tensor, const quant::TensorPlan& plan, const TensorShard& part,
                  PackedLayout layout) {
  const bool is_quantized = plan.format.has_value();
  TensorJob job = JobOf(tensor, ReadOf(tensor, part, is_quantized));
  const quant::TensorSpec spec = job.plan.spec;
  job.plan = plan;
  job.plan.spec = spec;
  job.kind = is_quantized ? TensorJob::Kind::kQuantize : TensorJob::Kind::kKeep;
  if (!is_quantized) return job;
  const bool cuts_columns = part.column_count() < tensor.spec.columns;
  const PartShape shape{.rows = part.row_count(), .columns = part.column_count(), .cut = CutOf(tensor, part)};
  job.decode_order =
      layout == PackedLayout::kFastest && RunsInDecodeOrder(rank_spec, tensor) &&
      quant::ArrangedBytes(shape.rows, shape.columns, *plan.format, EvenShare(tensor, part, plan.outliers), shape.cut).has_value();
  if (IsWhole(tensor, part)) return job;
  job.is_part = !cuts_columns;
  if (job.is_part) job.plan.outliers = std::min(job.plan.outliers, spec.rows * (spec.columns / 16));
  if (job.decode_order) {
    job.first_column = shape.cut.first;
    job.columns = shape.columns;
    return job;
  }
  job.use = kernels::MemoryUse::kWorkspace;  // until it is cut
  job.plan.bytes = quant::LayoutOf(spec.rows, spec.columns, *job.plan.format, job.plan.outliers).total_bytes;
  return job;
}

std::vector<TensorJob> LoadJobs(const ModelSpec& spec, const TensorTable& table, const quant::Plan& plan, const Shard& shard,
                                PackedLayout layout) {
  const ModelSpec rank_spec = ShardSpec(spec, shard);
  std::vector<TensorJob> jobs;
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    jobs.push_back(LoadJob(rank_spec, table.tensors[i], plan.tensors[i], ShardOf(spec, table.tensors[i], shard), layout));
  }
  return jobs;
}

// What is refused in the midst of a load lacks the tensors after it too: a verdict with no more than the one that came to be refused
// would have the search come back once a tensor.
kernels::DeviceOutOfMemory WithTheRest(const kernels::DeviceOutOfMemory& refusal, const TensorTable& table, const quant::Plan& plan,
                                       std::span<const TensorShard> parts) {
  const auto refused = std::ranges::find(table.tensors, refusal.purpose(), [](const ModelTensor& tensor) { return tensor.spec.name; });
  // Before the first tensor it is the workspace.
  const auto first = refused == table.tensors.end() ? 0 : refused - table.tensors.begin() + 1;
  int64_t rest = 0;
  for (auto i = static_cast<size_t>(first); i < table.tensors.size(); ++i) {
    const ModelTensor& tensor = table.tensors[i];
    const quant::TensorPlan& tensor_plan = plan.tensors[i];
    const TensorShard& part = parts[i];
    const int64_t stored = part.row_count() * part.column_count() * tensor.spec.bytes_per_value;
    rest += kernels::DeviceMemory::Rounded(
        tensor_plan.format ? quant::LayoutOf(part.row_count(), part.column_count(), *tensor_plan.format,
                                             EvenShare(tensor, part, tensor_plan.outliers), CutOf(tensor, part)).total_bytes
                           : stored);
  }
  return {refusal.device(), refusal.requested_bytes() + rest, refusal.available_bytes(),
          refusal.purpose() + (rest > 0 ? " and what comes after it" : "")};
}

// What is there of a tensor beside the pass' own memory until its end: a container that is to be cut.
int64_t UncutBytes(const TensorJob& job) { return job.use == kernels::MemoryUse::kWorkspace ? job.plan.bytes : 0; }

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
    // Of a rank's part: made.xfp says itself how it is laid out.
    const quant::XfpMatrix& xfp = made.xfp;
    quant::XfpLayout layout{.total_bytes = made.rows * made.columns * tensor.spec.bytes_per_value};
    const auto* from = static_cast<const std::byte*>(made.data);
    if (tensor_plan.format) {
      layout = quant::LayoutOf(xfp.rows, xfp.columns, xfp.format, xfp.outliers, xfp.cut);
      from = reinterpret_cast<const std::byte*>(xfp.codes) - layout.codes;
    }
    const int64_t bytes = layout.total_bytes;
    LoadedTensor& there = tensors.emplace_back();
    there.role = tensor.role;
    there.layer = tensor.layer;
    there.storage = memory.Allocate(bytes, MemoryUseOf(tensor.spec.family), tensor.spec.name);
    kernels::CopyToDevice(device, there.storage.span().first(static_cast<size_t>(bytes)),
                          {from, static_cast<size_t>(bytes)});
    there.matrix = made;
    if (tensor_plan.format) {
      there.matrix.xfp = quant::ViewOf(xfp.rows, xfp.columns, xfp.format, xfp.outliers,
                                       there.storage.span().first(static_cast<size_t>(bytes)), xfp.cut);
      AssignLedgerLines(memory, MemoryUseOf(tensor.spec.family), there.matrix.xfp);
    } else {
      there.matrix.data = there.storage.data();
    }
  }
  return FinishLoad(spec, plan, shard, std::move(tensors), std::move(loaded->shares), start);
}

}  // namespace

bool RunsInDecodeOrder(const ModelSpec& rank_spec, const ModelTensor& tensor) {
  if (tensor.spec.family == quant::Family::kKept) return false;
  if (tensor.role != TensorRole::kExpertsGateUp && tensor.role != TensorRole::kExpertsDown) return true;
  const MoeSpec& moe = rank_spec.layers[static_cast<size_t>(tensor.layer)].feed_forward;
  const int64_t rows = tensor.role == TensorRole::kExpertsGateUp ? moe.width : rank_spec.hidden;
  // 48 KB of rounded activations always fit.
  return rows % kernels::kTileRows == 0 && moe.experts_per_token <= kernels::kMaxDecodeTop &&
         2 * moe.experts_per_token * moe.width <= 48 << 10;
}

Result<LoadedModel> LoadModelOnCuda(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                                    const quant::Plan& plan, const Shard& shard, const kernels::CudaDevice& device,
                                    kernels::DeviceMemory& memory, ThreadPool& pool, const LoadProgress& progress,
                                    PackedLayout layout) {
  const auto start = std::chrono::steady_clock::now();
  if (Result<void> fits = CheckPlanFits(plan, table); !fits.ok()) return fits.error();
  const auto is_uniform = [](const quant::TensorPlan& tensor) { return tensor.format && tensor.codebooks == quant::Codebooks::kUniform; };
  if (std::ranges::any_of(plan.tensors, is_uniform)) {
    return LoadThroughHost(spec, checkpoint, table, plan, shard, device, memory, pool, progress);
  }
  std::vector<TensorShard> parts;
  int64_t total = 0;
  std::vector<TensorJob> jobs = LoadJobs(spec, table, plan, shard, layout);
  for (size_t i = 0; i < jobs.size(); ++i) {
    parts.push_back(ShardOf(spec, table.tensors[i], shard));
    ReadFrom(checkpoint, table.tensors[i], pool, ReadOf(table.tensors[i], parts[i], plan.tensors[i].format.has_value()), jobs[i]);
    total += jobs[i].plan.spec.kept_bytes();
  }
  std::vector<LoadedTensor> tensors(jobs.size());
  std::vector<TensorShare> shares(jobs.size());
  int64_t done_bytes = 0;
  CudaQuantizer quantizer(device, memory, LoadOptions(table));
  const auto keep = [&](size_t i, TensorOutcome outcome) {
    const ModelTensor& tensor = table.tensors[i];
    const quant::TensorPlan& tensor_plan = plan.tensors[i];
    LoadedTensor& loaded = tensors[i];
    loaded.role = tensor.role;
    loaded.layer = tensor.layer;
    loaded.storage = std::move(outcome.storage);
    loaded.matrix.rows = parts[i].row_count();
    loaded.matrix.columns = parts[i].column_count();
    if (tensor_plan.format) {
      const quant::TensorPlan& made = jobs[i].plan;  // of what was quantized, which may be more than the part
      const kernels::MemoryUse use = MemoryUseOf(tensor.spec.family);
      quant::XfpMatrix matrix{.rows = loaded.matrix.rows, .columns = loaded.matrix.columns, .format = *made.format,
                              .cut = CutOf(tensor, parts[i])};
      if (jobs[i].decode_order) {
        loaded.matrix.storage = kernels::Storage::kDecodeOrder;
        loaded.matrix.decode = outcome.decode;
        loaded.outliers = std::move(outcome.outlier_storage);
        matrix.outliers = outcome.decode.outliers;
      } else {
        matrix = quant::ViewOf(made.spec.rows, made.spec.columns, *made.format, made.outliers,
                               loaded.storage.span().first(static_cast<size_t>(made.bytes)));
        if (!IsWhole(tensor, parts[i])) {
          const kernels::DeviceBuffer whole = std::move(loaded.storage);
          matrix = kernels::CutContainer(matrix, outcome.outliers, CutOf(tensor, parts[i]), loaded.matrix.columns, device, memory,
                                         use, tensor.spec.name, loaded.storage);
        }
        loaded.matrix.storage = kernels::Storage::kXfp;
        loaded.matrix.xfp = matrix;
      }
      // What decode order pads shows with the weights.
      AssignLedgerLines(memory, use, matrix);
      const std::vector<CountedRows> counted = CountedRowsOf(spec, tensor, shard);
      const bool is_counted = counted.front().is_counted;
      // The device gives the sums of all of a rank's rows; CheckSharding of CudaRuntime leaves none that are shared in part.
      HPROC_CHECK(std::ranges::all_of(counted, [&](const CountedRows& c) { return c.is_counted == is_counted; }), "rows of one rank");
      if (is_counted) shares[i] = {.outliers = outcome.outliers, .stats = outcome.stats};
    } else {
      loaded.matrix.storage = StorageOf(tensor.dtype);
      loaded.matrix.data = loaded.storage.data();
    }
    done_bytes += jobs[i].plan.spec.kept_bytes();
    if (progress) progress(done_bytes, total);
  };
  Result<void> done;
  try {
    done = quantizer.Run(jobs, keep);
  } catch (const kernels::DeviceOutOfMemory& refusal) {
    throw WithTheRest(refusal, table, plan, parts);
  }
  if (!done.ok()) return done.error();
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
    TensorJob& job = jobs.emplace_back(JobOf(table.tensors[i], WholeOf(table.tensors[i])));
    ReadFrom(checkpoint, table.tensors[i], pool, WholeOf(table.tensors[i]), job);
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

int64_t MostCudaLoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const Shard& shard) {
  const ModelSpec rank_spec = ShardSpec(spec, shard);
  int64_t apart = 0;  // one part's outliers and another's container may be there at once
  int64_t uncut = 0;
  bool is_synthetic = false;
  for (const ModelTensor& tensor : table.tensors) {
    is_synthetic = is_synthetic || tensor.sources.empty();
    const TensorShard part = ShardOf(spec, tensor, shard);
    if (tensor.spec.family == quant::Family::kKept || IsWhole(tensor, part)) continue;
    for (const quant::Mode mode : {quant::Mode::kV2, quant::Mode::kV2a}) {
      for (const int levels : quant::kLevelCounts) {
        quant::TensorPlan plan{.spec = tensor.spec, .format = quant::XfpFormat{.mode = mode, .levels = levels}};
        plan.outliers = 1;  // the fewer there are, the more their counts weigh
        const bool decode_order = LoadJob(rank_spec, tensor, plan, part, PackedLayout::kFastest).decode_order;
        plan.outliers = tensor.spec.rows * (tensor.spec.columns / 16);
        const TensorJob job = LoadJob(rank_spec, tensor, plan, part, decode_order ? PackedLayout::kFastest : PackedLayout::kContainers);
        apart = std::max(apart, kernels::ApartBytes(job));
        uncut = std::max(uncut, UncutBytes(job));
      }
    }
  }
  return kernels::DeviceMemory::Rounded(LoadOptions(table).workspace_bytes + apart + (is_synthetic ? kernels::kSyntheticDeviateBytes : 0)) +
         kernels::DeviceMemory::Rounded(uncut);
}

int64_t CudaLoadWorkspaceBytes(const ModelSpec& spec, const TensorTable& table, const quant::Plan& plan, const Shard& shard,
                               PackedLayout layout) {
  const std::vector<TensorJob> jobs = LoadJobs(spec, table, plan, shard, layout);
  int64_t uncut = 0;
  for (const TensorJob& job : jobs) uncut = std::max(uncut, kernels::DeviceMemory::Rounded(UncutBytes(job)));
  return kernels::QuantizerWorkspaceBytes(jobs, LoadOptions(table)) + uncut;
}

}  // namespace hproc::worker
