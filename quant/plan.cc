#include "quant/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/sha256.h"
#include "quant/round_to_nearest.h"

namespace hproc::quant {
namespace {

using nlohmann::json;

double FloorOf(const Floors& floors, Family family) {
  switch (family) {
    case Family::kStrict: return floors.strict;
    case Family::kLazy: return floors.lazy;
    case Family::kHead: return floors.head;
    case Family::kKept: return 1;
  }
  return 1;
}

bool Allowed(const XfpFormat& format, ModePolicy policy) {
  return policy == ModePolicy::kAuto || (policy == ModePolicy::kV2) == (format.mode == Mode::kV2);
}

TensorPlan Kept(const TensorSpec& spec) {
  TensorPlan plan;
  plan.spec = spec;
  plan.bytes = spec.kept_bytes();
  return plan;
}

TensorPlan ResolveTensor(const TensorRates& rates, double floor, ModePolicy policy) {
  TensorPlan best = Kept(rates.spec);
  const int rung = LadderIndex(floor);
  if (rung == kLadderSize - 1) return best;  // 1 asks for the checkpoint's own bits, also where a fit is exact
  for (const Candidate& candidate : rates.candidates) {
    if (rung > candidate.highest || !Allowed(candidate.format, policy)) continue;
    const RateStep& step = candidate.StepAt(rung);
    const int64_t bytes =
        LayoutOf(rates.spec.rows, rates.spec.columns, candidate.format, step.outliers).total_bytes;
    if (bytes >= best.bytes) continue;
    best.format = candidate.format;
    best.ladder_index = rung;
    best.outliers = step.outliers;
    best.bytes = bytes;
    best.min_cosine = step.min_cosine;
    best.mean_deficit = step.mean_deficit;
  }
  return best;
}

TensorPlan RoundedToNearest(const TensorSpec& spec) {
  TensorPlan plan;
  plan.spec = spec;
  plan.format = kInt4Format;
  plan.codebooks = Codebooks::kUniform;
  plan.bytes = LayoutOf(spec.rows, spec.columns, kInt4Format, 0).total_bytes;
  plan.min_cosine = 0;
  plan.mean_deficit = 1;
  return plan;
}

TensorSpec WithExperts(TensorSpec spec, int64_t experts) {
  if (spec.experts <= experts) return spec;
  spec.rows = spec.rows / spec.experts * experts;
  spec.experts = experts;
  return spec;
}

json TensorToJson(const TensorPlan& tensor) {
  json row = {{"name", tensor.spec.name},       {"family", FamilyName(tensor.spec.family)},
              {"rows", tensor.spec.rows},       {"columns", tensor.spec.columns},
              {"stored_bytes_per_value", tensor.spec.bytes_per_value}, {"bytes", tensor.bytes}};
  if (tensor.spec.experts > 0) row["experts"] = tensor.spec.experts;
  if (tensor.format) {
    row["format"] = {{"mode", ModeName(tensor.format->mode)},
                     {"levels", tensor.format->levels},
                     {"centroids", CentroidsName(tensor.format->centroids)},
                     {"group_scales", tensor.format->group_scales}};
    row["outliers"] = tensor.outliers;
    if (tensor.codebooks == Codebooks::kUniform) {
      row["format"]["codebooks"] = "uniform";
      return row;
    }
    row["floor"] = LadderFloor(tensor.ladder_index);
    row["min_cosine"] = tensor.min_cosine;
    row["mean_deficit"] = tensor.mean_deficit;
  }
  return row;
}

// Throws json::exception on a wrong type or a missing key; std::invalid_argument on a wrong value.
TensorPlan TensorFromJson(const json& row) {
  TensorPlan tensor;
  tensor.spec.name = row.at("name").get<std::string>();
  const std::string family = row.at("family").get<std::string>();
  int found = -1;
  for (int f = 0; f < kFamilyCount; ++f) {
    if (FamilyName(static_cast<Family>(f)) == family) found = f;
  }
  const auto require = [&](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(tensor.spec.name + ": " + what);
  };
  require(found >= 0, "unknown family");
  tensor.spec.family = static_cast<Family>(found);
  tensor.spec.rows = row.at("rows").get<int64_t>();
  tensor.spec.columns = row.at("columns").get<int64_t>();
  tensor.spec.bytes_per_value = row.at("stored_bytes_per_value").get<int>();
  tensor.bytes = row.at("bytes").get<int64_t>();
  constexpr int64_t kMost = int64_t{1} << 48;
  require(tensor.spec.rows > 0 && tensor.spec.columns > 0 && tensor.spec.rows < kMost / tensor.spec.columns, "shape");
  require(tensor.spec.bytes_per_value == 2 || tensor.spec.bytes_per_value == 4, "stored_bytes_per_value");
  tensor.spec.experts = row.value("experts", int64_t{0});
  require(tensor.spec.experts >= 0 && (tensor.spec.experts == 0 || tensor.spec.rows % tensor.spec.experts == 0), "experts");
  require(tensor.bytes > 0, "bytes");
  if (const auto format = row.find("format"); format != row.end()) {
    XfpFormat xfp;
    const std::string mode = format->at("mode").get<std::string>();
    require(mode == "v2" || mode == "v2a", "mode");
    xfp.mode = mode == "v2" ? Mode::kV2 : Mode::kV2a;
    xfp.levels = format->at("levels").get<int>();
    require(IsLevelCount(xfp.levels), "levels");
    const std::string centroids = format->at("centroids").get<std::string>();
    require(centroids == "int8" || centroids == "fp16", "centroids");
    xfp.centroids = centroids == "int8" ? Centroids::kInt8 : Centroids::kHalf;
    xfp.group_scales = format->at("group_scales").get<bool>();
    require(xfp.mode == Mode::kV2a || !xfp.group_scales, "group_scales");
    tensor.format = xfp;
    tensor.outliers = row.at("outliers").get<int64_t>();
    require(tensor.outliers >= 0 && tensor.outliers <= tensor.spec.weights(), "outliers");
    if (const auto codebooks = format->find("codebooks"); codebooks != format->end()) {
      require(*codebooks == "uniform", "codebooks");
      require(xfp == kInt4Format && tensor.outliers == 0, "uniform codebooks of another format than INT4");
      const int64_t bytes = tensor.bytes;
      tensor = RoundedToNearest(tensor.spec);
      require(tensor.bytes == bytes, "bytes");
      return tensor;
    }
    const double floor = row.at("floor").get<double>();
    require(floor > 0 && floor <= 1, "floor");
    tensor.ladder_index = LadderIndex(floor);
    tensor.min_cosine = row.at("min_cosine").get<double>();
    tensor.mean_deficit = row.at("mean_deficit").get<double>();
  }
  return tensor;
}

}  // namespace

int64_t Plan::total_bytes() const {
  int64_t bytes = 0;
  for (const TensorPlan& tensor : tensors) bytes += tensor.bytes;
  return bytes;
}

int64_t Plan::total_weights() const {
  int64_t weights = 0;
  for (const TensorPlan& tensor : tensors) weights += tensor.spec.weights();
  return weights;
}

double Plan::bits_per_weight() const {
  const int64_t weights = total_weights();
  return weights > 0 ? 8.0 * static_cast<double>(total_bytes()) / static_cast<double>(weights) : 0;
}

std::array<FamilyTotals, kFamilyCount> Plan::Families() const {
  std::array<FamilyTotals, kFamilyCount> families{};
  for (const TensorPlan& tensor : tensors) {
    FamilyTotals& family = families[static_cast<size_t>(tensor.spec.family)];
    family.weights += tensor.spec.weights();
    family.bytes += tensor.bytes;
    family.min_cosine = std::min(family.min_cosine, tensor.min_cosine);
    family.mean_deficit += tensor.mean_deficit * static_cast<double>(tensor.spec.weights());
  }
  for (FamilyTotals& family : families) {
    if (family.weights > 0) family.mean_deficit /= static_cast<double>(family.weights);
  }
  return families;
}

std::string Plan::Digest() const {
  Sha256 digest;
  digest.Update("hproc plan 1\n");
  for (const TensorPlan& tensor : tensors) {
    std::string line = tensor.spec.name + '\t' + std::to_string(tensor.spec.rows) + '\t' +
                       std::to_string(tensor.spec.columns) + '\t' + std::to_string(tensor.bytes);
    if (tensor.format) {
      line += '\t';
      line += ModeName(tensor.format->mode);
      line += '\t' + std::to_string(tensor.format->levels) + '\t';
      line += CentroidsName(tensor.format->centroids);
      line += tensor.format->group_scales ? "\tgroup_scales\t" : "\tchannel_scales\t";
      line += std::to_string(tensor.outliers);
      if (tensor.codebooks == Codebooks::kUniform) line += "\tuniform";
    }
    digest.Update(line + '\n');
  }
  return digest.FinishHex();
}

std::optional<ModePolicy> ModePolicyFromName(std::string_view name) {
  if (name == "auto") return ModePolicy::kAuto;
  if (name == "v2") return ModePolicy::kV2;
  if (name == "v2a") return ModePolicy::kV2a;
  return std::nullopt;
}

Plan ResolvePlan(const RateTable& table, const Floors& floors, ModePolicy policy) {
  Plan plan;
  plan.floors = floors;
  plan.tensors.reserve(table.tensors.size());
  for (const TensorRates& rates : table.tensors) {
    plan.tensors.push_back(ResolveTensor(rates, FloorOf(floors, rates.spec.family), policy));
  }
  return plan;
}

Plan KeptPlan(const RateTable& table) {
  Plan plan;
  plan.floors = {.strict = 1, .lazy = 1, .head = 1};
  for (const TensorRates& rates : table.tensors) plan.tensors.push_back(Kept(rates.spec));
  return plan;
}

Plan Int4Plan(const RateTable& table) { return Int4PrunedPlan(table, std::numeric_limits<int64_t>::max()); }

Plan Int4PrunedPlan(const RateTable& table, int64_t experts) {
  HPROC_CHECK(experts > 0, "experts that stay");
  Plan plan;
  plan.floors = {.strict = 0, .lazy = 0, .head = 0};
  for (const TensorRates& rates : table.tensors) {
    const TensorSpec spec = WithExperts(rates.spec, experts);
    plan.tensors.push_back(spec.family == Family::kKept ? Kept(spec) : RoundedToNearest(spec));
  }
  return plan;
}

int64_t RoutedExperts(const RateTable& table) {
  int64_t experts = 0;
  for (const TensorRates& rates : table.tensors) experts = std::max(experts, rates.spec.experts);
  return experts;
}

Plan UniformLevelsPlan(std::span<const TensorSpec> tensors, const std::array<int, kFamilyCount>& levels) {
  Plan plan;
  plan.floors = {.strict = 0, .lazy = 0, .head = 0};
  for (const TensorSpec& spec : tensors) {
    TensorPlan tensor = Kept(spec);
    const int of_family = levels[static_cast<size_t>(spec.family)];
    if (spec.family != Family::kKept && of_family > 0) {
      tensor.format = XfpFormat{.mode = Mode::kV2, .levels = of_family};
      tensor.bytes = LayoutOf(spec.rows, spec.columns, *tensor.format, 0).total_bytes;
      tensor.min_cosine = 0;
      tensor.mean_deficit = 1;
    }
    plan.tensors.push_back(std::move(tensor));
  }
  return plan;
}

std::string PlanToJson(const Plan& plan) {
  json tensors = json::array();
  for (const TensorPlan& tensor : plan.tensors) tensors.push_back(TensorToJson(tensor));
  const json document = {
      {"floors", {{"strict", plan.floors.strict}, {"lazy", plan.floors.lazy}, {"head", plan.floors.head}}},
      {"digest", plan.Digest()},
      {"tensors", std::move(tensors)}};
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<Plan> PlanFromJson(std::string_view text) {
  try {
    const json document = json::parse(text);
    Plan plan;
    const json& floors = document.at("floors");
    plan.floors = {.strict = floors.at("strict").get<double>(),
                   .lazy = floors.at("lazy").get<double>(),
                   .head = floors.at("head").get<double>()};
    for (const json& row : document.at("tensors")) plan.tensors.push_back(TensorFromJson(row));
    if (plan.Digest() != document.at("digest").get<std::string>()) return Error{"plan: its digest does not match"};
    return plan;
  } catch (const std::exception& e) {
    return Error{std::string("plan: ") + e.what()};
  }
}

}  // namespace hproc::quant
