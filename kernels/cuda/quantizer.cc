#include "kernels/cuda/quantizer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <future>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/printable.h"
#include "kernels/cuda/chunk_reader.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/workspace.h"
#include "quant/half.h"
#include "quant/levels.h"

namespace hproc::kernels {
namespace {

using cuda::ChunkBuffers;
using cuda::ChunkReader;
using cuda::PassBuffers;
using cuda::PassStatus;
using cuda::Workspace;
using quant::Mode;

constexpr size_t kTrainedAhead = 4;  // tensors whose libraries are made while others are on the device

// What the host makes of a tensor's sample before the tensor comes.
struct Trained {
  std::optional<quant::LibraryClusters> clusters;            // kQuantize, V2a
  std::optional<quant::Library> library;                     // likewise
  std::unique_ptr<quant::TensorRateBuilder> rates;           // kMeasure
};

// How the job's rows and columns stand. Of a part as many outliers as there may be: their sections stand apart.
DecodeOrder OrderOf(const TensorJob& job) {
  return DecodeOrderOf(job.plan.spec.rows, job.part_columns(), *job.plan.format, job.plan.outliers);
}
int64_t DecodeOrderBytes(const TensorJob& job) {
  const DecodeOrder order = OrderOf(job);
  return job.outliers_stand_apart() ? order.outlier_columns : order.total_bytes;
}

Result<Trained> Train(const TensorJob& job) {
  Trained trained;
  const bool measure = job.kind == TensorJob::Kind::kMeasure;
  std::vector<float> sample;
  if (measure ? job.rate_options.v2a : job.plan.format->mode == Mode::kV2a) {
    Result<std::vector<float>> read = job.read_sample();
    if (!read.ok()) return read.error();
    sample = std::move(*read);
  }
  if (measure) {
    trained.rates = std::make_unique<quant::TensorRateBuilder>(job.plan.spec, job.rate_options, sample);
  } else if (job.plan.format->mode == Mode::kV2a) {
    const quant::XfpFormat& format = *job.plan.format;
    trained.clusters = quant::TrainClusters(sample, job.plan.spec.columns, format.group_scales);
    trained.library = quant::TrainLibrary(*trained.clusters, format.levels, format.centroids);
  }
  return trained;
}

}  // namespace

class CudaQuantizer::Impl {
 public:
  Impl(const CudaDevice& device, DeviceMemory& memory, const QuantizerOptions& options)
      : device_(device), memory_(memory), options_(options) {}

  Result<void> Run(std::span<const TensorJob> jobs, FunctionRef<void(size_t, TensorOutcome)> done);

  QuantizerTimes times_;

 private:
  // A tensor whose work has been given to the device.
  struct Pending {
    size_t index = 0;
    TensorOutcome outcome;
    std::unique_ptr<quant::TensorRateBuilder> rates;
    Event finished;
  };
  struct Phase {
    double QuantizerTimes::* seconds;
    Event begin{Event::Timing::kOn};
    Event end{Event::Timing::kOn};
  };

  template <typename Body>
  void Timed(double QuantizerTimes::* seconds, const Stream& stream, Body&& body) {
    if (!options_.timed) {
      body();
      return;
    }
    Phase& phase = phases_.emplace_back(Phase{.seconds = seconds});
    phase.begin.Record(stream);
    body();
    phase.end.Record(stream);
  }

  Result<void> RunOnDevice(std::span<const TensorJob> jobs, FunctionRef<void(size_t, TensorOutcome)> done);
  void Begin(const TensorJob& job, const Trained& trained, const PassBuffers& pass, Pending& pending);
  // Rows [first_row, first_row + rows) of a synthetic tensor to `out` on the device.
  void MakeRows(const TensorJob::Synthetic& synthetic, int64_t first_row, int64_t rows, std::byte* out);
  void Chunk(const TensorJob& job, int64_t first_row, int64_t row_count, const void* stored, const PassBuffers& pass,
             Pending& pending);
  void QuantizeChunk(const TensorJob& job, const cuda::Rows& rows, int64_t first_row, const PassBuffers& pass,
                     const ChunkBuffers& buffers, std::byte* storage);
  void MeasureChunk(const TensorJob& job, const cuda::Rows& rows, const PassBuffers& pass, const ChunkBuffers& buffers,
                    const quant::TensorRateBuilder& rates);
  Result<void> Retire(std::span<const TensorJob> jobs, FunctionRef<void(size_t, TensorOutcome)> done);
  // The outcome of a matrix in decode order, whose work is done.
  void Settle(const TensorJob& job, int64_t kept, TensorOutcome& outcome);
  static Result<void> Verdict(const TensorJob& job, const PassStatus& status);

