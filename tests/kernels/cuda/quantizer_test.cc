// The device's containers and rates against the CPU's. The claim is equality to the bit, and these tests hold it to that:
// sorted order, prefix sums, fits, ties between outliers and packing are all the CPU's.
#include "kernels/cuda/quantizer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "quant/half.h"
#include "quant/matrix_quantizer.h"
#include "quant/shard_store.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

using quant::Family;
using quant::LibrarySampleRows;

// A tensor as a checkpoint stores it.
struct Stored {
  quant::TensorSpec spec;
  Storage storage = Storage::kBfloat16;
  std::vector<float> values;  // what the stored values are
  std::vector<std::byte> bytes;
};

Stored Store(std::vector<float> values, int64_t columns, Storage storage, std::string name = "w") {
  Stored stored;
  stored.storage = storage;
  const int size = storage == Storage::kFloat32 ? 4 : 2;
  stored.spec = {.name = std::move(name), .family = Family::kStrict, .rows = static_cast<int64_t>(values.size()) / columns,
                 .columns = columns, .bytes_per_value = size};
  stored.bytes.resize(values.size() * static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) {
    if (storage == Storage::kFloat32) {
      std::memcpy(stored.bytes.data() + i * 4, &values[i], 4);
    } else {
      const bool bf16 = storage == Storage::kBfloat16;
      const uint16_t bits = bf16 ? quant::FloatToBfloat16(values[i]) : quant::FloatToHalf(values[i]);
      values[i] = bf16 ? quant::Bfloat16ToFloat(bits) : quant::HalfToFloat(bits);
      std::memcpy(stored.bytes.data() + i * 2, &bits, 2);
    }
  }
  stored.values = std::move(values);
  return stored;
}

std::vector<float> SampleOf(const Stored& stored) {
  std::vector<float> sample;
  const int64_t columns = stored.spec.columns;
  for (int64_t r : LibrarySampleRows(stored.spec.rows, columns)) {
    sample.insert(sample.end(), stored.values.begin() + r * columns, stored.values.begin() + (r + 1) * columns);
  }
  return sample;
}

TensorJob JobOf(const Stored& stored, TensorJob::Kind kind) {
  TensorJob job;
  job.kind = kind;
  job.plan.spec = stored.spec;
  job.storage = stored.storage;
  job.use = MemoryUse::kWeightsStrict;
  job.read = [&stored](int64_t first_row, int64_t rows, std::span<std::byte> out) -> Result<void> {
    const int64_t row_bytes = stored.spec.columns * stored.spec.bytes_per_value;
    HPROC_CHECK(static_cast<int64_t>(out.size()) == rows * row_bytes, "size of a chunk");
    std::memcpy(out.data(), stored.bytes.data() + first_row * row_bytes, out.size());
    return Ok();
  };
  job.read_sample = [&stored]() -> Result<std::vector<float>> { return SampleOf(stored); };
  return job;
}

quant::TensorRates RatesOnCpu(const Stored& stored, const quant::RateOptions& options) {
  const quant::TensorRateBuilder builder(stored.spec, options, SampleOf(stored));
  const auto threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::unique_ptr<quant::TensorRateBuilder::Accumulator>> sums;
  for (unsigned t = 0; t < threads; ++t) sums.push_back(builder.MakeAccumulator());
  std::vector<std::jthread> workers;
  for (unsigned t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      const auto columns = static_cast<size_t>(stored.spec.columns);
      for (int64_t row = t; row < stored.spec.rows; row += threads) {
        builder.AddRows(std::span(stored.values).subspan(static_cast<size_t>(row) * columns, columns), *sums[t]);
      }
    });
  }
  workers.clear();
  return builder.Finish(sums);
}

quant::TensorPlan PlanOf(const quant::TensorRates& rates, double floor, quant::ModePolicy policy) {
  quant::RateTable table;
  table.tensors.push_back(rates);
  return quant::ResolvePlan(table, {.strict = floor, .lazy = 1, .head = 1}, policy).tensors[0];
}

