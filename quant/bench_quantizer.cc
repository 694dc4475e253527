// Weights a second of the quantizer on one thread: the rate-table pass, and packing under a plan.
#include <benchmark/benchmark.h>

#include <vector>

#include "quant/matrix_quantizer.h"
#include "quant/rate_table.h"
#include "tests/quant/random_rows.h"

namespace hproc::quant {
namespace {

constexpr int64_t kWeights = 128 * 1024;

TensorSpec SpecOf(int64_t columns) {
  return {.name = "w", .family = Family::kStrict, .rows = kWeights / columns, .columns = columns, .bytes_per_value = 2};
}

std::vector<float> SampleOf(const std::vector<float>& values, const TensorSpec& spec) {
  std::vector<float> sample;
  for (int64_t row : LibrarySampleRows(spec.rows, spec.columns)) {
    sample.insert(sample.end(), values.begin() + row * spec.columns, values.begin() + (row + 1) * spec.columns);
  }
  return sample;
}

void ReportWeights(benchmark::State& state) {
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(kWeights * state.iterations()), benchmark::Counter::kIsRate);
}

// columns, V2, V2a. The training of a tensor's libraries is left out: it looks at a sample and does not grow with it.
void BM_RateTable(benchmark::State& state) {
  const TensorSpec spec = SpecOf(state.range(0));
  const std::vector<float> values = RandomRows(spec.rows, spec.columns, 1, 0.002);
  const TensorRateBuilder builder(spec, {.v2 = state.range(1) != 0, .v2a = state.range(2) != 0}, SampleOf(values, spec));
  for (auto _ : state) {
    const auto accumulator = builder.MakeAccumulator();
    builder.AddRows(values, *accumulator);
    benchmark::DoNotOptimize(accumulator.get());
  }
  ReportWeights(state);
}
BENCHMARK(BM_RateTable)
    ->ArgNames({"columns", "v2", "v2a"})
    ->ArgsProduct({{128, 384, 2048}, {1}, {0, 1}})
    ->ArgsProduct({{128, 384, 2048}, {0}, {1}})
    ->Unit(benchmark::kMillisecond);

// columns, levels, V2a
void BM_Pack(benchmark::State& state) {
  TensorPlan plan;
  plan.spec = SpecOf(state.range(0));
  plan.format = XfpFormat{.mode = state.range(2) != 0 ? Mode::kV2a : Mode::kV2, .levels = static_cast<int>(state.range(1))};
  plan.ladder_index = LadderIndex(state.range(1) <= 4 ? 0.92 : 0.98);
  const std::vector<float> values = RandomRows(plan.spec.rows, plan.spec.columns, 1, 0.002);
  const std::vector<float> sample = SampleOf(values, plan.spec);
  MatrixQuantizer::Block block;
  MatrixQuantizer(plan, sample).Encode(values, block);
  plan.outliers = static_cast<int64_t>(block.outlier_columns.size());
  const MatrixQuantizer trained(plan, sample);
  std::vector<std::byte> container(static_cast<size_t>(trained.container_bytes()));
  for (auto _ : state) {
    MatrixQuantizer quantizer = trained;
    quantizer.Encode(values, block);
    if (!quantizer.Store(0, block, container).ok()) state.SkipWithError("the plan does not fit its own matrix");
    benchmark::DoNotOptimize(container.data());
  }
  ReportWeights(state);
  state.counters["outliers_%"] = 100.0 * static_cast<double>(plan.outliers) / static_cast<double>(kWeights);
}
BENCHMARK(BM_Pack)
    ->ArgNames({"columns", "K", "v2a"})
    ->ArgsProduct({{128, 384, 2048}, {4, 8, 16, 64}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace hproc::quant

BENCHMARK_MAIN();
