// A small checkpoint on several ranks, each a thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tests/worker/small_engine.h"
#include "worker/ranks.h"
#include "worker/sharding.h"

namespace hproc::worker {

struct RankedRun {
  std::string plan_digest;
  std::vector<float> logits;  // of every token, [tokens, vocabulary]
  std::vector<kernels::TokenChoice> choices;
  std::vector<int64_t> weight_bytes;  // live once loaded, by rank
};

// Loads `opened` under `plan`, feeds `tokens` to slot 1, first in pieces of `piece` for their logits, then once more for the choices.
inline RankedRun RunOnRanks(const OpenedCheckpoint& opened, const quant::Plan& plan, int world_size,
                            std::span<const int32_t> tokens, size_t piece, EngineShape shape,
                            kernels::Backend backend = kernels::Backend::kCpu) {
  RankedRun run;
  run.weight_bytes.resize(static_cast<size_t>(world_size));
  RunRanks(world_size, [&](const Rank& rank) {
    const std::unique_ptr<Runtime> runtime =
        backend == kernels::Backend::kReference ? OpenReferenceRuntime(1) : OpenRuntime("cpu", 1, 0);
    Result<LoadedModel> loaded = LoadRank(*runtime, opened.spec, opened.checkpoint, opened.table, plan, rank, {});
    HPROC_CHECK(loaded.ok(), loaded.error().message);
    run.weight_bytes[static_cast<size_t>(rank.shard.rank)] = runtime->memory().usage().live_bytes;
    EngineShape own = shape;
    own.shard = rank.shard;
    own.workspace = runtime->WorkspaceOf(loaded->model.spec(), own);
    Engine engine(loaded->model, runtime->context(), runtime->memory(), own, rank.ranks);
    engine.AllocateCache();
    engine.AllocateActivations();
    if (!rank.leads()) return engine.Follow();
    run.plan_digest = loaded->report.plan_digest;
    const auto vocabulary = static_cast<size_t>(opened.spec.vocabulary);
    for (const bool greedy : {false, true}) {
      engine.ResetSlot(1);
      for (size_t from = 0; from < tokens.size(); from += piece) {
        const std::span<const int32_t> part = tokens.subspan(from, std::min(piece, tokens.size() - from));
        const kernels::SequenceRun one{.slot = 1, .first_position = static_cast<int32_t>(from), .first_row = 0,
                                       .tokens = static_cast<int32_t>(part.size())};
        std::vector<int32_t> rows;
        for (size_t i = 0; i < part.size(); ++i) rows.push_back(static_cast<int32_t>(i));
        if (greedy) {
          const auto choices = engine.PassGreedy(part, {&one, 1}, rows);
          run.choices.insert(run.choices.end(), choices.begin(), choices.end());
        } else {
          const float* out = engine.Pass(part, {&one, 1}, rows);
          run.logits.insert(run.logits.end(), out, out + part.size() * vocabulary);
        }
      }
    }
    engine.Release();
  });
  return run;
}

}  // namespace hproc::worker
