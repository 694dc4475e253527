// Times what a prompt's passes are made of, each on tokens of random values, with weights that are random too:
//
//   bench_prefill [word …]     rows whose name holds every word
//
// A row is the median, p10 and p90 of 21 replays of a graph of launches, over the launches: products of a dense matrix, expanded in
// registers and through scratch; routed experts, 8 of 256; attention; the delta rule. Weights are rotated, at least 200 MB of them.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/bench_graph.cuh"
#include "kernels/cuda/op_kernels.h"
#include "kernels/decode.h"
#include "kernels/prefill.h"
#include "tests/kernels/device_array.h"

namespace hproc::kernels {
namespace {

__global__ void FillRandom(uint32_t* words, int64_t count, uint32_t seed, bool as_floats) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    x ^= x >> 16;
    words[i] = as_floats ? __float_as_uint(static_cast<float>(static_cast<int32_t>(x)) * 0x1p-31f) : x;
  }
}

template <typename T>
DeviceArray<T> Random(int64_t count, bool as_floats) {
  DeviceArray<T> array(static_cast<size_t>(count));
  FillRandom<<<1024, 256>>>(reinterpret_cast<uint32_t*>(array.get()), count * static_cast<int64_t>(sizeof(T)) / 4, 3, as_floats);
  HPROC_CUDA_CHECK(cudaGetLastError());
  return array;
}

class Bench {
 public:
  explicit Bench(std::vector<std::string> words) : words_(std::move(words)) {
    HPROC_CUDA_CHECK(cudaStreamCreate(&stream_));
    cudaDeviceProp properties{};
    HPROC_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    std::printf("# %s, %d multiprocessors, CUDA %d\n", properties.name, properties.multiProcessorCount, CUDART_VERSION);
  }

  // A matrix in decode order with everything random but its outlier counts, which are `outliers` a row.
  struct Weights {
    Weights(int64_t rows, int64_t columns, int levels, int64_t outliers_a_row)
        : matrix{.rows = rows, .columns = columns, .format = {.levels = levels}, .outliers = outliers_a_row * rows},
          size(matrix.order().total_bytes),
          copies(static_cast<int>(200'000'000 / size + 1)),
          bytes(Random<std::byte>(size * copies, false)) {
      if (outliers_a_row == 0) return;
      const DecodeOrder order = matrix.order();
      std::vector<std::byte> host(static_cast<size_t>(order.total_bytes));
      HPROC_CUDA_CHECK(cudaMemcpy(host.data(), bytes.get(), host.size(), cudaMemcpyDeviceToHost));
      for (int64_t tile = 0; tile < order.row_tiles; ++tile) {
        std::byte* at = host.data() + order.records + tile * order.record_bytes + kTileRows * 2;
        const auto start = static_cast<uint32_t>(tile * kTileRows * outliers_a_row);
        std::memcpy(at, &start, 4);
        for (int r = 0; r < kTileRows; ++r) {
          const auto count = static_cast<uint16_t>(outliers_a_row);
          std::memcpy(at + 4 + r * quant::OutlierCountBytes(columns), &count, static_cast<size_t>(quant::OutlierCountBytes(columns)));
        }
      }
      for (int64_t i = 0; i < matrix.outliers; ++i) {
        const auto column = static_cast<uint16_t>(columns * (i % outliers_a_row) / outliers_a_row);
        std::memcpy(host.data() + order.outlier_columns + i * 2, &column, 2);
      }
      for (int i = 0; i < copies; ++i) HPROC_CUDA_CHECK(cudaMemcpy(bytes.get() + i * size, host.data(), host.size(), cudaMemcpyHostToDevice));
    }
    DecodeMatrix of(int launch) const {
      DecodeMatrix m = matrix;
      m.bytes = bytes.get() + launch % copies * size;
      return m;
    }
    DecodeMatrix matrix;
    int64_t size;
    int copies;
    DeviceArray<std::byte> bytes;
  };
  struct Rows {
    Rows(int64_t count, int64_t columns, bool outliers, CUstream_st* stream)
        : input(Random<float>(count * columns, true)), values(static_cast<size_t>(count * RoundedRowBytes(columns))),
          scales(static_cast<size_t>(count)), transposed(static_cast<size_t>(outliers ? count * columns : 1)),
          rows{.values = values.get(), .scales = scales.get(), .rows = count, .columns = columns, .transposed = outliers ? transposed.get() : nullptr} {
      RoundPrefillRows(stream, input.get(), columns, nullptr, rows);
      if (outliers) TransposePrefillRows(stream, rows);
    }
    DeviceArray<float> input;
    DeviceArray<std::byte> values;
    DeviceArray<float> scales;
    DeviceArray<int16_t> transposed;
    PrefillRows rows;
  };

