#include "kernels/cuda/backend.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/op_kernels.h"
#include "kernels/decode.h"
#include "kernels/prefill.h"

namespace hproc::kernels {
namespace {

// In front of the workspace: counters of blocks that meet, zero between launches.
constexpr int64_t kCounterBytes = 256;
static_assert(kCounterBytes >= kMostProjectedRows * static_cast<int64_t>(sizeof(unsigned)));

RoundedRows RoundedOf(const Activations& input, int64_t first) {
  if (!input.rounded || input.tokens > kMaxDecodeTokens) return {};
  return {.values = reinterpret_cast<const std::byte*>(input.quantized) + first * RoundedRowBytes(input.columns),
          .scales = input.scales + first};
}

// What prompts take of the workspace while experts run, from `at` on: tiles, rows sorted by expert, and what outliers read.
struct SortedPlaces {
  PrefillTile* tiles = nullptr;
  PrefillRows rows;
  int64_t bytes = 0;

  SortedPlaces(std::byte* at, int64_t routes, int64_t experts, int64_t columns, int64_t most_columns) {
    const auto take = [&](int64_t size) {
      std::byte* const place = at + bytes;
      bytes += (size + 255) / 256 * 256;
      return place;
    };
    tiles = reinterpret_cast<PrefillTile*>(take(MostPrefillTiles(routes, experts) * static_cast<int64_t>(sizeof(PrefillTile))));
    rows = {.rows = routes, .columns = columns};
    rows.scales = reinterpret_cast<float*>(take(routes * 4));
    rows.values = take(routes * RoundedRowBytes(columns));
    rows.transposed = reinterpret_cast<int16_t*>(take(routes * most_columns * 2));
  }
};

// What outliers read, in front of expanded weights.
int64_t TransposedBytes(int64_t rows, int64_t columns) { return (rows * columns * 2 + 255) / 256 * 256; }

bool InDecodeOrder(const Matrix& matrix) { return matrix.storage == Storage::kDecodeOrder; }
bool CanShareLaunch(const Matrix& a, const Matrix& b) {
  return InDecodeOrder(a) && InDecodeOrder(b) && kernels::CanShareLaunch(a.decode, b.decode);
}

}  // namespace

int64_t CudaWorkspaceBytes(const CudaPass& pass) {
  int64_t bytes = std::max(cuda::PickGreedyBytes(), cuda::DrawBytes(pass.logit_rows));
  for (int64_t tokens = 1; tokens <= std::min<int64_t>(pass.rows, kMaxDecodeTokens); ++tokens) {
    bytes = std::max(bytes, DecodeWorkspaceBytes(tokens, pass.most_columns));
  }
  if (pass.rows > kMaxDecodeTokens && CanPrefill()) {
    bytes = std::max(bytes, SortedPlaces(nullptr, pass.rows * pass.top, pass.experts, pass.hidden, std::max(pass.hidden, pass.width)).bytes);
    bytes = std::max(bytes, TransposedBytes(pass.rows, pass.most_columns) + pass.expanded_bytes);
  }
  return kCounterBytes + bytes;
}

struct CudaBackend::State {
  explicit State(const CudaDevice& device)
      : current(device.ordinal()), multiprocessors(device.multiprocessors()), can_prefill(CanPrefill()) {}

  // Rows [first, first + n) of every call with at most kMaxDecodeTokens rows: what the decode kernels take at once.
  template <typename Body>
  static void InPieces(int64_t rows, Body&& body) {
    for (int64_t first = 0; first < rows; first += kMaxDecodeTokens) body(first, std::min<int64_t>(kMaxDecodeTokens, rows - first));
  }

  DecodeStream decode() const { return {.stream = behind(), .overlap = true, .workspace = scratch()}; }

  // A norm of one row waits for the product that reads it, to become part of it; whatever else comes first goes behind the norm. What
  // the calls point to on the device, and the matrices, outlive the pass.
  struct WaitingNorm {
    CombineCall combine;
    RmsNormCall norm;
    Activations rounded;  // what norm.rounded points to
    std::vector<MatmulCall> products;

