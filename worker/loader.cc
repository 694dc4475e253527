#include "worker/loader.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "base/check.h"
#include "base/printable.h"
#include "quant/matrix_quantizer.h"
#include "worker/load_parts.h"
#include "worker/tensor_convert.h"

namespace hproc::worker {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceMemory;
using kernels::MemoryUse;
using quant::Family;

// Rows of a block: some 8,000 values, so that a block is about a millisecond of work and 32 KiB. Two blocks a thread are
// in the works at a time.
int64_t BlockRows(int64_t columns) { return std::max<int64_t>(1, 8192 / columns); }
int64_t BlockSlots(int threads) { return 2 * threads; }
int64_t WorkspaceValues(const quant::TensorSpec& spec, int64_t slots) {
  return slots * std::min(spec.rows, BlockRows(spec.columns)) * spec.columns;
}

// Reads the blocks of a tensor and hands each to `use(first_row, values, block)` on the pool's threads, at most
// `slots` blocks at a time; `done(first, last)` follows on the caller's thread, wave by wave, in order.
template <typename Use, typename Done>
Result<void> OverBlocks(const Checkpoint& checkpoint, const ModelTensor& tensor, ThreadPool& pool,
                        std::span<float> workspace, int64_t slots, Use&& use, Done&& done) {
  const int64_t columns = tensor.spec.columns;
  const int64_t block_rows = BlockRows(columns);
  const int64_t blocks = (tensor.spec.rows + block_rows - 1) / block_rows;
  std::vector<std::optional<Error>> errors(static_cast<size_t>(slots));
  for (int64_t wave = 0; wave < blocks; wave += slots) {
    const int64_t in_wave = std::min(slots, blocks - wave);
    pool.ParallelFor(in_wave, [&](int64_t slot, int thread) {
      const int64_t first_row = (wave + slot) * block_rows;
      const int64_t rows = std::min(block_rows, tensor.spec.rows - first_row);
      const std::span<float> values = workspace.subspan(static_cast<size_t>(slot * std::min(block_rows, tensor.spec.rows) * columns),
                                                        static_cast<size_t>(rows * columns));
      if (Result<void> read = ReadRows(checkpoint, tensor, first_row, rows, values); !read.ok()) {
        errors[static_cast<size_t>(slot)] = read.error();
        return;
      }
      use(slot, thread, values);
    });
    for (int64_t slot = 0; slot < in_wave; ++slot) {
      if (errors[static_cast<size_t>(slot)]) return *errors[static_cast<size_t>(slot)];
      if (Result<void> stored = done(slot, (wave + slot) * block_rows); !stored.ok()) return stored;
    }
  }
  return Ok();
}

// How far the reading of a checkpoint has come.
class Reading {
 public:
  Reading(const TensorTable& table, const LoadProgress& progress) : progress_(progress), total_(StoredBytes(table)) {}
  void Add(int64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }
  // Rows [first_row, …) of a block have been read.
  void AddBlock(const quant::TensorSpec& spec, int64_t first_row) {
    Add(std::min(BlockRows(spec.columns), spec.rows - first_row) * spec.columns * spec.bytes_per_value);
  }

