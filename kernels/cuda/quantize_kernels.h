// The kernels of quantize-on-load, as launches on a stream. One call handles one chunk: `rows` whole rows of a tensor as the
// checkpoint stores them. All pointers are device memory, all launches throw DeviceError, nothing here waits.
//
// Parallelism comes from the rows, and in a row's first fit from a team of lanes that share out its intervals, its searches and
// its sums, in the CPU's order (kernels/cuda/team_fit.cuh). The fits that follow with more and more outliers pass small changes
// from border to border: serial work, for which a thread a row is best. It runs the CPU's own code (quant/codebook_fit.h).
//
//   V2    SortRows  SumRows  CountLows              FitToFloor | FitAll    AssignOutliers  Encode     (or CountRungs)
//   V2a   SumSquares  CodeRows                      TakeOutliers           AssignOutliers  Encode     (likewise)
//   into decode order, after Encode of the chunk alone: (KeepOutliers)  ArrangeRows
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/decode_order.h"
#include "kernels/matrix.h"
#include "kernels/synthetic_rows.h"
#include "quant/codebook_fit.h"
#include "quant/floors.h"
#include "quant/library_code.h"
#include "quant/xfp_matrix.h"

namespace hproc::kernels::cuda {

inline constexpr int kFormatsMost = static_cast<int>(quant::kLevelCounts.size());
inline constexpr int kCountsMost = 64;      // outlier counts tried for one channel
inline constexpr int kValuesPerSum = 8;     // a prefix sum is kept for every so many sorted values
inline constexpr int kGroupSumsStride = 129;

struct Rows {
  const void* data = nullptr;  // [rows, columns]
  Storage storage = Storage::kBfloat16;
  int64_t rows = 0;
  int columns = 0;
};

// What a tensor's pass finds out; one in device memory, zeroed but for unreachable_row.
struct PassStatus {
  unsigned long long not_finite = 0;      // values
  long long unreachable_row = INT64_MAX;  // the first row that cannot reach the floor
  unsigned long long outliers = 0;        // stored so far
  unsigned long long kept = 0;            // of a part, in decode order: those among its columns
  int overflow = 0;                       // more outliers than the plan has
  long long channels = 0;
  double min_cosine = 1, sum_cosine = 0, min_norm_ratio = 1, max_norm_ratio = 1;
};

// Rows sorted, [rows, values_stride]: bfloat16 bits where the rows are bfloat16, else float32. sums[row][i]: of the first
// kValuesPerSum * i values, added up in order; [rows, sums_stride].
struct SortedRows {
  void* values = nullptr;
  double* sums = nullptr;
  quant::ChannelMoments* moments = nullptr;  // [rows]
  int64_t values_stride = 0;
  int64_t sums_stride = 0;

