#include "controller/plan_space.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace hproc::controller {
namespace {

// The line of what quantize-on-load needs and gives back before the cache is allocated.
constexpr std::string_view kWorkspacePeak = "workspace_peak";

}  // namespace

using quant::Family;
using quant::Floors;

PlanSpace::PlanSpace(quant::RateTable table, quant::ModePolicy policy, double head_floor,
                     std::vector<worker::LedgerLine> others, int64_t granularity)
    : table_(std::move(table)),
      policy_(policy),
      head_floor_(head_floor),
      others_(std::move(others)),
      granularity_(granularity),
      strict_(quant::kLadderSize),
      lazy_(quant::kLadderSize) {
  int64_t workspace = 0;
  for (const worker::LedgerLine& line : others_) {
    (line.name == kWorkspacePeak ? workspace : other_bytes_) += line.bytes;
  }
  int64_t strict_weights = 0;
  int64_t lazy_weights = 0;
  for (const quant::TensorRates& tensor : table_.tensors) {
    if (tensor.spec.family == Family::kStrict) strict_weights += tensor.spec.weights();
    if (tensor.spec.family == Family::kLazy) lazy_weights += tensor.spec.weights();
  }
  has_lazy_ = lazy_weights > 0;
  // A tensor answers to its own family's floor alone, so the plane is a sum of two rows.
  for (int rung = 0; rung < quant::kLadderSize; ++rung) {
    const double floor = quant::LadderFloor(rung);
    const quant::Plan plan =
        ResolvePlan(table_, {.strict = floor, .lazy = floor, .head = head_floor_}, policy_);
    int64_t fixed = std::max(other_bytes_, workspace);
    for (const quant::TensorPlan& tensor : plan.tensors) {
      const int64_t bytes = Allocated(tensor.bytes);
      const double deficit = tensor.mean_deficit * static_cast<double>(tensor.spec.weights());
      if (tensor.spec.family == Family::kStrict) {
        strict_[static_cast<size_t>(rung)].bytes += bytes;
        strict_[static_cast<size_t>(rung)].deficit += deficit / static_cast<double>(strict_weights);
      } else if (tensor.spec.family == Family::kLazy) {
        lazy_[static_cast<size_t>(rung)].bytes += bytes;
        lazy_[static_cast<size_t>(rung)].deficit += deficit / static_cast<double>(lazy_weights);
      } else {
        fixed += bytes;
      }
    }
    fixed_bytes_ = fixed;
  }
}

PlanSpace::~PlanSpace() = default;

Floors PlanSpace::FloorsAt(FloorPair at) const {
  return {.strict = quant::LadderFloor(at.strict), .lazy = quant::LadderFloor(at.lazy), .head = head_floor_};
}

FloorPair PlanSpace::PairOf(const Floors& floors) const {
  return {.strict = quant::LadderIndex(floors.strict), .lazy = quant::LadderIndex(floors.lazy)};
}

int64_t PlanSpace::NeededBytes(FloorPair at) const {
  return strict_[static_cast<size_t>(at.strict)].bytes + lazy_[static_cast<size_t>(at.lazy)].bytes + fixed_bytes_;
}

PlannedPoint PlanSpace::Describe(FloorPair at, quant::Plan plan) const {
  PlannedPoint point;
  point.at = at;
  point.plan = std::move(plan);
  point.digest = point.plan.Digest();
  for (const quant::TensorPlan& tensor : point.plan.tensors) point.weight_bytes += Allocated(tensor.bytes);
  point.total_bytes = point.weight_bytes + other_bytes_;
  const auto families = point.plan.Families();
  point.strict_deficit = families[static_cast<size_t>(Family::kStrict)].mean_deficit;
  point.lazy_deficit = families[static_cast<size_t>(Family::kLazy)].mean_deficit;
  return point;
}

const PlannedPoint& PlanSpace::At(FloorPair at) const {
  std::unique_ptr<PlannedPoint>& point = points_[at];
  if (point == nullptr) {
    point = std::make_unique<PlannedPoint>(Describe(at, ResolvePlan(table_, FloorsAt(at), policy_)));
  }
  return *point;
}

std::vector<worker::LedgerLine> PlanSpace::Ledger(const quant::Plan& plan) const {
  std::array<int64_t, quant::kFamilyCount> weights{};
  int64_t outliers = 0;
  int64_t codebooks = 0;
  for (const quant::TensorPlan& tensor : plan.tensors) {
    int64_t bytes = Allocated(tensor.bytes);
    if (tensor.format) {
      const quant::XfpLayout layout =
          quant::LayoutOf(tensor.spec.rows, tensor.spec.columns, *tensor.format, tensor.outliers);
      outliers += layout.outlier_bytes;
      codebooks += layout.codebook_bytes;
      bytes -= layout.outlier_bytes + layout.codebook_bytes;
    }
    weights[static_cast<size_t>(tensor.spec.family)] += bytes;
  }
  std::vector<worker::LedgerLine> lines;
  for (int f = 0; f < quant::kFamilyCount; ++f) {
    lines.push_back({.name = "weights_" + std::string(quant::FamilyName(static_cast<Family>(f))),
                     .bytes = weights[static_cast<size_t>(f)]});
  }
  lines.push_back({.name = "outliers", .bytes = outliers});
  lines.push_back({.name = "codebooks", .bytes = codebooks});
  lines.insert(lines.end(), others_.begin(), others_.end());
  return lines;
}

int64_t PlanSpace::Int4WeightBytes() const {
  int64_t bytes = 0;
  for (const quant::TensorRates& tensor : table_.tensors) {
    const quant::TensorSpec& spec = tensor.spec;
    const int64_t quantized = spec.rows * ((spec.columns + 1) / 2 + 2 * quant::GroupsPerRow(spec.columns));
    bytes += Allocated(spec.family == Family::kKept ? spec.kept_bytes() : quantized);
  }
  return bytes;
}

PlannedPoint PlanSpace::Kept() const {
  return Describe({.strict = quant::kLadderSize - 1, .lazy = quant::kLadderSize - 1}, quant::KeptPlan(table_));
}

PlannedPoint PlanSpace::Int4() const { return Describe({}, quant::Int4Plan(table_)); }

std::optional<PlannedPoint> PlanSpace::Int4Pruned(int64_t weight_bytes) const {
  const int64_t all = quant::RoutedExperts(table_);
  const auto fits = [&](int64_t experts) {
    return Describe({}, quant::Int4PrunedPlan(table_, experts)).weight_bytes <= weight_bytes;
  };
  if (all == 0 || fits(all) || !fits(1)) return std::nullopt;
  int64_t low = 1;  // fits; all does not
  int64_t high = all;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return Describe({}, quant::Int4PrunedPlan(table_, low));
}

}  // namespace hproc::controller
