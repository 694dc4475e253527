#include "kernels/cuda/workspace.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/cuda/chunk_reader.h"
#include "quant/channel_fit.h"
#include "quant/half.h"

namespace hproc::kernels::cuda {
namespace {

constexpr int kTableFormats = 2 * kFormatsMost;  // V2 and V2a
constexpr int64_t kRungs = quant::kLadderSize;
constexpr int64_t kCenterFloats = quant::kLibrarySize * quant::kFeatureLevels;
constexpr int64_t kCodebookFloats = int64_t{quant::kLibrarySize} * quant::kMaxLevels;  // of one library
constexpr int64_t kLibraryFloats = kCenterFloats + kFormatsMost * kCodebookFloats;

// Hands out pieces of a run of bytes; with no base, only counts them.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}

  template <typename T>
  T* Take(int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    most_ = std::max(most_, used_);
    return piece;
  }
  int64_t used() const { return used_; }
  int64_t most() const { return most_; }
  void Rewind(int64_t used) { used_ = used; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
  int64_t most_ = 0;
};

// What encoding a chunk by itself takes, for decode order.
void LayEncoded(Arena& arena, const TensorJob& job, int64_t rows, ChunkBuffers& buffers) {
  const quant::XfpFormat& format = *job.plan.format;
  const int64_t columns = job.plan.spec.columns;
  Target& encoded = buffers.encoded;
  encoded.format = format;
  encoded.planned_outliers = job.plan.outliers;
  encoded.codes = arena.Take<uint8_t>(rows * quant::CodeBytesPerRow(columns, format.levels));
  encoded.scales = arena.Take<uint16_t>(rows);
  if (format.mode == quant::Mode::kV2) {
    encoded.codebooks = arena.Take<uint8_t>(rows * format.levels);
  } else {
    encoded.indices = arena.Take<uint8_t>(rows * quant::GroupsPerRow(columns));
  }
  if (!job.outliers_stand_apart()) return;
  encoded.of_chunk = true;
  encoded.outlier_columns = arena.Take<uint8_t>(rows * (columns / 16) * quant::OutlierColumnBytes(columns));
  encoded.outlier_values = arena.Take<uint16_t>(rows * (columns / 16));
  buffers.kept.counts = arena.Take<uint32_t>(rows);
  buffers.kept.starts = arena.Take<uint32_t>(rows);
}

ChunkBuffers Lay(Arena& arena, const TensorJob& job, int64_t rows) {
  ChunkBuffers buffers;
  const auto columns = static_cast<int>(job.plan.spec.columns);
  const bool measure = job.kind == TensorJob::Kind::kMeasure;
  const bool v2a = measure ? job.rate_options.v2a : job.plan.format->mode == quant::Mode::kV2a;
  const bool v2 = measure ? job.rate_options.v2 : !v2a;
  const bool group_scales = measure ? job.rate_options.group_scales : job.plan.format->group_scales;
  const int formats = measure ? kFormatsMost : 1;
  const int value_bytes = SortedRows::ValueBytes(job.storage);
  buffers.results.counts = static_cast<int>(quant::OutlierCounts(columns).size());
  HPROC_CHECK(buffers.results.counts <= kCountsMost, "outlier counts of a row");
  if (measure) {
    const int all = (v2 ? kFormatsMost : 0) + (v2a ? kFormatsMost : 0);
    buffers.results.cosines = arena.Take<double>(int64_t{all} * buffers.results.counts * rows);
    buffers.results.tried = arena.Take<uint16_t>(all * rows);
  } else {
    buffers.results.outliers = arena.Take<uint32_t>(rows);
    buffers.results.low_outliers = arena.Take<uint32_t>(rows);
    buffers.results.cosine = arena.Take<double>(rows);
    buffers.results.norm_ratio = arena.Take<double>(rows);
    buffers.starts = arena.Take<uint32_t>(rows);
    if (v2a) buffers.results.mask = arena.Take<uint32_t>(rows * MaskWords(columns));
  }
  if (job.decode_order) LayEncoded(arena, job, rows, buffers);
  // A measuring pass is done with V2 when V2a begins.
  const int64_t shared = arena.used();
  if (v2) {
    buffers.sorted.values_stride = SortedRows::ValuesStride(columns);
    buffers.sorted.sums_stride = SortedRows::SumsStride(columns);
    buffers.sorted.values = arena.Take<std::byte>(rows * buffers.sorted.values_stride * value_bytes);
    buffers.sorted.sums = arena.Take<double>(rows * buffers.sorted.sums_stride);
    buffers.sorted.moments = arena.Take<quant::ChannelMoments>(rows);
    buffers.results.lows = arena.Take<uint32_t>(buffers.results.counts * rows);
    if (measure) {
      constexpr int64_t kLevels = LevelsBefore(kFormatsMost);
      buffers.saved.centers = arena.Take<double>(kLevels * rows);
      buffers.saved.borders = arena.Take<int>((kLevels + kFormatsMost) * rows);
      buffers.saved.unsettled = arena.Take<unsigned long long>(kFormatsMost * rows);
    }
    if (columns > LongestSortedRun(job.storage)) {
      buffers.runs = arena.Take<std::byte>(rows * buffers.sorted.values_stride * value_bytes);
    }
  }
  if (v2a) {
    arena.Rewind(shared);
    const int64_t groups = rows * quant::GroupsPerRow(columns);
    GroupCodes& codes = buffers.codes;
    codes.values = arena.Take<std::byte>(groups * quant::kGroupColumns * value_bytes);
    codes.row_square = arena.Take<double>(rows);
    if (group_scales) codes.group_square = arena.Take<double>(groups);
    codes.books = arena.Take<uint8_t>(formats * groups);
    codes.scales = arena.Take<uint16_t>(formats * (group_scales ? groups : rows));
    codes.dots = arena.Take<double>(formats * groups);
    codes.squares = arena.Take<double>(formats * groups);
    codes.row_dot = arena.Take<double>(formats * rows);
    codes.row_code_square = arena.Take<double>(formats * rows);
  }
  return buffers;
}

struct Fixed {
  double* starts;
  double* ladder;
  PassBuffers passes[2];
};

Fixed LayFixed(Arena& arena, bool measures, bool libraries) {
  Fixed fixed{};
  fixed.starts = arena.Take<double>(kFormatsMost * quant::kMaxLevels);
  fixed.ladder = arena.Take<double>(kRungs);
  for (PassBuffers& pass : fixed.passes) {
    const int64_t begin = arena.used();
    pass.status = arena.Take<PassStatus>(1);
    if (measures) {
      pass.sums.outliers = arena.Take<long long>(kTableFormats * (kRungs + 1));
      pass.sums.deficits = arena.Take<long long>(kTableFormats * (kRungs + 1));
      pass.sums.min_cosine = arena.Take<int>(kTableFormats * kRungs);
      pass.sums.highest = arena.Take<int>(kTableFormats);
    }
    pass.result_bytes = arena.used() - begin;
    if (libraries) {
      pass.centers = arena.Take<float>(kLibraryFloats);
      pass.codebooks = pass.centers + kCenterFloats;
    }
  }
  return fixed;
}

// Bytes between two places of the same run of results.
int64_t OffsetOf(const PassBuffers& pass, const void* piece) {
  return static_cast<const std::byte*>(piece) - reinterpret_cast<const std::byte*>(pass.status);
}

}  // namespace

int64_t MostKeptOutliers(const TensorJob& job) {
  const quant::TensorSpec& spec = job.plan.spec;
  return std::min(job.plan.outliers, spec.rows * std::min(job.part_columns(), spec.columns / 16));
}

int64_t KeptOutlierBytes(const TensorJob& job) {
  if (!job.outliers_stand_apart()) return 0;
  const int64_t most = MostKeptOutliers(job);
  return (most * quant::OutlierColumnBytes(job.part_columns()) + 255) / 256 * 256 + most * quant::kOutlierValueBytes;
}

PassShape ShapeOf(std::span<const TensorJob> jobs, int64_t chunk_bytes, int64_t workspace_bytes) {
  PassShape shape;
  for (const TensorJob& job : jobs) {
    shape.measures = shape.measures || job.kind == TensorJob::Kind::kMeasure;
    if (job.kind == TensorJob::Kind::kQuantize) {
      HPROC_CHECK(job.plan.format.has_value(), "a kept tensor is not quantized");
      shape.libraries = shape.libraries || job.plan.format->mode == quant::Mode::kV2a;
    }
    if (job.kind == TensorJob::Kind::kMeasure) shape.libraries = shape.libraries || job.rate_options.v2a;
    if (job.synthetic) shape.deviate_bytes = kSyntheticDeviateBytes;
    shape.kept_bytes = std::max(shape.kept_bytes, (KeptOutlierBytes(job) + 255) / 256 * 256);
  }
  Arena fixed(nullptr);
  LayFixed(fixed, shape.measures, shape.libraries);
  for (;; chunk_bytes /= 2) {
    shape.rows_of.clear();
    shape.slot_bytes = shape.staging_bytes = shape.chunk_buffer_bytes = 0;
    bool divisible = false;
    for (const TensorJob& job : jobs) {
      const int64_t rows = ChunkRows(job, chunk_bytes);
      shape.rows_of.push_back(rows);
      if (!job.synthetic) shape.slot_bytes = std::max(shape.slot_bytes, rows * RowBytes(job));
      if (job.kind == TensorJob::Kind::kKeep) continue;
      divisible = divisible || rows > (job.decode_order ? kTileRows : 1);
      shape.staging_bytes = std::max(shape.staging_bytes, (rows * RowBytes(job) + 255) / 256 * 256);
      Arena arena(nullptr);
      Lay(arena, job, rows);
      shape.chunk_buffer_bytes = std::max(shape.chunk_buffer_bytes, arena.most());
    }
    const int64_t limited = fixed.used() + 2 * shape.staging_bytes + shape.chunk_buffer_bytes;
    shape.total_bytes = limited + shape.kept_bytes + shape.deviate_bytes;
    if (limited <= workspace_bytes || !divisible) return shape;
  }
}

Workspace::Workspace(const PassShape& shape, std::span<std::byte> memory, const Stream& stream) {
  HPROC_CHECK(static_cast<int64_t>(memory.size()) >= shape.total_bytes, "size of the workspace");
  Arena arena(memory.data());
  const Fixed fixed = LayFixed(arena, shape.measures, shape.libraries);
  staging_ = memory.data() + arena.used();
  staging_bytes_ = shape.staging_bytes;
  chunk_ = staging_ + 2 * staging_bytes_;
  kept_ = chunk_ + shape.chunk_buffer_bytes;

  // The same pieces in pinned memory: tables, the start of a pass, and each pass' results and libraries.
  const int64_t result_bytes = fixed.passes[0].result_bytes;
  const int64_t table_bytes = reinterpret_cast<std::byte*>(fixed.passes[0].status) - memory.data();
  const int64_t library_bytes = shape.libraries ? kLibraryFloats * 4 + kCodebookFloats * 2 : 0;
  pinned_ = PinnedBuffer(table_bytes + 3 * result_bytes + 2 * library_bytes);
  std::byte* next = pinned_.span().data();
  auto* starts = reinterpret_cast<double*>(next);
  for (int k = 0; k < kFormatsMost; ++k) {
    std::ranges::copy(quant::StartOf(quant::kLevelCounts[static_cast<size_t>(k)]), starts + k * quant::kMaxLevels);
  }
  auto* ladder = reinterpret_cast<double*>(next + (reinterpret_cast<std::byte*>(fixed.ladder) - memory.data()));
  for (int rung = 0; rung < quant::kLadderSize; ++rung) ladder[rung] = quant::LadderFloor(rung);
  HPROC_CUDA_CHECK(cudaMemcpyAsync(memory.data(), next, static_cast<size_t>(table_bytes), cudaMemcpyHostToDevice, stream.get()));
  next += table_bytes;
  tables_ = {.starts = fixed.starts, .ladder = fixed.ladder};
  if (shape.deviate_bytes > 0) {  // pageable: staged before the call returns
    const std::span<const float> deviates = SyntheticDeviates();
    auto* there = reinterpret_cast<float*>(kept_ + shape.kept_bytes);
    HPROC_CUDA_CHECK(cudaMemcpyAsync(there, deviates.data(), deviates.size_bytes(), cudaMemcpyHostToDevice, stream.get()));
    deviates_ = there;
  }

  start_ = next;
  std::memset(next, 0, static_cast<size_t>(result_bytes));
  const PassStatus status;
  std::memcpy(next, &status, sizeof(status));
  if (shape.measures) {
    auto* least = reinterpret_cast<int*>(next + OffsetOf(fixed.passes[0], fixed.passes[0].sums.min_cosine));
    std::fill_n(least, kTableFormats * kRungs, std::bit_cast<int>(2.0f));
    auto* highest = reinterpret_cast<int*>(next + OffsetOf(fixed.passes[0], fixed.passes[0].sums.highest));
    std::fill_n(highest, kTableFormats, quant::kLadderSize - 1);
  }
  next += result_bytes;
  for (int p = 0; p < 2; ++p) {
    passes_[p] = fixed.passes[p];
    passes_[p].results = {next, static_cast<size_t>(result_bytes)};
    next += result_bytes;
    passes_[p].library_staging = {next, static_cast<size_t>(library_bytes)};
    next += library_bytes;
  }
}

ChunkBuffers Workspace::Chunk(const TensorJob& job, int64_t rows) const {
  Arena arena(chunk_);
  ChunkBuffers buffers = Lay(arena, job, rows);
  if (KeptOutlierBytes(job) > 0) {
    Arena kept(kept_);
    const int64_t most = MostKeptOutliers(job);
    buffers.kept.columns = kept.Take<uint8_t>(most * quant::OutlierColumnBytes(job.part_columns()));
    buffers.kept.values = kept.Take<uint16_t>(most);
  }
  return buffers;
}

void Workspace::Start(const PassBuffers& pass, const Stream& stream) const {
  HPROC_CUDA_CHECK(cudaMemcpyAsync(pass.status, start_, static_cast<size_t>(pass.result_bytes), cudaMemcpyHostToDevice,
                             stream.get()));
}

void Workspace::SetLibraries(const PassBuffers& pass, const quant::LibraryClusters& clusters,
                             std::span<const quant::Library* const> libraries, const Stream& stream) {
  Libraries& out = passes_[&pass - passes_].libraries;
  out = {};
  out.count = static_cast<int>(libraries.size());
  out.group_scales = clusters.group_scales;
  out.centers = pass.centers;
  out.codebooks = pass.codebooks;
  auto* floats = reinterpret_cast<float*>(pass.library_staging.data());
  for (size_t c = 0; c < clusters.centers.size(); ++c) {
    std::ranges::copy(clusters.centers[c], floats + c * quant::kFeatureLevels);
    if (clusters.pooled[c].empty()) out.empty |= uint32_t{1} << c;
  }
  for (size_t f = 0; f < libraries.size(); ++f) {
    out.levels[f] = libraries[f]->levels;
    out.units[f] = libraries[f]->unit;
    float* books = floats + kCenterFloats + static_cast<int64_t>(f) * kCodebookFloats;
    for (size_t b = 0; b < quant::kLibrarySize; ++b) {
      std::ranges::copy(libraries[f]->codebooks[b], books + b * quant::kMaxLevels);
    }
  }
  const auto bytes = static_cast<size_t>(kCenterFloats + out.count * kCodebookFloats) * sizeof(float);
  HPROC_CUDA_CHECK(cudaMemcpyAsync(pass.centers, floats, bytes, cudaMemcpyHostToDevice, stream.get()));
}

void Workspace::CopyCodebooks(const PassBuffers& pass, const quant::Library& library, int64_t stride, std::byte* out,
                              const Stream& stream) const {
  std::byte* staged = pass.library_staging.data() + kLibraryFloats * 4;
  std::byte* book_at = staged;
  std::memset(staged, 0, static_cast<size_t>(quant::kLibrarySize * stride));
  for (const auto& book : library.codebooks) {
    std::byte* next = book_at;
    book_at += stride;
    for (int k = 0; k < library.levels; ++k) {
      const float centroid = book[static_cast<size_t>(k)];
      if (library.centroids == quant::Centroids::kInt8) {
        *next++ = static_cast<std::byte>(static_cast<int8_t>(centroid));
      } else {
        const uint16_t half = quant::FloatToHalf(centroid);
        std::memcpy(next, &half, sizeof(half));
        next += sizeof(half);
      }
    }
  }
  HPROC_CUDA_CHECK(cudaMemcpyAsync(out, staged, static_cast<size_t>(book_at - staged), cudaMemcpyHostToDevice, stream.get()));
}

std::vector<quant::RungSums> Workspace::Sums(const PassBuffers& pass, size_t formats) const {
  const auto at = [&](const void* piece) { return pass.results.data() + OffsetOf(pass, piece); };
  const auto* outliers = reinterpret_cast<const long long*>(at(pass.sums.outliers));
  const auto* deficits = reinterpret_cast<const long long*>(at(pass.sums.deficits));
  const auto* least = reinterpret_cast<const float*>(at(pass.sums.min_cosine));
  const auto* highest = reinterpret_cast<const int*>(at(pass.sums.highest));
  std::vector<quant::RungSums> sums(formats);
  for (size_t f = 0; f < formats; ++f) {
    const auto first = static_cast<int64_t>(f);
    std::copy_n(outliers + first * (kRungs + 1), kRungs + 1, sums[f].outliers.begin());
    std::copy_n(deficits + first * (kRungs + 1), kRungs + 1, sums[f].deficits.begin());
    std::copy_n(least + first * kRungs, kRungs, sums[f].min_cosine.begin());
    sums[f].highest = highest[f];
  }
  return sums;
}

}  // namespace hproc::kernels::cuda