struct CpuContainer {
  std::vector<std::byte> bytes;
  quant::ChannelStats stats;
};

CpuContainer QuantizeOnCpu(const Stored& stored, const quant::TensorPlan& plan) {
  quant::MatrixQuantizer quantizer(plan, SampleOf(stored));
  DeviceMemory host("cpu", 0);
  const DeviceBuffer aligned = host.Allocate(plan.bytes, MemoryUse::kWeightsStrict, "container");
  const std::span<std::byte> bytes = aligned.span().first(static_cast<size_t>(plan.bytes));
  std::ranges::fill(bytes, std::byte{0});
  quant::MatrixQuantizer::Block block;
  quantizer.Encode(stored.values, block);
  EXPECT_TRUE(quantizer.Store(0, block, bytes).ok());
  EXPECT_TRUE(quantizer.Finish(bytes).ok());
  return {.bytes = {bytes.begin(), bytes.end()}, .stats = quantizer.stats()};
}

std::vector<std::byte> ToHost(const DeviceBuffer& buffer, int64_t bytes) {
  std::vector<std::byte> host(static_cast<size_t>(bytes));
  EXPECT_EQ(cudaMemcpy(host.data(), buffer.data(), host.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  return host;
}

// Where two containers first differ, in words.
std::string Difference(const std::vector<std::byte>& a, const std::vector<std::byte>& b, const quant::TensorPlan& plan) {
  const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
  const quant::XfpLayout layout = LayoutOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers);
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
  return std::to_string(count) + " of " + std::to_string(a.size()) + " bytes differ, the first at " + std::to_string(at) +
         "; codebooks at " + std::to_string(layout.codebooks) + ", scales " + std::to_string(layout.scales) +
         ", indices " + std::to_string(layout.indices) + ", outliers from " + std::to_string(layout.outlier_starts);
}

class QuantizerTest : public GpuTest {
 protected:
  DeviceMemory memory_{"cuda:0", 0, DeviceMemorySource()};
  static std::unique_ptr<MemorySource> DeviceMemorySource() {
    return CudaDeviceCount() > 0 ? CudaMemory(Device()) : nullptr;
  }

  Result<std::vector<TensorOutcome>> Run(std::span<const TensorJob> jobs, const QuantizerOptions& options = {}) {
    std::vector<TensorOutcome> outcomes(jobs.size());
    size_t next = 0;
    CudaQuantizer quantizer(Device(), memory_, options);
    const Result<void> done = quantizer.Run(jobs, [&](size_t index, TensorOutcome outcome) {
      EXPECT_EQ(index, next++);
      outcomes[index] = std::move(outcome);
    });
    if (!done.ok()) return done.error();
    EXPECT_EQ(next, jobs.size());
    return outcomes;
  }

  // Rates and, at some floors, containers, on both sides.
  void Compare(const Stored& stored, const quant::RateOptions& options, std::span<const double> floors,
               const QuantizerOptions& cut = {}) {
    const quant::TensorRates expected = RatesOnCpu(stored, options);
    TensorJob measure = JobOf(stored, TensorJob::Kind::kMeasure);
    measure.rate_options = options;
    Result<std::vector<TensorOutcome>> measured = Run({&measure, 1}, cut);
    ASSERT_TRUE(measured.ok()) << measured.error().message;
    const quant::TensorRates& rates = (*measured)[0].rates;
    ASSERT_EQ(rates.candidates.size(), expected.candidates.size());
    for (size_t f = 0; f < rates.candidates.size(); ++f) {
      const quant::Candidate& got = rates.candidates[f];
      const quant::Candidate& want = expected.candidates[f];
      ASSERT_EQ(got.format, want.format);
      EXPECT_EQ(got.highest, want.highest) << "K " << got.format.levels << ' ' << ModeName(got.format.mode);
      ASSERT_EQ(got.steps.size(), want.steps.size()) << "K " << got.format.levels << ' ' << ModeName(got.format.mode);
      for (size_t s = 0; s < got.steps.size(); ++s) {
        EXPECT_EQ(got.steps[s].ladder_index, want.steps[s].ladder_index);
        EXPECT_EQ(got.steps[s].outliers, want.steps[s].outliers);
        EXPECT_EQ(got.steps[s].min_cosine, want.steps[s].min_cosine);
        EXPECT_EQ(got.steps[s].mean_deficit, want.steps[s].mean_deficit);
      }
    }
    // Every candidate, at the lowest and the highest floor it reaches and at those asked for.
    std::vector<quant::TensorPlan> plans;
    for (const quant::Candidate& candidate : expected.candidates) {
      std::vector<int> rungs = {0, candidate.highest};
      for (double floor : floors) rungs.push_back(quant::LadderIndex(floor));
      for (int rung : rungs) {
        if (rung > candidate.highest) continue;
        quant::TensorPlan plan;
        plan.spec = stored.spec;
        plan.format = candidate.format;
        plan.ladder_index = rung;
        plan.outliers = candidate.StepAt(rung).outliers;
        plan.bytes = LayoutOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers).total_bytes;
        plans.push_back(plan);
      }
    }
    std::vector<TensorJob> jobs;
    for (const quant::TensorPlan& plan : plans) {
      jobs.push_back(JobOf(stored, TensorJob::Kind::kQuantize));
      jobs.back().plan = plan;
    }
    Result<std::vector<TensorOutcome>> outcomes = Run(jobs, cut);
    ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
    std::vector<CpuContainer> on_cpu(plans.size());
    {
      std::atomic<size_t> next = 0;
      std::vector<std::jthread> workers;
      for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); ++t) {
        workers.emplace_back([&] {
          for (size_t i = next++; i < plans.size(); i = next++) on_cpu[i] = QuantizeOnCpu(stored, plans[i]);
        });
      }
    }
    for (size_t i = 0; i < plans.size(); ++i) {
      const std::vector<std::byte> got = ToHost((*outcomes)[i].storage, plans[i].bytes);
      const std::string what = std::string(ModeName(plans[i].format->mode)) + ", K " +
                               std::to_string(plans[i].format->levels) + ", rung " + std::to_string(plans[i].ladder_index) +
                               ", outliers " + std::to_string(plans[i].outliers);
      EXPECT_TRUE(got == on_cpu[i].bytes) << what << ": " << Difference(got, on_cpu[i].bytes, plans[i]);
      const quant::ChannelStats& stats = (*outcomes)[i].stats;
      EXPECT_EQ(stats.channels, on_cpu[i].stats.channels);
      EXPECT_EQ(stats.min_cosine, on_cpu[i].stats.min_cosine) << what;
      EXPECT_NEAR(stats.sum_cosine, on_cpu[i].stats.sum_cosine, 1e-9 * stats.sum_cosine);
      EXPECT_EQ(stats.min_norm_ratio, on_cpu[i].stats.min_norm_ratio) << what;
      EXPECT_EQ(stats.max_norm_ratio, on_cpu[i].stats.max_norm_ratio) << what;
    }
    CompareInDecodeOrder(stored, plans, on_cpu, cut);
  }

  // The same straight into decode order: what the host arranges of its containers.
  void CompareInDecodeOrder(const Stored& stored, const std::vector<quant::TensorPlan>& plans,
                            const std::vector<CpuContainer>& on_cpu, const QuantizerOptions& cut) {
    DeviceMemory host("cpu", 0);
    std::vector<TensorJob> jobs;
    std::vector<std::vector<std::byte>> expected;
    for (size_t i = 0; i < plans.size(); ++i) {
      const quant::TensorPlan& plan = plans[i];
      if (!HasDecodeOrder(*plan.format)) continue;
      TensorJob& job = jobs.emplace_back(JobOf(stored, TensorJob::Kind::kQuantize));
      job.plan = plan;
      job.decode_order = true;
      const DeviceBuffer container = host.Allocate(plan.bytes, MemoryUse::kWeightsStrict, "a container, aligned");
      std::ranges::copy(on_cpu[i].bytes, container.data());
      const quant::XfpMatrix view = quant::ViewOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers,
                                                  container.span().first(static_cast<size_t>(plan.bytes)));
      expected.emplace_back(static_cast<size_t>(
          DecodeOrderOf(plan.spec.rows, plan.spec.columns, *plan.format, plan.outliers).total_bytes));
      WriteDecodeOrder(view, expected.back());
    }
    const Result<std::vector<TensorOutcome>> outcomes = Run(jobs, cut);
    ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
    for (size_t i = 0; i < jobs.size(); ++i) {
      const quant::TensorPlan& plan = jobs[i].plan;
      const TensorOutcome& outcome = (*outcomes)[i];
      EXPECT_TRUE(ToHost(outcome.storage, static_cast<int64_t>(expected[i].size())) == expected[i])
          << ModeName(plan.format->mode) << ", K " << plan.format->levels << ", outliers " << plan.outliers;
      EXPECT_EQ(outcome.decode.bytes, outcome.storage.data());
      EXPECT_EQ(outcome.decode.outliers, plan.outliers);
    }
  }
};

