#include "kernels/prefill.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/prefill_params.h"
#include "kernels/decode.h"

namespace hproc::kernels {
namespace {

using cuda::PrefillParams;

// Measured: below, expanding and the launches take more than the faster product gives. See RESULTS.md.
constexpr int64_t kLeastExpandedTokens = 384;
constexpr int64_t kLeastExpandedProducts = int64_t{6} << 30;  // rows by columns by tokens
// Of expanded weights that stay in the L2 beside the tokens.
constexpr int64_t kMostExpandedBytes = int64_t{32} << 20;
static_assert(LeastPrefillScratch(kHalfColumns) == cuda::kExpandedHalfBytes);

PrefillParams ParamsOf(const DecodeMatrix& weight, const PrefillRows& input) {
  HPROC_CHECK(input.columns == weight.columns, "columns of weight and input");
  HPROC_CHECK(weight.outliers == 0 || input.transposed != nullptr, "tokens for the outliers of a product");
  const DecodeOrder order = weight.order();
  const auto* base = reinterpret_cast<const uint8_t*>(weight.bytes);
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
  PrefillParams p{};
  p.library = at(order.library);
  p.records = at(order.records);
  p.tiles = at(order.tiles);
  p.outliers = {.columns = reinterpret_cast<const uint8_t*>(weight.outlier_columns()), .values = reinterpret_cast<const uint16_t*>(weight.outlier_values()),
                .transposed = input.transposed, .wide_counts = quant::OutlierCountBytes(weight.columns) == 2,
                .wide_columns = quant::OutlierColumnBytes(weight.columns) == 4, .input_rows = static_cast<int32_t>(input.rows)};
  p.row_tile_bytes = static_cast<uint32_t>(order.row_tile_bytes);
  p.tile_bytes = static_cast<int32_t>(order.tile_bytes);
  p.record_bytes = static_cast<int32_t>(order.record_bytes);
  p.record_books = static_cast<int32_t>(order.record_books);
  p.column_tiles = static_cast<int32_t>(order.column_tiles);
  p.last_tile_halves = order.last_tile_halves;
  p.library_bytes = p.library != nullptr ? quant::kLibrarySize * CodebookStride(weight.format.levels) : 0;
  p.input = reinterpret_cast<const int8_t*>(input.values);
  p.scales = input.scales;
  p.input_rows = static_cast<int32_t>(input.rows);
  return p;
}

// Pairs of neighbouring row tiles of `rows` rows.
void PairNeighbours(PrefillParams& p, int64_t rows) {
  p.row_tiles = static_cast<int32_t>((rows + kTileRows - 1) / kTileRows);
  p.pairs = (p.row_tiles + 1) / 2;
  p.pair_step = 2;
  p.second_tile = 1;
  p.rows = static_cast<int32_t>(rows);
}

template <typename Function>
void WithLevels(int levels, Function&& function) {
  switch (levels) {
    case 2:
      return function.template operator()<2>();
    case 3:
      return function.template operator()<3>();
    case 4:
      return function.template operator()<4>();
    case 6:
      return function.template operator()<6>();
    case 8:
      return function.template operator()<8>();
    case 12:
      return function.template operator()<12>();
    case 16:
      return function.template operator()<16>();
    case 24:
      return function.template operator()<24>();
    case 32:
      return function.template operator()<32>();
    case 48:
      return function.template operator()<48>();
    default:
      return function.template operator()<64>();
  }
}

void Launch(const PrefillParams& p, int levels, int64_t tiles, CUstream_st* stream) {
  const auto blocks = static_cast<unsigned>((p.pairs + cuda::kPrefillWarps - 1) / cuda::kPrefillWarps);
  const dim3 grid = p.list != nullptr ? dim3(blocks, static_cast<unsigned>(tiles)) : dim3(static_cast<unsigned>(tiles), blocks);
  WithLevels(levels, [&]<int kLevels>() { cuda::LaunchPrefill<kLevels>(p, grid, stream); });
}

// As many rows at a time as `scratch` takes expanded, in turns of about the same size.
void LaunchExpanded(const PrefillParams& p, int levels, std::span<std::byte> scratch, CUstream_st* stream) {
  constexpr int32_t kBlockTiles = cuda::kExpandedRows / kTileRows;
  const int32_t halves = 2 * p.column_tiles - 2 + p.last_tile_halves;
  const int32_t blocks = (p.row_tiles + kBlockTiles - 1) / kBlockTiles;
  const auto most = static_cast<int32_t>(std::min<int64_t>(blocks, static_cast<int64_t>(scratch.size()) / (int64_t{halves} * cuda::kExpandedHalfBytes)));
  const int32_t turns = (blocks + most - 1) / most;
  const int32_t each = (blocks + turns - 1) / turns;
  for (int32_t block = 0; block < blocks; block += each) {
    const int32_t first_tile = block * kBlockTiles;
    const int32_t row_blocks = std::min(each, blocks - block);
    const cuda::ExpandParams expand{.library = p.library, .records = p.records + int64_t{first_tile} * p.record_bytes,
                                    .tiles = p.tiles + int64_t{first_tile} * p.row_tile_bytes, .row_tile_bytes = p.row_tile_bytes,
                                    .tile_bytes = p.tile_bytes, .record_bytes = p.record_bytes, .record_books = p.record_books,
                                    .column_tiles = p.column_tiles, .last_tile_halves = p.last_tile_halves,
                                    .library_bytes = p.library_bytes,
                                    .row_tiles = std::min(row_blocks * kBlockTiles, p.row_tiles - first_tile),
                                    .expanded = reinterpret_cast<uint8_t*>(scratch.data())};
    WithLevels(levels, [&]<int kLevels>() { cuda::LaunchExpandRows<kLevels>(expand, stream); });
    cuda::LaunchExpandedMatmul({.expanded = expand.expanded, .halves = halves, .first_row = block * cuda::kExpandedRows,
                                .row_blocks = row_blocks,
                                .token_tiles = (p.input_rows + cuda::kExpandedTokens - 1) / cuda::kExpandedTokens, .records = p.records,
                                .record_bytes = p.record_bytes, .outliers = p.outliers, .input = p.input, .scales = p.scales,
                                .input_rows = p.input_rows, .output = p.output, .output_stride = p.output_stride, .rows = p.rows},
                               stream);
  }
}

}  // namespace

bool CanPrefill() {
#if HPROC_SM90A
  int device = 0;
  int major = 0;
  int minor = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return major == 9 && minor == 0;
#else
  return false;
#endif
}

int64_t PrefillScratchBytes(int64_t tokens, int64_t rows, int64_t columns) {
  if (tokens < kLeastExpandedTokens || rows * columns * tokens < kLeastExpandedProducts) return 0;
  const int64_t least = LeastPrefillScratch(columns);
  const int64_t blocks = (rows + cuda::kExpandedRows - 1) / cuda::kExpandedRows;
  return std::min(blocks, std::max<int64_t>(1, kMostExpandedBytes / least)) * least;
}

void PrefillMatmul(CUstream_st* stream, const PrefillMatmulCall& call) {
  HPROC_CHECK(call.output_stride >= call.weight.rows, "output stride");
  PrefillParams p = ParamsOf(call.weight, call.input);
  PairNeighbours(p, call.weight.rows);
  p.output = call.output;
  p.output_stride = call.output_stride;
  if (static_cast<int64_t>(call.scratch.size()) >= LeastPrefillScratch(call.weight.columns)) {
    return LaunchExpanded(p, call.weight.format.levels, call.scratch, stream);
  }
  Launch(p, call.weight.format.levels, (call.input.rows + kPrefillTokens - 1) / kPrefillTokens, stream);
}

void PrefillGateUp(CUstream_st* stream, const PrefillGateUpCall& call) {
  HPROC_CHECK(call.width % kTileRows == 0 && call.weight.rows == call.experts * 2 * call.width, "width of an expert");
  PrefillParams p = ParamsOf(call.weight, call.input);
  p.pairs = p.second_tile = static_cast<int32_t>(call.width / kTileRows);
  p.row_tiles = 2 * p.pairs;
  p.pair_step = 1;
  p.gate_up = 1;
  p.rows = static_cast<int32_t>(call.width);
  p.list = call.tiles;
  p.output = call.output;
  p.output_stride = call.width;
  Launch(p, call.weight.format.levels, MostPrefillTiles(call.input.rows, call.experts), stream);
}

void PrefillDown(CUstream_st* stream, const PrefillDownCall& call) {
  HPROC_CHECK(call.hidden % kTileRows == 0 && call.weight.rows == call.experts * call.hidden, "rows of an expert");
  PrefillParams p = ParamsOf(call.weight, call.input);
  PairNeighbours(p, call.hidden);
  p.list = call.tiles;
  p.output_rows = call.route_of;
  p.output = call.output;
  p.output_stride = call.hidden;
  Launch(p, call.weight.format.levels, MostPrefillTiles(call.input.rows, call.experts), stream);
}

}  // namespace hproc::kernels
