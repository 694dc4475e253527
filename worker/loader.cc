#include "worker/loader.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>

#include "base/check.h"
#include "base/printable.h"
#include "quant/matrix_quantizer.h"
#include "quant/shard_store.h"
#include "worker/load_parts.h"
#include "worker/sharding.h"
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

// Reads the blocks of some rows of a tensor and hands each to `use(first_row, values, block)` on the pool's threads, at most
// `slots` blocks at a time; `done(first, last)` follows on the caller's thread, wave by wave, in order.
template <typename Use, typename Done>
Result<void> OverBlocks(const Checkpoint& checkpoint, const ModelTensor& tensor, const Range& range, ThreadPool& pool,
                        std::span<float> workspace, int64_t slots, Use&& use, Done&& done) {
  const int64_t columns = tensor.spec.columns;
  const int64_t block_rows = BlockRows(columns);
  const int64_t blocks = (range.count + block_rows - 1) / block_rows;
  std::vector<std::optional<Error>> errors(static_cast<size_t>(slots));
  for (int64_t wave = 0; wave < blocks; wave += slots) {
    const int64_t in_wave = std::min(slots, blocks - wave);
    pool.ParallelFor(in_wave, [&](int64_t slot, int thread) {
      const int64_t first_row = range.first + (wave + slot) * block_rows;
      const int64_t rows = std::min(block_rows, range.end() - first_row);
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
      if (Result<void> stored = done(slot, range.first + (wave + slot) * block_rows); !stored.ok()) return stored;
    }
  }
  return Ok();
}

// How far the reading of a checkpoint has come.
class Reading {
 public:
  Reading(int64_t total_bytes, const LoadProgress& progress) : progress_(progress), total_(total_bytes) {}
  void Add(int64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }
  // Rows [first_row, …) of a block of the range have been read.
  void AddBlock(const quant::TensorSpec& spec, const Range& range, int64_t first_row) {
    Add(std::min(BlockRows(spec.columns), range.end() - first_row) * spec.columns * spec.bytes_per_value);
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

  Result<LoadedTensor> Load(const ModelTensor& tensor, const TensorShard& part, std::span<const CountedRows> counted,
                            const quant::TensorPlan& plan, TensorShare& share) {
    if (!plan.format) return LoadKept(tensor, part);
    const bool is_whole = part.row_count() == tensor.spec.rows && part.column_count() == tensor.spec.columns;
    return is_whole ? LoadXfp(tensor, plan, share) : LoadXfpPart(tensor, part, counted, plan, share);
  }

 private:
  Result<LoadedTensor> LoadKept(const ModelTensor& tensor, const TensorShard& part) {
    const int64_t value_bytes = tensor.spec.bytes_per_value;
    LoadedTensor loaded;
    loaded.matrix.rows = part.row_count();
    loaded.matrix.columns = part.column_count();
    const int64_t bytes = loaded.matrix.rows * loaded.matrix.columns * value_bytes;
    loaded.storage = memory_.Allocate(bytes, MemoryUseOf(tensor.spec.family), tensor.spec.name);
    const std::span<std::byte> out = loaded.storage.span().first(static_cast<size_t>(bytes));
    const auto row_bytes = static_cast<size_t>(tensor.spec.columns * value_bytes);
    const bool whole_rows = loaded.matrix.columns == tensor.spec.columns;
    std::vector<std::byte> row(whole_rows ? 0 : row_bytes);
    size_t at = 0;
    for (const Range& range : part.rows) {
      if (whole_rows) {
        const size_t size = static_cast<size_t>(range.count) * row_bytes;
        if (Result<void> read = ReadStoredRows(checkpoint_, tensor, range.first, range.count, out.subspan(at, size)); !read.ok()) {
          return read.error();
        }
        at += size;
        continue;
      }
      for (int64_t r = range.first; r < range.end(); ++r) {
        if (Result<void> read = ReadStoredRows(checkpoint_, tensor, r, 1, row); !read.ok()) return read.error();
        for (const Range& columns : part.columns) {
          const auto size = static_cast<size_t>(columns.count * value_bytes);
          std::memcpy(out.data() + at, row.data() + columns.first * value_bytes, size);
          at += size;
        }
      }
    }
    std::fill(loaded.storage.span().begin() + bytes, loaded.storage.span().end(), std::byte{0});
    if (Result<void> finite = CheckFinite(tensor, part, out); !finite.ok()) return finite.error();
    loaded.matrix.storage = StorageOf(tensor.dtype);
    loaded.matrix.data = loaded.storage.data();
    reading_.Add(part.row_count() * static_cast<int64_t>(row_bytes));
    return loaded;
  }

  // `stored`: the part, row by row.
  Result<void> CheckFinite(const ModelTensor& tensor, const TensorShard& part, std::span<const std::byte> stored) const {
    const int64_t row_bytes = part.column_count() * tensor.spec.bytes_per_value;
    int64_t before = 0;  // rows of the part in front of the range
    for (const Range& range : part.rows) {
      for (const TensorSource& source : tensor.sources) {
        const int64_t begin = std::max(range.first, source.first_row);
        const int64_t end = std::min(range.end(), source.first_row + source.rows);
        if (begin >= end) continue;
        const auto rows = stored.subspan(static_cast<size_t>((before + begin - range.first) * row_bytes),
                                         static_cast<size_t>((end - begin) * row_bytes));
        if (Result<void> finite = CheckFinite(*source.info, rows); !finite.ok()) return finite;
      }
      before += range.count;
    }
    return Ok();
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

  // Rows that the library of a V2a plan is trained on; none where it needs none.
  Result<std::vector<float>> SampleFor(const ModelTensor& tensor, const quant::TensorPlan& plan) const {
    if (!quant::MatrixQuantizer::NeedsSample(plan)) return std::vector<float>{};
    return ReadLibrarySample(checkpoint_, tensor);
  }

  Result<LoadedTensor> LoadXfp(const ModelTensor& tensor, const quant::TensorPlan& plan, TensorShare& share) {
    const Result<std::vector<float>> sample = SampleFor(tensor, plan);
    if (!sample.ok()) return sample.error();
    quant::MatrixQuantizer quantizer(plan, *sample);
    const Range all_rows{.first = 0, .count = tensor.spec.rows};
    const int64_t columns = tensor.spec.columns;
    const int64_t values = WorkspaceValues(tensor.spec, slots_);
    const MemoryUse use = MemoryUseOf(tensor.spec.family);
    LoadedTensor loaded;
    loaded.storage = memory_.Allocate(quantizer.container_bytes(), use, tensor.spec.name);
    const DeviceBuffer workspace = memory_.Allocate(values * 4, MemoryUse::kWorkspace, "blocks of " + tensor.spec.name);
    const std::span<std::byte> container = loaded.storage.span().first(static_cast<size_t>(quantizer.container_bytes()));
    Result<void> done = OverBlocks(
        checkpoint_, tensor, all_rows, pool_, {workspace.as<float>(), static_cast<size_t>(values)}, slots_,
        [&](int64_t slot, int, std::span<const float> rows) { quantizer.Encode(rows, blocks_[static_cast<size_t>(slot)]); },
        [&](int64_t slot, int64_t first_row) {
          reading_.AddBlock(tensor.spec, all_rows, first_row);
          return quantizer.Store(first_row, blocks_[static_cast<size_t>(slot)], container);
        });
    if (done.ok()) done = quantizer.Finish(container);
    if (!done.ok()) return done.error();

    SetXfp(loaded, quant::ViewOf(tensor.spec.rows, columns, *plan.format, plan.outliers, container), use);
    share = {.outliers = plan.outliers, .stats = quantizer.stats()};
    return loaded;
  }

  // As above of some rows, or of some columns of all rows.
  Result<LoadedTensor> LoadXfpPart(const ModelTensor& tensor, const TensorShard& part, std::span<const CountedRows> counted,
                                   const quant::TensorPlan& plan, TensorShare& share) {
    const Result<std::vector<float>> sample = SampleFor(tensor, plan);
    if (!sample.ok()) return sample.error();
    const quant::MatrixQuantizer quantizer(plan, *sample);
    const int64_t values = WorkspaceValues(tensor.spec, slots_);
    const MemoryUse use = MemoryUseOf(tensor.spec.family);
    quant::ShardStore store(*plan.format, part.column_count(), CutOf(tensor, part));
    {
      const DeviceBuffer workspace = memory_.Allocate(values * 4, MemoryUse::kWorkspace, "blocks of " + tensor.spec.name);
      for (const CountedRows& piece : counted) {
        const Range& range = piece.rows;
        Result<void> done = OverBlocks(
            checkpoint_, tensor, range, pool_, {workspace.as<float>(), static_cast<size_t>(values)}, slots_,
            [&](int64_t slot, int, std::span<const float> rows) { quantizer.Encode(rows, blocks_[static_cast<size_t>(slot)]); },
            [&](int64_t slot, int64_t first_row) {
              const quant::QuantizedRows& block = blocks_[static_cast<size_t>(slot)];
              reading_.AddBlock(tensor.spec, range, first_row);
              if (piece.is_counted) {
                share.outliers += static_cast<int64_t>(block.outlier_columns.size());
                share.stats.Add(block.stats);
              }
              store.Add(block);
              return quantizer.CheckFloor(first_row, block);
            });
        if (!done.ok()) return done.error();
      }
    }
    LoadedTensor loaded;
    loaded.storage = memory_.Allocate(store.container_bytes(), use, tensor.spec.name);
    const std::span<std::byte> container = loaded.storage.span().first(static_cast<size_t>(store.container_bytes()));
    SetXfp(loaded, store.Write(quantizer.LibraryBytes(), container), use);
    return loaded;
  }

  void SetXfp(LoadedTensor& loaded, const quant::XfpMatrix& matrix, MemoryUse use) {
    AssignLedgerLines(memory_, use, matrix);
    loaded.matrix.storage = kernels::Storage::kXfp;
    loaded.matrix.rows = matrix.rows;
    loaded.matrix.columns = matrix.columns;
    loaded.matrix.xfp = matrix;
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
                              const quant::Plan& plan, const Shard& shard, DeviceMemory& memory, ThreadPool& pool,
                              const LoadProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  if (Result<void> fits = CheckPlanFits(plan, table); !fits.ok()) return fits.error();
  std::vector<TensorShard> parts;
  int64_t total_bytes = 0;
  for (const ModelTensor& tensor : table.tensors) {
    parts.push_back(ShardOf(spec, tensor, shard));
    total_bytes += parts.back().row_count() * tensor.spec.columns * tensor.spec.bytes_per_value;
  }
  Reading reading(total_bytes, progress);
  Loader loader(checkpoint, memory, pool, reading);
  std::vector<LoadedTensor> tensors;
  std::vector<TensorShare> shares(table.tensors.size());
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    const ModelTensor& tensor = table.tensors[i];
    Result<LoadedTensor> loaded = loader.Load(tensor, parts[i], CountedRowsOf(spec, tensor, shard), plan.tensors[i], shares[i]);
    if (!loaded.ok()) return loaded.error();
    loaded->role = tensor.role;
    loaded->layer = tensor.layer;
    tensors.push_back(std::move(*loaded));
  }
  return FinishLoad(spec, plan, shard, std::move(tensors), std::move(shares), start);
}

Result<quant::RateTable> MeasureRates(const Checkpoint& checkpoint, const TensorTable& table,
                                      const quant::RateOptions& options, ThreadPool& pool, const LoadProgress& progress) {
  quant::RateTable rates;
  Result<std::string> fingerprint = checkpoint.Fingerprint();
  if (!fingerprint.ok()) return fingerprint.error();
  rates.fingerprint = std::move(*fingerprint);
  const int64_t slots = BlockSlots(pool.size());
  std::vector<float> workspace;
  Reading reading(StoredBytes(table), progress);
  for (const ModelTensor& tensor : table.tensors) {
    const Range all_rows{.first = 0, .count = tensor.spec.rows};
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
          checkpoint, tensor, all_rows, pool, workspace, slots,
          [&](int64_t, int thread, std::span<const float> rows) {
            builder.AddRows(rows, *accumulators[static_cast<size_t>(thread)]);
          },
          [&](int64_t, int64_t first_row) {
            reading.AddBlock(tensor.spec, all_rows, first_row);
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
