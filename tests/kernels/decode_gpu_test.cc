#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "kernels/prefill.h"
#include "tests/kernels/decode_gpu_fixture.h"

namespace hproc::kernels {
namespace {

class DecodeGpuFormats : public DecodeGpu, public testing::WithParamInterface<std::tuple<Mode, int>> {};

TEST_P(DecodeGpuFormats, MatchesTheReferenceAtTailsGroupsAndTokenCounts) {
  const auto [mode, levels] = GetParam();
  for (const int64_t columns : {1, 100, 128, 384, 1000}) {
    const Weight weight(53, columns, {.mode = mode, .levels = levels}, columns > 200 ? 9 : 0, 5);
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16}) ExpectProduct(weight, tokens, 7);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, DecodeGpuFormats,
                         testing::Combine(testing::Values(Mode::kV2, Mode::kV2a), testing::ValuesIn(quant::kLevelCounts)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == Mode::kV2 ? "V2" : "V2a") + "K" +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST_F(DecodeGpu, MatchesTheReferenceAtEveryTokenCount) {
  const Weight weight(200, 640, {.mode = Mode::kV2, .levels = 8}, 6, 1);
  for (int64_t tokens = 1; tokens <= kMaxDecodeTokens; ++tokens) ExpectProduct(weight, tokens, 3);
}

TEST_F(DecodeGpu, RoundsManyTokensOfLongRowsInAKernelOfTheirOwn) {
  const Weight weight(100, 4200, {.mode = Mode::kV2a, .levels = 16}, 20, 1);  // u16 outlier counts
  ASSERT_GT(DecodeWorkspaceBytes(16, 4200), 0);
  for (const int64_t tokens : {1, 7, 16}) ExpectProduct(weight, tokens, 3);
}

TEST_F(DecodeGpu, ReadsOutlierColumnsBeyondSixteenBits) {
  const Weight weight(20, 70000, {.mode = Mode::kV2, .levels = 4}, 30, 1);
  for (const int64_t tokens : {1, 3}) ExpectProduct(weight, tokens, 3);
}

TEST_F(DecodeGpu, TakesManyRowTilesInBatches) {
  // More row tiles a multiprocessor than a batch has, at eight and at sixteen tokens.
  const Weight weight(132 * 8 * 70 + 5, 256, {.mode = Mode::kV2, .levels = 4}, 2, 1);
  for (const int64_t tokens : {1, 16}) ExpectProduct(weight, tokens, 3);
}

TEST_F(DecodeGpu, GivesATokenTheSameBitsAloneAndAmongOthers) {
  const Weight weight(300, 512, {.mode = Mode::kV2, .levels = 16}, 5, 1);
  const std::vector<float> x = RandomFloats(16 * 512, 2, 4);
  const std::vector<float> all = Product(weight, x, 16);
  for (int64_t t = 0; t < 16; ++t) {
    const std::vector<float> alone = Product(weight, {x.begin() + t * 512, x.begin() + (t + 1) * 512}, 1, true);
    for (size_t r = 0; r < 300; ++r)
      ASSERT_EQ(alone[r], all[static_cast<size_t>(t) * 300 + r]) << "token " << t << " row " << r;
  }
}

// Up to two tokens, codebooks that can be are looked up in pairs (PairTables), more tokens otherwise. Few rows, so that a block has
// few codebooks and finds pairs for all of them; and odd numbers of column tiles.
TEST_F(DecodeGpu, FittedCodebooksOfSixteenLevelsGiveTheBitsOfAnyOther) {
  for (const int64_t columns : {512, 640, 2304}) {
    const Weight weight(1500, columns, {.mode = Mode::kV2, .levels = 16}, 5, 1, true);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(5 * columns), 2, 4);
    const std::vector<float> all = Product(weight, x, 5);
    ExpectProduct(weight, 1, 9);
    for (int64_t t = 0; t < 4; ++t) {
      const int64_t tokens = t % 2 + 1;
      const std::vector<float> few = Product(weight, {x.begin() + t * columns, x.begin() + (t + tokens) * columns}, tokens, true);
      for (size_t i = 0; i < few.size(); ++i) {
        ASSERT_EQ(few[i], all[static_cast<size_t>(t) * 1500 + i]) << columns << " columns, token " << t << ", " << i;
      }
    }
  }
}

TEST_F(DecodeGpu, ShowsNonFiniteInputsAndKeepsZeros) {
  const Weight weight(40, 256, {.mode = Mode::kV2, .levels = 8}, 0, 1);
  std::vector<float> x(3 * 256, 0);
  x[256 + 17] = std::numeric_limits<float>::quiet_NaN();
  x[512 + 3] = std::numeric_limits<float>::infinity();
  const std::vector<float> y = Product(weight, x, 3);
  for (size_t r = 0; r < 40; ++r) {
    EXPECT_EQ(y[r], 0);
    EXPECT_FALSE(std::isfinite(y[40 + r])) << r;
    EXPECT_FALSE(std::isfinite(y[80 + r])) << r;
  }
}

TEST_F(DecodeGpu, AddsToTheOutputWhereAsked) {
  for (const int64_t columns : {128, 512}) {
    const Weight weight(17, columns, {.mode = Mode::kV2, .levels = 4}, 0, 1);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(columns), 1, 4);
    const std::vector<float> plain = Product(weight, x, 1);
    const DeviceArray<float> input(x);
    const DeviceArray<float> output(std::vector<float>(17, 2.0f));
    DecodeMatmul({.stream = stream_}, {.weight = weight.matrix,
                                       .input = input.get(),
                                       .input_stride = columns,
                                       .tokens = 1,
                                       .output = output.get(),
                                       .output_stride = 17,
                                       .accumulate = true});
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<float> sum = output.ToHost();
    for (size_t r = 0; r < 17; ++r) EXPECT_EQ(sum[r], 2.0f + plain[r]);
  }
}