    NormAndProjectCall Call() const {
      NormAndProjectCall call{.combine = combine, .norm = norm, .products = products};
      call.norm.rounded = &rounded;
      return call;
    }
    DecodeNorm InProduct() const {
      const bool adds = combine.residual != nullptr;
      return {.input = adds ? combine.residual : norm.input, .added = adds ? combine.shared : nullptr, .sum = combine.sum, .columns = norm.columns,
              .weight = norm.weight, .offset = norm.weight_offset, .epsilon = norm.epsilon, .products = products, .output = norm.output,
              .rounded = reinterpret_cast<std::byte*>(rounded.quantized), .scale = rounded.scales};
    }
  };
  // Whether the norm waits now.
  bool TryToWait(const NormAndProjectCall& call) const {
    if (call.norm.rows != 1 || call.norm.rounded == nullptr || call.route != nullptr || !cuda::CanNormAndProject(call)) return false;
    behind();
    waiting = {.combine = call.combine, .norm = call.norm, .rounded = *call.norm.rounded,
               .products = {call.products.begin(), call.products.end()}};
    for (MatmulCall& product : waiting->products) product.input = nullptr;  // the norm's row
    return true;
  }
  // Whether products of the waiting norm may make it for themselves: every block of theirs reads what it is made of while others write.
  bool MayTakeNorm(std::span<const MatmulCall> calls) const {
    const MatmulCall& first = calls.front();
    if (!waiting || first.tokens != 1 || first.input->quantized != waiting->rounded.quantized ||
        first.input->columns != waiting->norm.columns) {
      return false;
    }
    const DecodeNorm norm = waiting->InProduct();
    const auto is_read = [&](const float* output, int64_t count) {
      const auto overlaps = [&](const float* from) { return from != nullptr && output < from + norm.columns && from < output + count; };
      return overlaps(norm.input) || overlaps(norm.added);
    };
    if (is_read(norm.output, norm.columns)) return false;
    for (const MatmulCall& call : calls) {
      if (is_read(call.output, call.rows)) return false;
    }
    for (const MatmulCall& product : waiting->products) {
      if (is_read(product.output, product.rows)) return false;
    }
    std::vector<DecodeMatrix> weights;
    for (const MatmulCall& call : calls) weights.push_back(call.weight->decode);
    return CanNormInProduct(norm, weights);
  }
  // The stream, a waiting norm launched: behind all that was asked for.
  cudaStream_t behind() const {
    if (waiting) {
      const WaitingNorm norm = *std::exchange(waiting, std::nullopt);
      cuda::LaunchNormAndProject(norm.Call(), counters().data(), stream.get());
    }
    return stream.get();
  }

  static DecodeMatmulCall ProductOf(const MatmulCall& call, int64_t first, int64_t tokens) {
    return {.weight = call.weight->decode, .input = call.input->values + first * call.input->columns,
            .input_stride = call.input->columns, .rounded = RoundedOf(*call.input, first), .tokens = tokens,
            .output = call.output + first * call.output_stride, .output_stride = call.output_stride};
  }

  // Products in decode order that share launches; the first of them with `convolution`, where given.
  void Decode(std::span<const MatmulCall> calls, const CausalConvCall* convolution) const {
    HPROC_CHECK(convolution == nullptr || calls.front().tokens <= kMaxDecodeTokens, "a convolution of one launch");
    if (MayTakeNorm(calls)) {
      const WaitingNorm norm = *std::exchange(waiting, std::nullopt);
      std::vector<DecodeMatmulCall> products;
      for (const MatmulCall& call : calls) products.push_back(ProductOf(call, 0, 1));
      return DecodeNormedMatmul(decode(), norm.InProduct(), products, convolution);
    }
    InPieces(calls.front().tokens, [&](int64_t first, int64_t tokens) {
      std::vector<DecodeMatmulCall> products;
      for (const MatmulCall& call : calls) {
        products.push_back(ProductOf(call, first, tokens));
      }
      DecodeMatmul(decode(), products, convolution);
    });
  }

  void Routed(const ExpertsCall& call, bool with_shared_gate_up, bool with_shared_down) const;
  void PrefillRouted(const ExpertsCall& call) const;

  // Whether a pass of so many rows goes through the prefill kernels.
  bool Prefills(int64_t rows) const { return can_prefill && rows > kMaxDecodeTokens; }
  std::span<unsigned> counters() const { return {reinterpret_cast<unsigned*>(workspace.data()), kCounterBytes / sizeof(unsigned)}; }
  std::byte* scratch() const { return workspace.data() + kCounterBytes; }

