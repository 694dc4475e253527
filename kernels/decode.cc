#include "kernels/decode.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/decode_params.h"

namespace hproc::kernels {
namespace {

using cuda::DecodeParams;
using cuda::DecodePart;
using cuda::DecodeWork;

// Row tiles with sums of their own in a batch: enough that a warp's activations serve many tiles, few enough to leave the
// shared memory to the ring of weights.
constexpr int32_t kBatchTiles = 32;
// Where the tokens on chip leave room for fewer, they are read through the L2: 8192x3072 by 16 tokens takes 45 us a tile at a time and 18
// so, 8192x6144 by 8 25 us two at a time and 17 so (NVIDIA H200).
constexpr int32_t kLeastBatchTiles = 4;
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

// The sections of a matrix, as a part of a launch.
DecodePart PartOf(const DecodeMatrix& weight) {
  const DecodeOrder order = weight.order();
  const auto* base = reinterpret_cast<const uint8_t*>(weight.bytes);
  const auto at = [&](int64_t offset) { return offset < 0 ? nullptr : base + offset; };
  DecodePart part{};
  part.library = at(order.library);
  part.records = at(order.records);
  part.tiles = at(order.tiles);
  part.outlier_columns = part.second_outlier_columns = reinterpret_cast<const uint8_t*>(weight.outlier_columns());
  part.outlier_values = part.second_outlier_values = reinterpret_cast<const uint16_t*>(weight.outlier_values());
  return part;
}

// What all parts of a launch have in common.
DecodeParams ParamsOf(const DecodeMatrix& weight, DecodeWork work) {
  const DecodeOrder order = weight.order();
  DecodeParams p{};
  p.work = work;
  p.parts[0] = PartOf(weight);
  p.row_tile_bytes = static_cast<uint32_t>(order.row_tile_bytes);
  p.tile_bytes = static_cast<int32_t>(order.tile_bytes);
  HPROC_CHECK(order.record_bytes <= std::numeric_limits<uint16_t>::max(), "bytes of a record");
  p.record_bytes = static_cast<uint16_t>(order.record_bytes);
  p.record_books = static_cast<uint16_t>(order.record_books);
  p.column_tiles = static_cast<int32_t>(order.column_tiles);
  p.last_tile_halves = order.last_tile_halves;
  p.whole_pairs = order.column_tiles % 2 == 0 && order.last_tile_halves == 2;
  p.input_row_bytes = cuda::InputRowBytes(p.column_tiles);
  p.wide_counts = quant::OutlierCountBytes(weight.columns) == 2;
  p.wide_columns = quant::OutlierColumnBytes(weight.columns) == 4;
  p.has_outliers = weight.outliers > 0;
  p.columns = static_cast<int32_t>(weight.columns);
  p.tokens = 1;
  p.all = 1;
  return p;
}

// Shares the blocks out, one an SM, among parts of so many units, so that the most units of a block are as few as can be.
struct Shares {
  int blocks = 0;
  int most_units = 0;  // of a block
};
Shares ShareBlocks(DecodeParams& p, std::span<const int32_t> units, int multiprocessors) {
  int32_t total = 0;
  for (const int32_t u : units) total += u;
  Shares shares{.blocks = std::max(std::min(multiprocessors, total), static_cast<int>(units.size())), .most_units = 0};
  std::vector<int32_t> blocks(units.size(), 1);
  const auto most = [&](size_t i) { return (units[i] + blocks[i] - 1) / blocks[i]; };
  for (int left = shares.blocks - static_cast<int>(units.size()); left > 0; --left) {
    size_t fullest = 0;
    for (size_t i = 1; i < units.size(); ++i) {
      if (most(i) > most(fullest)) fullest = i;
    }
    ++blocks[fullest];
  }
  int32_t first = 0;
  std::ranges::fill(p.first_blocks, std::numeric_limits<int32_t>::max());
  for (size_t i = 0; i < units.size(); ++i) {
    DecodePart& part = p.parts[i];
    if (i > 0) p.first_blocks[i - 1] = first;
    part.block_units = units[i] / blocks[i];
    part.spare_units = units[i] % blocks[i];
    first += blocks[i];
    shares.most_units = std::max(shares.most_units, most(i));
  }
  return shares;
}

// How the kernel of one token (kernels/cuda/decode_token.cuh) does it with `tiles` row tiles in a block; none where it cannot.
std::optional<cuda::DecodeTokenLayout> TokenLayoutOf(const DecodeParams& p, int32_t tiles, const DecodeMatrix& weight,
                                                     const DeviceLimits& limits) {
  if (p.tokens != 1 || p.library_bytes != 0 || !p.whole_pairs || p.input_rows == 0) return std::nullopt;
  if (p.work == DecodeWork::kGateUp && p.rounded == nullptr) return std::nullopt;
  if (p.work == DecodeWork::kDown && p.rounded != nullptr) return std::nullopt;
  if (p.rounded != nullptr) {
    if (p.column_tiles * kTileColumns > 8 * cuda::kTokenPieces * cuda::kDecodeThreads) return std::nullopt;
  } else {
    constexpr int64_t kMost = int64_t{4} * cuda::kTokenFours * cuda::kDecodeThreads;
    if (p.columns % kTileColumns != 0 || int64_t{p.input_rows} * p.columns > kMost) return std::nullopt;
  }
  const int slots = cuda::TokenSlots(weight.format.levels, p.work, p.slots);
  const auto layout = cuda::DecodeTokenLayoutOf(p, tiles, slots, cuda::TokenSlotBytes(weight.format.levels));
  return layout.total_bytes <= limits.shared_bytes ? std::optional(layout) : std::nullopt;
}

// Settles the launch shape. One block an SM; the blocks of a part get its units evenly, so sizes differ by one at most.
// `units`: of the parts, or of all experts together.
void Launch(DecodeParams& p, const DecodeMatrix& weight, std::span<const int32_t> units, int64_t input_rows, int64_t grid_tokens,
            const DecodeStream& stream) {
  const DeviceLimits limits = LimitsOfDevice();
  const Shares shares = ShareBlocks(p, units, limits.multiprocessors);
  p.slots = cuda::DecodeSlots(weight.format.levels, limits.major < 12);
  const int virtual_per_unit = p.work == DecodeWork::kGateUp ? 2 : p.work == DecodeWork::kDown ? p.all : 1;
  p.library_bytes = p.parts[0].library != nullptr ? quant::kLibrarySize * CodebookStride(weight.format.levels) : 0;
  int token_tiles = p.tokens > 8 ? 4 : p.tokens > cuda::kColumnPairTokens ? 2 : 1;
  const auto fit_batch = [&] {
    int batch_tiles = std::max(kBatchTiles / std::max(1, p.tokens / 4), virtual_per_unit);
    for (;; batch_tiles /= 2) {
      p.batch_units = std::clamp(batch_tiles / virtual_per_unit, 1, shares.most_units);
      const int batches = (shares.most_units + p.batch_units - 1) / p.batch_units;
      p.batch_units = (shares.most_units + batches - 1) / batches;
      p.virtual_tiles = p.batch_units * virtual_per_unit;
      if (p.batch_units == 1 || cuda::DecodeSharedOf(p).total <= limits.shared_bytes) break;
    }
    return cuda::DecodeSharedOf(p).total <= limits.shared_bytes;
  };
  p.input_rows = static_cast<int32_t>(input_rows);
  const auto leaves_room = [&] {
    p.virtual_tiles = std::min(kLeastBatchTiles, shares.most_units);
    return cuda::DecodeSharedOf(p).total <= limits.shared_bytes;
  };
  const bool by_l2 = p.work == DecodeWork::kMatmul && p.rounded != nullptr && token_tiles > 1 && !leaves_room();
  if (by_l2 || !fit_batch()) {
    HPROC_CHECK(p.rounded != nullptr, "activations and sums of a decode product fit into shared memory");
    HPROC_CHECK(p.work == DecodeWork::kMatmul, "activations of experts fit into shared memory");
    p.input_rows = 0;  // through the L2 then, by the kernel for more tokens
    token_tiles = std::max(token_tiles, 2);
    HPROC_CHECK(fit_batch(), "sums of a decode product fit into shared memory");
  }
  p.at = cuda::DecodeSharedOf(p);
  const dim3 grid(static_cast<unsigned>(shares.blocks), static_cast<unsigned>(grid_tokens));
  const auto token = TokenLayoutOf(p, shares.most_units * virtual_per_unit, weight, limits);
  HPROC_CHECK(token || p.norm.weight == nullptr, "a norm in a product");
  const auto launch = [&]<int kLevels> {
    if (token) {
      p.token = token->at;
      p.pair_reciprocal = cuda::ReciprocalOf(static_cast<uint32_t>(p.column_tiles / 2));
      p.four_reciprocal = cuda::ReciprocalOf(static_cast<uint32_t>(p.column_tiles * kTileColumns / 4));
      return cuda::LaunchDecodeToken<kLevels>(p, token->total_bytes, grid, stream.overlap, stream.stream);
    }
    cuda::LaunchDecode<kLevels>(p, token_tiles, grid, stream.overlap, stream.stream);
  };
  switch (weight.format.levels) {
    case 2: return launch.operator()<2>();
    case 3: return launch.operator()<3>();
    case 4: return launch.operator()<4>();
    case 6: return launch.operator()<6>();
    case 8: return launch.operator()<8>();
    case 12: return launch.operator()<12>();
    case 16: return launch.operator()<16>();
    case 24: return launch.operator()<24>();
    case 32: return launch.operator()<32>();
    case 48: return launch.operator()<48>();
    default: return launch.operator()<64>();
  }
}

}  // namespace

int64_t RoundedRowBytes(int64_t columns) { return 2 * Padded(columns); }

int64_t DecodeWorkspaceBytes(int64_t tokens, int64_t columns) {
  return RoundsOnChip(tokens, columns) ? 0 : RoundedBytes(tokens, columns) + kMaxDecodeTokens * 4;
}

bool CanShareLaunch(const DecodeMatrix& a, const DecodeMatrix& b) {
  return a.columns == b.columns && a.format == b.format && (a.outliers > 0) == (b.outliers > 0);
}

void DecodeMatmul(const DecodeStream& stream, const DecodeMatmulCall& call) { DecodeMatmul(stream, {&call, 1}, nullptr); }

bool CanNormInProduct(const DecodeNorm& norm, std::span<const DecodeMatrix> weights) {
  const auto is_half = [](const Matrix& matrix) { return matrix.storage == Storage::kBfloat16 || matrix.storage == Storage::kFloat16; };
  int64_t rows = 0;
  for (const MatmulCall& product : norm.products) {
    if (!is_half(*product.weight) || product.weight->storage != norm.products.front().weight->storage) return false;
    HPROC_CHECK(product.weight->columns == norm.columns, "columns of a norm");
    rows += product.weight->rows;
  }
  const DecodeMatrix& weight = weights.front();
  HPROC_CHECK(norm.weight->columns == norm.columns && weight.columns == norm.columns, "columns of a norm");
  DecodeParams p = ParamsOf(weight, DecodeWork::kMatmul);
  std::vector<int32_t> units;
  for (const DecodeMatrix& each : weights) units.push_back(static_cast<int32_t>(each.order().row_tiles));
  const DeviceLimits limits = LimitsOfDevice();
  const Shares shares = ShareBlocks(p, units, limits.multiprocessors);
  p.slots = cuda::DecodeSlots(weight.format.levels, limits.major < 12);
  p.input_rows = 1;
  return weight.format.mode == quant::Mode::kV2 && is_half(*norm.weight) && norm.products.size() <= std::size(p.norm.plain) &&
         rows <= shares.blocks && weight.columns <= int64_t{4} * cuda::kNormFours * cuda::kDecodeThreads &&
         TokenLayoutOf(p, shares.most_units, weight, limits).has_value();
}

namespace {

void MatmulOf(const DecodeStream& stream, const DecodeNorm* norm, std::span<const DecodeMatmulCall> calls,
              const CausalConvCall* convolution) {
  HPROC_CHECK(!calls.empty() && calls.size() <= kMostDecodeProducts, "products of a launch");
  const DecodeMatmulCall& call = calls.front();
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.input_stride % 4 == 0 && call.input_stride >= call.weight.columns, "input stride");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kMatmul);
  std::vector<int32_t> units;
  for (const DecodeMatmulCall& each : calls) {
    HPROC_CHECK(each.output_stride >= each.weight.rows, "output stride");
    HPROC_CHECK(CanShareLaunch(call.weight, each.weight) && each.input == call.input && each.tokens == call.tokens &&
                    each.accumulate == call.accumulate, "products of a launch");
    DecodePart& part = p.parts[units.size()];
    part = PartOf(each.weight);
    part.rows = static_cast<int32_t>(each.weight.rows);
    part.output = each.output;
    part.output_stride = each.output_stride;
    units.push_back(static_cast<int32_t>(each.weight.order().row_tiles));
  }
  p.tokens = static_cast<int32_t>(call.tokens);
  p.input = call.input;
  p.input_stride = call.input_stride;
  p.accumulate = call.accumulate;
  if (convolution != nullptr) {
    HPROC_CHECK(convolution->kernel >= 1 && convolution->kernel <= kMaxDecodeTaps, "taps of a convolution");
    p.convolution = {.runs = convolution->runs.data(),
                     .weight = convolution->weight->data,
                     .storage = convolution->weight->storage,
                     .kernel = static_cast<int32_t>(convolution->kernel),
                     .channels = convolution->channels,
                     .state = convolution->state};
  }
  if (norm != nullptr) {
    HPROC_CHECK(call.tokens == 1, "a norm in a product");
    p.input = norm->input;
    p.norm = {.added = norm->added, .sum = norm->sum, .weight = norm->weight->data, .storage = norm->weight->storage,
              .plain_storage = norm->products.empty() ? Storage::kBfloat16 : norm->products.front().weight->storage,
              .offset = norm->offset, .epsilon = norm->epsilon, .plain = {}, .output = norm->output,
              .rounded = reinterpret_cast<int8_t*>(norm->rounded), .scale = norm->scale};
    for (size_t i = 0; i < norm->products.size(); ++i) {
      const MatmulCall& product = norm->products[i];
      p.norm.plain[i] = {.weight = product.weight->data, .output = product.output, .rows = static_cast<int32_t>(product.weight->rows)};
    }
  } else if (call.rounded.values != nullptr) {
    p.rounded = reinterpret_cast<const int8_t*>(call.rounded.values);
    p.rounded_scales = call.rounded.scales;
  } else if (!RoundsOnChip(call.tokens, call.weight.columns)) {
    HPROC_CHECK(stream.workspace != nullptr, "workspace of a decode product");
    auto* scales = reinterpret_cast<float*>(stream.workspace);
    auto* rounded = reinterpret_cast<int8_t*>(stream.workspace) + kMaxDecodeTokens * 4;
    cuda::LaunchRoundActivations(call.input, call.input_stride, p.tokens, p.columns,
                                 static_cast<int32_t>(Padded(p.columns)), rounded, scales, stream.overlap, stream.stream);
    p.rounded = rounded;
    p.rounded_scales = scales;
  }
  p.weights_first = stream.overlap;
  Launch(p, call.weight, units, call.tokens, 1, stream);
}

}  // namespace

