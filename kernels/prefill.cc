#include "kernels/prefill.h"

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/prefill_params.h"
#include "kernels/decode.h"

namespace hproc::kernels {
namespace {

using cuda::PrefillParams;

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
  p.outlier_columns = reinterpret_cast<const uint8_t*>(weight.outlier_columns());
  p.outlier_values = reinterpret_cast<const uint16_t*>(weight.outlier_values());
  p.row_tile_bytes = static_cast<uint32_t>(order.row_tile_bytes);
  p.tile_bytes = static_cast<int32_t>(order.tile_bytes);
  p.record_bytes = static_cast<int32_t>(order.record_bytes);
  p.record_books = static_cast<int32_t>(order.record_books);
  p.column_tiles = static_cast<int32_t>(order.column_tiles);
  p.last_tile_halves = order.last_tile_halves;
  p.wide_counts = quant::OutlierCountBytes(weight.columns) == 2;
  p.wide_columns = quant::OutlierColumnBytes(weight.columns) == 4;
  p.library_bytes = p.library != nullptr ? quant::kLibrarySize * CodebookStride(weight.format.levels) : 0;
  p.input = reinterpret_cast<const int8_t*>(input.values);
  p.scales = input.scales;
  p.transposed = input.transposed;
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

void Launch(const PrefillParams& p, int levels, int64_t tiles, CUstream_st* stream) {
  const auto blocks = static_cast<unsigned>((p.pairs + cuda::kPrefillWarps - 1) / cuda::kPrefillWarps);
  const dim3 grid = p.list != nullptr ? dim3(blocks, static_cast<unsigned>(tiles)) : dim3(static_cast<unsigned>(tiles), blocks);
  const auto launch = [&](auto function) { function(p, grid, stream); };
  switch (levels) {
    case 2:
      return launch(cuda::LaunchPrefill<2>);
    case 3:
      return launch(cuda::LaunchPrefill<3>);
    case 4:
      return launch(cuda::LaunchPrefill<4>);
    case 6:
      return launch(cuda::LaunchPrefill<6>);
    case 8:
      return launch(cuda::LaunchPrefill<8>);
    case 12:
      return launch(cuda::LaunchPrefill<12>);
    case 16:
      return launch(cuda::LaunchPrefill<16>);
    case 24:
      return launch(cuda::LaunchPrefill<24>);
    case 32:
      return launch(cuda::LaunchPrefill<32>);
    case 48:
      return launch(cuda::LaunchPrefill<48>);
    default:
      return launch(cuda::LaunchPrefill<64>);
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

void PrefillMatmul(CUstream_st* stream, const PrefillMatmulCall& call) {
  HPROC_CHECK(call.output_stride >= call.weight.rows, "output stride");
  PrefillParams p = ParamsOf(call.weight, call.input);
  PairNeighbours(p, call.weight.rows);
  p.output = call.output;
  p.output_stride = call.output_stride;
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