struct FormatCase {
  const char* name;
  int64_t rows, columns;
  Storage storage;
  quant::RateOptions options;
};

class EveryFormat : public QuantizerTest, public testing::WithParamInterface<FormatCase> {};

TEST_P(EveryFormat, GivesTheCpusRatesAndBytes) {
  const FormatCase& c = GetParam();
  std::vector<float> values = quant::RandomRows(c.rows, c.columns, 21, 0.005);
  std::fill(values.begin() + c.columns, values.begin() + 2 * c.columns, 0.0f);  // a dead channel
  const std::vector<double> floors = {0.93, 0.985};
  // Cut into several chunks, the last one shorter.
  Compare(Store(std::move(values), c.columns, c.storage), c.options, floors,
          {.chunk_bytes = std::max<int64_t>(c.rows / 3, 1) * c.columns * 2});
}

constexpr quant::RateOptions kBoth{};
constexpr quant::RateOptions kHalf{.centroids = quant::Centroids::kHalf};
constexpr quant::RateOptions kGroupScales{.v2 = false, .group_scales = true};
INSTANTIATE_TEST_SUITE_P(
    Quantizer, EveryFormat,
    testing::Values(FormatCase{"Columns64", 150, 64, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns100", 70, 100, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns128", 100, 128, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns200", 100, 200, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns384", 150, 384, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns640", 40, 640, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns1500", 30, 1500, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns3072", 40, 3072, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns4095", 20, 4095, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns8192", 10, 8192, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns14336", 6, 14336, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns40000", 4, 40000, Storage::kBfloat16, kBoth},
                    FormatCase{"Columns70000", 3, 70000, Storage::kBfloat16, kBoth},
                    FormatCase{"Half384", 60, 384, Storage::kFloat16, kBoth},
                    FormatCase{"Float384", 60, 384, Storage::kFloat32, kBoth},
                    FormatCase{"Float2100", 12, 2100, Storage::kFloat32, kBoth},
                    FormatCase{"Float10000", 4, 10000, Storage::kFloat32, kBoth},
                    FormatCase{"HalfCentroids384", 60, 384, Storage::kBfloat16, kHalf},
                    FormatCase{"GroupScales384", 60, 384, Storage::kBfloat16, kGroupScales},
                    FormatCase{"GroupScales300", 40, 300, Storage::kFloat32, kGroupScales}),
    [](const testing::TestParamInfo<FormatCase>& format) { return format.param.name; });

// Few distinct values: everything ties, codebooks have empty clusters, outliers are told apart by column alone.
TEST_F(QuantizerTest, BreaksTiesAsTheCpuDoes) {
  std::vector<float> values = quant::RandomRows(60, 512, 5, 0.01);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t row = i / 512;
    const float step = row % 3 == 0 ? 0.05f : (row % 3 == 1 ? 0.125f : 1.0f);
    values[i] = std::round(values[i] / step) * step;
    if (row == 7) values[i] = 0.25f;              // one value
    if (row == 8) values[i] = i % 2 ? 1.0f : -1.0f;  // two
    if (row == 9) values[i] *= 1e-30f;            // far below what fp16 holds
  }
  const std::vector<double> floors = {0.9, 0.99};
  Compare(Store(std::move(values), 512, Storage::kBfloat16), {}, floors);
}

