// The ranks of a command that runs them as threads of its own (golden, bench), and loading as a rank of several.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "worker/communicator.h"
#include "worker/loader.h"
#include "worker/runtime.h"
#include "worker/tensor_table.h"

namespace hproc::worker {

// A rank of `world_size`. `ranks`: null where it is the only one.
struct Rank {
  Shard shard;
  Communicator* ranks = nullptr;

  bool leads() const { return shard.rank == 0; }
};

// Calls `body` once a rank, each on a thread of its own, rank 0 on the caller's, and returns when all are done. Where bodies
// throw, what is thrown here is the first by rank that is not merely the loss of another one.
void RunRanks(int world_size, const std::function<void(const Rank&)>& body);

// Likewise for bodies that give something: rank 0's, or the first error by rank.
template <typename T>
Result<T> RunRanks(int world_size, const std::function<Result<T>(const Rank&)>& body) {
  std::vector<std::optional<Result<T>>> results(static_cast<size_t>(world_size));
  try {
    RunRanks(world_size, [&](const Rank& rank) {
      std::optional<Result<T>>& result = results[static_cast<size_t>(rank.shard.rank)];
      result.emplace(body(rank));
    });
  } catch (const RankLost&) {
    // Where one of them says why it went, that is what is said here.
    for (const std::optional<Result<T>>& result : results) {
      if (result && !result->ok()) return result->error();
    }
    throw;
  }
  for (const std::optional<Result<T>>& result : results) {
    if (!result->ok()) return result->error();
  }
  return std::move(*results.front());
}

// Where there are several ranks, waits until all have loaded and gives rank 0 the report of all, the others its plan digest.
Result<void> ReportLoad(LoadedModel& loaded, const quant::Plan& plan, const Rank& rank);

// Runtime::Load of the rank's shard, then ReportLoad.
Result<LoadedModel> LoadRank(Runtime& runtime, const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                             const quant::Plan& plan, const Rank& rank, const LoadProgress& progress);

// As Runtime::Measure, shared out tensor by tensor among runtimes that work at once; the table is the one that each of them would
// make alone. `progress` is told of the whole, by one thread at a time. Throws what a runtime throws, the first by place.
Result<quant::RateTable> MeasureTogether(std::span<Runtime* const> runtimes, const Checkpoint& checkpoint, const TensorTable& table,
                                         const quant::RateOptions& options, const LoadProgress& progress);

}  // namespace hproc::worker
