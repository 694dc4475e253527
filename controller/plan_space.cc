#include "controller/plan_space.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "quant/decode_order.h"

namespace hproc::controller {
namespace {

// The line of what quantize-on-load needs and gives back before the cache is allocated.
constexpr std::string_view kWorkspacePeak = "workspace_peak";
// Like the device's context beside the cap, not under it.
constexpr std::string_view kCommunicator = "communicator";

}  // namespace

using quant::Family;
using quant::Floors;

PlanSpace::PlanSpace(quant::RateTable table, quant::ModePolicy policy, double head_floor,
                     std::vector<worker::LedgerLine> others, int64_t granularity, std::vector<worker::RankForecast> ranks,
                     std::string arranged)
    : table_(std::move(table)),
      policy_(policy),
      head_floor_(head_floor),
      granularity_(granularity),
      arranged_(std::move(arranged)),
      strict_(quant::kLadderSize),
      lazy_(quant::kLadderSize) {
  HPROC_CHECK(arranged_.empty() || arranged_.size() == table_.tensors.size(), "a word on every tensor");
  for (worker::RankForecast& rank : ranks) {
    holders_.push_back({.parts = std::move(rank.parts), .others = std::move(rank.predicted)});
    HPROC_CHECK(holders_.back().parts.size() == table_.tensors.size(), "a part of every tensor");
    if (rank.free_bytes > 0 && (least_free_bytes_ == 0 || rank.free_bytes < least_free_bytes_)) least_free_bytes_ = rank.free_bytes;
  }
  if (holders_.empty()) holders_.push_back({.others = std::move(others)});
  int64_t workspace = 0;
  for (Holder& holder : holders_) {
    for (const worker::LedgerLine& line : holder.others) {
      if (line.name == kCommunicator) continue;
      (line.name == kWorkspacePeak ? workspace : holder.other_bytes) += line.bytes;
    }
    holder.fixed_bytes = std::max(holder.other_bytes, std::exchange(workspace, 0));
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
    Rung& strict = strict_[static_cast<size_t>(rung)];
    Rung& lazy = lazy_[static_cast<size_t>(rung)];
    strict.by_rank.resize(holders_.size());
    lazy.by_rank.resize(holders_.size());
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      const quant::TensorPlan& tensor = plan.tensors[i];
      const bool is_strict = tensor.spec.family == Family::kStrict;
      if (is_strict || tensor.spec.family == Family::kLazy) {
        Rung& of_family = is_strict ? strict : lazy;
        of_family.bytes += Allocated(tensor.bytes);
        of_family.deficit += tensor.mean_deficit * static_cast<double>(tensor.spec.weights()) /
                             static_cast<double>(is_strict ? strict_weights : lazy_weights);
      }
      for (size_t rank = 0; rank < holders_.size(); ++rank) {
        const int64_t bytes = Allocated(PartOf(tensor, holders_[rank], i).total_bytes);
        if (is_strict) {
          strict.by_rank[rank] += bytes;
        } else if (tensor.spec.family == Family::kLazy) {
          lazy.by_rank[rank] += bytes;
        } else if (rung == 0) {  // the same at every floor
          holders_[rank].fixed_bytes += bytes;
        }
      }
    }
  }
}

quant::XfpLayout PlanSpace::PartOf(const quant::TensorPlan& tensor, const Holder& holder, size_t at) const {
  const quant::TensorSpec& spec = tensor.spec;
  worker::PartSize part{.rows = spec.rows, .columns = spec.columns};
  if (!holder.parts.empty()) {
    part = holder.parts[at];
    // Of routed experts that are left out a rank has as little as of those that stay.
    part.rows = part.rows * spec.rows / table_.tensors[at].spec.rows;
  }
  quant::XfpLayout layout;
  if (!tensor.format) {
    layout.total_bytes = part.rows * part.columns * spec.bytes_per_value;
    return layout;
  }
  const quant::ColumnCut cut = part.columns == spec.columns ? quant::ColumnCut{}
                                                            : quant::ColumnCut{.first = part.first_column, .whole = spec.columns};
  const double share = static_cast<double>(part.rows) / static_cast<double>(spec.rows) * static_cast<double>(part.columns) /
                       static_cast<double>(spec.columns);
  const auto outliers = static_cast<int64_t>(std::ceil(static_cast<double>(tensor.outliers) * share));
  layout = quant::LayoutOf(part.rows, part.columns, *tensor.format, outliers, cut);
  if (!arranged_.empty() && arranged_[at] == '1' && tensor.codebooks == quant::Codebooks::kLearned) {
    layout.total_bytes =
        quant::ArrangedBytes(part.rows, part.columns, *tensor.format, outliers, cut).value_or(layout.total_bytes);
  }
  return layout;
}