// Long rows of equal errors: more candidates than the selection has room for.
TEST_F(QuantizerTest, SelectsAmongManyEqualErrors) {
  std::vector<float> values(static_cast<size_t>(4 * 8192));
  for (size_t i = 0; i < values.size(); ++i) values[i] = i % 64 == 5 ? 3.0f : (i * 2654435761u >> 7) % 2 ? 1.0f : -1.0f;
  const std::vector<double> floors = {0.9, 0.99, 0.999};
  Compare(Store(std::move(values), 8192, Storage::kBfloat16), {}, floors);
}

// Some rows, or some columns of all rows: what the host stores of them, arranged; outliers in a place of their own.
TEST_F(QuantizerTest, PutsPartsIntoDecodeOrder) {
  const Stored stored = Store(quant::RandomRows(96, 640, 41, 0.01), 640, Storage::kBfloat16);
  const quant::TensorRates rates = RatesOnCpu(stored, {});
  DeviceMemory host("cpu", 0);
  struct Part {
    int64_t first_row, rows, first_column, columns;
  };
  for (const quant::Candidate& candidate : rates.candidates) {
    for (const Part& part : {Part{0, 48, 0, 640}, {40, 56, 0, 640}, {0, 96, 0, 256}, {0, 96, 384, 256}}) {
      SCOPED_TRACE(testing::Message() << ModeName(candidate.format.mode) << ", K " << candidate.format.levels << ", row "
                                      << part.first_row << ", column " << part.first_column);
      const bool is_rows = part.columns == 640;
      quant::TensorPlan plan{.spec = stored.spec, .format = candidate.format, .ladder_index = candidate.highest};
      plan.outliers = candidate.StepAt(candidate.highest).outliers;
      plan.bytes = LayoutOf(96, 640, *plan.format, plan.outliers).total_bytes;

      const quant::MatrixQuantizer quantizer(plan, SampleOf(stored));
      quant::MatrixQuantizer::Block block;
      quantizer.Encode(std::span(stored.values).subspan(static_cast<size_t>(part.first_row * 640), static_cast<size_t>(part.rows * 640)),
                       block);
      const quant::ColumnCut cut = is_rows ? quant::ColumnCut{} : quant::ColumnCut{.first = part.first_column, .whole = 640};
      quant::ShardStore store(*plan.format, part.columns, cut);
      store.Add(block);
      const DeviceBuffer container = host.Allocate(store.container_bytes(), MemoryUse::kWeightsStrict, "a container, aligned");
      const quant::XfpMatrix on_cpu =
          store.Write(quantizer.LibraryBytes(), container.span().first(static_cast<size_t>(store.container_bytes())));
      ASSERT_GT(on_cpu.outliers, 0);
      const DecodeOrder order = DecodeOrderOf(part.rows, part.columns, *plan.format, on_cpu.outliers);
      std::vector<std::byte> expected(static_cast<size_t>(order.total_bytes));
      WriteDecodeOrder(on_cpu, expected);

      TensorJob job = JobOf(stored, TensorJob::Kind::kQuantize);
      job.plan = plan;
      job.decode_order = true;
      job.is_part = is_rows;
      job.plan.spec.rows = part.rows;
      if (!is_rows) job.first_column = part.first_column, job.columns = part.columns;
      job.read = [&](int64_t first_row, int64_t rows, std::span<std::byte> out) -> Result<void> {
        std::memcpy(out.data(), stored.bytes.data() + (part.first_row + first_row) * 640 * 2, static_cast<size_t>(rows * 640 * 2));
        return Ok();
      };
      const Result<std::vector<TensorOutcome>> outcomes = Run({&job, 1}, {.chunk_bytes = 24 * 640 * 2});
      ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
      const TensorOutcome& outcome = outcomes->front();
      EXPECT_EQ(outcome.decode.outliers, on_cpu.outliers);
      std::vector<std::byte> got = ToHost(outcome.storage, order.outlier_columns);
      const std::vector<std::byte> apart = ToHost(outcome.outlier_storage, order.total_bytes - order.outlier_columns);
      got.insert(got.end(), apart.begin(), apart.end());
      EXPECT_TRUE(got == expected);
      EXPECT_EQ(outcome.outliers, is_rows ? on_cpu.outliers : plan.outliers) << "of all columns";
    }
  }
}