  const CudaDevice& device_;
  DeviceMemory& memory_;
  QuantizerOptions options_;

  // Of one Run. The order is that of destruction, backwards: work ends before its memory goes.
  DeviceBuffer workspace_memory_;
  std::optional<Workspace> workspace_;
  std::deque<Pending> pending_;
  std::deque<Phase> phases_;
  std::optional<Stream> copies_;
  std::optional<Stream> kernels_;
};

Result<void> CudaQuantizer::Impl::Run(std::span<const TensorJob> jobs, FunctionRef<void(size_t, TensorOutcome)> done) {
  const ScopedDevice current(device_.ordinal());
  times_ = QuantizerTimes{};
  const auto start = std::chrono::steady_clock::now();
  // Whatever way it ends, nothing is left running on memory that is about to be given back.
  const auto settle = [&] {
    if (copies_) static_cast<void>(cudaStreamSynchronize(copies_->get()));
    if (kernels_) static_cast<void>(cudaStreamSynchronize(kernels_->get()));
    for (const Phase& phase : phases_) {
      float ms = 0;
      if (cudaEventElapsedTime(&ms, phase.begin.get(), phase.end.get()) == cudaSuccess) {
        times_.*phase.seconds += static_cast<double>(ms) / 1000;
      }
    }
    phases_.clear();
    pending_.clear();
    workspace_.reset();
    workspace_memory_.Reset();
    copies_.reset();
    kernels_.reset();
  };
  try {
    Result<void> result = RunOnDevice(jobs, done);
    settle();
    times_.total_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  } catch (...) {
    settle();
    throw;
  }
}

Result<void> CudaQuantizer::Impl::RunOnDevice(std::span<const TensorJob> jobs,
                                              FunctionRef<void(size_t, TensorOutcome)> done) {
  if (jobs.empty()) return Ok();
  copies_.emplace();
  kernels_.emplace();
  const cuda::PassShape shape = cuda::ShapeOf(jobs, options_.chunk_bytes, options_.workspace_bytes);
  workspace_memory_ = memory_.Allocate(shape.total_bytes, MemoryUse::kWorkspace, "workspace of quantize-on-load");
  workspace_.emplace(shape, workspace_memory_.span(), *kernels_);

  std::vector<std::future<Result<Trained>>> trained(jobs.size());
  size_t trained_to = 0;
  ChunkReader reader(device_.ordinal(), jobs, shape.rows_of, shape.slot_bytes);
  std::array<Event, 2> copied;    // the chunk has come into its half of the staging memory
  std::array<Event, 2> consumed;  // … and has been read for the last time
  int64_t chunks = 0;
  for (size_t j = 0; j < jobs.size(); ++j) {
    const TensorJob& job = jobs[j];
    for (; trained_to < std::min(jobs.size(), j + kTrainedAhead); ++trained_to) {
      if (jobs[trained_to].kind == TensorJob::Kind::kKeep) continue;
      trained[trained_to] = std::async(std::launch::async, [&job = jobs[trained_to]] { return Train(job); });
    }
    // The pass' small buffers are two of each: the tensor before the last must be done with its pair. Outliers that stand apart wait
    // in one place, and of what is to be cut (it is workspace) there is one at a time.
    while (pending_.size() >= (job.outliers_stand_apart() || job.use == MemoryUse::kWorkspace ? 1 : 2)) {
      if (Result<void> retired = Retire(jobs, done); !retired.ok()) return retired;
    }
    const PassBuffers& pass = workspace_->pass(static_cast<int>(j % 2));
    Pending& pending = pending_.emplace_back();
    pending.index = j;
    Trained ready;
    if (trained[j].valid()) {
      Result<Trained> made = trained[j].get();
      if (!made.ok()) return made.error();
      ready = std::move(*made);
    }
    Begin(job, ready, pass, pending);
    pending.rates = std::move(ready.rates);

    for (int64_t row = 0; row < job.plan.spec.rows; row += shape.rows_of[j]) {
      const auto half = static_cast<size_t>(chunks % 2);
      const bool keep = job.kind == TensorJob::Kind::kKeep;
      std::byte* stored = keep ? pending.outcome.storage.data() + row * cuda::RowBytes(job)
                               : workspace_->staging(static_cast<int>(half));
      if (job.synthetic) {
        const int64_t rows = std::min(shape.rows_of[j], job.plan.spec.rows - row);
        times_.stored_bytes += rows * cuda::RowBytes(job);
        Timed(&QuantizerTimes::copy_s, *kernels_, [&] { MakeRows(*job.synthetic, row, rows, stored); });
        Chunk(job, row, rows, stored, pass, pending);
        consumed[half].Record(*kernels_);
        ++chunks;
        continue;
      }
      Result<ChunkReader::Chunk> chunk = reader.Next();
      if (!chunk.ok()) return chunk.error();
      HPROC_CHECK(chunk->job == j && chunk->first_row == row, "chunks in order");
      times_.stored_bytes += static_cast<int64_t>(chunk->bytes.size());
      if (!keep && chunks >= 2) consumed[half].Hold(*copies_);
      Timed(&QuantizerTimes::copy_s, *copies_, [&] {
        HPROC_CUDA_CHECK(cudaMemcpyAsync(stored, chunk->bytes.data(), chunk->bytes.size(), cudaMemcpyHostToDevice, copies_->get()));
      });
      reader.Copied(*chunk, *copies_);
      copied[half].Record(*copies_);
      copied[half].Hold(*kernels_);
      Chunk(job, chunk->first_row, chunk->rows, stored, pass, pending);
      consumed[half].Record(*kernels_);
      ++chunks;
    }
    HPROC_CUDA_CHECK(cudaMemcpyAsync(pass.results.data(), pass.status, static_cast<size_t>(pass.result_bytes),
                               cudaMemcpyDeviceToHost, kernels_->get()));
    pending.finished.Record(*kernels_);
  }
  while (!pending_.empty()) {
    if (Result<void> retired = Retire(jobs, done); !retired.ok()) return retired;
  }
  times_.read_s = reader.read_seconds();
  return Ok();
}

void CudaQuantizer::Impl::Begin(const TensorJob& job, const Trained& trained, const PassBuffers& pass, Pending& pending) {
  const cudaStream_t stream = kernels_->get();
  workspace_->Start(pass, *kernels_);
  if (job.kind == TensorJob::Kind::kMeasure) {
    if (job.rate_options.v2a) {
      std::vector<const quant::Library*> libraries;
      for (const auto& library : trained.rates->libraries()) {
        if (library) libraries.push_back(&*library);
      }
      workspace_->SetLibraries(pass, trained.rates->clusters(), libraries, *kernels_);
    }
    return;
  }
  const bool keep = job.kind == TensorJob::Kind::kKeep;
  const int64_t bytes = keep ? job.plan.spec.kept_bytes() : job.decode_order ? DecodeOrderBytes(job) : job.plan.bytes;
  pending.outcome.storage = memory_.Allocate(bytes, job.use, job.plan.spec.name);
  const DeviceBuffer& storage = pending.outcome.storage;
  if (keep) {
    HPROC_CUDA_CHECK(cudaMemsetAsync(storage.data() + bytes, 0, static_cast<size_t>(storage.bytes() - bytes), stream));
    // The copies go straight there; what was freed may still be in use by kernels that came before.
    return;
  }
  // Gaps between sections too: equal plans, equal bytes.
  HPROC_CUDA_CHECK(cudaMemsetAsync(storage.data(), 0, static_cast<size_t>(storage.bytes()), stream));
  if (trained.library) {
    const quant::Library* library = &*trained.library;
    workspace_->SetLibraries(pass, *trained.clusters, {&library, 1}, *kernels_);
    const quant::XfpFormat& format = *job.plan.format;
    const quant::XfpLayout layout = quant::LayoutOf(job.plan.spec.rows, job.plan.spec.columns, format, job.plan.outliers);
    const int64_t to = job.decode_order ? OrderOf(job).library : layout.codebooks;
    const int64_t stride = job.decode_order ? CodebookStride(format.levels) : int64_t{format.levels} * format.centroid_bytes();
    workspace_->CopyCodebooks(pass, *library, stride, storage.data() + to, *kernels_);
  }
}

void CudaQuantizer::Impl::MakeRows(const TensorJob::Synthetic& synthetic, int64_t first_row, int64_t rows, std::byte* out) {
  for (const TensorJob::Synthetic::Range& range : synthetic.rows) {
    const int64_t begin = std::max<int64_t>(0, first_row);
    const int64_t count = std::min(range.count - begin, rows);
    first_row -= range.count;
    if (count <= 0) continue;
    cuda::MakeSyntheticRows(synthetic.tensor, workspace_->deviates(), range.first + begin, count, out, device_.multiprocessors(),
                            kernels_->get());
    out += count * synthetic.tensor.columns * 2;
    rows -= count;
  }
  HPROC_CHECK(rows == 0, "rows of a synthetic tensor");
}

void CudaQuantizer::Impl::Chunk(const TensorJob& job, int64_t first_row, int64_t row_count, const void* stored,
                                const PassBuffers& pass, Pending& pending) {
  const cuda::Rows rows{.data = stored, .storage = job.storage, .rows = row_count,
                        .columns = static_cast<int>(job.plan.spec.columns)};
  if (job.kind == TensorJob::Kind::kKeep) {
    cuda::CountNotFinite(rows, pass.status, device_.multiprocessors(), kernels_->get());
    return;
  }
  const ChunkBuffers buffers = workspace_->Chunk(job, row_count);
  if (job.kind == TensorJob::Kind::kMeasure) {
    MeasureChunk(job, rows, pass, buffers, *pending.rates);
  } else {
    QuantizeChunk(job, rows, first_row, pass, buffers, pending.outcome.storage.data());
  }
}

void CudaQuantizer::Impl::QuantizeChunk(const TensorJob& job, const cuda::Rows& rows, int64_t first_row,
                                        const PassBuffers& pass, const ChunkBuffers& buffers, std::byte* storage) {
  const cudaStream_t stream = kernels_->get();
  const quant::TensorPlan& plan = job.plan;
  const double floor = quant::LadderFloor(plan.ladder_index);
  const quant::XfpLayout layout = quant::LayoutOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers);
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : reinterpret_cast<uint8_t*>(storage) + offset; };
  cuda::Target target{.format = *plan.format,
                            .first_row = first_row,
                            .planned_outliers = plan.outliers,
                            .codes = at(layout.codes),
                            .codebooks = at(layout.codebooks),
                            .scales = reinterpret_cast<uint16_t*>(at(layout.scales)),
                            .indices = at(layout.indices),
                            .outlier_starts = reinterpret_cast<uint32_t*>(at(layout.outlier_starts)),
                            .outlier_counts = at(layout.outlier_counts),
                            .outlier_columns = at(layout.outlier_columns),
                            .outlier_values = reinterpret_cast<uint16_t*>(at(layout.outlier_values))};
  const DecodeOrder order = job.decode_order ? OrderOf(job) : DecodeOrder{};
  if (job.decode_order) {
    target = buffers.encoded;
    target.rows_before = first_row;
    if (plan.outliers > 0 && !job.outliers_stand_apart()) {
      target.outlier_columns = at(order.outlier_columns);
      target.outlier_values = reinterpret_cast<uint16_t*>(at(order.outlier_values));
    }
  }
  const cuda::Tables& tables = workspace_->tables();
  if (plan.format->mode == Mode::kV2) {
    Timed(&QuantizerTimes::sort_s, *kernels_, [&] {
      cuda::SortRows(rows, buffers.sorted, buffers.runs, pass.status, stream);
      cuda::SumRows(rows, buffers.sorted, stream);
      cuda::CountLows(rows, buffers.sorted, buffers.results, stream);
    });
    Timed(&QuantizerTimes::fit_s, *kernels_, [&] {
      cuda::FitToFloor(rows, buffers.sorted, target, floor, tables, buffers.results, pass.status, stream);
    });
  } else {
    Timed(&QuantizerTimes::sort_s, *kernels_,
          [&] { cuda::SumSquares(rows, pass.libraries, buffers.codes, pass.status, stream); });
    Timed(&QuantizerTimes::fit_s, *kernels_, [&] {
      cuda::CodeRows(rows, pass.libraries, buffers.codes, tables, stream);
    });
    Timed(&QuantizerTimes::outliers_s, *kernels_, [&] {
      cuda::TakeOutliers(rows, pass.libraries, buffers.codes, tables, {}, {}, floor, first_row, buffers.results,
                         pass.status, device_.multiprocessors(), stream);
    });
  }
  Timed(&QuantizerTimes::encode_s, *kernels_, [&] {
    cuda::AssignOutliers(rows, target, buffers.results, buffers.starts, pass.status, stream);
    cuda::Encode(rows, target, buffers.sorted, pass.libraries, buffers.codes, buffers.results, buffers.starts, pass.status,
                 stream);
    if (!job.decode_order) return;
    const cuda::Arranged to{.order = order, .first_row = first_row, .first_column = job.first_column,
                            .columns = job.part_columns(), .bytes = storage};
    const bool keeps = job.outliers_stand_apart();
    if (keeps) cuda::KeepOutliers(rows, target, buffers.results, buffers.starts, to, buffers.kept, pass.status, stream);
    cuda::ArrangeRows(rows, target, keeps ? buffers.kept.counts : buffers.results.outliers,
                      keeps ? buffers.kept.starts : buffers.starts, to, stream);
  });
}

