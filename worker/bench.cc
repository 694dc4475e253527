#include "worker/bench.h"

#include <fmt/format.h>

#include "quant/plan.h"
#include "worker/batcher.h"
#include "worker/deployment.h"
#include "worker/runtime.h"
#include "worker/session_parts.h"
#include "worker/synthetic.h"

namespace hproc::worker {

Result<BenchReport> RunBench(const BenchOptions& options) {
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

  const quant::Plan plan = quant::UniformLevelsPlan(specs, options.levels);
  Result<LoadedModel> loaded = runtime->Load(model->spec, model->checkpoint, model->table, plan, {});
  if (!loaded.ok()) return loaded.error();
  report.load = loaded->report;
  report.peak_bytes = runtime->memory().usage().peak_bytes;
  Engine engine(loaded->model, runtime->context(), runtime->memory(), model->shape);
  engine.AllocateCache();
  engine.AllocateActivations();
  const MemoryEvent ledger = LedgerOf(runtime->memory());
  report.ledger = ledger.lines;
  report.live_bytes = ledger.live_bytes;
  Batcher batcher(engine);
  Result<std::vector<evals::ThroughputSample>> samples = evals::RunThroughput(options.throughput, batcher);
  if (!samples.ok()) return samples.error();
  report.rows = evals::SummarizeThroughput(*samples);
  return report;
}

}  // namespace hproc::worker
