// Quantize-on-load on a CUDA device: tensors from wherever the caller reads them to containers on the device, and the pass that
// measures what floors cost. The counterpart of quant::MatrixQuantizer and quant::TensorRateBuilder, with the same results to
// the bit: sums are made in the CPU's order, and the fits are the CPU's code (quant/codebook_fit.h) or its steps shared out among
// lanes (kernels/cuda/team_fit.cuh).
//
//   reader thread     read chunk n + 2 into pinned memory         (the caller's `read`: the disk)
//   copy engine       chunk n + 1 to the device
//   kernels           chunk n: sort, sum, fit, place outliers, encode
//   trainer threads   V2a libraries of the next tensors, on the host
//
// Beside the containers a pass holds two chunks as stored and a workspace of a few bytes a weight of a chunk, all taken
// before the first tensor and counted as MemoryUse::kWorkspace.
//
// No CUDA types here: callers are compiled by the host compiler alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/result.h"
#include "kernels/cuda/device.h"
#include "kernels/device_memory.h"
#include "kernels/matrix.h"
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
  bool is_part = false;    // of a tensor's rows: plan.outliers is what there can be at most, and the container has room for
  std::string label;       // how the error for values that are not finite begins; where empty: tensor 'its name'
  Storage storage = Storage::kBfloat16;  // as the checkpoint has it
  MemoryUse use = MemoryUse::kWeightsKept;
  quant::RateOptions rate_options;
  // Rows [first_row, first_row + rows) as stored, rows * columns values. Called on the reader thread, one call at a time, in
  // order of jobs and rows.
  std::function<Result<void>(int64_t first_row, int64_t rows, std::span<std::byte> out)> read;
  // The rows that quant::LibrarySampleRows names, as float32; for V2a. Called on a trainer thread, beside `read`.
  std::function<Result<std::vector<float>>()> read_sample;
};

struct TensorOutcome {
  DeviceBuffer storage;  // kKeep: as stored; kQuantize: the container, the tail of the buffer zeroed
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

// Bytes of workspace that these jobs take on the device under the options.
int64_t QuantizerWorkspaceBytes(std::span<const TensorJob> jobs, const QuantizerOptions& options);

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