int64_t PlanSpace::WeightBytesOf(const quant::Plan& plan, const Holder& holder) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < plan.tensors.size(); ++i) bytes += Allocated(PartOf(plan.tensors[i], holder, i).total_bytes);
  return bytes;
}

const PlanSpace::Holder& PlanSpace::TightestOf(const quant::Plan& plan) const {
  return *std::ranges::max_element(holders_, {}, [&](const Holder& h) { return WeightBytesOf(plan, h) + h.other_bytes; });
}

int64_t PlanSpace::OtherBytes() const { return std::ranges::max(holders_, {}, &Holder::other_bytes).other_bytes; }

int64_t PlanSpace::LeastRoom(int64_t cap_bytes) const {
  return least_free_bytes_ > 0 ? std::min(cap_bytes, least_free_bytes_) : cap_bytes;
}

PlanSpace::~PlanSpace() = default;

Floors PlanSpace::FloorsAt(FloorPair at) const {
  return {.strict = quant::LadderFloor(at.strict), .lazy = quant::LadderFloor(at.lazy), .head = head_floor_};
}

FloorPair PlanSpace::PairOf(const Floors& floors) const {
  return {.strict = quant::LadderIndex(floors.strict), .lazy = quant::LadderIndex(floors.lazy)};
}

int64_t PlanSpace::NeededBytes(FloorPair at) const {
  int64_t most = 0;
  for (size_t rank = 0; rank < holders_.size(); ++rank) {
    most = std::max(most, strict_[static_cast<size_t>(at.strict)].by_rank[rank] +
                              lazy_[static_cast<size_t>(at.lazy)].by_rank[rank] + holders_[rank].fixed_bytes);
  }
  return most;
}

PlannedPoint PlanSpace::Describe(FloorPair at, quant::Plan plan) const {
  PlannedPoint point;
  point.at = at;
  point.plan = std::move(plan);
  point.digest = point.plan.Digest();
  const Holder& tightest = TightestOf(point.plan);
  point.weight_bytes = WeightBytesOf(point.plan, tightest);
  point.total_bytes = point.weight_bytes + tightest.other_bytes;
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
  const Holder& tightest = TightestOf(plan);
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const quant::TensorPlan& tensor = plan.tensors[i];
    const quant::XfpLayout layout = PartOf(tensor, tightest, i);
    int64_t bytes = Allocated(layout.total_bytes);
    if (tensor.format) {
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
  lines.insert(lines.end(), tightest.others.begin(), tightest.others.end());
  return lines;
}

int64_t PlanSpace::Int4WeightBytes(const Holder& holder) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < table_.tensors.size(); ++i) {
    const quant::TensorSpec& spec = table_.tensors[i].spec;
    const worker::PartSize part = holder.parts.empty() ? worker::PartSize{.rows = spec.rows, .columns = spec.columns} : holder.parts[i];
    const int64_t quantized = part.rows * ((part.columns + 1) / 2 + 2 * quant::GroupsPerRow(part.columns));
    bytes += Allocated(spec.family == Family::kKept ? part.rows * part.columns * spec.bytes_per_value : quantized);
  }
  return bytes;
}

int64_t PlanSpace::Int4WeightBytes() const { return Int4WeightBytes(Holder{}); }

int64_t PlanSpace::Int4TotalBytes() const {
  int64_t most = 0;
  for (const Holder& holder : holders_) most = std::max(most, Int4WeightBytes(holder) + holder.other_bytes);
  return most;
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