TEST_F(DecodeGpu, MatricesOfOneInputShareALaunchAndGiveTheBitsTheyGiveAlone) {
  for (const Mode mode : {Mode::kV2, Mode::kV2a}) {
    for (const int64_t columns : {100, 1000, 5000}) {
      const quant::XfpFormat format{.mode = mode, .levels = 12};
      const int64_t stride = (columns + 3) / 4 * 4;
      std::vector<std::unique_ptr<Weight>> weights;
      for (const int64_t rows : {900, 53, 2000, 8}) weights.push_back(std::make_unique<Weight>(rows, columns, format, 3, 5 + rows));
      for (const int64_t tokens : {1, 3, 16}) {
        const std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * stride), 30, 7);
        const DeviceArray<float> input(x);
        const Rounded rounded(input.get(), tokens, columns, stride, stream_);
        std::vector<std::unique_ptr<DeviceArray<float>>> outputs;
        std::vector<DecodeMatmulCall> calls;
        for (const auto& weight : weights) {
          ASSERT_TRUE(CanShareLaunch(weights[0]->matrix, weight->matrix));
          outputs.push_back(std::make_unique<DeviceArray<float>>(
              std::vector<float>(static_cast<size_t>(tokens * weight->matrix.rows), std::nanf(""))));
          calls.push_back({.weight = weight->matrix, .input = input.get(), .input_stride = stride, .rounded = rounded.rows(),
                           .tokens = tokens, .output = outputs.back()->get(), .output_stride = weight->matrix.rows});
        }
        DecodeMatmul({.stream = stream_, .overlap = true}, calls, nullptr);
        HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
        for (size_t i = 0; i < weights.size(); ++i) {
          EXPECT_EQ(outputs[i]->ToHost(), Product(*weights[i], x, tokens)) << columns << " columns, " << tokens << " tokens, " << i;
        }
      }
    }
  }
}

