// A plan: what a pair of floors resolves to, tensor by tensor, and the bytes that takes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "quant/floors.h"
#include "quant/rate_table.h"
#include "quant/xfp_matrix.h"

namespace hproc::quant {

// Whether a tensor's codebooks are fitted to it, or are the evenly spaced levels of INT4 (quant/round_to_nearest.h).
enum class Codebooks { kLearned, kUniform };

struct TensorPlan {
  TensorSpec spec;
  std::optional<XfpFormat> format;  // none: kept as the checkpoint stores it
  Codebooks codebooks = Codebooks::kLearned;  // uniform: format is kInt4Format, no outliers, and no floor is promised
  int ladder_index = 0;             // the floor every channel must reach, where there is a format
  int64_t outliers = 0;
  int64_t bytes = 0;
  double min_cosine = 1;    // over channels
  double mean_deficit = 0;  // mean over channels of 1 - cosine

  bool operator==(const TensorPlan&) const = default;
};

struct FamilyTotals {
  int64_t weights = 0;
  int64_t bytes = 0;
  double min_cosine = 1;
  double mean_deficit = 0;  // mean over the family's weights
};

struct Plan {
  Floors floors;  // as asked for
  std::vector<TensorPlan> tensors;

  int64_t total_bytes() const;
  int64_t total_weights() const;
  double bits_per_weight() const;
  std::array<FamilyTotals, kFamilyCount> Families() const;  // indexed by Family
  // sha256 over what will be stored: names, shapes, formats, outliers, bytes. Not over the floors: two pairs of floors
  // that store the same are the same plan. Uniform codebooks have a word of their own in it.
  std::string Digest() const;
};

// Which of a table's candidates may be used.
enum class ModePolicy { kAuto, kV2, kV2a };
std::optional<ModePolicy> ModePolicyFromName(std::string_view name);  // "auto", "v2", "v2a"

// The cheapest candidate that holds the floor, tensor by tensor; kept where that is cheaper or nothing holds it. Ties go
// to fewer levels, then V2.
Plan ResolvePlan(const RateTable& table, const Floors& floors, ModePolicy policy);

// Everything kept: the 16-bit baseline.
Plan KeptPlan(const RateTable& table);

// Every matrix that floors decide on rounded to nearest at 4 bits, lm_head included; the rest kept: the INT4 baseline. It
// promises nothing of any channel: floors of 0, cosines of at least 0.
Plan Int4Plan(const RateTable& table);

// The same with `experts` of the routed experts of a layer left, at least 1 (all of a layer that has no more). Which ones
// stay is the loader's to choose.
Plan Int4PrunedPlan(const RateTable& table, int64_t experts);
// The routed experts of the layer that has most of them; 0 in a dense model.
int64_t RoutedExperts(const RateTable& table);

// Every matrix of a family with `levels` of V2, indexed by Family, without outliers; kept where 0. Needs no rates and so promises
// nothing either: for timing.
Plan UniformLevelsPlan(std::span<const TensorSpec> tensors, const std::array<int, kFamilyCount>& levels);

std::string PlanToJson(const Plan& plan);
Result<Plan> PlanFromJson(std::string_view json);

}  // namespace hproc::quant