  void Matmul(int64_t rows, int64_t columns, int levels, int64_t outliers, int64_t tokens, bool expanded) {
    const std::string name = std::to_string(rows) + "x" + std::to_string(columns) + " K" + std::to_string(levels) +
                             (outliers > 0 ? " out" + std::to_string(outliers) : "") + " M" + std::to_string(tokens) + (expanded ? " scratch" : " registers");
    if (!Wanted(name)) return;
    const Weights weights(rows, columns, levels, outliers);
    const Rows input(tokens, columns, outliers > 0, stream_);
    const DeviceArray<float> output(static_cast<size_t>(tokens * rows));
    const DeviceArray<std::byte> scratch(static_cast<size_t>(expanded ? std::max(PrefillScratchBytes(2048, rows, columns), LeastPrefillScratch(columns)) : 1));
    Time(name, 2.0 * static_cast<double>(rows * columns * tokens), [&](int i) {
      PrefillMatmul(stream_, {.weight = weights.of(i), .input = input.rows, .output = output.get(), .output_stride = rows,
                              .scratch = {scratch.get(), expanded ? scratch.size() : 0}});
    });
  }

  void Round(int64_t tokens, int64_t columns) {
    const std::string name = "round " + std::to_string(columns) + " M" + std::to_string(tokens);
    if (!Wanted(name)) return;
    const Rows input(tokens, columns, false, stream_);
    Time(name, 0, [&](int) { RoundPrefillRows(stream_, input.input.get(), columns, nullptr, input.rows); });
  }

