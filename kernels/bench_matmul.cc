// Products from codes against float32 products of a BLAS, of the same shape, by turns in one run.
//
// Weights are rotated through copies that together exceed the caches, as the weights of a model do from token to token.
// What is timed on our side includes rounding the activations. Counters: medians, ratio = BLAS time / our time with its
// 10th and 90th percentile, effective bits a weight, and bytes of weights read a second on each side.
#include <benchmark/benchmark.h>

#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "base/bench_pairs.h"
#include "kernels/matmul_blas.h"
#include "tests/kernels/stored_matrix.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

constexpr int64_t kRows = 2048;
constexpr int64_t kColumns = 2048;
constexpr int64_t kRotatedBytes = int64_t{128} << 20;

// Copies of one matrix.
class Rotation {
 public:
  explicit Rotation(StoredMatrix first) {
    const int64_t copies = std::max<int64_t>(2, kRotatedBytes / first.byte_count);
    copies_.push_back(std::move(first));
    while (static_cast<int64_t>(copies_.size()) < copies) {
      const StoredMatrix& from = copies_.front();
      StoredMatrix copy = Allocate(from.byte_count - 64);
      std::memcpy(copy.bytes.get(), from.bytes.get(), static_cast<size_t>(from.byte_count));
      copy.matrix = from.matrix;
      if (from.matrix.storage == Storage::kXfp) {
        const quant::XfpMatrix& xfp = from.matrix.xfp;
        const quant::XfpLayout layout = quant::LayoutOf(xfp.rows, xfp.columns, xfp.format, xfp.outliers);
        copy.matrix.xfp = quant::ViewOf(xfp.rows, xfp.columns, xfp.format, xfp.outliers,
                                        {copy.bytes.get(), static_cast<size_t>(layout.total_bytes)});
      } else {
        copy.matrix.data = copy.bytes.get();
      }
      copies_.push_back(std::move(copy));
    }
  }
  const Matrix& Next() { return copies_[next_++ % copies_.size()].matrix; }
  int64_t bytes() const { return copies_.front().byte_count; }

 private:
  std::vector<StoredMatrix> copies_;
  size_t next_ = 0;
};

const std::vector<float>& Weights() {
  static const std::vector<float> values = quant::RandomRows(kRows, kColumns, 1, 0.002);
  return values;
}

Rotation& FloatWeights() {
  static Rotation rotation(StorePlain(Weights(), kColumns, Storage::kFloat32));
  return rotation;
}

// levels, V2a, outliers, tokens, threads
void BM_Matmul(benchmark::State& state) {
  const auto levels = static_cast<int>(state.range(0));
  const bool outliers = state.range(2) != 0;
  const int64_t tokens = state.range(3);
  const auto threads = static_cast<int>(state.range(4));
  const quant::XfpFormat format{.mode = state.range(1) != 0 ? quant::Mode::kV2a : quant::Mode::kV2, .levels = levels,
                                .centroids = quant::Centroids::kInt8, .group_scales = false};
  // The lowest floor takes no outliers; about one in a hundred values brings the codebook to the floor otherwise.
  Rotation codes(StoreXfp(Weights(), kColumns, format, outliers ? ReachableFloor(levels) : 0.5));
  Rotation& floats = FloatWeights();

  ThreadPool pool(threads);
  const Context cpu{.backend = Backend::kCpu, .pool = &pool};
  blas::SetThreads(threads);
  const auto size = static_cast<size_t>(tokens);
  std::vector<float> values = quant::RandomRows(tokens, kColumns, 2);
  std::vector<int16_t> quantized(size * kColumns);
  std::vector<float> scales(size);
  const Activations input{tokens, kColumns, values.data(), quantized.data(), scales.data()};
  std::vector<float> our_output(size * kRows);
  std::vector<float> their_output(size * kRows);
  const auto ours = [&] {
    QuantizeActivations(cpu, input);
    const MatmulCall call = WholeProduct(codes.Next(), input, our_output.data());
    Matmul(cpu, {&call, 1});
  };
  const auto theirs = [&] {
    const MatmulCall call = WholeProduct(floats.Next(), input, their_output.data());
    blas::MatmulInTurn(cpu, {&call, 1});
  };
  for (int i = 0; i < 3; ++i) ours(), theirs();
  BenchPairs pairs;
  for (auto _ : state) {
    const double our_seconds = SecondsOf(ours);
    pairs.Add(our_seconds, SecondsOf(theirs));
    state.SetIterationTime(our_seconds);
  }
  pairs.Report(state.counters);
  state.counters["bits"] = 8.0 * static_cast<double>(codes.bytes()) / (kRows * kColumns);
  state.counters["ours_GB/s"] = static_cast<double>(codes.bytes()) / Quantile(pairs.ours, 0.5) / 1e9;
  state.counters["blas_GB/s"] = static_cast<double>(floats.bytes()) / Quantile(pairs.theirs, 0.5) / 1e9;
}

void Cases(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"K", "v2a", "outliers", "tokens", "threads"});
  std::vector<int64_t> thread_counts{1};
  if (const auto all = static_cast<int64_t>(std::thread::hardware_concurrency()); all > 1) thread_counts.push_back(all);
  for (int64_t threads : thread_counts) {
    for (int64_t tokens : {1, 8}) {
      for (int64_t levels : {2, 3, 4, 6, 8, 16, 32, 64}) {
        for (int64_t v2a : {0, 1}) {
          for (int64_t outliers : {0, 1}) bench->Args({levels, v2a, outliers, tokens, threads});
        }
      }
    }
  }
}
BENCHMARK(BM_Matmul)->Apply(Cases)->UseManualTime()->Iterations(60)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace hproc::kernels

BENCHMARK_MAIN();