  // An input of products as the prefill kernels read it, rounded now unless its maker did.
  PrefillRows PrefillRowsOf(const Activations& input, bool has_outliers, int16_t* transposed) const {
    PrefillRows rows{.values = reinterpret_cast<std::byte*>(input.quantized), .scales = input.scales, .rows = input.tokens,
                     .columns = input.columns, .transposed = has_outliers ? transposed : nullptr};
    if (!input.rounded) RoundPrefillRows(behind(), input.values, input.columns, nullptr, rows);
    if (has_outliers) TransposePrefillRows(behind(), rows);
    return rows;
  }

  // Products in decode order of one input.
  void Prefill(std::span<const MatmulCall> calls) const {
    const bool outliers = std::ranges::any_of(calls, [](const MatmulCall& call) { return call.weight->decode.outliers > 0; });
    const PrefillRows rows = PrefillRowsOf(*calls.front().input, outliers, reinterpret_cast<int16_t*>(scratch()));
    const std::span<std::byte> room = workspace.subspan(static_cast<size_t>(kCounterBytes + (outliers ? TransposedBytes(rows.rows, rows.columns) : 0)));
    for (const MatmulCall& call : calls) {
      const DecodeMatrix& weight = call.weight->decode;
      const int64_t expanded = std::min<int64_t>(PrefillScratchBytes(rows.rows, weight.rows, weight.columns), std::ssize(room));
      PrefillMatmul(behind(), {.weight = weight, .input = rows, .output = call.output, .output_stride = call.output_stride,
                                   .scratch = room.first(static_cast<size_t>(expanded))});
    }
  }

  // For the stream; a device that adds up with others waits for them, too, and they may be gone.
  void Wait() const {
    if (ranks == nullptr) return stream.Wait();
    const auto start = std::chrono::steady_clock::now();
    auto last_check = start;
    for (;;) {
      const cudaError_t code = cudaStreamQuery(stream.get());
      if (code != cudaErrorNotReady) return CheckCuda(code, "cudaStreamQuery", __FILE__, __LINE__);
      const auto now = std::chrono::steady_clock::now();
      constexpr std::chrono::milliseconds kBetween{20};
      if (now - last_check < kBetween) continue;  // a step takes less: the host has nothing else to do
      last_check = now;
      try {
        check(std::chrono::duration_cast<std::chrono::milliseconds>(now - start));
      } catch (...) {
        ranks->Abort();
        throw;
      }
    }
  }

  ScopedDevice current;
  int multiprocessors;
  bool can_prefill;
  std::unique_ptr<NcclRanks> ranks;
  std::function<void(std::chrono::milliseconds)> check;
  Stream stream;
  std::span<std::byte> workspace;
  mutable std::optional<WaitingNorm> waiting;
  std::map<int64_t, std::optional<Graph>> graphs;  // by key; empty after the first time
};

CudaBackend::CudaBackend(const CudaDevice& device) : state_(std::make_unique<State>(device)) {}
CudaBackend::~CudaBackend() = default;

void CudaBackend::Upload(void* to, std::span<const std::byte> from) {
  if (from.empty()) return;
  // From pageable memory: staged before it returns.
  HPROC_CUDA_CHECK(cudaMemcpyAsync(to, from.data(), from.size(), cudaMemcpyHostToDevice, state_->behind()));
}

void CudaBackend::Download(std::span<std::byte> to, const void* from) {
  HPROC_CUDA_CHECK(cudaMemcpyAsync(to.data(), from, to.size(), cudaMemcpyDeviceToHost, state_->behind()));
  state_->Wait();
}

void CudaBackend::Zero(void* data, int64_t bytes) {
  if (bytes > 0) HPROC_CUDA_CHECK(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), state_->behind()));
}

void CudaBackend::Replay(int64_t key, FunctionRef<void()> body) {
  const auto [at, is_first] = state_->graphs.try_emplace(key);
  state_->behind();
  const auto whole = [&] {
    try {
      body();
      state_->behind();
    } catch (...) {
      state_->waiting.reset();
      throw;
    }
  };
  if (is_first) return whole();
  if (!at->second) at->second.emplace(state_->stream, whole);
  at->second->Launch(state_->stream);
}

void CudaBackend::UseWorkspace(std::span<std::byte> workspace) {
  state_->graphs.clear();
  state_->waiting.reset();
  state_->workspace = workspace;
  Zero(workspace.data(), std::min<int64_t>(kCounterBytes, static_cast<int64_t>(workspace.size())));
}