// Rows of random weights are made on the device, of any ranges of a tensor's rows and however the pass is cut.
TEST_F(QuantizerTest, MakesTheSyntheticRowsOfTheHost) {
  for (const int64_t columns : {1, 64, 300, 4096, 70000}) {
    const SyntheticTensor tensor{.seed = 0x1234567890ABCDEF + static_cast<uint64_t>(columns), .columns = columns, .usual_scale = 0.02f};
    const std::vector<TensorJob::Synthetic::Range> ranges = {{.first = 3, .count = 5}, {.first = 100, .count = 17}, {.first = 5000000000, .count = 2}};
    std::vector<std::byte> expected;
    for (const auto& range : ranges) {
      std::vector<std::byte> rows(static_cast<size_t>(range.count * columns * 2));
      FillSyntheticRows(tensor, range.first, range.count, rows);
      expected.insert(expected.end(), rows.begin(), rows.end());
    }
    TensorJob job;
    job.plan.spec = {.name = "w", .family = Family::kStrict, .rows = 24, .columns = columns};
    job.synthetic = {.tensor = tensor, .rows = ranges};
    Result<std::vector<TensorOutcome>> kept = Run({&job, 1}, {.chunk_bytes = 7 * columns * 2});
    ASSERT_TRUE(kept.ok()) << kept.error().message;
    EXPECT_TRUE(ToHost((*kept)[0].storage, static_cast<int64_t>(expected.size())) == expected) << columns;
    if (columns < 64) continue;

    // The same fits as of rows that were read, among them.
    TensorJob read = job;
    read.synthetic.reset();
    read.read = [&](int64_t first_row, int64_t rows, std::span<std::byte> out) -> Result<void> {
      std::memcpy(out.data(), expected.data() + first_row * columns * 2, static_cast<size_t>(rows * columns * 2));
      return Ok();
    };
    for (TensorJob* measured : {&job, &read}) {
      measured->kind = TensorJob::Kind::kMeasure;
      measured->rate_options.v2a = false;
    }
    const std::vector<TensorJob> jobs = {job, read, job, job, read, read, job};
    Result<std::vector<TensorOutcome>> outcomes = Run(jobs, {.chunk_bytes = 5 * columns * 2});
    ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
    quant::RateTable first{.fingerprint = "x", .tensors = {(*outcomes)[0].rates}};
    for (const TensorOutcome& outcome : *outcomes) {
      EXPECT_EQ(quant::EncodeRateTable({.fingerprint = "x", .tensors = {outcome.rates}}), quant::EncodeRateTable(first));
    }
  }
}

