// Quantize-on-load on a CUDA device: tensors from wherever the caller reads them to containers on the device, and the pass that
// measures what floors cost. The counterpart of quant::MatrixQuantizer and quant::TensorRateBuilder, with the same results to
// the bit: sums are made in the CPU's order, and the fits are the CPU's code (quant/codebook_fit.h) or its steps shared out among
// lanes (kernels/cuda/team_fit.cuh).
//
//   reader thread     read chunk n + 2 into pinned memory         (the caller's `read`: the disk; random weights: nothing)
//   copy engine       chunk n + 1 to the device
//   kernels           chunk n: sort, sum, fit, place outliers, encode
//   trainer threads   V2a libraries of the next tensors, on the host
//
// Beside the matrices a pass holds two chunks as stored and a workspace of a few bytes a weight of a chunk, all taken
// before the first tensor and counted as MemoryUse::kWorkspace. Into decode order a chunk is encoded in the workspace and put from
// there into its place, so that no matrix lies on the device twice. How many outliers a part's columns have shows at its end: they
// wait in the workspace until then.
//
// No CUDA types here: callers are compiled by the host compiler alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "kernels/cuda/device.h"
#include "kernels/decode_order.h"
#include "kernels/device_memory.h"
#include "kernels/matrix.h"
#include "kernels/synthetic_rows.h"
#include "quant/matrix_quantizer.h"
#include "quant/plan.h"
#include "quant/rate_table.h"

namespace hproc::kernels {

// What to do with one tensor.
struct TensorJob {
  enum class Kind {
    kKeep,      // to the device as stored
    kQuantize,  // to a container under `plan`
    kMeasure,   // its rates under `rate_options`; nothing stays on the device
  };
  Kind kind = Kind::kKeep;
  quant::TensorPlan plan;  // spec always; the rest for kQuantize
  // Not all rows of a tensor: plan.outliers is the most that there can be, and what a container has room for.
  bool is_part = false;
  bool decode_order = false;  // kQuantize: into kernels/decode_order.h, which must have the format, instead of a container
  int64_t first_column = 0;   // with decode_order: which columns stay; of V2a a group begins there
  int64_t columns = 0;        // likewise how many; 0: all
  int64_t part_columns() const { return columns > 0 ? columns : plan.spec.columns; }
  // Of a part in decode order: how many there are shows at the end.
  bool outliers_stand_apart() const { return decode_order && plan.outliers > 0 && (is_part || part_columns() < plan.spec.columns); }
  std::string label;       // how the error for values that are not finite begins; where empty: tensor 'its name'
  Storage storage = Storage::kBfloat16;  // as the checkpoint has it
  MemoryUse use = MemoryUse::kWeightsKept;
  quant::RateOptions rate_options;
  // Random weights are made on the device instead of read, tensor row by tensor row in the order of the ranges; bfloat16.
  struct Synthetic {
    struct Range {
      int64_t first = 0;
      int64_t count = 0;
    };
    SyntheticTensor tensor;
    std::vector<Range> rows;  // as many as plan.spec.rows
  };
  std::optional<Synthetic> synthetic;
  // Rows [first_row, first_row + rows) as stored, rows * columns values. Called on the reader thread, one call at a time, in
  // order of jobs and rows.
  std::function<Result<void>(int64_t first_row, int64_t rows, std::span<std::byte> out)> read;
  // The rows that quant::LibrarySampleRows names, as float32; for V2a. Called on a trainer thread, beside `read`.
  std::function<Result<std::vector<float>>()> read_sample;
};

struct TensorOutcome {
  DeviceBuffer storage;  // kKeep: as stored; kQuantize: container or decode order, the tail of the buffer zeroed
  DeviceBuffer outlier_storage;  // of a part in decode order, those of its columns
  DecodeMatrix decode;           // with decode_order: what lies in the two
  quant::ChannelStats stats;  // kQuantize
  int64_t outliers = 0;       // kQuantize
  quant::TensorRates rates;   // kMeasure
};

struct QuantizerOptions {
  int64_t workspace_bytes = int64_t{1} << 30;  // at most, if a chunk of one row leaves the choice
  int64_t chunk_bytes = int64_t{128} << 20;    // of a tensor as stored, at most
  bool timed = false;                          // measure the phases
};

// Seconds of the device, by phase, where `timed`; and the bytes that went through.
struct QuantizerTimes {
  double copy_s = 0, sort_s = 0, fit_s = 0;
  double outliers_s = 0;  // choosing those of V2a; V2's come with the fit
  double encode_s = 0;    // or counting rungs
  double read_s = 0;   // of the reader thread, inside `read`
  double total_s = 0;  // of Run, on the host's clock
  int64_t stored_bytes = 0;
};

// Bytes of workspace that these jobs take on the device under the options: what the options allow, and beside it room for the
// outliers of the part that may have most (ApartBytes) and, for synthetic rows, kSyntheticDeviateBytes.
int64_t QuantizerWorkspaceBytes(std::span<const TensorJob> jobs, const QuantizerOptions& options);
int64_t ApartBytes(const TensorJob& job);

// Thread-compatible. `device` and `memory` outlive it; `memory` stands on CudaMemory(device).
class CudaQuantizer {
 public:
  CudaQuantizer(const CudaDevice& device, DeviceMemory& memory, const QuantizerOptions& options);
  ~CudaQuantizer();

  // Does the jobs in order; `done(index, outcome)` is called in order on the caller's thread. Errors are those of the CPU path
  // (unreadable, not finite, a plan of another checkpoint) and name the tensor. Throws DeviceOutOfMemory where containers or
  // workspace do not fit, DeviceError where CUDA fails.
  Result<void> Run(std::span<const TensorJob> jobs, FunctionRef<void(size_t index, TensorOutcome outcome)> done);

  const QuantizerTimes& times() const;  // of the last Run

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hproc::kernels