void CudaBackend::Matmul(std::span<const MatmulCall> calls) {
  for (const MatmulCall& call : calls) {
    HPROC_CHECK(call.rows == call.weight->rows && call.input_tokens == nullptr && call.output_rows == nullptr,
                "whole products on a device");
  }
  while (!calls.empty()) {
    const MatmulCall& call = calls.front();
    size_t count = 1;
    const bool decodes = InDecodeOrder(*call.weight);
    const bool prefills = decodes && state_->Prefills(call.tokens);
    const auto joins = [&](const MatmulCall& next) {
      if (next.tokens != call.tokens) return false;
      if (prefills) return next.input == call.input && InDecodeOrder(*next.weight);
      if (decodes) return next.input == call.input && CanShareLaunch(*call.weight, *next.weight);
      return next.weight->storage == call.weight->storage;
    };
    const size_t most = std::min(calls.size(), decodes ? kMostDecodeProducts : cuda::kMostRowProducts);
    while (count < most && joins(calls[count])) ++count;
    if (prefills) {
      state_->Prefill(calls.first(count));
    } else if (decodes) {
      state_->Decode(calls.first(count), nullptr);
    } else {
      cuda::LaunchRowMatmul(calls.first(count), state_->behind());
    }
    calls = calls.subspan(count);
  }
}

// The routed experts, some of the shared one's products in the same launches.
void CudaBackend::State::Routed(const ExpertsCall& call, bool with_shared_gate_up, bool with_shared_down) const {
  const SharedExpert& shared = call.shared;
  const int64_t columns = call.columns;
  if (InDecodeOrder(*call.gate_up)) {
    InPieces(call.rows, [&](int64_t first, int64_t tokens) {
      DecodeGateUp(decode(), {.weight = call.gate_up->decode, .width = call.width,
                              .input = call.input->values + first * columns, .input_stride = columns,
                              .rounded = RoundedOf(*call.input, first), .tokens = tokens, .top = call.top,
                              .experts = call.chosen + first * call.top,
                              .output = call.hidden.values + first * call.top * call.width,
                              .shared_gate = with_shared_gate_up ? &shared.gate->decode : nullptr,
                              .shared_up = with_shared_gate_up ? &shared.up->decode : nullptr,
                              .shared_output = with_shared_gate_up ? shared.hidden.values + first * shared.width : nullptr});
    });
  } else {
    cuda::LaunchRowExpertsGateUp(call, behind());
  }
  if (InDecodeOrder(*call.down)) {
    InPieces(call.rows, [&](int64_t first, int64_t tokens) {
      const bool weighted = with_shared_down && shared.weight != nullptr;
      DecodeDown(decode(), {.weight = call.down->decode, .hidden = columns,
                            .input = call.hidden.values + first * call.top * call.width, .tokens = tokens, .top = call.top,
                            .experts = call.chosen + first * call.top, .route_weights = call.weights + first * call.top,
                            .shared = with_shared_down ? &shared.down->decode : nullptr,
                            .shared_input = with_shared_down ? shared.hidden.values + first * shared.width : nullptr,
                            .shared_gate = weighted ? shared.weight + first : nullptr,
                            .output = call.output + first * columns,
                            .experts_known = InDecodeOrder(*call.gate_up) && call.rows <= kMaxDecodeTokens});
    });
  } else {
    cuda::LaunchRowExpertsDown(call, behind());
  }
}

// Many rows: the routes sorted by expert, so that an expert's weights are read once for all of its rows.
void CudaBackend::State::PrefillRouted(const ExpertsCall& call) const {
  const int64_t routes = call.rows * call.top;
  const bool outliers = call.gate_up->decode.outliers > 0 || call.down->decode.outliers > 0;
  SortedPlaces places(scratch(), routes, call.experts, call.columns, std::max(call.columns, call.width));
  SortRoutes(behind(), call.chosen, routes, call.top, call.experts, call.list_tokens, call.list_rows, places.tiles);
  int16_t* const transposed = places.rows.transposed;
  if (!outliers) places.rows.transposed = nullptr;
  RoundPrefillRows(behind(), call.input->values, call.columns, call.list_tokens, places.rows);
  if (outliers) TransposePrefillRows(behind(), places.rows);
  PrefillGateUp(behind(), {.weight = call.gate_up->decode, .width = call.width, .experts = call.experts, .input = places.rows,
                               .tiles = places.tiles, .output = call.hidden.values});
  PrefillDown(behind(), {.weight = call.down->decode, .hidden = call.columns, .experts = call.experts,
                             .input = PrefillRowsOf(call.hidden, outliers, transposed), .tiles = places.tiles,
                             .route_of = call.list_rows, .output = call.routed});
}