// The convolution of the first product's rows, each token of a sequence of its own, in the launch of the products.
TEST_F(DecodeGpu, ConvolvesTheFirstProductOfALaunch) {
  constexpr int64_t kRows = 300, kColumns = 512;
  for (const auto& [tokens, taps_a_row] : {std::pair<int64_t, int64_t>{1, 4}, {3, 4}, {1, 1}, {1, kMaxDecodeTaps}, {3, kMaxDecodeTaps}}) {
    const auto history = static_cast<size_t>(taps_a_row - 1);
    const quant::XfpFormat format{.mode = Mode::kV2, .levels = 16};
    const Weight convolved(kRows, kColumns, format, 0, 1);
    const Weight plain(80, kColumns, format, 0, 2);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * kColumns), 1, 3);
    const std::vector<float> state = RandomFloats(4 * kRows * history, 1, 4);
    const std::vector<float> taps = RandomFloats(static_cast<size_t>(kRows * taps_a_row), 1, 5);
    const std::vector<SequenceRun> runs = {{.slot = 2, .first_position = 9, .first_row = 0, .tokens = 1},
                                           {.slot = 0, .first_position = 4, .first_row = 1, .tokens = 1},
                                           {.slot = 3, .first_position = 0, .first_row = 2, .tokens = 1}};
    const DeviceArray<float> input(x), device_state(history > 0 ? state : std::vector<float>(1)), device_taps(taps);
    const DeviceArray<SequenceRun> device_runs(runs);
    const DeviceArray<float> output(static_cast<size_t>(tokens * kRows)), other(static_cast<size_t>(tokens * 80));
    const Matrix weight{.storage = Storage::kFloat32, .rows = 1, .columns = kRows * taps_a_row, .data = device_taps.get(), .xfp = {}, .decode = {}};
    const CausalConvCall convolution{.runs = {device_runs.get(), static_cast<size_t>(tokens)}, .rows = tokens, .values = output.get(),
                                     .channels = kRows, .kernel = taps_a_row, .weight = &weight, .state = device_state.get()};
    const DecodeMatmulCall calls[] = {{.weight = convolved.matrix, .input = input.get(), .input_stride = kColumns, .tokens = tokens,
                                       .output = output.get(), .output_stride = kRows},
                                      {.weight = plain.matrix, .input = input.get(), .input_stride = kColumns, .tokens = tokens,
                                       .output = other.get(), .output_stride = 80}};
    DecodeMatmul({.stream = stream_, .overlap = true}, calls, &convolution);
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<float> products = Product(convolved, x, tokens);
    const std::vector<float> got = output.ToHost();
    const std::vector<float> got_state = device_state.ToHost();
    EXPECT_EQ(other.ToHost(), Product(plain, x, tokens));
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      for (size_t r = 0; r < kRows; ++r) {
        const size_t at = (static_cast<size_t>(runs[t].slot) * kRows + r) * history;
        const float newest = products[t * kRows + r];
        const float* const tap = taps.data() + r * (history + 1);
        double sum = static_cast<double>(tap[history]) * newest;
        for (size_t k = 0; k < history; ++k) sum += static_cast<double>(tap[k]) * state[at + k];
        ASSERT_NEAR(got[t * kRows + r], Silu(sum), 1e-5 * (1 + std::abs(sum))) << t << " " << r;
        for (size_t k = 0; k < history; ++k) ASSERT_EQ(got_state[at + k], k + 1 < history ? state[at + k + 1] : newest) << t << " " << r;
      }
    }
    for (size_t i = kRows * history; i < 2 * kRows * history; ++i) EXPECT_EQ(got_state[i], state[i]) << "slot 1 has no token";
  }
}

struct ExpertCase {
  Mode mode;
  int levels;
  int64_t experts, top, tokens, hidden, width;
  int outliers;
  bool rounded = false;  // whether the tokens are given so
};

class DecodeGpuExperts : public DecodeGpu, public testing::WithParamInterface<ExpertCase> {};

