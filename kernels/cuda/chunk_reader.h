// ChunkReader: a thread that reads the tensors of a pass (but synthetic ones), chunk by chunk, into a few pinned buffers, ahead of the device.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/result.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/quantizer.h"

namespace hproc::kernels::cuda {

// Rows of a chunk of this job: whole rows (row tiles, for decode order) of at most `chunk_bytes`, and at least one.
int64_t ChunkRows(const TensorJob& job, int64_t chunk_bytes);
int BytesPerValue(Storage storage);
int64_t RowBytes(const TensorJob& job);

// Used by one thread beside its own. Next and Copied are called in turn.
class ChunkReader {
 public:
  static constexpr int kSlots = 3;  // one being read, one being copied, one between them

  struct Chunk {
    size_t job = 0;
    int64_t first_row = 0;
    int64_t rows = 0;
    int slot = 0;
    std::span<const std::byte> bytes;
  };

  // `jobs` and their callbacks outlive the reader. `rows_of[job]`: rows of the job's chunks.
  ChunkReader(int ordinal, std::span<const TensorJob> jobs, std::span<const int64_t> rows_of, int64_t slot_bytes);
  // Waits for a `read` that has begun; no other follows.
  ~ChunkReader();

  // The next chunk in order; waits for it. An error ends the reading.
  Result<Chunk> Next();
  // The copy of the chunk has been given to `stream`: its slot is free once that is done.
  void Copied(const Chunk& chunk, const Stream& stream);

  double read_seconds() const;

 private:
  struct Slot {
    PinnedBuffer buffer;
    Event copied;
    bool in_use = false;     // filled, and Copied not yet called
    bool recorded = false;  // `copied` stands for the last use
  };

  void Run(const std::stop_token& stop);
  bool ReadChunk(const std::stop_token& stop, const Chunk& chunk);

  const int ordinal_;
  const std::span<const TensorJob> jobs_;
  const std::span<const int64_t> rows_of_;
  std::vector<Slot> slots_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Chunk> ready_;
  std::optional<Error> error_;
  std::exception_ptr exception_;
  double read_seconds_ = 0;
  std::jthread thread_;
};

}  // namespace hproc::kernels::cuda
