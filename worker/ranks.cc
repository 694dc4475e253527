#include "worker/ranks.h"

#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "base/check.h"

namespace hproc::worker {

void RunRanks(int world_size, const std::function<void(const Rank&)>& body) {
  if (world_size == 1) return body({});
  Result<std::vector<std::unique_ptr<Communicator>>> communicators = LocalCommunicators(world_size);
  if (!communicators.ok()) throw std::runtime_error(communicators.error().message);
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(world_size));
  std::vector<bool> lost(thrown.size());  // only because another was
  const auto run = [&](int rank) {
    const auto at = static_cast<size_t>(rank);
    // Gone with its body, so that the others do not wait for it.
    const std::unique_ptr<Communicator> own = std::move((*communicators)[at]);
    try {
      body({.shard = {.rank = rank, .world_size = world_size}, .ranks = own.get()});
    } catch (const RankLost&) {
      thrown[at] = std::current_exception();
      lost[at] = true;
    } catch (...) {
      thrown[at] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int rank = 1; rank < world_size; ++rank) threads.emplace_back(run, rank);
    run(0);
  }
  for (const bool merely_lost : {false, true}) {
    for (size_t rank = 0; rank < thrown.size(); ++rank) {
      if (thrown[rank] && lost[rank] == merely_lost) std::rethrow_exception(thrown[rank]);
    }
  }
}

Result<void> ReportLoad(LoadedModel& loaded, const quant::Plan& plan, const Rank& rank) {
  if (rank.ranks == nullptr) return Ok();
  const std::vector<std::vector<std::byte>> gathered =
      rank.ranks->Gather(std::as_bytes(std::span(loaded.shares)), Communicator::kForever);
  std::vector<std::byte> digest;
  if (rank.leads()) {
    std::vector<std::vector<TensorShare>> shares;
    for (const std::vector<std::byte>& bytes : gathered) {
      std::vector<TensorShare>& of_rank = shares.emplace_back(plan.tensors.size());
      HPROC_CHECK(bytes.size() == of_rank.size() * sizeof(TensorShare), "a rank's shares");
      std::memcpy(of_rank.data(), bytes.data(), bytes.size());
    }
    Result<LoadResult> report = MergeLoads(plan, shares);
    if (!report.ok()) return report.error();
    report->seconds = loaded.report.seconds;
    loaded.report = std::move(*report);
    const auto text = std::as_bytes(std::span(loaded.report.plan_digest));
    digest.assign(text.begin(), text.end());
  }
  rank.ranks->Broadcast(digest, Communicator::kForever);
  if (!rank.leads()) loaded.report.plan_digest.assign(reinterpret_cast<const char*>(digest.data()), digest.size());
  return Ok();
}

Result<LoadedModel> LoadRank(Runtime& runtime, const ModelSpec& spec, const Checkpoint& checkpoint, const TensorTable& table,
                             const quant::Plan& plan, const Rank& rank, const LoadProgress& progress) {
  Result<LoadedModel> loaded = runtime.Load(spec, checkpoint, table, plan, rank.shard, progress);
  if (!loaded.ok()) return loaded;
  if (Result<void> reported = ReportLoad(*loaded, plan, rank); !reported.ok()) return reported.error();
  return loaded;
}

}  // namespace hproc::worker