TEST_P(DecodeGpuExperts, MatchTheReference) {
  const ExpertCase& c = GetParam();
  const quant::XfpFormat format{.mode = c.mode, .levels = c.levels};
  const Weight gate_up(c.experts * 2 * c.width, c.hidden, format, c.outliers, 1);
  const Weight down(c.experts * c.hidden, c.width, format, c.outliers / 2, 2);
  const std::vector<float> x = RandomFloats(static_cast<size_t>(c.tokens * c.hidden), 0.05f, 3);
  const std::vector<float> weights = RandomFloats(static_cast<size_t>(c.tokens * c.top), 1, 4);
  std::vector<int32_t> ids(static_cast<size_t>(c.tokens * c.top));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((i * 7 + 3) % static_cast<size_t>(c.experts));

  const DeviceArray<float> input(x), route_weights(weights);
  const DeviceArray<int32_t> experts(ids);
  const DeviceArray<float> inner(std::vector<float>(static_cast<size_t>(c.tokens * c.top * c.width), std::nanf("")));
  const DeviceArray<float> output(std::vector<float>(static_cast<size_t>(c.tokens * c.hidden), std::nanf("")));
  const Rounded rounded(input.get(), c.tokens, c.hidden, c.hidden, stream_);
  // The second kernel reads what the first writes: overlap must not show.
  const DecodeStream stream{.stream = stream_, .overlap = true};
  DecodeGateUp(stream, {.weight = gate_up.matrix,
                        .width = c.width,
                        .input = input.get(),
                        .input_stride = c.hidden,
                        .rounded = c.rounded ? rounded.rows() : RoundedRows{},
                        .tokens = c.tokens,
                        .top = c.top,
                        .experts = experts.get(),
                        .output = inner.get()});
  DecodeDown(stream, {.weight = down.matrix,
                      .hidden = c.hidden,
                      .input = inner.get(),
                      .tokens = c.tokens,
                      .top = c.top,
                      .experts = experts.get(),
                      .route_weights = route_weights.get(),
                      .output = output.get()});
  HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
  const std::vector<float> h = inner.ToHost();
  const std::vector<float> y = output.ToHost();

  for (int64_t i = 0; i < c.tokens * c.top; ++i) {
    const int64_t first = ids[static_cast<size_t>(i)] * 2 * c.width;
    for (int64_t r = 0; r < c.width; ++r) {
      const float* token = x.data() + i / c.top * c.hidden;
      const Expected gate = DotOf(gate_up.container.view, first + r, token);
      const Expected up = DotOf(gate_up.container.view, first + c.width + r, token);
      // silu' stays below 1.1; __expf is good to a few units in the last place of its own result.
      const double tolerance = 1.1 * gate.tolerance * (std::abs(up.value) + up.tolerance) +
                               std::abs(Silu(gate.value)) * up.tolerance +
                               32 * kFloatEpsilon * std::abs(Silu(gate.value) * up.value) + 1e-30;
      ASSERT_NEAR(h[static_cast<size_t>(i * c.width + r)], Silu(gate.value) * up.value, tolerance)
          << "route " << i << " row " << r;
    }
  }
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = 0; r < c.hidden; ++r) {
      Expected sum;
      for (int64_t k = 0; k < c.top; ++k) {
        const int64_t route = t * c.top + k;
        const Expected one =
            DotOf(down.container.view, ids[static_cast<size_t>(route)] * c.hidden + r, h.data() + route * c.width);
        const double w = weights[static_cast<size_t>(route)];
        sum.value += w * one.value;
        sum.tolerance += std::abs(w) * one.tolerance + static_cast<double>(c.top) * kFloatEpsilon * std::abs(w * one.value);
      }
      ASSERT_NEAR(y[static_cast<size_t>(t * c.hidden + r)], sum.value, sum.tolerance) << "token " << t << " row " << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DecodeGpuExperts,
    testing::Values(ExpertCase{Mode::kV2, 8, 5, 3, 1, 384, 136, 4}, ExpertCase{Mode::kV2a, 8, 5, 3, 2, 384, 136, 4},
                    ExpertCase{Mode::kV2, 16, 16, 8, 1, 512, 256, 0}, ExpertCase{Mode::kV2a, 3, 12, 8, 3, 256, 128, 3},
                    ExpertCase{Mode::kV2, 3, 40, 32, 1, 128, 64, 0}, ExpertCase{Mode::kV2, 6, 4, 1, 16, 200, 40, 2},
                    ExpertCase{Mode::kV2, 64, 4, 2, 1, 256, 2304, 2}));

