#include "kernels/decode.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/decode_params.h"

namespace hproc::kernels {
namespace {

using cuda::DecodeParams;
using cuda::DecodeWork;

// Row tiles with sums of their own in a batch: enough that a warp's activations serve many tiles, few enough to leave the
// shared memory to the ring of weights.
constexpr int32_t kBatchTiles = 32;
// So many activations are rounded on chip, from a block's registers; more by a kernel of their own, and read through the L2.
// More would have to be read twice, behind the weights; see kernels/RESULTS.md.
constexpr int64_t kOnChipInputs = int64_t{4} * cuda::kDecodeThreads * cuda::kKeptFours;

struct DeviceLimits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a block
  int major = 0;         // of the compute capability
};
DeviceLimits LimitsOfDevice() {
  DeviceLimits limits;
  int device = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&limits.major, cudaDevAttrComputeCapabilityMajor, device));
  return limits;
}

int64_t Padded(int64_t columns) { return (columns + kTileColumns - 1) / kTileColumns * kTileColumns; }
int64_t RoundedBytes(int64_t tokens, int64_t columns) { return tokens * 2 * Padded(columns); }
bool RoundsOnChip(int64_t tokens, int64_t columns) { return tokens * Padded(columns) <= kOnChipInputs; }

DecodeParams ParamsOf(const DecodeMatrix& weight, DecodeWork work) {
  const DecodeOrder order = weight.order();
  const auto* base = reinterpret_cast<const uint8_t*>(weight.bytes);
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
  DecodeParams p{};
  p.work = work;
  p.library = at(order.library);
  p.records = at(order.records);
  p.tiles = at(order.tiles);
  p.outlier_columns = at(order.outlier_columns);
  p.outlier_values = reinterpret_cast<const uint16_t*>(at(order.outlier_values));
  p.row_tile_bytes = static_cast<uint32_t>(order.row_tile_bytes);
  p.tile_bytes = static_cast<int32_t>(order.tile_bytes);
  p.last_tile_bytes = static_cast<int32_t>(order.last_tile_bytes);
  p.record_bytes = static_cast<int32_t>(order.record_bytes);
  p.record_books = static_cast<int32_t>(order.record_books);
  p.column_tiles = static_cast<int32_t>(order.column_tiles);
  p.last_tile_halves = order.last_tile_halves;
  p.wide_counts = quant::OutlierCountBytes(weight.columns) == 2;
  p.wide_columns = quant::OutlierColumnBytes(weight.columns) == 4;
  p.columns = static_cast<int32_t>(weight.columns);
  p.tokens = 1;
  p.top = 1;
  return p;
}

// Settles the launch shape. One block an SM; every block gets units / blocks of them, so sizes differ by one at most.
void Launch(DecodeParams& p, const DecodeMatrix& weight, int32_t units, int64_t input_rows, int64_t grid_tokens,
            const DecodeStream& stream) {
  const DeviceLimits limits = LimitsOfDevice();
  const int blocks = std::min(limits.multiprocessors, units);
  const int block_units = (units + blocks - 1) / blocks;
  p.block_units = units / blocks;
  p.spare_units = units % blocks;
  p.overlap = stream.overlap;
  p.slots = cuda::DecodeSlots(weight.format.levels, limits.major < 12);
  const int virtual_per_unit = p.work == DecodeWork::kGateUp ? 2 : p.work == DecodeWork::kDown ? p.top : 1;
  p.library_bytes = p.library != nullptr ? quant::kLibrarySize * CodebookStride(weight.format.levels) : 0;
  p.input_rows = static_cast<int32_t>(input_rows);
  const int token_tiles = p.tokens > 8 ? 4 : p.tokens > 4 ? 2 : 1;
  p.second_stride = int64_t{p.row_tile_bytes} * (p.work == DecodeWork::kGateUp ? p.expert_tiles : 1);
  int batch_tiles = std::max(kBatchTiles / std::max(1, p.tokens / 4), virtual_per_unit);
  for (;; batch_tiles /= 2) {
    p.batch_units = std::clamp(batch_tiles / virtual_per_unit, 1, block_units);
    const int batches = (block_units + p.batch_units - 1) / p.batch_units;
    p.batch_units = (block_units + batches - 1) / batches;
    p.virtual_tiles = p.batch_units * virtual_per_unit;
    if (p.batch_units == 1 || cuda::DecodeSharedOf(p).total <= limits.shared_bytes) break;
  }
  HPROC_CHECK(cuda::DecodeSharedOf(p).total <= limits.shared_bytes,
              "activations and sums of a decode product fit into shared memory");
  p.at = cuda::DecodeSharedOf(p);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(grid_tokens));
  const auto launch = [&](auto function) { function(p, token_tiles, grid, stream.overlap, stream.stream); };
  switch (weight.format.levels) {
    case 2:
      return launch(cuda::LaunchDecode<2>);
    case 3:
      return launch(cuda::LaunchDecode<3>);
    case 4:
      return launch(cuda::LaunchDecode<4>);
    case 6:
      return launch(cuda::LaunchDecode<6>);
    case 8:
      return launch(cuda::LaunchDecode<8>);
    case 12:
      return launch(cuda::LaunchDecode<12>);
    case 16:
      return launch(cuda::LaunchDecode<16>);
    case 24:
      return launch(cuda::LaunchDecode<24>);
    case 32:
      return launch(cuda::LaunchDecode<32>);
    case 48:
      return launch(cuda::LaunchDecode<48>);
    default:
      return launch(cuda::LaunchDecode<64>);
  }
}

}  // namespace

