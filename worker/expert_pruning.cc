#include "worker/expert_pruning.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "base/check.h"

namespace hproc::worker {
namespace {

constexpr int64_t kBlockValues = int64_t{1} << 16;

bool IsOfExperts(const ModelTensor& tensor) { return tensor.spec.experts > 0; }

// The Frobenius norm of each expert's rows of one tensor, [experts].
Result<std::vector<double>> ExpertNorms(const Checkpoint& checkpoint, const ModelTensor& tensor, ThreadPool& pool) {
  const int64_t experts = tensor.spec.experts;
  const int64_t rows = tensor.spec.rows / experts;
  const int64_t block = std::max<int64_t>(1, kBlockValues / tensor.spec.columns);
  std::vector<double> norms(static_cast<size_t>(experts), 0);
  std::vector<std::optional<Error>> errors(static_cast<size_t>(experts));
  pool.ParallelFor(experts, [&](int64_t expert, int) {
    const auto e = static_cast<size_t>(expert);
    std::vector<float> values;
    double square = 0;
    for (int64_t row = 0; row < rows; row += block) {
      const int64_t count = std::min(block, rows - row);
      values.resize(static_cast<size_t>(count * tensor.spec.columns));
      if (Result<void> read = ReadRows(checkpoint, tensor, expert * rows + row, count, values); !read.ok()) {
        errors[e] = read.error();
        return;
      }
      for (float value : values) square += static_cast<double>(value) * static_cast<double>(value);
    }
    norms[e] = std::sqrt(square);
  });
  for (const std::optional<Error>& error : errors) {
    if (error) return *error;
  }
  return norms;
}

// The `keep` experts with the highest scores, ascending; ties go to the lower one.
std::vector<int64_t> Best(const std::vector<double>& scores, int64_t keep) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(keep));
  std::ranges::sort(order);
  return order;
}

// The same tensor with the blocks of rows of `kept` alone.
ModelTensor WithExperts(const ModelTensor& tensor, const std::vector<int64_t>& kept) {
  ModelTensor pruned = tensor;
  const int64_t rows = tensor.spec.rows / tensor.spec.experts;
  pruned.sources.clear();
  int64_t at = 0;
  for (const int64_t expert : kept) {
    const int64_t first = expert * rows;
    for (const TensorSource& source : tensor.sources) {
      const int64_t begin = std::max(first, source.first_row);
      const int64_t end = std::min(first + rows, source.first_row + source.rows);
      if (begin >= end) continue;
      pruned.sources.push_back({.info = source.info, .first_row = at, .rows = end - begin,
                                .source_row = source.source_row + begin - source.first_row});
      at += end - begin;
    }
  }
  pruned.spec.experts = static_cast<int64_t>(kept.size());
  pruned.spec.rows = pruned.spec.experts * rows;
  return pruned;
}

}  // namespace

Result<void> PruneExperts(const Checkpoint& checkpoint, const quant::Plan& plan, ModelSpec& spec, TensorTable& table,
                          ThreadPool& pool, const LoadProgress& progress) {
  if (plan.tensors.size() != table.tensors.size()) return Ok();  // another model's: refused when plan and table are compared
  const auto is_cut = [&](size_t t) {
    return IsOfExperts(table.tensors[t]) && plan.tensors[t].spec.experts > 0 &&
           plan.tensors[t].spec.experts < table.tensors[t].spec.experts;
  };
  int64_t total = 0;
  for (size_t t = 0; t < table.tensors.size(); ++t) total += is_cut(t) ? table.tensors[t].spec.kept_bytes() : 0;
  int64_t done = 0;
  for (size_t begin = 0; begin < table.tensors.size();) {
    // The tensors of one layer's experts and their router, which stand together.
    size_t end = begin;
    while (end < table.tensors.size() && IsOfExperts(table.tensors[end]) &&
           table.tensors[end].layer == table.tensors[begin].layer) {
      ++end;
    }
    if (end == begin || !is_cut(begin)) {
      begin = std::max(end, begin + 1);
      continue;
    }
    const int64_t experts = table.tensors[begin].spec.experts;
    const int64_t keep = plan.tensors[begin].spec.experts;
    std::vector<double> scores(static_cast<size_t>(experts), 1);
    for (size_t t = begin; t < end; ++t) {
      HPROC_CHECK(table.tensors[t].spec.experts == experts, "tensors of one layer's experts");
      Result<std::vector<double>> norms = ExpertNorms(checkpoint, table.tensors[t], pool);
      if (!norms.ok()) return norms.error();
      for (size_t e = 0; e < scores.size(); ++e) scores[e] *= (*norms)[e];
      done += table.tensors[t].spec.kept_bytes();
      if (progress) progress(done, total);
    }
    const std::vector<int64_t> kept = Best(scores, keep);
    MoeSpec& moe = spec.layers[static_cast<size_t>(table.tensors[begin].layer)].feed_forward;
    moe.experts = keep;
    moe.experts_per_token = std::min(moe.experts_per_token, keep);
    for (size_t t = begin; t < end; ++t) table.tensors[t] = WithExperts(table.tensors[t], kept);
    begin = end;
  }
  return Ok();
}

}  // namespace hproc::worker
