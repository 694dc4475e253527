#include "worker/load_parts.h"

#include <span>

#include "base/printable.h"
#include "quant/library_fit.h"
#include "quant/xfp_matrix.h"

namespace hproc::worker {

using kernels::MemoryUse;
using quant::Family;

MemoryUse MemoryUseOf(Family family) {
  switch (family) {
    case Family::kStrict: return MemoryUse::kWeightsStrict;
    case Family::kLazy: return MemoryUse::kWeightsLazy;
    case Family::kHead: return MemoryUse::kWeightsHead;
    case Family::kKept: return MemoryUse::kWeightsKept;
  }
  return MemoryUse::kWeightsKept;
}

kernels::Storage StorageOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16: return kernels::Storage::kFloat16;
    case Dtype::kF32: return kernels::Storage::kFloat32;
    default: return kernels::Storage::kBfloat16;
  }
}

int64_t StoredBytes(const TensorTable& table) {
  int64_t bytes = 0;
  for (const ModelTensor& tensor : table.tensors) bytes += tensor.spec.kept_bytes();
  return bytes;
}

Result<std::vector<float>> ReadLibrarySample(const Checkpoint& checkpoint, const ModelTensor& tensor) {
  const int64_t columns = tensor.spec.columns;
  const std::vector<int64_t> rows = quant::LibrarySampleRows(tensor.spec.rows, columns);
  std::vector<float> sample(rows.size() * static_cast<size_t>(columns));
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<float> out = std::span(sample).subspan(i * static_cast<size_t>(columns), static_cast<size_t>(columns));
    if (Result<void> read = ReadRows(checkpoint, tensor, rows[i], 1, out); !read.ok()) return read.error();
  }
  return sample;
}

Result<void> CheckPlanFits(const quant::Plan& plan, const TensorTable& table) {
  if (plan.tensors.size() != table.tensors.size()) {
    return Error{"the plan has " + std::to_string(plan.tensors.size()) + " tensors, the checkpoint " +
                 std::to_string(table.tensors.size()) + "; it belongs to another checkpoint"};
  }
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    if (plan.tensors[i].spec == table.tensors[i].spec) continue;
    return Error{"tensor '" + Printable(table.tensors[i].spec.name) + "' is not the plan's '" +
                 Printable(plan.tensors[i].spec.name) + "'; the plan belongs to another checkpoint"};
  }
  return Ok();
}

void LoadLog::Add(const quant::TensorPlan& plan, int64_t outliers, const quant::ChannelStats& stats) {
  quant::TensorPlan& record = stored_.tensors.emplace_back(plan);
  record.outliers = plan.format ? outliers : 0;
  record.bytes = plan.format
                     ? quant::LayoutOf(plan.spec.rows, plan.spec.columns, *plan.format, outliers).total_bytes
                     : plan.spec.kept_bytes();
  FamilyStats& family = families_[static_cast<size_t>(plan.spec.family)];
  family.weights += plan.spec.weights();
  family.bytes += record.bytes;
  family.channels.Add(stats);
}

LoadResult LoadLog::Report() const {
  LoadResult report;
  report.plan_digest = stored_.Digest();
  report.weight_bytes = stored_.total_bytes();
  report.bits_per_weight = stored_.bits_per_weight();
  for (int f = 0; f < quant::kFamilyCount; ++f) {
    const FamilyStats& stats = families_[static_cast<size_t>(f)];
    if (stats.weights == 0) continue;
    FamilyReport family;
    family.family = quant::FamilyName(static_cast<Family>(f));
    family.weights = stats.weights;
    family.bytes = stats.bytes;
    if (stats.channels.channels > 0) {
      family.min_cosine = stats.channels.min_cosine;
      family.mean_cosine = stats.channels.sum_cosine / static_cast<double>(stats.channels.channels);
      family.min_norm_ratio = stats.channels.min_norm_ratio;
      family.max_norm_ratio = stats.channels.max_norm_ratio;
    }
    report.families.push_back(std::move(family));
  }
  return report;
}

void AssignLedgerLines(kernels::DeviceMemory& memory, MemoryUse use, const quant::XfpMatrix& matrix) {
  const quant::XfpLayout layout =
      quant::LayoutOf(matrix.rows, matrix.columns, matrix.format, matrix.outliers, matrix.cut);
  memory.Reassign(use, MemoryUse::kCodebooks, layout.codebook_bytes);
  memory.Reassign(use, MemoryUse::kOutliers, layout.outlier_bytes);
}

quant::ColumnCut CutOf(const ModelTensor& tensor, const TensorShard& part) {
  if (part.column_count() == tensor.spec.columns) return {};
  return {.first = part.columns.front().first, .whole = tensor.spec.columns};
}

Result<LoadResult> MergeLoads(const quant::Plan& plan, std::span<const std::vector<TensorShare>> ranks) {
  LoadLog log(plan.floors);
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    TensorShare all;
    for (const std::vector<TensorShare>& of_rank : ranks) {
      all.outliers += of_rank[i].outliers;
      all.stats.Add(of_rank[i].stats);
    }
    const int64_t planned = plan.tensors[i].format ? plan.tensors[i].outliers : 0;
    if (all.outliers != planned) {
      return Error{plan.tensors[i].spec.name + ": " + std::to_string(all.outliers) + " outliers where the plan has " +
                   std::to_string(planned) + "; the plan belongs to another checkpoint"};
    }
    log.Add(plan.tensors[i], all.outliers, all.stats);
  }
  return log.Report();
}

Result<LoadedModel> FinishLoad(const ModelSpec& spec, const quant::Plan& plan, const Shard& shard, std::vector<LoadedTensor> tensors,
                               std::vector<TensorShare> shares,
                               std::chrono::steady_clock::time_point start) {
  LoadResult report;
  if (shard.world_size == 1) {
    Result<LoadResult> merged = MergeLoads(plan, {&shares, 1});
    if (!merged.ok()) return merged.error();
    report = std::move(*merged);
  }
  LoadedModel loaded{.model = Model(spec, shard, std::move(tensors)), .shares = std::move(shares), .report = std::move(report)};
  loaded.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return loaded;
}

}  // namespace hproc::worker