// Whole pairs of column tiles, which have a kernel of their own, at every K.
std::vector<ExpertCase> WholePairs() {
  std::vector<ExpertCase> cases;
  for (const int levels : quant::kLevelCounts) cases.push_back({Mode::kV2, levels, 9, 3, levels % 3 + 1, 512, 512, levels % 2 * 4 + 2, true});
  cases.push_back({Mode::kV2, 16, 40, 31, 1, 1024, 512, 0, true});  // more inputs of down than are rounded on the way
  return cases;
}
INSTANTIATE_TEST_SUITE_P(WholePairs, DecodeGpuExperts, testing::ValuesIn(WholePairs()));

// A shared expert beside the routed ones gives what it gives alone, and the routed ones what they give without it.
TEST_F(DecodeGpu, ASharedExpertComesAlongInTheLaunchesOfTheRoutedOnes) {
  constexpr int64_t kExperts = 6, kTop = 3, kTokens = 2;
  for (const auto& [kHidden, kWidth, outliers] : {std::tuple(384, 136, 0), std::tuple(384, 136, 4), std::tuple(512, 1024, 0), std::tuple(512, 1024, 4)}) {
    const quant::XfpFormat format{.mode = Mode::kV2, .levels = 8};
    const Weight gate_up(kExperts * 2 * kWidth, kHidden, format, outliers, 1), down(kExperts * kHidden, kWidth, format, outliers, 2);
    const Weight gate(kWidth, kHidden, format, outliers, 3), up(kWidth, kHidden, format, outliers, 4), last(kHidden, kWidth, format, outliers, 5);
    const DeviceArray<float> input(RandomFloats(kTokens * kHidden, 0.05f, 6)), weights(RandomFloats(kTokens * kTop, 1, 7));
    const std::vector<float> logits = {0.3f, -1.2f};
    const DeviceArray<float> shared_gate(logits);
    const DeviceArray<int32_t> experts(std::vector<int32_t>{5, 0, 2, 1, 3, 5});
    const Rounded rounded(input.get(), kTokens, kHidden, kHidden, stream_);
    const auto run = [&](bool routed, bool shared, std::vector<float>* hidden) {
      const DeviceArray<float> inner(std::vector<float>(kTokens * kTop * kWidth, std::nanf(""))), shared_inner(std::vector<float>(kTokens * kWidth, std::nanf("")));
      const DeviceArray<float> output(std::vector<float>(kTokens * kHidden, 0.0f));
      const DecodeStream stream{.stream = stream_, .overlap = true};
      DecodeGateUp(stream, {.weight = routed ? gate_up.matrix : gate.matrix, .width = kWidth, .input = input.get(), .input_stride = kHidden,
                            .rounded = rounded.rows(), .tokens = kTokens, .top = routed ? kTop : 0, .experts = experts.get(),
                            .output = inner.get(), .shared_gate = shared ? &gate.matrix : nullptr,
                            .shared_up = shared ? &up.matrix : nullptr, .shared_output = shared_inner.get()});
      DecodeDown(stream, {.weight = routed ? down.matrix : last.matrix, .hidden = kHidden, .input = inner.get(), .tokens = kTokens,
                          .top = routed ? kTop : 0, .experts = experts.get(), .route_weights = weights.get(),
                          .shared = shared ? &last.matrix : nullptr, .shared_input = shared_inner.get(),
                          .shared_gate = shared_gate.get(), .output = output.get(), .accumulate = true});
      HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
      if (hidden != nullptr) *hidden = shared_inner.ToHost();
      return output.ToHost();
    };
    std::vector<float> hidden_beside, hidden_alone;
    const std::vector<float> routed = run(true, false, nullptr), alone = run(false, true, &hidden_alone), both = run(true, true, &hidden_beside);
    EXPECT_EQ(hidden_beside, hidden_alone);
    for (size_t i = 0; i < both.size(); ++i) {
      ASSERT_NEAR(both[i], routed[i] + alone[i], 1e-5 * (std::abs(routed[i]) + std::abs(alone[i])) + 1e-9) << i;
    }
    const std::vector<float> x = input.ToHost();
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t r = 0; r < kWidth; ++r) {
        const Expected g = DotOf(gate.container.view, r, x.data() + t * kHidden), u = DotOf(up.container.view, r, x.data() + t * kHidden);
        const double tolerance = 1.1 * g.tolerance * (std::abs(u.value) + u.tolerance) + std::abs(Silu(g.value)) * u.tolerance +
                                 32 * kFloatEpsilon * std::abs(Silu(g.value) * u.value) + 1e-30;
        ASSERT_NEAR(hidden_alone[static_cast<size_t>(t * kWidth + r)], Silu(g.value) * u.value, tolerance);
      }
      for (int64_t r = 0; r < kHidden; ++r) {
        const Expected one = DotOf(last.container.view, r, hidden_alone.data() + t * kWidth);
        const double factor = 1 / (1 + std::exp(-static_cast<double>(logits[static_cast<size_t>(t)])));
        ASSERT_NEAR(alone[static_cast<size_t>(t * kHidden + r)], factor * one.value,
                    factor * one.tolerance + 8 * kFloatEpsilon * std::abs(one.value));
      }
    }
  }
}

