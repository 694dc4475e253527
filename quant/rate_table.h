// The rate table: for every tensor, mode and K, the outliers (hence the bytes) that any floor asks for.
//
// One pass over the checkpoint fills it; after that every pair of floors resolves to a plan and its bytes in
// milliseconds (quant/plan.h), and the out-of-memory frontier is known before the first load. The numbers are not
// estimates: quantize-on-load runs the same fits and stores the same outliers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "quant/floors.h"
#include "quant/library_fit.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

// One tensor of the model as the plan sees it; the experts of a projection in one layer are one tensor [E * out, in].
struct TensorSpec {
  std::string name;
  Family family = Family::kKept;
  int64_t rows = 0;
  int64_t columns = 0;     // vectors: one row
  int bytes_per_value = 2;  // as the checkpoint stores it: 2 or 4
  int64_t experts = 0;      // the rows are so many equal blocks, one a routed expert; 0: not of routed experts

  int64_t weights() const { return rows * columns; }
  int64_t kept_bytes() const { return weights() * bytes_per_value; }
  bool operator==(const TensorSpec&) const = default;
};

// From `ladder_index` (quant/floors.h) up to the next step or to Candidate::highest.
struct RateStep {
  int ladder_index = 0;
  int64_t outliers = 0;
  float min_cosine = 1;     // the least over all channels
  double mean_deficit = 0;  // mean over channels of 1 - cosine
};

// One way to store a tensor.
struct Candidate {
  XfpFormat format;
  int highest = -1;             // highest ladder index every channel can reach; -1: none
  std::vector<RateStep> steps;  // ascending; the first has ladder_index 0
  const RateStep& StepAt(int ladder_index) const;
};

struct TensorRates {
  TensorSpec spec;
  std::vector<Candidate> candidates;  // empty for kept tensors
};

struct RateTable {
  std::string fingerprint;  // of the checkpoint
  std::vector<TensorRates> tensors;
};

// Which candidates a table holds.
struct RateOptions {
  bool v2 = true;
  bool v2a = true;
  bool group_scales = false;  // V2a with a scale per group
  Centroids centroids = Centroids::kInt8;

  bool operator==(const RateOptions&) const = default;
};

// What some rows add to a format's rungs; each vector in the order of the ladder.
struct RungSums {
  std::vector<int64_t> outliers;  // change of the summed outliers at each rung, kLadderSize + 1
  std::vector<int64_t> deficits;  // likewise of 1 - cosine, in whole units of kDeficitUnit
  std::vector<float> min_cosine;  // least cosine of the rows at each rung, kLadderSize
  int highest = kLadderSize - 1;  // the highest rung that all rows reach, or -1

  RungSums();
  void Add(const RungSums& other);
};
// Deficits are summed as whole numbers, so that the order of the rows does not matter.
inline constexpr double kDeficitUnit = 0x1p-40;

// Collects the rates of one tensor. Build from the sample first; then AddRows over all rows, from any number of
// threads with one Accumulator each; then Finish. The result does not depend on how the rows were split.
class TensorRateBuilder {
 public:
  // `sample`: the rows LibrarySampleRows(rows, columns) names, in order.
  TensorRateBuilder(TensorSpec spec, const RateOptions& options, std::span<const float> sample);

  class Accumulator;
  std::unique_ptr<Accumulator> MakeAccumulator() const;
  // `values`: whole rows, finite.
  void AddRows(std::span<const float> values, Accumulator& accumulator) const;
  TensorRates Finish(std::span<const std::unique_ptr<Accumulator>> accumulators) const;

  // For those who fit the rows elsewhere: the candidates in order, their libraries (none for V2), and what the sums of all
  // rows, one a format, make of them.
  std::span<const XfpFormat> formats() const { return formats_; }
  const LibraryClusters& clusters() const { return clusters_; }
  std::span<const std::optional<Library>> libraries() const { return libraries_; }
  TensorRates Finish(std::span<const RungSums> sums) const;

 private:
  TensorSpec spec_;
  std::vector<XfpFormat> formats_;
  LibraryClusters clusters_;
  std::vector<std::optional<Library>> libraries_;  // one a format; set for V2a
};

class TensorRateBuilder::Accumulator {
 public:
  ~Accumulator();

 private:
  friend class TensorRateBuilder;
  explicit Accumulator(size_t formats);
  std::vector<RungSums> formats_;
};

// Whether the table has rates of the mode; one with nothing to quantize has those of every mode.
bool HasRatesOf(const RateTable& table, Mode mode);
// Adds the rates of `more`, the same tensors measured in a mode that `table` lacks: the table that one pass of both modes makes.
void AddRates(RateTable& table, RateTable more);

// A table as bytes and back. Decoding checks everything: the bytes may come from a disk that filled up half way.
std::string EncodeRateTable(const RateTable& table);
Result<RateTable> DecodeRateTable(std::string_view bytes);

}  // namespace hproc::quant