TEST_F(QuantizerTest, KeepsTensorsAsStored) {
  const Stored norm = Store(quant::RandomRows(1, 3072, 3), 3072, Storage::kBfloat16, "norm");
  const Stored embedding = Store(quant::RandomRows(500, 300, 4), 300, Storage::kFloat16, "embedding");
  const std::vector<TensorJob> jobs = {JobOf(norm, TensorJob::Kind::kKeep), JobOf(embedding, TensorJob::Kind::kKeep)};
  Result<std::vector<TensorOutcome>> outcomes = Run(jobs, {.chunk_bytes = 10000});
  ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
  EXPECT_EQ(ToHost((*outcomes)[0].storage, norm.spec.kept_bytes()), norm.bytes);
  EXPECT_EQ(ToHost((*outcomes)[1].storage, embedding.spec.kept_bytes()), embedding.bytes);
}

TEST_F(QuantizerTest, NamesTheTensorThatIsNotFinite) {
  for (const auto kind : {TensorJob::Kind::kKeep, TensorJob::Kind::kMeasure}) {
    std::vector<float> values = quant::RandomRows(100, 256, 9);
    values[777] = NAN;
    values[1234] = INFINITY;
    const Stored good = Store(quant::RandomRows(100, 256, 9), 256, Storage::kBfloat16, "good");
    const Stored bad = Store(values, 256, Storage::kBfloat16, "model.bad");
    std::vector<TensorJob> jobs;
    for (const Stored* stored : {&good, &bad, &good}) jobs.push_back(JobOf(*stored, kind));
    for (TensorJob& job : jobs) job.rate_options.v2a = false;
    const Result<std::vector<TensorOutcome>> outcomes = Run(jobs);
    ASSERT_FALSE(outcomes.ok());
    EXPECT_EQ(outcomes.error().message, "tensor 'model.bad' holds 2 values that are NaN or infinite");
  }
  EXPECT_EQ(memory_.usage().live_bytes, 0);
}

