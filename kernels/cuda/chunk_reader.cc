#include "kernels/cuda/chunk_reader.h"

#include <algorithm>
#include <chrono>

#include "kernels/decode_order.h"

namespace hproc::kernels::cuda {

int BytesPerValue(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }
int64_t RowBytes(const TensorJob& job) { return job.plan.spec.columns * BytesPerValue(job.storage); }

int64_t ChunkRows(const TensorJob& job, int64_t chunk_bytes) {
  const int64_t unit = job.decode_order ? kTileRows : 1;
  return std::min(std::max(chunk_bytes / RowBytes(job) / unit, int64_t{1}) * unit, job.plan.spec.rows);
}

ChunkReader::ChunkReader(int ordinal, std::span<const TensorJob> jobs, std::span<const int64_t> rows_of,
                         int64_t slot_bytes)
    : ordinal_(ordinal), jobs_(jobs), rows_of_(rows_of), slots_(kSlots) {
  for (Slot& slot : slots_) {
    if (slot_bytes > 0) slot.buffer = PinnedBuffer(slot_bytes);
  }
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

ChunkReader::~ChunkReader() {
  thread_.request_stop();
  changed_.notify_all();
  thread_.join();
  for (const Slot& slot : slots_) {
    if (slot.recorded) static_cast<void>(cudaEventSynchronize(slot.copied.get()));  // the copy engine may still read it
  }
}

void ChunkReader::Run(const std::stop_token& stop) {
  try {
    const ScopedDevice current(ordinal_);
    int slot = 0;
    for (size_t job = 0; job < jobs_.size(); ++job) {
      if (jobs_[job].synthetic) continue;
      const int64_t total = jobs_[job].plan.spec.rows;
      for (int64_t row = 0; row < total; row += rows_of_[job]) {
        Chunk chunk{.job = job, .first_row = row, .rows = std::min(rows_of_[job], total - row), .slot = slot, .bytes = {}};
        if (!ReadChunk(stop, chunk)) return;
        slot = (slot + 1) % kSlots;
      }
    }
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    exception_ = std::current_exception();
    changed_.notify_all();
  }
}

bool ChunkReader::ReadChunk(const std::stop_token& stop, const Chunk& chunk) {
  Slot& slot = slots_[static_cast<size_t>(chunk.slot)];
  {
    std::unique_lock lock(mutex_);
    if (!changed_.wait(lock, stop, [&] { return !slot.in_use; })) return false;
    slot.in_use = true;
  }
  if (slot.recorded) slot.copied.Wait();
  const TensorJob& job = jobs_[chunk.job];
  const std::span<std::byte> out = slot.buffer.span().first(static_cast<size_t>(chunk.rows * RowBytes(job)));
  const auto start = std::chrono::steady_clock::now();
  const Result<void> read = job.read(chunk.first_row, chunk.rows, out);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::scoped_lock lock(mutex_);
  read_seconds_ += seconds;
  if (read.ok()) {
    Chunk& filled = ready_.emplace_back(chunk);
    filled.bytes = out;
  } else {
    error_ = read.error();
  }
  changed_.notify_all();
  return read.ok() && !stop.stop_requested();
}

Result<ChunkReader::Chunk> ChunkReader::Next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || error_ || exception_; });
  if (!ready_.empty()) {
    const Chunk chunk = ready_.front();
    ready_.pop_front();
    return chunk;
  }
  if (exception_) std::rethrow_exception(exception_);
  return *error_;
}

void ChunkReader::Copied(const Chunk& chunk, const Stream& stream) {
  Slot& slot = slots_[static_cast<size_t>(chunk.slot)];
  slot.copied.Record(stream);
  const std::scoped_lock lock(mutex_);
  slot.recorded = true;
  slot.in_use = false;
  changed_.notify_all();
}

double ChunkReader::read_seconds() const {
  const std::scoped_lock lock(mutex_);
  return read_seconds_;
}

}  // namespace hproc::kernels::cuda