int64_t DecodeWorkspaceBytes(int64_t tokens, int64_t columns) {
  return RoundsOnChip(tokens, columns) ? 0 : RoundedBytes(tokens, columns) + kMaxDecodeTokens * 4;
}

void DecodeMatmul(const DecodeStream& stream, const DecodeMatmulCall& call) {
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.input_stride % 4 == 0 && call.input_stride >= call.weight.columns, "input stride");
  HPROC_CHECK(call.output_stride >= call.weight.rows, "output stride");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kMatmul);
  p.rows = static_cast<int32_t>(call.weight.rows);
  const auto units = static_cast<int32_t>(call.weight.order().row_tiles);
  p.tokens = static_cast<int32_t>(call.tokens);
  p.input = call.input;
  p.input_stride = call.input_stride;
  p.output = call.output;
  p.output_stride = call.output_stride;
  p.accumulate = call.accumulate;
  int64_t input_rows = call.tokens;
  if (!RoundsOnChip(call.tokens, call.weight.columns)) {
    HPROC_CHECK(stream.workspace != nullptr, "workspace of a decode product");
    input_rows = 0;
    auto* scales = reinterpret_cast<float*>(stream.workspace);
    auto* rounded = reinterpret_cast<int8_t*>(stream.workspace) + kMaxDecodeTokens * 4;
    cuda::LaunchRoundActivations(call.input, call.input_stride, p.tokens, p.columns,
                                 static_cast<int32_t>(Padded(p.columns)), rounded, scales, stream.overlap, stream.stream);
    p.rounded = rounded;
    p.rounded_scales = scales;
  }
  Launch(p, call.weight, units, input_rows, 1, stream);
}

void DecodeGateUp(const DecodeStream& stream, const DecodeGateUpCall& call) {
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.top >= 1 && call.top <= kMaxDecodeTop, "experts of a token");
  HPROC_CHECK(call.input_stride % 4 == 0 && call.input_stride >= call.weight.columns, "input stride");
  HPROC_CHECK(call.width % kTileRows == 0 && call.weight.rows % (2 * call.width) == 0, "width of an expert");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kGateUp);
  p.rows = static_cast<int32_t>(call.width);
  p.top = static_cast<int32_t>(call.top);
  p.expert_tiles = static_cast<int32_t>(call.width / kTileRows);
  p.experts = call.experts;
  p.input = call.input;
  p.input_stride = call.input_stride;
  p.output = call.output;
  Launch(p, call.weight, p.top * p.expert_tiles, 1, call.tokens, stream);
}

void DecodeDown(const DecodeStream& stream, const DecodeDownCall& call) {
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.top >= 1 && call.top <= kMaxDecodeTop, "experts of a token");
  HPROC_CHECK(call.weight.columns % 4 == 0, "width of an expert");
  HPROC_CHECK(call.hidden % kTileRows == 0 && call.weight.rows % call.hidden == 0, "rows of an expert");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kDown);
  p.rows = static_cast<int32_t>(call.hidden);
  p.top = static_cast<int32_t>(call.top);
  p.expert_tiles = static_cast<int32_t>(call.hidden / kTileRows);
  p.experts = call.experts;
  p.route_weights = call.route_weights;
  p.input = call.input;
  p.input_stride = call.weight.columns;
  p.output = call.output;
  p.output_stride = call.hidden;
  p.accumulate = call.accumulate;
  Launch(p, call.weight, p.expert_tiles, call.top, call.tokens, stream);
}

}  // namespace hproc::kernels