  static int64_t ValuesStride(int columns) { return (columns + kValuesPerSum - 1) / kValuesPerSum * kValuesPerSum; }
  static int64_t SumsStride(int columns) { return columns / kValuesPerSum + 1; }
  static int ValueBytes(Storage storage) { return storage == Storage::kBfloat16 ? 2 : 4; }
};

// `runs`: as `sorted.values`, needed where LongestSortedRun < columns (rows are then sorted in runs and merged).
int LongestSortedRun(Storage storage);
void SortRows(const Rows& rows, const SortedRows& sorted, void* runs, PassStatus* status, cudaStream_t stream);
void SumRows(const Rows& rows, const SortedRows& sorted, cudaStream_t stream);

// What a fit gives for each row.
struct RowResults {
  int counts = 0;                  // outlier counts that a row may be tried with, at most kCountsMost
  double* cosines = nullptr;       // [formats][counts][rows]: with each outlier count, as far as tried
  uint16_t* tried = nullptr;       // [formats][rows] how many
  uint32_t* lows = nullptr;        // [counts][rows] how many of the first n outliers are at the low end (V2)
  uint32_t* outliers = nullptr;    // [rows] chosen; with one format
  uint32_t* low_outliers = nullptr;  // [rows] of those, at the low end (V2)
  uint32_t* mask = nullptr;        // [rows][mask_words] which columns are outliers (V2a)
  double* cosine = nullptr;        // [rows]
  double* norm_ratio = nullptr;    // [rows]
};

// Tables made on the host once: quant::StartOf for every K, and the ladder.
struct Tables {
  const double* starts = nullptr;  // [kFormatsMost][kMaxLevels]
  const double* ladder = nullptr;  // [kLadderSize]
};

// Sections of the container being filled (quant/xfp_matrix.h), and where the chunk begins.
struct Target {
  quant::XfpFormat format;
  int64_t first_row = 0;    // of the chunk, in the sections
  int64_t rows_before = 0;  // rows of the tensor in front of the sections'
  int64_t planned_outliers = 0;
  uint8_t* codes = nullptr;
  uint8_t* codebooks = nullptr;
  uint16_t* scales = nullptr;
  uint8_t* indices = nullptr;
  uint32_t* outlier_starts = nullptr;
  uint8_t* outlier_counts = nullptr;
  uint8_t* outlier_columns = nullptr;
  uint16_t* outlier_values = nullptr;
  bool of_chunk = false;  // the outliers' sections begin with this chunk's own
};

// Fills results.lows.
void CountLows(const Rows& rows, const SortedRows& sorted, const RowResults& results, cudaStream_t stream);

// V2 for one K: the fewest outliers that reach the floor; writes codebooks and scales into the target.
void FitToFloor(const Rows& rows, const SortedRows& sorted, const Target& target, double floor, const Tables& tables,
                const RowResults& results, PassStatus* status, cudaStream_t stream);

// The rungs of all formats of a tensor, [formats].
struct RungSums {
  long long* outliers = nullptr;  // [formats][kLadderSize + 1] changes at each rung
  long long* deficits = nullptr;  // likewise, in units of 2^-40
  int* min_cosine = nullptr;      // [formats][kLadderSize] bits of a positive float
  int* highest = nullptr;         // [formats]
};

// First fits of every K of a chunk's rows, kept until the fits that follow them. Of K i, centers and borders begin at
// LevelsBefore(i) and LevelsBefore(i) + i.
struct SavedFits {
  double* centers = nullptr;              // [sum of K][rows]
  int* borders = nullptr;                 // [sum of K + 1][rows]
  unsigned long long* unsettled = nullptr;  // [kFormatsMost][rows]
};
constexpr int LevelsBefore(int k_index) {
  int levels = 0;
  for (int i = 0; i < k_index; ++i) levels += quant::kLevelCounts[static_cast<size_t>(i)];
  return levels;
}

// V2 for every K of kLevelCounts: cosines with each outlier count. `formats[i]`: which row of `results` and `sums` K i has.
struct FormatRows {
  int of[kFormatsMost];
};
void FitAll(const Rows& rows, const SortedRows& sorted, quant::Centroids centroids, const Tables& tables,
            const FormatRows& formats, const SavedFits& saved, const RowResults& results, const RungSums& sums,
            int multiprocessors, cudaStream_t stream);

// From cosines to rungs, for format rows [0, formats).
void CountRungs(int64_t rows, int formats, const Tables& tables, const RowResults& results,
                const RungSums& sums, cudaStream_t stream);

// --- V2a ---

// The libraries of `count` codebook sizes.
struct Libraries {
  int count = 0;
  int levels[kFormatsMost] = {};
  double units[kFormatsMost] = {};
  bool group_scales = false;
  uint32_t empty = 0;                // bit c: no group of the sample was in cluster c
  const float* centers = nullptr;    // [kLibrarySize][kFeatureLevels]
  const float* codebooks = nullptr;  // [count][kLibrarySize][kMaxLevels]
};

struct GroupCodes {
  void* values = nullptr;       // [rows][groups * 128] sorted within groups, as SortedRows.values
  double* row_square = nullptr;    // [rows] sum of squares in column order
  double* group_square = nullptr;  // [rows][groups] likewise; with group scales
  uint8_t* books = nullptr;     // [count][rows][groups]
  uint16_t* scales = nullptr;   // [count][rows] or [count][rows][groups]
  double* dots = nullptr;       // [count][rows][groups] quant::GroupProducts
  double* squares = nullptr;
  double* row_dot = nullptr;    // [count][rows] <w, w'> and ||w'||^2 without outliers
  double* row_code_square = nullptr;
};

void SumSquares(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, PassStatus* status,
                cudaStream_t stream);
// Sorts the groups, finds their nearest clusters, chooses codebooks and scales; row_dot and row_code_square come last.
void CodeRows(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, const Tables& tables,
              cudaStream_t stream);
// Rows of up to some 90,000 columns on Hopper, 40,000 on Blackwell workstations: a row's outliers are sorted in shared memory.
// Cosines with each outlier count (`formats` set), or the fewest outliers that reach the floor (`floor` > 0; count = 1).
void TakeOutliers(const Rows& rows, const Libraries& libraries, const GroupCodes& codes, const Tables& tables,
                  const FormatRows& formats, const RungSums& sums, double floor, int64_t first_row,
                  const RowResults& results, PassStatus* status, int multiprocessors, cudaStream_t stream);

// --- both ---

// Places the rows' outliers one after the other behind those stored so far: results.outliers -> starts [rows]; fills the
// target's outlier starts and counts, and adds the rows to the status' statistics.
void AssignOutliers(const Rows& rows, const Target& target, const RowResults& results, uint32_t* starts,
                    PassStatus* status, cudaStream_t stream);

// Codes and outliers of the chunk. V2 reads `sorted`; V2a `codes` and the libraries' only codebook, and writes scales and
// indices too.
void Encode(const Rows& rows, const Target& target, const SortedRows& sorted, const Libraries& libraries,
            const GroupCodes& codes, const RowResults& results, const uint32_t* starts, const PassStatus* status,
            cudaStream_t stream);

// --- decode order ---

// The place of a chunk's rows: rows [first_row, …), which a row tile begins with, and these columns of them, in a matrix in decode
// order, zeroed before.
struct Arranged {
  DecodeOrder order;
  int64_t first_row = 0;
  int64_t first_column = 0;
  int64_t columns = 0;
  std::byte* bytes = nullptr;
};
// Outliers of a part of the columns: of the chunk's rows how many and from where on, and the sections, of the whole part.
struct KeptOutliers {
  uint32_t* counts = nullptr;  // [rows]
  uint32_t* starts = nullptr;  // [rows]
  uint8_t* columns = nullptr;
  uint16_t* values = nullptr;
};
// From the chunk's outliers (Target::of_chunk) those among the part's columns, behind the ones that are there.
void KeepOutliers(const Rows& rows, const Target& encoded, const RowResults& results, const uint32_t* starts, const Arranged& to,
                  const KeptOutliers& kept, PassStatus* status, cudaStream_t stream);
// Codes, codebooks, scales and indices of `encoded`, whose sections hold this chunk alone. `counts`, `starts`: of the outliers
// that stand in the arranged matrix.
void ArrangeRows(const Rows& rows, const Target& encoded, const uint32_t* counts, const uint32_t* starts, const Arranged& to,
                 cudaStream_t stream);

// As FillSyntheticRows, to the bit; `deviates`: SyntheticDeviates() on the device.
void MakeSyntheticRows(const SyntheticTensor& tensor, const float* deviates, int64_t first_row, int64_t rows, void* out,
                       int multiprocessors, cudaStream_t stream);

// Counts values that are NaN or infinite.
void CountNotFinite(const Rows& rows, PassStatus* status, int multiprocessors, cudaStream_t stream);

constexpr int64_t MaskWords(int64_t columns) { return (columns + 31) / 32; }

}  // namespace hproc::kernels::cuda