void DecodeMatmul(const DecodeStream& stream, std::span<const DecodeMatmulCall> calls, const CausalConvCall* convolution) {
  MatmulOf(stream, nullptr, calls, convolution);
}
void DecodeNormedMatmul(const DecodeStream& stream, const DecodeNorm& norm, std::span<const DecodeMatmulCall> calls,
                        const CausalConvCall* convolution) {
  MatmulOf(stream, &norm, calls, convolution);
}

void DecodeGateUp(const DecodeStream& stream, const DecodeGateUpCall& call) {
  const bool shared = call.shared_gate != nullptr;
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.top >= 0 && call.top + shared >= 1 && call.top + shared <= kMaxDecodeTop, "experts of a token");
  HPROC_CHECK(call.input_stride % 4 == 0 && call.input_stride >= call.weight.columns, "input stride");
  HPROC_CHECK(call.width % kTileRows == 0 && (call.top == 0 || call.weight.rows % (2 * call.width) == 0), "width of an expert");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kGateUp);
  DecodePart& routed = p.parts[0];
  routed.rows = static_cast<int32_t>(call.width);
  routed.output = call.output;
  p.top = static_cast<int32_t>(call.top);
  p.all = p.top + shared;
  p.expert_tiles = static_cast<int32_t>(call.width / kTileRows);
  routed.second_tiles = int64_t{p.row_tile_bytes} * p.expert_tiles;
  routed.second_records = int64_t{p.record_bytes} * p.expert_tiles;
  if (shared) {
    HPROC_CHECK(CanShareLaunch(call.weight, *call.shared_gate) && CanShareLaunch(call.weight, *call.shared_up) &&
                    call.weight.format.mode == quant::Mode::kV2 && call.shared_gate->rows == call.width &&
                    call.shared_up->rows == call.width, "a shared expert beside the routed ones");
    DecodePart& part = p.parts[1];
    const DecodePart up = PartOf(*call.shared_up);
    part = PartOf(*call.shared_gate);
    part.second_tiles = up.tiles - part.tiles;
    part.second_records = up.records - part.records;
    part.second_outlier_columns = up.outlier_columns;
    part.second_outlier_values = up.outlier_values;
    part.output = call.shared_output;
  }
  p.experts = call.experts;
  p.input = call.input;
  p.input_stride = call.input_stride;
  p.rounded = reinterpret_cast<const int8_t*>(call.rounded.values);
  p.rounded_scales = call.rounded.scales;
  const int32_t units = p.all * p.expert_tiles;
  Launch(p, call.weight, {&units, 1}, 1, call.tokens, stream);
}

