// Times the decode kernels against the read floor, both cold.
//
//   bench_decode [word …]     rows whose name holds every word
//
// Activations come rounded, as the engine has them from its norms; "f32" rows and down round them in the kernel.
// Weights are random and rotated: at least 400 MB of them, so that none is in the L2 when its turn comes. At least 128
// launches are captured into a graph, replayed 21 times after two warm-ups; a row is the median, p10 and p90 of replay
// time / launches. Bytes are what a launch must read: codes, scales, codebooks, library, outliers; not activations. The
// floor is the best of the read kernels of bench_read.cuh at the same bytes, rotated and replayed in the same way, in the
// same run; the read limit is the best of them at 400 MB. "overlapped" columns launch each kernel, ours or the floor's, so
// that it may start before the one in front ends.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/bench_graph.cuh"
#include "kernels/bench_read.cuh"
#include "kernels/cuda/decode_params.h"
#include "kernels/decode.h"

namespace hproc::kernels {
namespace {

using quant::Mode;

constexpr int64_t kRotatedBytes = 400'000'000;
constexpr int kLeastLaunches = 128;

template <typename T>
T* Allocate(int64_t count) {
  void* data = nullptr;
  HPROC_CUDA_CHECK(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T)));
  return static_cast<T*>(data);
}

void Free(std::initializer_list<void*> pointers) {
  for (void* pointer : pointers) HPROC_CUDA_CHECK(cudaFree(pointer));
}

__global__ void FillRandom(uint32_t* words, int64_t count, uint32_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    words[i] = x ^ (x >> 16);
  }
}

// Rows rounded once, as the engine gives them to the products that read a norm.
struct Rounded {
  Rounded(const float* x, int64_t tokens, int64_t columns, cudaStream_t stream)
      : values(Allocate<std::byte>(tokens * RoundedRowBytes(columns))), scales(Allocate<float>(tokens)) {
    rows = {.values = values, .scales = scales};
    cuda::LaunchRoundActivations(x, columns, static_cast<int32_t>(tokens), static_cast<int32_t>(columns),
                                 static_cast<int32_t>(RoundedRowBytes(columns) / 2), reinterpret_cast<int8_t*>(values), scales, false, stream);
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
  ~Rounded() { cudaFree(values), cudaFree(scales); }
  Rounded(const Rounded&) = delete;
  Rounded& operator=(const Rounded&) = delete;

  std::byte* values;
  float* scales;
  RoundedRows rows;
};

// A matrix in decode order whose tiles are random and whose small sections are valid, on the host up to the tiles.
std::vector<std::byte> RandomMatrix(int64_t rows, int64_t columns, const quant::XfpFormat& format, int64_t outliers) {
  const DecodeOrder order = DecodeOrderOf(rows, columns, format, outliers);
  std::vector<std::byte> bytes(static_cast<size_t>(order.total_bytes));
  std::mt19937 random(1);
  const auto fill = [&](int64_t from, int64_t to, unsigned below) {
    for (int64_t i = from; i < to; ++i) bytes[static_cast<size_t>(i)] = static_cast<std::byte>(random() % below);
  };
  if (order.library >= 0) fill(order.library, order.records, 256);
  const uint16_t scale = 0x3C00;  // 2^-7 in bfloat16
  for (int64_t tile = 0; tile < order.row_tiles; ++tile) {
    const int64_t at = order.records + tile * order.record_bytes;
    for (int r = 0; r < kTileRows; ++r) std::memcpy(bytes.data() + at + r * 2, &scale, 2);
    if (order.library >= 0) {
      fill(at + order.record_books, at + order.record_bytes, quant::kLibrarySize);
      continue;
    }
    for (int r = 0; r < kTileRows; ++r) {  // ascending, as codebooks are
      for (int i = 0; i < format.levels; ++i) {
        const int level = (2 * i + 1) * 127 / format.levels - 127;
        bytes[static_cast<size_t>(at + order.record_books + r * CodebookStride(format.levels) + OrderedCode(format, i))] =
            static_cast<std::byte>(level);
      }
    }
  }
  const int64_t each = outliers / rows;
  for (int64_t row = 0; outliers > 0 && row < rows; ++row) {
    const int64_t at = order.records + row / kTileRows * order.record_bytes + kTileRows * 2;
    const auto start = static_cast<uint32_t>(row / kTileRows * kTileRows * each);
    std::memcpy(bytes.data() + at, &start, 4);
    const int count_bytes = quant::OutlierCountBytes(columns);
    std::memcpy(bytes.data() + at + 4 + row % kTileRows * count_bytes, &each, static_cast<size_t>(count_bytes));
    for (int64_t i = 0; i < each; ++i) {
      const auto column = static_cast<uint16_t>(columns * i / each);
      std::memcpy(bytes.data() + order.outlier_columns + (row * each + i) * 2, &column, 2);
      std::memcpy(bytes.data() + order.outlier_values + (row * each + i) * 2, &scale, 2);
    }
  }
  return bytes;
}

struct Row {
  std::string name;
  int64_t weights = 0;  // a launch
  int64_t bytes = 0;
  Times plain = {}, overlapped = {};
};

class Bench {
 public:
  Bench() {
    HPROC_CUDA_CHECK(cudaStreamCreate(&stream_));
    int device = 0;
    HPROC_CUDA_CHECK(cudaGetDevice(&device));
    HPROC_CUDA_CHECK(cudaGetDeviceProperties(&properties_, device));
    read_data_ = Allocate<uint4>(kRotatedBytes / 16 + 64);
    FillRandom<<<1024, 256>>>(reinterpret_cast<uint32_t*>(read_data_), kRotatedBytes / 4, 9);
    sink_ = Allocate<uint32_t>(1);
    for (const ReadKernel& read : kReadKernels) {
      const Times times = TimeGraph(stream_, 4, [&](int) {
        LaunchRead(read, read_data_, kRotatedBytes, sink_, properties_.multiProcessorCount, false, stream_);
      });
      read_limit_ = std::max(read_limit_, kRotatedBytes / times.median * 1e-3);
    }
    int driver = 0;
    HPROC_CUDA_CHECK(cudaDriverGetVersion(&driver));
    std::printf("# %s, %d multiprocessors, CUDA %d, driver API %d; read limit %.0f GB/s\n", properties_.name,
                properties_.multiProcessorCount, CUDART_VERSION, driver, read_limit_);
    std::printf("# activations are rounded before, but in rows \"f32\" and in down\n");
    std::printf("%-34s %5s %6s %6s %13s %5s %5s %6s %7s | %6s %6s %7s  %s\n", "row", "bits", "MB", "us", "p10-p90", "GB/s",
                "limit", "floor", "x floor", "us", "floor", "x floor", "(overlapped)  floor kernel");
  }

