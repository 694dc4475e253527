// How fast tensors become containers on a device, phase by phase:
//
//   bench_quantize [million weights a tensor [columns …]]
//
// Rows are Gaussian with 0.5 % of the values ten times as large, in bfloat16; they repeat after 64 MiB, which no kernel
// notices. G/s are 1e9 weights a second: of the device by phase (CUDA events), of the device in all phases but the copy
// ("compute"), of the reader thread alone ("read"), and by the clock on the wall with everything in it, workspace and pinned
// buffers too ("wall").
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cuda/quantizer.h"
#include "quant/half.h"

namespace hproc::kernels {
namespace {

constexpr int64_t kTileBytes = int64_t{64} << 20;

std::vector<uint16_t> MakeTile(int64_t columns) {
  std::vector<uint16_t> tile(static_cast<size_t>(kTileBytes / 2 / columns * columns));
  const size_t threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::jthread> workers;
  for (size_t t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      std::normal_distribution<float> normal(0, 0.02f);
      const size_t end = tile.size() * (t + 1) / threads;
      for (size_t i = tile.size() * t / threads; i < end; ++i) {
        const float value = normal(random);
        tile[i] = quant::FloatToBfloat16(random() % 200 == 0 ? 10 * value : value);
      }
    });
  }
  return tile;
}

struct Bench {
  const CudaDevice& device;
  DeviceMemory& memory;
  ThreadPool& pool;

  TensorJob JobOf(const std::vector<uint16_t>& tile, int64_t rows, int64_t columns, TensorJob::Kind kind) const {
    TensorJob job;
    job.kind = kind;
    job.plan.spec = {.name = "w", .family = quant::Family::kLazy, .rows = rows, .columns = columns, .bytes_per_value = 2};
    job.use = MemoryUse::kWeightsLazy;
    const int64_t tile_rows = static_cast<int64_t>(tile.size()) / columns;
    job.read = [this, &tile, columns, tile_rows](int64_t first, int64_t count, std::span<std::byte> out) -> Result<void> {
      const int64_t pieces = 4 * pool.size();
      pool.ParallelFor(pieces, [&](int64_t piece, int) {
        const int64_t end = count * (piece + 1) / pieces;
        for (int64_t r = count * piece / pieces; r < end; ++r) {
          std::memcpy(out.data() + r * columns * 2, tile.data() + (first + r) % tile_rows * columns,
                      static_cast<size_t>(columns) * 2);
        }
      });
      return Ok();
    };
    job.read_sample = [&tile, rows, columns, tile_rows]() -> Result<std::vector<float>> {
      std::vector<float> sample;
      for (int64_t r : quant::LibrarySampleRows(rows, columns)) {
        const uint16_t* row = tile.data() + r % tile_rows * columns;
        for (int64_t c = 0; c < columns; ++c) sample.push_back(quant::Bfloat16ToFloat(row[c]));
      }
      return sample;
    };
    return job;
  }

  // The times of `count` such tensors in one pass, and the last one's rates.
  QuantizerTimes Run(const TensorJob& job, int count, quant::TensorRates* rates, bool timed) const {
    const std::vector<TensorJob> jobs(static_cast<size_t>(count), job);
    CudaQuantizer quantizer(device, memory, {.timed = timed});
    const Result<void> done = quantizer.Run(jobs, [&](size_t, TensorOutcome outcome) {
      if (rates != nullptr) *rates = std::move(outcome.rates);
    });
    if (!done.ok()) {
      std::fprintf(stderr, "%s\n", done.error().message.c_str());
      std::exit(1);
    }
    return quantizer.times();
  }

  void Print(const std::string& what, const QuantizerTimes& timed, const QuantizerTimes& plain) const {
    const auto rate = [](const QuantizerTimes& times, double seconds) {
      return seconds > 0 ? static_cast<double>(times.stored_bytes) / 2e9 / seconds : 0;
    };
    std::printf("%-36s %7.1f %7.1f %7.1f %7.1f %7.1f %8.2f %7.1f %7.2f\n", what.c_str(), rate(timed, timed.copy_s),
                rate(timed, timed.sort_s), rate(timed, timed.fit_s), rate(timed, timed.outliers_s),
                rate(timed, timed.encode_s), rate(timed, timed.sort_s + timed.fit_s + timed.outliers_s + timed.encode_s),
                rate(plain, plain.read_s), rate(plain, plain.total_s));
    std::fflush(stdout);
  }
};

int Main(int64_t million, const std::vector<int64_t>& all_columns) {
  std::string reason;
  if (CudaDeviceCount(&reason) == 0) {
    std::fprintf(stderr, "no CUDA device: %s\n", reason.c_str());
    return 1;
  }
  const CudaDevice device(0);
  DeviceMemory memory("cuda:0", 0, CudaMemory(device));
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  const Bench bench{device, memory, pool};
  std::printf("%s, %lld M weights a tensor, two tensors a pass, eight for the wall; G weights/s\n", device.name().c_str(),
              static_cast<long long>(million));
  std::printf("%-36s %7s %7s %7s %7s %7s %8s %7s %7s\n", "", "copy", "sort", "fit", "outl.", "encode",
              "compute", "read", "wall");
  for (const int64_t columns : all_columns) {
    const std::vector<uint16_t> tile = MakeTile(columns);
    const int64_t rows = std::max<int64_t>(1, million * 1000000 / columns);
    const std::string shape = std::to_string(rows) + "x" + std::to_string(columns) + " ";
    for (const bool v2a : {false, true}) {
      TensorJob job = bench.JobOf(tile, rows, columns, TensorJob::Kind::kMeasure);
      job.rate_options = {.v2 = !v2a, .v2a = v2a};
      quant::TensorRates rates;
      const QuantizerTimes timed = bench.Run(job, 2, &rates, true);
      bench.Print(shape + (v2a ? "V2a rates" : "V2 rates"), timed, bench.Run(job, 8, nullptr, false));
      for (const int levels : {2, 3, 8, 16, 64}) {
        for (const quant::Candidate& candidate : rates.candidates) {
          if (candidate.format.levels != levels) continue;
          // Half way up in outliers, on a scale of ratios: what a mixed plan asks for.
          const int rung = candidate.highest / 2;
          TensorJob quantize = bench.JobOf(tile, rows, columns, TensorJob::Kind::kQuantize);
          quantize.plan.format = candidate.format;
          quantize.plan.ladder_index = rung;
          quantize.plan.outliers = candidate.StepAt(rung).outliers;
          quantize.plan.bytes = LayoutOf(rows, columns, candidate.format, quantize.plan.outliers).total_bytes;
          char label[96];
          std::snprintf(label, sizeof(label), "  K %d, floor %.4f, %.2f %% out", levels, quant::LadderFloor(rung),
                        100.0 * static_cast<double>(quantize.plan.outliers) / static_cast<double>(rows * columns));
          const QuantizerTimes t = bench.Run(quantize, 2, nullptr, true);
          bench.Print(label, t, bench.Run(quantize, 8, nullptr, false));
        }
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace hproc::kernels

int main(int argc, char** argv) {
  const long million = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 256;
  if (million < 1) {
    std::fprintf(stderr, "usage: bench_quantize [million weights a tensor [columns ...]]\n");
    return 2;
  }
  std::vector<int64_t> columns;
  for (int i = 2; i < argc; ++i) columns.push_back(std::max(1L, std::strtol(argv[i], nullptr, 10)));
  if (columns.empty()) columns = {3072, 16384, 1024};
  return hproc::kernels::Main(million, columns);
}
