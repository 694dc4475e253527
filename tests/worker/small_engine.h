// A small checkpoint, loaded and ready to run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "quant/plan.h"
#include "tests/worker/small_checkpoint.h"
#include "worker/engine.h"
#include "worker/loader.h"
#include "worker/runtime.h"

namespace hproc::worker {

struct OpenedCheckpoint {
  Checkpoint checkpoint;
  ModelSpec spec;
  TensorTable table;

  // `edit` changes what the config says before the tensors are looked for.
  static OpenedCheckpoint At(const std::filesystem::path& folder, const std::function<void(ModelSpec&)>& edit = {}) {
    Result<Checkpoint> checkpoint = Checkpoint::Open(folder);
    HPROC_CHECK(checkpoint.ok(), checkpoint.error().message);
    Result<ModelSpec> spec = ParseModelSpec(checkpoint->config_json(), checkpoint->generation_config_json());
    HPROC_CHECK(spec.ok(), spec.error().message);
    if (edit) edit(*spec);
    Result<TensorTable> table = BuildTensorTable(*spec, *checkpoint);
    HPROC_CHECK(table.ok(), table.error().message);
    return {std::move(*checkpoint), std::move(*spec), std::move(*table)};
  }

  quant::RateTable Rates(ThreadPool& pool) const {
    Result<quant::RateTable> rates = MeasureRates(checkpoint, table, {}, pool, {});
    HPROC_CHECK(rates.ok(), rates.error().message);
    return std::move(*rates);
  }
  quant::Plan PlanFor(const quant::Floors& floors, ThreadPool& pool) const {
    return quant::ResolvePlan(Rates(pool), floors, quant::ModePolicy::kAuto);
  }
};

// Owns everything from the runtime to the engine. `floors`: none keeps the weights as stored.
class SmallEngine {
 public:
  SmallEngine(const std::filesystem::path& folder, const EngineShape& shape, kernels::Backend backend = kernels::Backend::kCpu,
              int threads = 2, const std::optional<quant::Floors>& floors = {}, const std::function<void(ModelSpec&)>& edit = {})
      : runtime_(backend == kernels::Backend::kReference ? OpenReferenceRuntime(threads)
                                                         : OpenRuntime(backend == kernels::Backend::kCpu ? "cpu" : "cuda", threads, 0)) {
    const OpenedCheckpoint opened = OpenedCheckpoint::At(folder, edit);
    const quant::Plan plan = floors ? opened.PlanFor(*floors, *runtime_->context().pool) : KeepEverything(opened.table);
    Result<LoadedModel> loaded = runtime_->Load(opened.spec, opened.checkpoint, opened.table, plan, {}, {});
    HPROC_CHECK(loaded.ok(), loaded.error().message);
    loaded_.emplace(std::move(*loaded));
    EngineShape whole = shape;
    whole.workspace = runtime_->WorkspaceOf(opened.spec, shape);
    engine_.emplace(loaded_->model, runtime_->context(), runtime_->memory(), whole);
    engine_->AllocateCache();
    engine_->AllocateActivations();
  }

  Engine& engine() { return *engine_; }
  const Model& model() const { return loaded_->model; }
  size_t vocabulary() const { return static_cast<size_t>(engine_->spec().vocabulary); }

  // Feeds `tokens` to `slot` from `position` on, in pieces of at most `piece`; the logits of every token.
  std::vector<float> Feed(int slot, std::span<const int32_t> tokens, int position = 0, size_t piece = SIZE_MAX) {
    const EngineShape& shape = engine_->shape();
    piece = std::min({piece, static_cast<size_t>(shape.pass_tokens), static_cast<size_t>(shape.logit_rows)});
    std::vector<float> logits;
    for (size_t from = 0; from < tokens.size(); from += piece) {
      const std::span<const int32_t> part = tokens.subspan(from, std::min(piece, tokens.size() - from));
      const kernels::SequenceRun run{.slot = slot, .first_position = position + static_cast<int32_t>(from), .first_row = 0,
                                     .tokens = static_cast<int32_t>(part.size())};
      std::vector<int32_t> rows;
      for (size_t i = 0; i < part.size(); ++i) rows.push_back(static_cast<int32_t>(i));
      const float* out = engine_->Pass(part, {&run, 1}, rows);
      logits.insert(logits.end(), out, out + part.size() * vocabulary());
    }
    return logits;
  }

  // Feeds sequence s to slot s, from its beginning, in passes that hold a few tokens of each as they come; the logits of
  // every token, sequence by sequence.
  std::vector<std::vector<float>> FeedMixed(std::span<const std::vector<int32_t>> sequences, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<size_t> done(sequences.size());
    std::vector<std::vector<float>> logits(sequences.size());
    const auto is_open = [&](size_t s) { return done[s] < sequences[s].size(); };
    for (;;) {
      std::vector<int32_t> tokens;
      std::vector<int32_t> rows;
      std::vector<kernels::SequenceRun> runs;
      bool any = false;
      for (size_t s = sequences.size(); s-- > 0;) {
        any = any || is_open(s);
        const size_t count = std::min<size_t>(sequences[s].size() - done[s], random() % 2 == 0 ? 1 : random() % 9);
        if (count == 0) continue;
        runs.push_back({.slot = static_cast<int32_t>(s), .first_position = static_cast<int32_t>(done[s]),
                        .first_row = static_cast<int32_t>(tokens.size()), .tokens = static_cast<int32_t>(count)});
        for (size_t t = 0; t < count; ++t) {
          rows.push_back(static_cast<int32_t>(tokens.size()));
          tokens.push_back(sequences[s][done[s]++]);
        }
      }
      if (!any) return logits;
      if (tokens.empty()) continue;
      const float* out = engine_->Pass(tokens, runs, rows);
      for (const kernels::SequenceRun& run : runs) {
        const float* from = out + static_cast<size_t>(run.first_row) * vocabulary();
        std::vector<float>& own = logits[static_cast<size_t>(run.slot)];
        own.insert(own.end(), from, from + static_cast<size_t>(run.tokens) * vocabulary());
      }
    }
  }

 private:
  std::unique_ptr<Runtime> runtime_;
  std::optional<LoadedModel> loaded_;
  std::optional<Engine> engine_;
};

inline std::vector<int32_t> RandomTokens(size_t count, int64_t vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary)));
  return tokens;
}

// ||a - b|| / ||b||; infinite where a size differs or a value is not finite.
inline double RelativeError(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty()) return std::numeric_limits<double>::infinity();
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace hproc::worker