void CudaBackend::Experts(const ExpertsCall& call) {
  const SharedExpert& shared = call.shared;
  if (state_->Prefills(call.rows) && InDecodeOrder(*call.gate_up) && InDecodeOrder(*call.down)) {
    // The room of the shared expert's gate and up may be that of the routed results: they are done with before.
    if (shared.width > 0) {
      const MatmulCall both[] = {WholeProduct(*shared.gate, *call.input, shared.gate_output),
                                 WholeProduct(*shared.up, *call.input, shared.up_output)};
      Matmul(both);
      SwiGlu({.gate = shared.gate_output, .up = shared.up_output, .input_stride = shared.width, .output = shared.hidden.values,
              .rows = call.rows, .columns = shared.width});
    }
    state_->PrefillRouted(call);
    CombineCall combine{.residual = call.output, .routed = call.routed, .weights = call.weights, .top = call.top, .rows = call.rows,
                        .columns = call.columns};
    if (shared.width > 0) {
      const MatmulCall down = WholeProduct(*shared.down, shared.hidden, shared.output);
      Matmul({&down, 1});
      combine.shared = shared.output;
      combine.shared_gate = shared.weight;
    }
    Zero(call.output, call.rows * call.columns * 4);
    return Combine(combine);
  }
  if (shared.width == 0) return state_->Routed(call, false, false);
  // Whether the shared expert is one more of the routed ones to both launches, or at least its own gate and up share one.
  const bool fits_up = CanShareLaunch(*shared.gate, *shared.up) && shared.gate->decode.format.mode == quant::Mode::kV2 &&
                       shared.width % kTileRows == 0;
  const bool joins = fits_up && CanShareLaunch(*call.gate_up, *shared.gate) && CanShareLaunch(*call.down, *shared.down) &&
                     shared.down->decode.format.mode == quant::Mode::kV2 && shared.width == call.width && call.top < kMaxDecodeTop;
  if (joins) return state_->Routed(call, true, true);
  // Its own way first, so that the routed ones' hidden rows are not waited for.
  if (fits_up) {
    State::InPieces(call.rows, [&](int64_t first, int64_t tokens) {
      DecodeGateUp(state_->decode(), {.weight = shared.gate->decode, .width = shared.width,
                                      .input = call.input->values + first * call.columns, .input_stride = call.columns,
                                      .rounded = RoundedOf(*call.input, first), .tokens = tokens,
                                      .shared_gate = &shared.gate->decode, .shared_up = &shared.up->decode,
                                      .shared_output = shared.hidden.values + first * shared.width});
    });
  } else {
    const MatmulCall both[] = {WholeProduct(*shared.gate, *call.input, shared.gate_output),
                               WholeProduct(*shared.up, *call.input, shared.up_output)};
    Matmul(both);
    SwiGlu({.gate = shared.gate_output, .up = shared.up_output, .input_stride = shared.width, .output = shared.hidden.values,
            .rows = call.rows, .columns = shared.width});
  }
  state_->Routed(call, false, false);
  if (InDecodeOrder(*shared.down) && shared.down->decode.format.mode == quant::Mode::kV2 && call.columns % kTileRows == 0 &&
      shared.width % 4 == 0) {
    State::InPieces(call.rows, [&](int64_t first, int64_t tokens) {
      DecodeDown(state_->decode(), {.weight = shared.down->decode, .hidden = call.columns, .tokens = tokens,
                                    .shared = &shared.down->decode,
                                    .shared_input = shared.hidden.values + first * shared.width,
                                    .shared_gate = shared.weight != nullptr ? shared.weight + first : nullptr,
                                    .output = call.output + first * call.columns, .accumulate = true});
    });
    return;
  }
  const MatmulCall down = WholeProduct(*shared.down, shared.hidden, shared.output);
  Matmul({&down, 1});
  Combine({.residual = call.output, .shared = shared.output, .shared_gate = shared.weight, .rows = call.rows,
           .columns = call.columns});
}

