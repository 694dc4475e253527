#include "worker/bench.h"

#include <fmt/format.h>

#include "quant/plan.h"
#include "worker/batcher.h"
#include "worker/deployment.h"
#include "worker/devices.h"
#include "worker/ranks.h"
#include "worker/runtime.h"
#include "worker/session_parts.h"
#include "worker/synthetic.h"

namespace hproc::worker {
namespace {

Result<BenchReport> RunBenchRank(const BenchOptions& options, const Rank& rank) {
  if (Result<void> able = CheckDeployment(options.deployment); !able.ok()) return able.error();
  const int threads = ThreadsFor(options.deployment);
  const std::unique_ptr<Runtime> runtime = OpenRuntime(options.deployment.device, threads, 0);
  Result<OpenModel> model = OpenModelAt(options.model, options.deployment, *runtime);
  if (!model.ok()) return model.error();
  std::vector<quant::TensorSpec> specs;
  BenchReport report;
  for (const ModelTensor& tensor : model->table.tensors) {
    specs.push_back(tensor.spec);
    report.weights += tensor.spec.weights();
  }
  report.model = fmt::format("{} {:.1f}B", model->spec.architecture, static_cast<double>(report.weights) * 1e-9);
  report.device_name = DeviceName(options.deployment.device, threads);
  if (rank.shard.world_size > 1) report.device_name = fmt::format("{} x {}", rank.shard.world_size, report.device_name);

  const quant::Plan plan = quant::UniformLevelsPlan(specs, options.levels);
  runtime->JoinRanks(rank.ranks);
  Result<LoadedModel> loaded = LoadRank(*runtime, model->spec, model->checkpoint, model->table, plan, rank, {});
  if (!loaded.ok()) return loaded.error();
  report.load = loaded->report;
  report.peak_bytes = runtime->memory().usage().peak_bytes;
  Engine engine(loaded->model, runtime->context(), runtime->memory(), model->shape, rank.ranks);
  engine.AllocateCache();
  engine.AllocateActivations();
  const MemoryEvent ledger = LedgerOf(runtime->memory());
  report.ledger = ledger.lines;
  report.live_bytes = ledger.live_bytes;
  if (!rank.leads()) {
    engine.Follow();
    return report;
  }
  Batcher batcher(engine);
  Result<std::vector<evals::ThroughputSample>> samples = evals::RunThroughput(options.throughput, batcher);
  if (!samples.ok()) return samples.error();
  report.rows = evals::SummarizeThroughput(*samples);
  engine.Release();
  return report;
}

}  // namespace

Result<BenchReport> RunBench(const BenchOptions& options) {
  const Result<std::vector<std::string>> devices = DevicesOf(options.deployment.device, options.deployment.world_size);
  if (!devices.ok()) return devices.error();
  return RunRanks<BenchReport>(options.deployment.world_size, [&](const Rank& rank) -> Result<BenchReport> {
    BenchOptions own = options;
    own.deployment.device = (*devices)[static_cast<size_t>(rank.shard.rank)];
    own.deployment.rank = rank.shard.rank;
    return RunBenchRank(own, rank);
  });
}

}  // namespace hproc::worker