// Prompts: the numbers of the decode kernels, token by token; outliers are added in another order.
class PrefillGpu : public DecodeGpu {
 protected:
  void SetUp() override {
    DecodeGpu::SetUp();
    if (!IsSkipped() && !CanPrefill()) GTEST_SKIP() << "no device of compute capability 9.0, or no kernels for one";
  }

  // Rows of x rounded, and transposed for outliers.
  struct Rows {
    Rows(const float* x, int64_t count, int64_t columns, int64_t stride, const int32_t* source, cudaStream_t stream)
        : values(static_cast<size_t>(count * RoundedRowBytes(columns))), scales(static_cast<size_t>(count)),
          transposed(static_cast<size_t>(count * columns)),
          rows{.values = values.get(), .scales = scales.get(), .rows = count, .columns = columns, .transposed = transposed.get()} {
      RoundPrefillRows(stream, x, stride, source, rows);
      TransposePrefillRows(stream, rows);
    }
    DeviceArray<std::byte> values;
    DeviceArray<float> scales;
    DeviceArray<int16_t> transposed;
    PrefillRows rows;
  };

  // `scratch_rows`: how many rows the scratch takes expanded; 0: no scratch.
  void ExpectPrefill(const Weight& weight, int64_t tokens, uint32_t seed, int64_t scratch_rows = 0) {
    const int64_t columns = weight.matrix.columns;
    const int64_t rows = weight.matrix.rows;
    const int64_t stride = (columns + 3) / 4 * 4;
    const std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * stride), 30, seed);
    const DeviceArray<float> input(x);
    const DeviceArray<float> output(std::vector<float>(static_cast<size_t>(tokens * rows), std::nanf("")));
    const Rows rounded(input.get(), tokens, columns, stride, nullptr, stream_);
    const DeviceArray<std::byte> scratch(static_cast<size_t>(scratch_rows / 128 * LeastPrefillScratch(columns)) + 1);
    PrefillMatmul(stream_, {.weight = weight.matrix, .input = rounded.rows, .output = output.get(), .output_stride = rows,
                            .scratch = {scratch.get(), scratch_rows > 0 ? scratch.size() : 0}});
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<float> y = output.ToHost();
    for (const int64_t t : {int64_t{0}, tokens / 2, tokens - 1}) {
      const std::vector<float> alone = Product(weight, {x.begin() + t * stride, x.begin() + (t + 1) * stride}, 1);
      for (int64_t r = 0; r < rows; ++r) {
        const float got = y[static_cast<size_t>(t * rows + r)];
        if (weight.matrix.outliers == 0) {
          ASSERT_EQ(got, alone[static_cast<size_t>(r)]) << "token " << t << " row " << r << " of " << tokens;
        } else {
          const Expected expected = DotOf(weight.container.view, r, x.data() + t * stride);
          ASSERT_NEAR(got, expected.value, expected.tolerance) << "token " << t << " row " << r << " of " << tokens;
        }
      }
    }
  }
};

class PrefillGpuFormats : public PrefillGpu, public testing::WithParamInterface<std::tuple<Mode, int>> {};

