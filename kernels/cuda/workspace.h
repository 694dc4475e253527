// The device memory of a quantizer's pass, cut out of one allocation.
//
//   tables | 2 x (status, rung sums, libraries) | 2 x staging | buffers of a chunk | outliers of a part | deviates of synthetic rows
//
// The small pairs let a tensor begin while the results of the one before are still on their way; the buffers of a chunk are
// used by one stream, in order, and so need no pair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/handles.h"
#include "kernels/cuda/quantize_kernels.h"
#include "kernels/cuda/quantizer.h"

namespace hproc::kernels::cuda {

// What the jobs of a pass need. Pure host arithmetic.
struct PassShape {
  std::vector<int64_t> rows_of;  // [jobs] rows of a chunk
  int64_t slot_bytes = 0;        // of the largest chunk that is read, as stored
  int64_t staging_bytes = 0;     // of the largest that is not copied straight to its place
  int64_t chunk_buffer_bytes = 0;
  bool measures = false;
  bool libraries = false;
  // Beside what the limit counts: outliers of the part that may have most, and the deviates of synthetic rows.
  int64_t kept_bytes = 0;
  int64_t deviate_bytes = 0;
  int64_t total_bytes = 0;
};
// Chunks are halved until the workspace, but for the last two, fits `workspace_bytes`, or no chunk is more than a row (a row tile,
// for decode order).
PassShape ShapeOf(std::span<const TensorJob> jobs, int64_t chunk_bytes, int64_t workspace_bytes);

struct ChunkBuffers {
  SortedRows sorted;
  void* runs = nullptr;
  SavedFits saved;
  RowResults results;
  uint32_t* starts = nullptr;
  GroupCodes codes;
  Target encoded;      // into decode order: sections of this chunk alone
  KeptOutliers kept;   // of a part in decode order; the sections are the pass'
};

// Into decode order a part's outliers at most, and their bytes.
int64_t MostKeptOutliers(const TensorJob& job);
int64_t KeptOutlierBytes(const TensorJob& job);

// What one tensor's pass uses beside the chunks.
struct PassBuffers {
  PassStatus* status = nullptr;  // followed by the arrays of `sums`
  RungSums sums;
  Libraries libraries;
  float* centers = nullptr;      // what libraries.centers and .codebooks point to
  float* codebooks = nullptr;
  int64_t result_bytes = 0;              // from `status` on
  std::span<std::byte> results;          // pinned: where they are copied when the tensor is done
  std::span<std::byte> library_staging;  // pinned
};

class Workspace {
 public:
  // Fills the tables, in order with what `stream` does later.
  Workspace(const PassShape& shape, std::span<std::byte> memory, const Stream& stream);

  const Tables& tables() const { return tables_; }
  const float* deviates() const { return deviates_; }
  const PassBuffers& pass(int which) const { return passes_[which]; }
  std::byte* staging(int which) const { return staging_ + which * staging_bytes_; }
  ChunkBuffers Chunk(const TensorJob& job, int64_t rows) const;

  // A pass' status and sums as they are before the first row.
  void Start(const PassBuffers& pass, const Stream& stream) const;
  void SetLibraries(const PassBuffers& pass, const quant::LibraryClusters& clusters,
                    std::span<const quant::Library* const> libraries, const Stream& stream);
  // The library's codebooks, one every `stride` bytes, zeros between them, to `out` on the device. After SetLibraries.
  void CopyCodebooks(const PassBuffers& pass, const quant::Library& library, int64_t stride, std::byte* out, const Stream& stream) const;
  // The sums of a finished pass.
  std::vector<quant::RungSums> Sums(const PassBuffers& pass, size_t formats) const;

 private:
  Tables tables_;
  const float* deviates_ = nullptr;  // SyntheticDeviates, where rows are synthetic
  PassBuffers passes_[2];
  std::byte* staging_ = nullptr;
  int64_t staging_bytes_ = 0;
  std::byte* chunk_ = nullptr;
  std::byte* kept_ = nullptr;
  PinnedBuffer pinned_;
  const std::byte* start_ = nullptr;  // pinned: what Start copies
};

}  // namespace hproc::kernels::cuda
