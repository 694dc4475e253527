#include "worker/bench.h"

#include <fmt/format.h>

#include <chrono>
#include <span>

#include "kernels/device_backend.h"
#include "kernels/embedding.h"
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

// Of every rank, at the same time.
SumTimes TimeSums(Runtime& runtime, const ModelSpec& spec, int batch, Communicator& ranks) {
  constexpr int64_t kLarge = int64_t{64} << 20;
  constexpr int kRepetitions = 20;
  const kernels::Context& context = runtime.context();
  const kernels::DeviceBuffer buffer = runtime.memory().Allocate(kLarge, kernels::MemoryUse::kWorkspace, "sums to be timed");
  kernels::Zero(context, buffer.data(), kLarge);
  // Seconds of one of `repetitions` runs of `sums` sums of so many values. On a device as in a pass: recorded and replayed.
  const auto time = [&](int64_t key, int64_t count, int sums) {
    const auto add_up = [&] {
      for (int i = 0; i < sums; ++i) {
        context.device != nullptr ? context.device->AllReduceSum(buffer.as<float>(), count)
                                  : ranks.AllReduceSum(std::span(buffer.as<double>(), static_cast<size_t>(count)));
      }
    };
    const auto run = [&](int times) {
      float first = 0;
      for (int i = 0; i < times; ++i) context.device != nullptr ? context.device->Replay(key, add_up) : add_up();
      kernels::Download(context, std::as_writable_bytes(std::span(&first, 1)), buffer.data());
    };
    run(3);
    const auto start = std::chrono::steady_clock::now();
    run(kRepetitions);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kRepetitions;
  };
  const int64_t values = batch * spec.hidden;
  const int64_t value_bytes = context.device != nullptr ? 4 : 8;
  SumTimes times;
  times.sum_bytes = values * value_bytes;
  times.step_seconds = time(-1, values, 2 * static_cast<int>(spec.layers.size()));  // no pass has such a key
  const double n = ranks.world_size();
  times.large_bus_bytes_per_s = static_cast<double>(kLarge) * 2 * (n - 1) / n / time(-2, kLarge / value_bytes, 1);
  return times;
}

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
    report.sums = TimeSums(*runtime, model->spec, options.throughput.batch, *rank.ranks);
    return report;
  }
  Batcher batcher(engine);
  Result<std::vector<evals::ThroughputSample>> samples = evals::RunThroughput(options.throughput, batcher);
  if (!samples.ok()) return samples.error();
  report.rows = evals::SummarizeThroughput(*samples);
  engine.Release();
  if (rank.ranks != nullptr) report.sums = TimeSums(*runtime, model->spec, options.throughput.batch, *rank.ranks);
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