 private:
  const LoadProgress& progress_;
  int64_t total_;
  int64_t done_ = 0;
};

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, DeviceMemory& memory, ThreadPool& pool, Reading& reading)
      : checkpoint_(checkpoint), memory_(memory), pool_(pool), reading_(reading), slots_(BlockSlots(pool.size())), blocks_(static_cast<size_t>(slots_)) {}

  Result<LoadedTensor> Load(const ModelTensor& tensor, const quant::TensorPlan& plan, LoadLog& log) {
    return plan.format ? LoadXfp(tensor, plan, log) : LoadKept(tensor, plan, log);
  }

 private:
  Result<LoadedTensor> LoadKept(const ModelTensor& tensor, const quant::TensorPlan& plan, LoadLog& log) {
    LoadedTensor loaded;
    const int64_t bytes = tensor.spec.kept_bytes();
    loaded.storage = memory_.Allocate(bytes, MemoryUseOf(tensor.spec.family), tensor.spec.name);
    const std::span<std::byte> out = loaded.storage.span().first(static_cast<size_t>(bytes));
    if (Result<void> read = ReadStoredRows(checkpoint_, tensor, 0, tensor.spec.rows, out); !read.ok()) return read.error();
    std::fill(loaded.storage.span().begin() + bytes, loaded.storage.span().end(), std::byte{0});
    for (const TensorSource& source : tensor.sources) {
      const int64_t row_bytes = tensor.spec.columns * tensor.spec.bytes_per_value;
      const auto stored = out.subspan(static_cast<size_t>(source.first_row * row_bytes), static_cast<size_t>(source.rows * row_bytes));
      if (Result<void> finite = CheckFinite(*source.info, stored); !finite.ok()) return finite.error();
    }
    loaded.matrix.storage = StorageOf(tensor.dtype);
    loaded.matrix.rows = tensor.spec.rows;
    loaded.matrix.columns = tensor.spec.columns;
    loaded.matrix.data = loaded.storage.data();
    log.Add(plan, 0, {});
    reading_.Add(bytes);
    return loaded;
  }

  Result<void> CheckFinite(const TensorInfo& source, std::span<const std::byte> stored) const {
    std::vector<float> values(4096);
    const auto size = static_cast<size_t>(DtypeBits(source.dtype) / 8);
    int64_t bad = 0;
    while (!stored.empty()) {
      const size_t count = std::min(values.size(), stored.size() / size);
      bad += ConvertToFloat(source.dtype, stored.first(count * size), std::span(values).first(count));
      stored = stored.subspan(count * size);
    }
    if (bad == 0) return Ok();
    return Error{TensorLabel(checkpoint_, source) + " holds " + std::to_string(bad) +
                 " values that are NaN or infinite"};
  }

  Result<LoadedTensor> LoadXfp(const ModelTensor& tensor, const quant::TensorPlan& plan, LoadLog& log) {
    std::vector<float> sample;
    if (quant::MatrixQuantizer::NeedsSample(plan)) {
      Result<std::vector<float>> read = ReadLibrarySample(checkpoint_, tensor);
      if (!read.ok()) return read.error();
      sample = std::move(*read);
    }
    quant::MatrixQuantizer quantizer(plan, sample);
    const int64_t columns = tensor.spec.columns;
    const int64_t values = WorkspaceValues(tensor.spec, slots_);
    const MemoryUse use = MemoryUseOf(tensor.spec.family);
    LoadedTensor loaded;
    loaded.storage = memory_.Allocate(quantizer.container_bytes(), use, tensor.spec.name);
    const DeviceBuffer workspace = memory_.Allocate(values * 4, MemoryUse::kWorkspace, "blocks of " + tensor.spec.name);
    const std::span<std::byte> container = loaded.storage.span().first(static_cast<size_t>(quantizer.container_bytes()));
    Result<void> done = OverBlocks(
        checkpoint_, tensor, pool_, {workspace.as<float>(), static_cast<size_t>(values)}, slots_,
        [&](int64_t slot, int, std::span<const float> rows) { quantizer.Encode(rows, blocks_[static_cast<size_t>(slot)]); },
        [&](int64_t slot, int64_t first_row) {
          reading_.AddBlock(tensor.spec, first_row);
          return quantizer.Store(first_row, blocks_[static_cast<size_t>(slot)], container);
        });
    if (done.ok()) done = quantizer.Finish(container);
    if (!done.ok()) return done.error();

    AssignLedgerLines(memory_, plan);
    loaded.matrix.storage = kernels::Storage::kXfp;
    loaded.matrix.rows = tensor.spec.rows;
    loaded.matrix.columns = columns;
    loaded.matrix.xfp = quant::ViewOf(tensor.spec.rows, columns, *plan.format, plan.outliers, container);
    log.Add(plan, plan.outliers, quantizer.stats());
    return loaded;
  }

  const Checkpoint& checkpoint_;
  DeviceMemory& memory_;
  ThreadPool& pool_;
  Reading& reading_;
  int64_t slots_;
  std::vector<quant::MatrixQuantizer::Block> blocks_;
};

}  // namespace