void CudaQuantizer::Impl::MeasureChunk(const TensorJob& job, const cuda::Rows& rows, const PassBuffers& pass,
                                       const ChunkBuffers& buffers, const quant::TensorRateBuilder& rates) {
  const cudaStream_t stream = kernels_->get();
  const cuda::Tables& tables = workspace_->tables();
  cuda::FormatRows v2{};
  cuda::FormatRows v2a{};
  int v2_count = 0;
  int v2a_count = 0;
  for (size_t f = 0; f < rates.formats().size(); ++f) {  // K ascends in either mode
    (rates.formats()[f].mode == Mode::kV2 ? v2.of[v2_count++] : v2a.of[v2a_count++]) = static_cast<int>(f);
  }
  if (v2_count > 0) {
    Timed(&QuantizerTimes::sort_s, *kernels_, [&] {
      cuda::SortRows(rows, buffers.sorted, buffers.runs, pass.status, stream);
      cuda::SumRows(rows, buffers.sorted, stream);
      cuda::CountLows(rows, buffers.sorted, buffers.results, stream);
    });
    Timed(&QuantizerTimes::fit_s, *kernels_, [&] {
      cuda::FitAll(rows, buffers.sorted, job.rate_options.centroids, tables, v2, buffers.saved, buffers.results, pass.sums,
                   device_.multiprocessors(), stream);
    });
  }
  if (v2a_count > 0) {
    Timed(&QuantizerTimes::sort_s, *kernels_,
          [&] { cuda::SumSquares(rows, pass.libraries, buffers.codes, pass.status, stream); });
    Timed(&QuantizerTimes::fit_s, *kernels_,
          [&] { cuda::CodeRows(rows, pass.libraries, buffers.codes, tables, stream); });
    Timed(&QuantizerTimes::outliers_s, *kernels_, [&] {
      cuda::TakeOutliers(rows, pass.libraries, buffers.codes, tables, v2a, pass.sums, 0, 0, buffers.results, pass.status,
                         device_.multiprocessors(), stream);
    });
  }
  Timed(&QuantizerTimes::encode_s, *kernels_,
        [&] { cuda::CountRungs(rows.rows, v2_count + v2a_count, tables, buffers.results, pass.sums, stream); });
}