void CudaBackend::GatedDeltaNet(const GatedDeltaCall& call) {
  const std::span<const MatmulCall> projections = call.projections;
  const bool steps = call.rule.rows == static_cast<int64_t>(call.rule.runs.size());  // one token of each sequence
  const bool convolves = steps && call.rule.rows <= kMaxDecodeTokens && InDecodeOrder(*projections[0].weight);
  if (convolves) {
    const size_t count = CanShareLaunch(*projections[0].weight, *projections[1].weight) ? 2 : 1;
    state_->Decode(projections.first(count), &call.convolution);
    if (count == 1) Matmul(projections.subspan(1, 1));
  } else {
    Matmul(projections.first(2));
    CausalConvSilu(call.convolution);
  }
  Matmul(projections.subspan(2));
  if (steps && cuda::CanStepDelta(call.rule)) return cuda::LaunchDeltaStep(call.rule, call.norm, state_->behind());
  GatedDeltaRule(call.rule);
  GatedRmsNorm(call.norm);
}

void CudaBackend::NormAndProject(const NormAndProjectCall& call) {
  if (state_->TryToWait(call)) return;
  if (cuda::CanNormAndProject(call)) {
    return cuda::LaunchNormAndProject(call, state_->counters().data(), state_->behind());
  }
  CombineAndNorm(call.combine, call.norm);
  Matmul(call.products);
  if (call.route != nullptr) Route(*call.route);
}

void CudaBackend::Attend(const AttendCall& call) {
  cuda::LaunchAttend(call, state_->behind());
}

void CudaBackend::EmbedTokens(const EmbedCall& call) { cuda::LaunchEmbedTokens(call, state_->behind()); }
void CudaBackend::AddBias(const BiasCall& call) { cuda::LaunchAddBias(call, state_->behind()); }
void CudaBackend::RmsNorm(const RmsNormCall& call) { CombineAndNorm({}, call); }
void CudaBackend::CombineAndNorm(const CombineCall& combine, const RmsNormCall& norm) {
  if (state_->TryToWait({.combine = combine, .norm = norm, .products = {}})) return;
  RmsNormCall call = norm;
  if (call.rows > kMaxDecodeTokens) call.rounded = nullptr;  // see RoundedOf
  cuda::LaunchRmsNorm(call, combine, state_->behind());
  if (norm.rounded == nullptr || !state_->Prefills(norm.rows)) return;
  Activations once = *norm.rounded;
  once.rounded = false;
  state_->PrefillRowsOf(once, false, nullptr);
}
void CudaBackend::GatedRmsNorm(const GatedRmsNormCall& call) { cuda::LaunchGatedRmsNorm(call, state_->behind()); }
void CudaBackend::RotaryAngles(const RotaryCall& call) { cuda::LaunchRotaryAngles(call, state_->behind()); }
void CudaBackend::Rotate(const RotateCall& call) { cuda::LaunchRotate(call, state_->behind()); }
void CudaBackend::StoreKeysValues(const StoreKvCall& call) { cuda::LaunchStoreKeysValues(call, state_->behind()); }
void CudaBackend::PrepareHeads(const PrepareHeadsCall& call) { cuda::LaunchPrepareHeads(call, state_->behind()); }
void CudaBackend::CausalConvSilu(const CausalConvCall& call) { cuda::LaunchCausalConvSilu(call, state_->behind()); }
void CudaBackend::GatedDeltaRule(const DeltaRuleCall& call) { cuda::LaunchGatedDeltaRule(call, state_->behind()); }
void CudaBackend::Route(const RouteCall& call) { cuda::LaunchRoute(call, state_->behind()); }
void CudaBackend::SwiGlu(const SwiGluCall& call) { cuda::LaunchSwiGlu(call, state_->behind()); }
void CudaBackend::SigmoidGate(const SigmoidGateCall& call) { cuda::LaunchSigmoidGate(call, state_->behind()); }
void CudaBackend::PickGreedy(const GreedyCall& call) {
  cuda::LaunchPickGreedy(call, state_->scratch(), state_->counters(), state_->behind());
}
void CudaBackend::DrawTokens(const DrawCall& call) {
  cuda::LaunchDrawTokens(call, state_->scratch(), state_->counters(), state_->multiprocessors, state_->behind());
}
void CudaBackend::AllReduceSum(float* values, int64_t count) {
  HPROC_CHECK(state_->ranks != nullptr, "ranks to add up with");
  state_->ranks->AllReduceSum(values, count, state_->behind());
}

void CudaBackend::JoinRanks(std::unique_ptr<NcclRanks> ranks, std::function<void(std::chrono::milliseconds)> check) {
  state_->ranks = std::move(ranks);
  state_->check = std::move(check);
}

void CudaBackend::Combine(const CombineCall& call) { cuda::LaunchCombine(call, state_->behind()); }

}  // namespace hproc::kernels