TEST_F(QuantizerTest, RefusesAPlanOfAnotherCheckpoint) {
  const Stored stored = Store(quant::RandomRows(64, 384, 31, 0.01), 384, Storage::kBfloat16);
  const Stored other = Store(quant::RandomRows(64, 384, 32, 0.03), 384, Storage::kBfloat16);
  TensorJob job = JobOf(other, TensorJob::Kind::kQuantize);
  job.plan = PlanOf(RatesOnCpu(stored, {}), 0.97, quant::ModePolicy::kV2);
  ASSERT_TRUE(job.plan.format.has_value());
  const Result<std::vector<TensorOutcome>> outcomes = Run({&job, 1});
  ASSERT_FALSE(outcomes.ok());
  EXPECT_NE(outcomes.error().message.find("another checkpoint"), std::string::npos) << outcomes.error().message;
}

TEST_F(QuantizerTest, AFailingReadEndsThePassAndLeavesNothing) {
  const Stored stored = Store(quant::RandomRows(400, 384, 31), 384, Storage::kBfloat16);
  std::vector<TensorJob> jobs(5, JobOf(stored, TensorJob::Kind::kKeep));
  jobs[3].read = [](int64_t, int64_t, std::span<std::byte>) -> Result<void> { return Error{"shard 2 is cut short"}; };
  const Result<std::vector<TensorOutcome>> outcomes = Run(jobs, {.chunk_bytes = 20000});
  ASSERT_FALSE(outcomes.ok());
  EXPECT_EQ(outcomes.error().message, "shard 2 is cut short");
  EXPECT_EQ(memory_.usage().live_bytes, 0);
}