TEST_P(PrefillGpuFormats, GivesTheBitsOfTheDecodeKernels) {
  const auto [mode, levels] = GetParam();
  for (const int64_t columns : {100, 384, 1000}) {
    const quant::XfpFormat format{.mode = mode, .levels = levels};
    const Weight plain(140, columns, format, 0, 5), outlying(53, columns, format, columns > 200 ? 40 : 3, 6);
    for (const int64_t tokens : {17, 64, 130}) {
      ExpectPrefill(plain, tokens, 7);
      ExpectPrefill(outlying, tokens, 8);
    }
  }
}

TEST_P(PrefillGpuFormats, GivesThemFromExpandedWeightsToo) {
  const auto [mode, levels] = GetParam();
  for (const int64_t columns : {100, 384, 1000}) {
    const quant::XfpFormat format{.mode = mode, .levels = levels};
    const Weight plain(300, columns, format, 0, 5), outlying(150, columns, format, columns > 200 ? 40 : 3, 6);
    for (const int64_t tokens : {17, 128, 300}) {
      ExpectPrefill(plain, tokens, 7, 128);  // three turns
      ExpectPrefill(plain, tokens, 7, 384);
      ExpectPrefill(outlying, tokens, 8, 128);
    }
  }
}

// More tiles than a device has multiprocessors, and more column halves than stages: every stage is filled again and again.
TEST_F(PrefillGpu, ExpandedWeightsGiveTheBitsTileAfterTile) {
  const Weight weight(1100, 2100, {.mode = Mode::kV2, .levels = 16}, 0, 5);
  ExpectPrefill(weight, 3000, 9, 1152);
}

TEST(PrefillScratch, IsOfWholeRowBlocksAndOnlyForLargeProducts) {
  EXPECT_EQ(PrefillScratchBytes(256, 12288, 3072), 0);
  EXPECT_EQ(PrefillScratchBytes(2048, 512, 512), 0);
  EXPECT_EQ(PrefillScratchBytes(2048, 8192, 3072), 8192 * 3072);
  EXPECT_EQ(PrefillScratchBytes(2048, 8190, 3000), 8192 * 3072);
  EXPECT_LE(PrefillScratchBytes(2048, 248320, 3072), int64_t{32} << 20);
  EXPECT_EQ(PrefillScratchBytes(2048, 248320, 3072) % LeastPrefillScratch(3072), 0);
}