  // Every read kernel at a few sizes.
  void Reads() {
    for (const ReadKernel& read : kReadKernels) {
      std::printf("%-34s", read.name);
      for (const int64_t kilobytes : {3200, 6400, 9600, 12800, 19200, 33600}) {
        const int64_t bytes = kilobytes * 1000 / 128 * 128, places = kRotatedBytes / bytes;
        for (const bool overlap : {false, true}) {
          const Times times = TimeGraph(stream_, std::max<int>(kLeastLaunches, static_cast<int>(places)), [&](int i) {
            LaunchRead(read, reinterpret_cast<std::byte*>(read_data_) + i % places * bytes, bytes, sink_,
                       properties_.multiProcessorCount, overlap, stream_);
          });
          std::printf(" %s%.2f", overlap ? "/ " : "  ", times.median);
        }
      }
      std::printf("\n");
    }
  }

  // Plain products [rows, columns] x tokens.
  void Matmul(const std::string& name, int64_t rows, int64_t columns, const quant::XfpFormat& format,
              int64_t outliers_a_row, int64_t tokens, bool given) {
    const int64_t outliers = outliers_a_row * rows;
    const std::vector<std::byte> bytes = RandomMatrix(rows, columns, format, outliers);
    const auto size = static_cast<int64_t>(bytes.size());
    const auto copies = static_cast<int>(kRotatedBytes / size + 1);
    auto* data = Allocate<std::byte>(size * copies);
    Upload(bytes, rows, columns, format, outliers, data, copies);
    auto* x = RandomFloats(tokens * columns);
    auto* y = Allocate<float>(tokens * rows);
    auto* workspace = Allocate<std::byte>(DecodeWorkspaceBytes(tokens, columns) + 16);
    const Rounded rounded(x, tokens, columns, stream_);
    const auto launch = [&](int i, bool overlap) {
      DecodeMatmul({.stream = stream_, .overlap = overlap, .workspace = workspace},
                   {.weight = {rows, columns, format, outliers, data + i % copies * size},
                    .input = x,
                    .input_stride = columns,
                    .rounded = given ? rounded.rows : RoundedRows{},
                    .tokens = tokens,
                    .output = y,
                    .output_stride = rows});
    };
    Finish({.name = name, .weights = rows * columns, .bytes = size}, copies, launch);
    Free({data, x, y, workspace});
  }