  void Experts(int64_t tokens, int levels) {
    constexpr int64_t kExperts = 256, kTop = 8, kHidden = 3072, kWidth = 1024;
    const std::string name = "8 of 256 K" + std::to_string(levels) + " M" + std::to_string(tokens);
    if (!Wanted(name)) return;
    const int64_t routes = tokens * kTop;
    std::mt19937 random(5);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<int32_t> all(kExperts);
      for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
      std::shuffle(all.begin(), all.end(), random);
      ids.insert(ids.end(), all.begin(), all.begin() + kTop);
    }
    const DeviceArray<int32_t> chosen(ids), token_of(ids.size()), route_of(ids.size());
    const DeviceArray<PrefillTile> tiles(static_cast<size_t>(MostPrefillTiles(routes, kExperts)));
    SortRoutes(stream_, chosen.get(), routes, kTop, kExperts, token_of.get(), route_of.get(), tiles.get());
    {
      const Weights weights(kExperts * 2 * kWidth, kHidden, levels, 0);
      const Rows input(routes, kHidden, false, stream_);
      const DeviceArray<float> output(static_cast<size_t>(routes * kWidth));
      Time("gate-up " + name, 4.0 * static_cast<double>(routes * kHidden * kWidth), [&](int i) {
        PrefillGateUp(stream_, {.weight = weights.of(i), .width = kWidth, .experts = kExperts, .input = input.rows, .tiles = tiles.get(), .output = output.get()});
      });
    }
    const Weights weights(kExperts * kHidden, kWidth, levels, 0);
    const Rows input(routes, kWidth, false, stream_);
    const DeviceArray<float> output(static_cast<size_t>(routes * kHidden));
    Time("down " + name, 2.0 * static_cast<double>(routes * kHidden * kWidth), [&](int i) {
      PrefillDown(stream_, {.weight = weights.of(i), .hidden = kHidden, .experts = kExperts, .input = input.rows, .tiles = tiles.get(),
                            .route_of = route_of.get(), .output = output.get()});
    });
  }

  // The last `tokens` of a prompt of `end`.
  void Attention(int32_t tokens, int32_t end, bool tiles) {
    constexpr int64_t kHeads = 32, kKvHeads = 2, kDim = 256;
    const std::string name = "attention, 32 heads of 256, M" + std::to_string(tokens) + " of " + std::to_string(end) + (tiles ? " tiles" : " rows");
    if (!Wanted(name)) return;
    const auto queries = Random<float>(tokens * kHeads * kDim, true), cached = Random<float>(2 * end * kKvHeads * kDim, true);
    const DeviceArray<float> output(static_cast<size_t>(tokens * kHeads * kDim));
    const DeviceArray<SequenceRun> runs(std::vector<SequenceRun>(static_cast<size_t>(tokens), {.first_position = end - tokens, .tokens = tokens}));
    AttendCall call{.runs = {runs.get(), tiles ? 1u : static_cast<size_t>(tokens)}, .rows = tokens, .queries = queries.get(),
                    .query_stride = kHeads * kDim, .query_head_stride = kDim, .heads = kHeads, .scale = 1.0f / 16,
                    .cache = {.context = end, .kv_heads = kKvHeads, .head_dim = kDim}, .output = output.get()};
    call.cache.keys = cached.get();
    call.cache.values = cached.get() + end * kKvHeads * kDim;
    Time(name, 4.0 * kHeads * kDim * tokens * (end - tokens / 2.0), [&](int) { cuda::LaunchAttend(call, stream_); });
  }

  void DeltaRule(int32_t tokens, bool chunks) {
    constexpr int64_t kKeyHeads = 16, kValueHeads = 64, kDim = 128;
    const std::string name = "delta rule, 64 heads of 128 x 128, M" + std::to_string(tokens) + (chunks ? " chunks" : " one by one");
    if (!Wanted(name)) return;
    const auto qkv = Random<float>(tokens * (2 * kKeyHeads + kValueHeads) * kDim, true), a = Random<float>(tokens * kValueHeads, true);
    const auto parameters = Random<float>(kValueHeads, true), state = Random<float>(kValueHeads * kDim * kDim, true);
    const DeviceArray<float> output(static_cast<size_t>(tokens * kValueHeads * kDim));
    // What chooses is how many rows a run has on average.
    const DeviceArray<SequenceRun> runs(std::vector<SequenceRun>{{.tokens = tokens}});
    const Matrix plain{.storage = Storage::kFloat32, .rows = 1, .columns = kValueHeads, .data = parameters.get(), .xfp = {}, .decode = {}};
    const DeltaRuleCall call{.runs = {runs.get(), 1}, .rows = chunks ? tokens : 1, .qkv = qkv.get(), .a = a.get(), .b = a.get(),
                             .a_log = &plain, .dt_bias = &plain, .key_heads = kKeyHeads, .value_heads = kValueHeads, .key_dim = kDim,
                             .value_dim = kDim, .state = state.get(), .output = output.get()};
    Time(name, 0, [&](int) { cuda::LaunchGatedDeltaRule(call, stream_); });
  }

 private:
  bool Wanted(const std::string& name) const {
    return std::all_of(words_.begin(), words_.end(), [&](const std::string& word) { return name.find(word) != std::string::npos; });
  }

  void Time(const std::string& name, double operations, const std::function<void(int)>& launch) {
    launch(0);  // attributes of a kernel's first launch
    const Times us = TimeGraph(stream_, 8, launch);
    std::printf("%-52s %9.2f us (%.2f-%.2f)", name.c_str(), us.median, us.p10, us.p90);
    if (operations > 0) std::printf(" %5.0f TFLOP/s", operations / us.median * 1e-6);
    std::printf("\n");
    std::fflush(stdout);
  }

  std::vector<std::string> words_;
  cudaStream_t stream_ = nullptr;
};

int Run(std::vector<std::string> words) {
  Bench bench(std::move(words));
  for (const int64_t tokens : {64, 128, 256, 512, 2048}) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{12288, 3072}, {8192, 3072}, {3072, 8192}, {1024, 3072}, {2048, 2048}}) {
      for (const bool expanded : {false, true}) bench.Matmul(rows, columns, 16, 0, tokens, expanded);
    }
  }
  for (const bool expanded : {false, true}) {
    for (const int levels : {3, 8, 64}) bench.Matmul(12288, 3072, levels, 0, 2048, expanded);
    bench.Matmul(12288, 3072, 16, 15, 2048, expanded);
  }
  bench.Round(2048, 3072);
  bench.Round(2048, 8192);
  for (const int64_t tokens : {512, 2048}) bench.Experts(tokens, 16);
  for (const bool tiles : {false, true}) {
    bench.Attention(512, 512, tiles);
    bench.Attention(512, 2048, tiles);
    bench.Attention(2048, 2048, tiles);
  }
  for (const int32_t tokens : {64, 512, 2048}) {
    for (const bool chunks : {false, true}) bench.DeltaRule(tokens, chunks);
  }
  return 0;
}

}  // namespace
}  // namespace hproc::kernels

int main(int argc, char** argv) {
  try {
    return hproc::kernels::Run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_prefill: %s\n", error.what());
    return 1;
  }
}
