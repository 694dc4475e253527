// Quantizes one matrix into its container under a tensor plan, a block of rows at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "quant/library_fit.h"
#include "quant/plan.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

// What quantizing did to the channels of one matrix.
struct ChannelStats {
  int64_t channels = 0;
  double min_cosine = 1;
  double sum_cosine = 0;
  double min_norm_ratio = 1;
  double max_norm_ratio = 1;

  void Add(double cosine, double norm_ratio);
  void Add(const ChannelStats& other);
};

// Codes of a few rows, not yet in a container.
struct QuantizedRows {
  std::vector<uint8_t> codes;        // packed, rows x CodeBytesPerRow
  std::vector<uint8_t> codebooks;    // V2: rows x levels centroids
  std::vector<uint16_t> scales;
  std::vector<uint8_t> indices;      // V2a
  std::vector<uint32_t> outlier_counts;
  std::vector<uint32_t> outlier_columns;
  std::vector<uint16_t> outlier_values;
  ChannelStats stats;
  int64_t unreachable = -1;  // a row of the block that cannot reach the floor, or -1

  int64_t rows() const { return static_cast<int64_t>(outlier_counts.size()); }
};

// Writes them at `first_row` of the container that `matrix` views, whose rows before have `outliers_before` outliers. The
// container's size is the caller's to check.
void StoreRows(const QuantizedRows& block, const XfpMatrix& matrix, int64_t first_row, int64_t outliers_before,
               std::span<std::byte> container);

// Usage: construct with the sample rows, encode all rows (any order, any threads), then store the blocks in row order.
//
//   MatrixQuantizer quantizer(plan, sample);
//   for each block of rows:  quantizer.Encode(values, block)      thread-safe, no shared state
//   in row order:            quantizer.Store(first_row, block, container)
//   quantizer.Finish(container)
class MatrixQuantizer {
 public:
  // `plan.format` must be set. `sample`: the rows LibrarySampleRows names, in order; may be empty unless NeedsSample.
  MatrixQuantizer(const TensorPlan& plan, std::span<const float> sample);

  // Whether a library is learned, which takes a sample.
  static bool NeedsSample(const TensorPlan& plan) {
    return plan.format && plan.format->mode == Mode::kV2a && plan.codebooks == Codebooks::kLearned;
  }

  int64_t container_bytes() const { return layout_.total_bytes; }

  using Block = QuantizedRows;
  // `values`: whole finite rows.
  void Encode(std::span<const float> values, Block& block) const;

  // Writes the block's rows at `first_row`; blocks must come in row order without gaps. Fails where the outliers do not
  // fit the plan, which means that the plan is of another checkpoint.
  Result<void> Store(int64_t first_row, const Block& block, std::span<std::byte> container);
  // Fails where rows or outliers are missing.
  Result<void> Finish(std::span<std::byte> container);

  const ChannelStats& stats() const { return stats_; }

  // For rows that go elsewhere than Store's container (quant/shard_store.h): what Store checks of a block but for its place
  // (rows from `first_row` of the tensor), and the library's codebooks as a container holds them, empty for V2.
  Result<void> CheckFloor(int64_t first_row, const Block& block) const;
  std::vector<uint8_t> LibraryBytes() const;

 private:
  TensorPlan plan_;
  XfpLayout layout_;
  LibraryClusters clusters_;
  std::optional<Library> library_;
  int64_t stored_rows_ = 0;
  int64_t stored_outliers_ = 0;
  ChannelStats stats_;
};

}  // namespace hproc::quant