TEST_F(QuantizerTest, RunsOutOfMemoryAtTheCapAndLeavesNothing) {
  const Stored stored = Store(quant::RandomRows(400, 384, 31), 384, Storage::kBfloat16, "layers.1.mlp");
  std::vector<TensorJob> jobs(4, JobOf(stored, TensorJob::Kind::kKeep));
  DeviceMemory capped("cuda:0", QuantizerWorkspaceBytes(jobs, {}) + 2 * stored.spec.kept_bytes() + 1000, CudaMemory(Device()));
  CudaQuantizer quantizer(Device(), capped, {});
  std::vector<TensorOutcome> outcomes;
  try {
    static_cast<void>(quantizer.Run(jobs, [&](size_t, TensorOutcome outcome) { outcomes.push_back(std::move(outcome)); }));
    FAIL() << "three do not fit";
  } catch (const DeviceOutOfMemory& refusal) {
    EXPECT_EQ(refusal.purpose(), "layers.1.mlp");
    EXPECT_EQ(refusal.requested_bytes(), DeviceMemory::Rounded(stored.spec.kept_bytes()));
  }
  outcomes.clear();
  EXPECT_EQ(capped.usage().live_bytes, 0);
}

// A row tile by a row tile, into a matrix that is there once.
TEST_F(QuantizerTest, TakesTheWorkspaceItSaysAndNoMoreIntoDecodeOrder) {
  const Stored stored = Store(quant::RandomRows(2000, 768, 31, 0.01), 768, Storage::kBfloat16);
  TensorJob job = JobOf(stored, TensorJob::Kind::kQuantize);
  job.plan = PlanOf(RatesOnCpu(stored, {.v2a = false}), 0.98, quant::ModePolicy::kAuto);
  job.decode_order = true;
  const QuantizerOptions options{.workspace_bytes = 1000000};
  for (const bool is_part : {false, true}) {
    job.is_part = is_part;
    DeviceMemory memory("cuda:0", 0, CudaMemory(Device()));
    CudaQuantizer quantizer(Device(), memory, options);
    TensorOutcome outcome;
    const Result<void> done = quantizer.Run({&job, 1}, [&](size_t, TensorOutcome made) { outcome = std::move(made); });
    ASSERT_TRUE(done.ok()) << done.error().message;
    const DeviceMemory::Usage usage = memory.usage();
    const int64_t workspace = QuantizerWorkspaceBytes({&job, 1}, options);
    EXPECT_LE(workspace, 1000000 + DeviceMemory::Rounded(ApartBytes(job)));
    EXPECT_EQ(ApartBytes(job) > 0, is_part);
    EXPECT_EQ(usage.peak[static_cast<size_t>(MemoryUse::kWorkspace)], workspace);
    EXPECT_EQ(usage.peak_bytes, usage.live_bytes + workspace);
  }
}

TEST_F(QuantizerTest, TakesTheWorkspaceItSaysAndNoMore) {
  const Stored stored = Store(quant::RandomRows(2000, 768, 31), 768, Storage::kBfloat16);
  TensorJob job = JobOf(stored, TensorJob::Kind::kQuantize);
  job.plan = PlanOf(RatesOnCpu(stored, {.v2a = false}), 0.98, quant::ModePolicy::kAuto);
  ASSERT_TRUE(job.plan.format.has_value());
  const QuantizerOptions options{.workspace_bytes = 1000000};
  EXPECT_LE(QuantizerWorkspaceBytes({&job, 1}, options), 1000000);
  Result<std::vector<TensorOutcome>> outcomes = Run({&job, 1}, options);
  ASSERT_TRUE(outcomes.ok()) << outcomes.error().message;
  const DeviceMemory::Usage usage = memory_.usage();
  EXPECT_EQ(usage.peak[static_cast<size_t>(MemoryUse::kWorkspace)], QuantizerWorkspaceBytes({&job, 1}, options));
  EXPECT_EQ(usage.peak_bytes, usage.live_bytes + usage.peak[static_cast<size_t>(MemoryUse::kWorkspace)]);
}

}  // namespace
}  // namespace hproc::kernels
