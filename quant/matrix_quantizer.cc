#include "quant/matrix_quantizer.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "quant/channel_fit.h"
#include "quant/gain.h"
#include "quant/half.h"
#include "quant/round_to_nearest.h"

namespace hproc::quant {
namespace {

// Centroids as stored: int8 or fp16.
void AppendCentroids(const float* centroids, const XfpFormat& format, std::vector<uint8_t>& bytes) {
  for (int k = 0; k < format.levels; ++k) {
    if (format.centroids == Centroids::kInt8) {
      bytes.push_back(static_cast<uint8_t>(static_cast<int8_t>(centroids[k])));
    } else {
      const uint16_t half = FloatToHalf(centroids[k]);
      bytes.push_back(static_cast<uint8_t>(half & 255));
      bytes.push_back(static_cast<uint8_t>(half >> 8));
    }
  }
}

template <typename To, typename From>
void CopyAs(const std::vector<From>& values, std::byte* out) {
  for (From value : values) {
    const auto narrow = static_cast<To>(value);
    std::memcpy(out, &narrow, sizeof(To));
    out += sizeof(To);
  }
}

}  // namespace

void ChannelStats::Add(double cosine, double norm_ratio) {
  if (channels == 0) min_norm_ratio = max_norm_ratio = norm_ratio;
  ++channels;
  min_cosine = std::min(min_cosine, cosine);
  sum_cosine += cosine;
  min_norm_ratio = std::min(min_norm_ratio, norm_ratio);
  max_norm_ratio = std::max(max_norm_ratio, norm_ratio);
}

void ChannelStats::Add(const ChannelStats& other) {
  if (other.channels == 0) return;
  if (channels == 0) {
    *this = other;
    return;
  }
  channels += other.channels;
  min_cosine = std::min(min_cosine, other.min_cosine);
  sum_cosine += other.sum_cosine;
  min_norm_ratio = std::min(min_norm_ratio, other.min_norm_ratio);
  max_norm_ratio = std::max(max_norm_ratio, other.max_norm_ratio);
}

MatrixQuantizer::MatrixQuantizer(const TensorPlan& plan, std::span<const float> sample) : plan_(plan) {
  HPROC_CHECK(plan.format.has_value(), "a kept tensor is not quantized");
  layout_ = LayoutOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers);
  if (plan.codebooks == Codebooks::kUniform) {
    HPROC_CHECK(*plan.format == kInt4Format, "uniform codebooks are those of INT4");
    library_ = Int4Library();
  } else if (NeedsSample(plan)) {
    clusters_ = TrainClusters(sample, plan.spec.columns, plan.format->group_scales);
    library_ = TrainLibrary(clusters_, plan.format->levels, plan.format->centroids);
  }
}

void MatrixQuantizer::Encode(std::span<const float> values, Block& block) const {
  const XfpFormat& format = *plan_.format;
  const auto columns = static_cast<size_t>(plan_.spec.columns);
  HPROC_CHECK(values.size() % columns == 0, "whole rows");
  const size_t rows = values.size() / columns;
  const auto row_bytes = static_cast<size_t>(CodeBytesPerRow(plan_.spec.columns, format.levels));
  const double floor = LadderFloor(plan_.ladder_index);
  block = Block{};
  block.codes.resize(rows * row_bytes);
  ChannelFitter channel_fitter;
  LibraryFitter library_fitter(clusters_);
  EncodedChannel encoded;
  RoundedRow rounded;
  for (size_t r = 0; r < rows; ++r) {
    const std::span<const float> row = values.subspan(r * columns, columns);
    bool reached = false;
    if (plan_.codebooks == Codebooks::kUniform) {
      RoundToNearest(row, rounded);
      reached = true;  // no floor was promised
      encoded.codes = rounded.codes;
      block.indices.insert(block.indices.end(), rounded.scales.size(), uint8_t{0});
      block.scales.insert(block.scales.end(), rounded.scales.begin(), rounded.scales.end());
      block.stats.Add(rounded.cosine, rounded.norm_ratio);
    } else if (format.mode == Mode::kV2) {
      channel_fitter.Reset(row);
      reached = channel_fitter.FitToFloor(format.levels, format.centroids, floor);
      channel_fitter.Encode(encoded);
      const ChannelCode& code = channel_fitter.code();
      AppendCentroids(code.centroids.data(), format, block.codebooks);
      const double gain = LengthGain(code.cosine, code.norm_ratio);
      block.scales.push_back(GainedScale(code.scale, gain));
      block.stats.Add(code.cosine, code.norm_ratio * gain);
    } else {
      library_fitter.Reset(row);
      reached = library_fitter.FitToFloor(*library_, floor);
      library_fitter.Encode(encoded);
      const LibraryCode& code = library_fitter.code();
      block.indices.insert(block.indices.end(), code.indices.begin(), code.indices.end());
      const double gain = format.group_scales ? 1 : LengthGain(code.cosine, code.norm_ratio);
      for (uint16_t scale : code.scales) block.scales.push_back(GainedScale(scale, gain));
      block.stats.Add(code.cosine, code.norm_ratio * gain);
    }
    if (!reached && block.unreachable < 0) block.unreachable = static_cast<int64_t>(r);
    PackRow(encoded.codes, format.levels, std::span(block.codes).subspan(r * row_bytes, row_bytes));
    block.outlier_counts.push_back(static_cast<uint32_t>(encoded.outlier_columns.size()));
    block.outlier_columns.insert(block.outlier_columns.end(), encoded.outlier_columns.begin(),
                                 encoded.outlier_columns.end());
    block.outlier_values.insert(block.outlier_values.end(), encoded.outlier_values.begin(),
                                encoded.outlier_values.end());
  }
}

