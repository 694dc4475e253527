#include "worker/ranks.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
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
  std::vector<char> lost(thrown.size());  // only because another was; bool would share bytes between threads
  const auto run = [&](int rank) {
    const auto at = static_cast<size_t>(rank);
    // Gone with its body, so that the others do not wait for it.
    const std::unique_ptr<Communicator> own = std::move((*communicators)[at]);
    try {
      body({.shard = {.rank = rank, .world_size = world_size}, .ranks = own.get()});
    } catch (const RankLost&) {
      thrown[at] = std::current_exception();
      lost[at] = 1;
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
      if (thrown[rank] && (lost[rank] != 0) == merely_lost) std::rethrow_exception(thrown[rank]);
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

Result<quant::RateTable> MeasureTogether(std::span<Runtime* const> runtimes, const Checkpoint& checkpoint, const TensorTable& table,
                                         const quant::RateOptions& options, const LoadProgress& progress) {
  if (runtimes.size() == 1) return runtimes.front()->Measure(checkpoint, table, options, progress);
  // Each tensor to whoever has least to do so far; what is kept costs nothing.
  struct Share {
    TensorTable table;
    std::vector<size_t> places;
    int64_t weights = 0;
    int64_t done_bytes = 0;
    int64_t total_bytes = 0;
    std::optional<Result<quant::RateTable>> rates;
    std::exception_ptr thrown;
  };
  std::vector<Share> shares(runtimes.size());
  for (size_t i = 0; i < table.tensors.size(); ++i) {
    const ModelTensor& tensor = table.tensors[i];
    Share& share = *std::ranges::min_element(shares, {}, &Share::weights);
    share.table.tensors.push_back(tensor);
    share.places.push_back(i);
    share.total_bytes += tensor.spec.kept_bytes();
    if (tensor.spec.family != quant::Family::kKept) share.weights += tensor.spec.weights();
  }
  std::mutex mutex;
  const auto measure = [&](Share& share, Runtime& runtime) {
    try {
      share.rates.emplace(runtime.Measure(checkpoint, share.table, options, [&](int64_t done, int64_t) {
        const std::scoped_lock lock(mutex);
        share.done_bytes = done;
        int64_t all_done = 0;
        int64_t all = 0;
        for (const Share& s : shares) all_done += s.done_bytes, all += s.total_bytes;
        if (progress) progress(all_done, all);
      }));
    } catch (...) {
      share.thrown = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < shares.size(); ++i) threads.emplace_back([&, i] { measure(shares[i], *runtimes[i]); });
    measure(shares.front(), *runtimes.front());
  }
  for (const Share& share : shares) {
    if (share.thrown) std::rethrow_exception(share.thrown);
    if (!share.rates->ok()) return share.rates->error();
  }
  quant::RateTable whole{.fingerprint = (*shares.front().rates)->fingerprint, .tensors = {}};
  whole.tensors.resize(table.tensors.size());
  for (Share& share : shares) {
    for (size_t i = 0; i < share.places.size(); ++i) whole.tensors[share.places[i]] = std::move((*share.rates)->tensors[i]);
  }
  return whole;
}

}  // namespace hproc::worker