  // One token's `top` of `experts` experts, others at every launch.
  void Experts(const std::string& name, bool down, int64_t hidden, int64_t width, int64_t experts, int64_t top,
               const quant::XfpFormat& format, int64_t outliers_a_row) {
    const int64_t rows = down ? experts * hidden : experts * 2 * width, columns = down ? width : hidden;
    const int64_t outliers = outliers_a_row * rows;
    const std::vector<std::byte> bytes = RandomMatrix(rows, columns, format, outliers);
    auto* data = Allocate<std::byte>(static_cast<int64_t>(bytes.size()));
    Upload(bytes, rows, columns, format, outliers, data, 1);
    std::vector<int32_t> ids(static_cast<size_t>(experts));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(5));
    auto* device_ids = Allocate<int32_t>(experts);
    HPROC_CUDA_CHECK(cudaMemcpy(device_ids, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
    auto* x = RandomFloats(down ? top * width : hidden);
    auto* y = Allocate<float>(down ? hidden : top * width);
    auto* weights = RandomFloats(top);
    const DecodeMatrix matrix{rows, columns, format, outliers, data};
    const Rounded rounded(x, down ? top : 1, columns, stream_);
    const auto launch = [&](int i, bool overlap) {
      const int32_t* chosen = device_ids + i % (experts / top) * top;
      if (down) {
        DecodeDown({.stream = stream_, .overlap = overlap}, {.weight = matrix,
                                                             .hidden = hidden,
                                                             .input = x,
                                                             .tokens = 1,
                                                             .top = top,
                                                             .experts = chosen,
                                                             .route_weights = weights,
                                                             .output = y});
      } else {
        DecodeGateUp({.stream = stream_, .overlap = overlap}, {.weight = matrix,
                                                               .width = width,
                                                               .input = x,
                                                               .input_stride = hidden,
                                                               .rounded = rounded.rows,
                                                               .tokens = 1,
                                                               .top = top,
                                                               .experts = chosen,
                                                               .output = y});
      }
    };
    const int64_t used = static_cast<int64_t>(bytes.size()) * top / experts;
    Finish({.name = name, .weights = rows * columns / experts * top, .bytes = used}, static_cast<int>(experts / top),
           launch);
    Free({data, x, y, weights, device_ids});
  }

 private:
  float* RandomFloats(int64_t count) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal(random);
    auto* data = Allocate<float>(count);
    HPROC_CUDA_CHECK(cudaMemcpy(data, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
    return data;
  }

  void Upload(const std::vector<std::byte>& bytes, int64_t rows, int64_t columns, const quant::XfpFormat& format,
              int64_t outliers, std::byte* data, int copies) {
    const DecodeOrder order = DecodeOrderOf(rows, columns, format, outliers);
    HPROC_CUDA_CHECK(cudaMemcpy(data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
    for (int i = 0; i < copies; ++i) {
      std::byte* to = data + i * static_cast<int64_t>(bytes.size());
      if (i > 0) HPROC_CUDA_CHECK(cudaMemcpyAsync(to, data, bytes.size(), cudaMemcpyDeviceToDevice));
      FillRandom<<<1024, 256>>>(reinterpret_cast<uint32_t*>(to + order.tiles), order.row_tiles * order.row_tile_bytes / 4,
                                static_cast<uint32_t>(i));
      HPROC_CUDA_CHECK(cudaGetLastError());
    }
    HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  }

  struct Floor {
    double us = 0;
    const char* name = "";
  };
  Floor FloorOf(int64_t bytes, bool overlap) {
    bytes = (bytes + 127) / 128 * 128;
    const auto key = std::pair(bytes, overlap);
    if (const auto known = floors_.find(key); known != floors_.end()) return known->second;
    const int64_t places = kRotatedBytes / bytes;
    Floor floor;
    for (const ReadKernel& read : kReadKernels) {
      const Times times = TimeGraph(stream_, std::max<int>(kLeastLaunches, static_cast<int>(places)), [&](int i) {
        LaunchRead(read, reinterpret_cast<std::byte*>(read_data_) + i % places * bytes, bytes, sink_,
                   properties_.multiProcessorCount, overlap, stream_);
      });
      if (floor.us == 0 || times.median < floor.us) floor = {times.median, read.name};
    }
    return floors_[key] = floor;
  }

  void Finish(Row row, int rotated, const std::function<void(int, bool)>& launch) {
    const int launches = std::max(kLeastLaunches, rotated);
    row.plain = TimeGraph(stream_, launches, [&](int i) { launch(i, false); });
    row.overlapped = TimeGraph(stream_, launches, [&](int i) { launch(i, true); });
    const Floor floor = FloorOf(row.bytes, false), overlapped = FloorOf(row.bytes, true);
    const double gb_per_s = static_cast<double>(row.bytes) / row.plain.median * 1e-3;
    std::printf("%-34s %5.2f %6.2f %6.2f %6.2f-%6.2f %5.0f %4.0f%% %6.2f %7.2f | %6.2f %6.2f %7.2f  %s\n", row.name.c_str(),
                static_cast<double>(row.bytes) * 8 / static_cast<double>(row.weights),
                static_cast<double>(row.bytes) * 1e-6, row.plain.median, row.plain.p10, row.plain.p90, gb_per_s,
                100 * gb_per_s / read_limit_, floor.us, row.plain.median / floor.us, row.overlapped.median, overlapped.us,
                row.overlapped.median / overlapped.us, floor.name);
    std::fflush(stdout);
  }

  cudaStream_t stream_ = nullptr;
  cudaDeviceProp properties_{};
  uint4* read_data_ = nullptr;
  uint32_t* sink_ = nullptr;
  double read_limit_ = 0;
  std::map<std::pair<int64_t, bool>, Floor> floors_;
};

int Run(const std::vector<std::string>& words) {
  Bench bench;
  const auto wanted = [&](const std::string& name) {
    return std::all_of(words.begin(), words.end(),
                       [&](const std::string& word) { return name.find(word) != std::string::npos; });
  };
  if (wanted("reads")) bench.Reads();
  constexpr int64_t kShapes[][2] = {{8192, 3072}, {3072, 8192},  {12288, 3072}, {3072, 4096},
                                    {2048, 3072}, {16384, 4096}, {4096, 16384}};
  const auto matmul = [&](int64_t rows, int64_t columns, Mode mode, int levels, int64_t outliers, int64_t tokens, bool given = true) {
    const std::string name = std::to_string(rows) + "x" + std::to_string(columns) + " " +
                             std::string(quant::ModeName(mode)) + " K" + std::to_string(levels) +
                             (outliers > 0 ? " out" + std::to_string(outliers) : "") + " M" + std::to_string(tokens) + (given ? "." : ". f32");
    if (wanted(name)) bench.Matmul(name, rows, columns, {.mode = mode, .levels = levels}, outliers, tokens, given);
  };
  for (const int levels : {16, 8}) {
    for (const auto& [rows, columns] : kShapes) matmul(rows, columns, Mode::kV2, levels, 0, 1);
  }
  for (const auto& [rows, columns] : kShapes) matmul(rows, columns, Mode::kV2, 16, 0, 1, false);
  const auto experts = [&](bool down, Mode mode, int levels, int64_t outliers) {
    const std::string name = std::string(down ? "down" : "gate-up") + " 8 of 256 " + std::string(quant::ModeName(mode)) +
                             " K" + std::to_string(levels) + (outliers > 0 ? " out" + std::to_string(outliers) : "");
    if (wanted(name)) bench.Experts(name, down, 3072, 1024, 256, 8, {.mode = mode, .levels = levels}, outliers);
  };
  for (const int levels : {16, 8, 4}) {
    experts(false, Mode::kV2, levels, 0);
    experts(true, Mode::kV2, levels, 0);
  }
  experts(false, Mode::kV2a, 8, 0);
  experts(true, Mode::kV2a, 8, 0);
  experts(false, Mode::kV2, 8, 15);
  experts(true, Mode::kV2, 8, 5);
  for (const int levels : {2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64}) {
    matmul(12288, 3072, Mode::kV2a, levels, 0, 1);
    if (levels != 8 && levels != 16) matmul(12288, 3072, Mode::kV2, levels, 0, 1);
  }
  for (const int levels : {8, 16}) {
    matmul(12288, 3072, Mode::kV2, levels, 15, 1);
    matmul(3072, 8192, Mode::kV2, levels, 40, 1);
  }
  for (const int64_t tokens : {2, 4, 8, 16}) {
    for (const auto& [rows, columns] : kShapes) matmul(rows, columns, Mode::kV2, 16, 0, tokens);
  }
  return 0;
}

}  // namespace
}  // namespace hproc::kernels

int main(int argc, char** argv) {
  try {
    return hproc::kernels::Run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