void StoreRows(const QuantizedRows& block, const XfpMatrix& matrix, int64_t first_row, int64_t outliers_before,
               std::span<std::byte> container) {
  const XfpFormat& format = matrix.format;
  const int64_t rows = block.rows();
  const XfpLayout layout = LayoutOf(matrix.rows, matrix.columns, format, matrix.outliers, matrix.cut);
  std::byte* base = container.data();
  const int64_t row_bytes = CodeBytesPerRow(matrix.columns, format.levels);
  std::memcpy(base + layout.codes + first_row * row_bytes, block.codes.data(), block.codes.size());
  if (format.mode == Mode::kV2) {
    std::memcpy(base + layout.codebooks + first_row * format.levels * format.centroid_bytes(), block.codebooks.data(),
                block.codebooks.size());
  } else {
    std::memcpy(base + layout.indices + first_row * matrix.groups(), block.indices.data(), block.indices.size());
  }
  const int64_t scales_per_row = static_cast<int64_t>(block.scales.size()) / rows;
  std::memcpy(base + layout.scales + first_row * scales_per_row * 2, block.scales.data(), block.scales.size() * 2);
  if (matrix.outliers == 0) return;
  int64_t before = outliers_before;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = first_row + r;
    if (row % kOutlierRowBlock == 0) {
      const auto start = static_cast<uint32_t>(before);
      std::memcpy(base + layout.outlier_starts + row / kOutlierRowBlock * 4, &start, 4);
    }
    before += block.outlier_counts[static_cast<size_t>(r)];
  }
  const int count_bytes = matrix.count_bytes();
  std::byte* counts = base + layout.outlier_counts + first_row * count_bytes;
  if (count_bytes == 1) {
    CopyAs<uint8_t>(block.outlier_counts, counts);
  } else {
    CopyAs<uint16_t>(block.outlier_counts, counts);
  }
  const int column_bytes = OutlierColumnBytes(matrix.columns);
  std::byte* outlier_columns = base + layout.outlier_columns + outliers_before * column_bytes;
  if (column_bytes == 2) {
    CopyAs<uint16_t>(block.outlier_columns, outlier_columns);
  } else {
    CopyAs<uint32_t>(block.outlier_columns, outlier_columns);
  }
  CopyAs<uint16_t>(block.outlier_values, base + layout.outlier_values + outliers_before * kOutlierValueBytes);
}

Result<void> MatrixQuantizer::CheckFloor(int64_t first_row, const Block& block) const {
  if (block.unreachable < 0) return Ok();
  return Error{plan_.spec.name + ": channel " + std::to_string(first_row + block.unreachable) +
               " cannot reach the floor of its plan; the plan belongs to another checkpoint"};
}

Result<void> MatrixQuantizer::Store(int64_t first_row, const Block& block, std::span<std::byte> container) {
  const int64_t rows = block.rows();
  HPROC_CHECK(first_row == stored_rows_ && first_row + rows <= plan_.spec.rows, "blocks in row order");
  HPROC_CHECK(static_cast<int64_t>(container.size()) == layout_.total_bytes, "size of the container");
  const auto new_outliers = static_cast<int64_t>(block.outlier_columns.size());
  if (Result<void> reached = CheckFloor(first_row, block); !reached.ok()) return reached;
  if (stored_outliers_ + new_outliers > plan_.outliers) {
    return Error{plan_.spec.name + ": more outliers than the plan's " + std::to_string(plan_.outliers) +
                 "; the plan belongs to another checkpoint"};
  }
  // Gaps between sections too: equal plans, equal bytes.
  if (first_row == 0) std::memset(container.data(), 0, container.size());
  StoreRows(block, ViewOf(plan_.spec.rows, plan_.spec.columns, *plan_.format, plan_.outliers, container), first_row,
            stored_outliers_, container);
  stored_rows_ += rows;
  stored_outliers_ += new_outliers;
  stats_.Add(block.stats);
  return Ok();
}

std::vector<uint8_t> MatrixQuantizer::LibraryBytes() const {
  std::vector<uint8_t> books;
  if (!library_) return books;
  for (const auto& book : library_->codebooks) AppendCentroids(book.data(), *plan_.format, books);
  return books;
}

Result<void> MatrixQuantizer::Finish(std::span<std::byte> container) {
  HPROC_CHECK(stored_rows_ == plan_.spec.rows, "all rows stored");
  if (stored_outliers_ != plan_.outliers) {
    return Error{plan_.spec.name + ": " + std::to_string(stored_outliers_) + " outliers where the plan has " +
                 std::to_string(plan_.outliers) + "; the plan belongs to another checkpoint"};
  }
  const std::vector<uint8_t> books = LibraryBytes();
  if (!books.empty()) std::memcpy(container.data() + layout_.codebooks, books.data(), books.size());
  return Ok();
}

}  // namespace hproc::quant