Result<void> CudaQuantizer::Impl::Verdict(const TensorJob& job, const PassStatus& status) {
  const std::string& name = job.plan.spec.name;
  if (status.not_finite > 0) {
    return Error{(job.label.empty() ? "tensor '" + Printable(name) + "'" : job.label) + " holds " +
                 std::to_string(status.not_finite) + " values that are NaN or infinite"};
  }
  if (job.kind != TensorJob::Kind::kQuantize) return Ok();
  if (status.unreachable_row != INT64_MAX) {
    return Error{name + ": channel " + std::to_string(status.unreachable_row) +
                 " cannot reach the floor of its plan; the plan belongs to another checkpoint"};
  }
  const auto planned = static_cast<unsigned long long>(job.plan.outliers);
  if (job.is_part ? status.outliers > planned : status.outliers != planned) {
    return Error{name + ": " + std::to_string(status.outliers) + " outliers where the plan has " +
                 std::to_string(job.plan.outliers) + "; the plan belongs to another checkpoint"};
  }
  return Ok();
}

void CudaQuantizer::Impl::Settle(const TensorJob& job, int64_t kept, TensorOutcome& outcome) {
  outcome.decode = {.rows = job.plan.spec.rows, .columns = job.part_columns(), .format = *job.plan.format,
                    .outliers = job.plan.outliers, .bytes = outcome.storage.data()};
  if (!job.outliers_stand_apart()) return;
  // Where the whole has outliers, records have counts, if only zeros: one outlier then stands for none.
  outcome.decode.outliers = std::max<int64_t>(kept, 1);
  const DecodeOrder order = outcome.decode.order();
  outcome.outlier_storage = memory_.Allocate(order.total_bytes - order.outlier_columns, job.use, job.plan.spec.name);
  outcome.decode.outlier_bytes = outcome.outlier_storage.data();
  const cuda::KeptOutliers from = workspace_->Chunk(job, 1).kept;
  const cudaStream_t stream = kernels_->get();
  std::byte* to = outcome.outlier_storage.data();
  HPROC_CUDA_CHECK(cudaMemsetAsync(to, 0, static_cast<size_t>(outcome.outlier_storage.bytes()), stream));
  const auto copy = [&](std::byte* out, const void* in, int64_t bytes) {
    HPROC_CUDA_CHECK(cudaMemcpyAsync(out, in, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
  };
  copy(to, from.columns, kept * quant::OutlierColumnBytes(job.part_columns()));
  copy(to + (order.outlier_values - order.outlier_columns), from.values, kept * quant::kOutlierValueBytes);
}

Result<void> CudaQuantizer::Impl::Retire(std::span<const TensorJob> jobs, FunctionRef<void(size_t, TensorOutcome)> done) {
  Pending pending = std::move(pending_.front());
  pending_.pop_front();
  pending.finished.Wait();
  const TensorJob& job = jobs[pending.index];
  const PassBuffers& pass = workspace_->pass(static_cast<int>(pending.index % 2));
  PassStatus status;
  std::memcpy(&status, pass.results.data(), sizeof(status));
  if (Result<void> verdict = Verdict(job, status); !verdict.ok()) return verdict;
  if (job.kind == TensorJob::Kind::kQuantize) {
    pending.outcome.outliers = static_cast<int64_t>(status.outliers);
    pending.outcome.stats = {.channels = status.channels, .min_cosine = status.min_cosine,
                             .sum_cosine = status.sum_cosine, .min_norm_ratio = status.min_norm_ratio,
                             .max_norm_ratio = status.max_norm_ratio};
    if (job.decode_order) Settle(job, static_cast<int64_t>(status.kept), pending.outcome);
  } else if (job.kind == TensorJob::Kind::kMeasure) {
    pending.outcome.rates = pending.rates->Finish(workspace_->Sums(pass, pending.rates->formats().size()));
  }
  done(pending.index, std::move(pending.outcome));
  return Ok();
}

CudaQuantizer::CudaQuantizer(const CudaDevice& device, DeviceMemory& memory, const QuantizerOptions& options)
    : impl_(std::make_unique<Impl>(device, memory, options)) {}
CudaQuantizer::~CudaQuantizer() = default;

Result<void> CudaQuantizer::Run(std::span<const TensorJob> jobs, FunctionRef<void(size_t index, TensorOutcome outcome)> done) {
  return impl_->Run(jobs, done);
}

const QuantizerTimes& CudaQuantizer::times() const { return impl_->times_; }

int64_t QuantizerWorkspaceBytes(std::span<const TensorJob> jobs, const QuantizerOptions& options) {
  return jobs.empty() ? 0 : DeviceMemory::Rounded(cuda::ShapeOf(jobs, options.chunk_bytes, options.workspace_bytes).total_bytes);
}

int64_t ApartBytes(const TensorJob& job) { return cuda::KeptOutlierBytes(job); }

}  // namespace hproc::kernels