INSTANTIATE_TEST_SUITE_P(Every, PrefillGpuFormats,
                         testing::Combine(testing::Values(Mode::kV2, Mode::kV2a), testing::ValuesIn(quant::kLevelCounts)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == Mode::kV2 ? "V2" : "V2a") + "K" +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST_F(PrefillGpu, ExpertsOfSortedRoutesGiveWhatTheDecodeKernelsGive) {
  constexpr int64_t kExperts = 7, kTop = 3, kTokens = 150, kHidden = 384, kWidth = 136, kRoutes = kTokens * kTop;
  for (const int outliers : {0, 5}) {
    const quant::XfpFormat format{.mode = Mode::kV2, .levels = 8};
    const Weight gate_up(kExperts * 2 * kWidth, kHidden, format, outliers, 1), down(kExperts * kHidden, kWidth, format, outliers, 2);
    const DeviceArray<float> input(RandomFloats(kTokens * kHidden, 0.05f, 3));
    std::vector<int32_t> ids(kRoutes);  // one expert has no route, one has many
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % 4 == 0 ? 2 : (i * 5 + i / 7) % 6);
    const DeviceArray<int32_t> chosen(ids), token_of(size_t{kRoutes}), route_of(size_t{kRoutes});
    const DeviceArray<PrefillTile> tiles(static_cast<size_t>(MostPrefillTiles(kRoutes, kExperts)));
    const DeviceArray<float> hidden(std::vector<float>(kRoutes * kWidth, std::nanf(""))), routed(std::vector<float>(kRoutes * kHidden, std::nanf("")));
    SortRoutes(stream_, chosen.get(), kRoutes, kTop, kExperts, token_of.get(), route_of.get(), tiles.get());
    const Rows sorted(input.get(), kRoutes, kHidden, kHidden, token_of.get(), stream_);
    PrefillGateUp(stream_, {.weight = gate_up.matrix, .width = kWidth, .experts = kExperts, .input = sorted.rows, .tiles = tiles.get(),
                            .output = hidden.get()});
    const Rows inner(hidden.get(), kRoutes, kWidth, kWidth, nullptr, stream_);
    PrefillDown(stream_, {.weight = down.matrix, .hidden = kHidden, .experts = kExperts, .input = inner.rows, .tiles = tiles.get(),
                          .route_of = route_of.get(), .output = routed.get()});
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<float> y = routed.ToHost();
    const std::vector<int32_t> routes = route_of.ToHost(), tokens = token_of.ToHost();
    std::vector<int32_t> seen(kRoutes);
    for (size_t i = 0; i < routes.size(); ++i) {
      ++seen[static_cast<size_t>(routes[i])];
      EXPECT_EQ(tokens[i], routes[i] / kTop);
    }
    EXPECT_EQ(std::ranges::count(seen, 1), kRoutes) << "every route has one place";
    // The decode kernels, a token at a time, all its experts at weight one.
    const DeviceArray<float> one(std::vector<float>(kTop, 1.0f)), decoded_inner(size_t{kTop * kWidth}), sum(size_t{kHidden});
    for (const int64_t t : {0, 1, 77, 149}) {
      DecodeGateUp({.stream = stream_}, {.weight = gate_up.matrix, .width = kWidth, .input = input.get() + t * kHidden,
                                         .input_stride = kHidden, .top = kTop, .experts = chosen.get() + t * kTop,
                                         .output = decoded_inner.get()});
      DecodeDown({.stream = stream_}, {.weight = down.matrix, .hidden = kHidden, .input = decoded_inner.get(), .top = kTop,
                                       .experts = chosen.get() + t * kTop, .route_weights = one.get(), .output = sum.get()});
      HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
      const std::vector<float> expected = sum.ToHost();
      for (size_t r = 0; r < kHidden; ++r) {
        float total = 0, magnitude = 0;
        for (size_t k = 0; k < kTop; ++k) {
          const float value = y[(static_cast<size_t>(t) * kTop + k) * kHidden + r];
          total += value;
          magnitude += std::abs(value);
        }
        ASSERT_NEAR(total, expected[r], outliers == 0 ? 1e-6 * magnitude : 3e-4 * magnitude + 1e-9) << "token " << t << " row " << r;
      }
    }
  }
}

TEST_F(DecodeGpu, ReplaysFromAGraphWithExpertsChosenOnTheDevice) {
  const Weight gate_up(6 * 2 * 64, 256, {.mode = Mode::kV2, .levels = 8}, 0, 1);
  const std::vector<float> x = RandomFloats(256, 1, 3);
  const DeviceArray<float> input(x);
  const DeviceArray<int32_t> experts(std::vector<int32_t>{0, 1});
  const DeviceArray<float> inner(size_t{2 * 64});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  HPROC_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  DecodeGateUp({.stream = stream_}, {.weight = gate_up.matrix,
                                     .width = 64,
                                     .input = input.get(),
                                     .input_stride = 256,
                                     .tokens = 1,
                                     .top = 2,
                                     .experts = experts.get(),
                                     .output = inner.get()});
  HPROC_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
  HPROC_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  for (const std::vector<int32_t>& ids : {std::vector<int32_t>{5, 2}, std::vector<int32_t>{2, 4}}) {
    HPROC_CUDA_CHECK(cudaMemcpy(experts.get(), ids.data(), 8, cudaMemcpyHostToDevice));
    HPROC_CUDA_CHECK(cudaGraphLaunch(replay, stream_));
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    const std::vector<float> h = inner.ToHost();
    for (int64_t k = 0; k < 2; ++k) {
      const Expected gate = DotOf(gate_up.container.view, ids[static_cast<size_t>(k)] * 128, x.data());
      const Expected up = DotOf(gate_up.container.view, ids[static_cast<size_t>(k)] * 128 + 64, x.data());
      EXPECT_NEAR(h[static_cast<size_t>(k * 64)], Silu(gate.value) * up.value, 1e-3 * std::abs(up.value) + 1e-3);
    }
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace hproc::kernels