void DecodeDown(const DecodeStream& stream, const DecodeDownCall& call) {
  const bool shared = call.shared != nullptr;
  HPROC_CHECK(call.tokens >= 1 && call.tokens <= kMaxDecodeTokens, "tokens of a decode product");
  HPROC_CHECK(call.top >= 0 && call.top + shared >= 1 && call.top + shared <= kMaxDecodeTop, "experts of a token");
  HPROC_CHECK(call.weight.columns % 4 == 0, "width of an expert");
  HPROC_CHECK(call.hidden % kTileRows == 0 && call.weight.rows % call.hidden == 0, "rows of an expert");
  DecodeParams p = ParamsOf(call.weight, DecodeWork::kDown);
  DecodePart& routed = p.parts[0];
  routed.rows = static_cast<int32_t>(call.hidden);
  routed.output = call.output;
  routed.output_stride = call.hidden;
  p.top = static_cast<int32_t>(call.top);
  p.all = p.top + shared;
  p.expert_tiles = static_cast<int32_t>(call.hidden / kTileRows);
  if (shared) {
    HPROC_CHECK(CanShareLaunch(call.weight, *call.shared) && call.weight.format.mode == quant::Mode::kV2 &&
                    call.shared->rows == call.hidden, "a shared expert beside the routed ones");
    p.parts[1] = PartOf(*call.shared);
    p.shared_input = call.shared_input;
    p.shared_gate = call.shared_gate;
  }
  p.experts = call.experts;
  p.route_weights = call.route_weights;
  p.input = call.input;
  p.input_stride = call.weight.columns;
  p.accumulate = call.accumulate;
  p.weights_first = stream.overlap && call.experts_known;
  const int32_t units = p.expert_tiles;
  Launch(p, call.weight, {&units, 1}, p.all, call.tokens, stream);
}

}  // namespace hproc::kernels