Result<LoadedModel> LoadModel(const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                              const quant::Plan& plan, DeviceMemory& memory, ThreadPool& pool,
                              const LoadProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  if (Result<void> fits = CheckPlanFits(plan, table); !fits.ok()) return fits.error();
  Reading reading(table, progress);
  Loader loader(checkpoint, memory, pool, reading);
  std::vector<LoadedTensor> tensors;
  LoadLog log(plan.floors);
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    const ModelTensor& tensor = table.tensors[i];
    Result<LoadedTensor> loaded = loader.Load(tensor, plan.tensors[i], log);
    if (!loaded.ok()) return loaded.error();
    loaded->role = tensor.role;
    loaded->layer = tensor.layer;
    tensors.push_back(std::move(*loaded));
  }

  LoadedModel result{Model(spec, std::move(tensors)), log.Report()};
  result.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

Result<quant::RateTable> MeasureRates(const Checkpoint& checkpoint, const TensorTable& table,
                                      const quant::RateOptions& options, ThreadPool& pool, const LoadProgress& progress) {
  quant::RateTable rates;
  Result<std::string> fingerprint = checkpoint.Fingerprint();
  if (!fingerprint.ok()) return fingerprint.error();
  rates.fingerprint = std::move(*fingerprint);
  const int64_t slots = BlockSlots(pool.size());
  std::vector<float> workspace;
  Reading reading(table, progress);
  for (const ModelTensor& tensor : table.tensors) {
    if (tensor.spec.family == Family::kKept) {
      rates.tensors.push_back({.spec = tensor.spec, .candidates = {}});
      reading.Add(tensor.spec.kept_bytes());
    } else {
      Result<std::vector<float>> sample = ReadLibrarySample(checkpoint, tensor);
      if (!sample.ok()) return sample.error();
      const quant::TensorRateBuilder builder(tensor.spec, options, *sample);
      std::vector<std::unique_ptr<quant::TensorRateBuilder::Accumulator>> accumulators;
      for (int t = 0; t < pool.size(); ++t) accumulators.push_back(builder.MakeAccumulator());
      const auto values = static_cast<size_t>(WorkspaceValues(tensor.spec, slots));
      if (workspace.size() < values) workspace.resize(values);
      Result<void> read = OverBlocks(
          checkpoint, tensor, pool, workspace, slots,
          [&](int64_t, int thread, std::span<const float> rows) {
            builder.AddRows(rows, *accumulators[static_cast<size_t>(thread)]);
          },
          [&](int64_t, int64_t first_row) {
            reading.AddBlock(tensor.spec, first_row);
            return Ok();
          });
      if (!read.ok()) return read.error();
      rates.tensors.push_back(builder.Finish(accumulators));
    }
  }
  return rates;
}

int64_t LoadWorkspaceBytes(const TensorTable& table, int threads) {
  int64_t most = 0;
  for (const ModelTensor& tensor : table.tensors) {
    if (tensor.spec.family == Family::kKept) continue;
    most = std::max(most, DeviceMemory::Rounded(WorkspaceValues(tensor.spec, BlockSlots(threads)) * 4));
  }
  return most;
}

quant::Plan KeepEverything(const TensorTable& table) {
  quant::RateTable rates;
  for (const ModelTensor& tensor : table.tensors) rates.tensors.push_back({.spec = tensor.spec, .candidates = {}});
  return quant::KeptPlan(rates);
}

}  // namespace hproc::worker
