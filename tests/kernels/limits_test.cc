// The CPU backend at its limits: every token count up to 16, tails of every length, no rows at all, values beyond the range
// of exp, NaN, and the same rows cut into other pieces.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/gated_delta.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "quant/half.h"
#include "tests/kernels/stored_matrix.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon() / 2.0;  // of one rounding
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Limits : public testing::Test {
 protected:
  std::vector<float> Random(int64_t size, float scale = 1) {
    std::vector<float> values = quant::RandomRows(1, size, ++seed_);
    for (float& v : values) v *= 50 * scale;
    return values;
  }
  // A pool of four splits rows that two would not.
  ThreadPool pool_{4};
  Context cpu_{Backend::kCpu, &pool_};
  Context reference_{Backend::kReference, &pool_};
  uint32_t seed_ = 100;
};

// A sum of n squares in float32 is off by at most n roundings, its root by half of that; six more for the mean, the
// epsilon, the root, the quotient and the two factors.
TEST_F(Limits, RmsNormIsWithinItsRoundings) {
  for (int64_t columns = 1; columns <= 70; ++columns) {
    for (int64_t rows : {0, 1, 2, 16}) {
      const std::vector<float> x = Random(std::max<int64_t>(1, rows * columns));
      const StoredMatrix weight = StorePlain(Random(columns), columns, Storage::kBfloat16);
      std::vector<float> ours(static_cast<size_t>(rows * columns + 1), -7);
      std::vector<float> theirs = ours;
      RmsNormCall call{.input = x.data(), .input_stride = columns, .output = ours.data(), .output_stride = columns, .rows = rows,
                       .columns = columns, .weight = &weight.matrix, .weight_offset = 1, .epsilon = 1e-6f};
      RmsNorm(cpu_, call);
      call.output = theirs.data();
      RmsNorm(reference_, call);
      for (size_t i = 0; i < ours.size(); ++i) {
        const double tolerance = (0.5 * static_cast<double>(columns) + 6) * kEpsilon * std::abs(static_cast<double>(theirs[i]));
        ASSERT_NEAR(ours[i], theirs[i], tolerance) << rows << " x " << columns << " at " << i;
      }
      EXPECT_EQ(ours.back(), -7) << "written behind its end";
    }
  }
}

TEST_F(Limits, NormsTurnZeroRowsIntoZeros) {
  const StoredMatrix weight = StorePlain(Random(40), 40, Storage::kFloat32);
  const std::vector<float> gate = Random(3 * 40);
  for (const Context* context : {&cpu_, &reference_}) {
    std::vector<float> x(3 * 40);
    RmsNorm(*context, {.input = x.data(), .input_stride = 40, .output = x.data(), .output_stride = 40, .rows = 3, .columns = 40,
                       .weight = &weight.matrix, .weight_offset = 0, .epsilon = 1e-6f});
    for (float v : x) EXPECT_EQ(v, 0);
    GatedRmsNorm(*context, {.values = x.data(), .gate = gate.data(), .rows = 3, .columns = 40, .weight = &weight.matrix, .epsilon = 1e-6f});
    for (float v : x) EXPECT_EQ(v, 0);
  }
}

// Scores are off by `columns` roundings of the sum of the products' sizes; a weight by as much again and its exp's; the
// weighted sum by one rounding a position. All of it relative to the weighted sum of the values' sizes.
TEST_F(Limits, AttentionIsWithinItsRoundings) {
  constexpr int64_t kContext = 40;
  for (const auto& [heads, kv_heads, dim] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1}, {3, 3, 7}, {5, 1, 12}, {6, 2, 33}, {4, 2, 64}}) {
    for (int32_t tokens = 1; tokens <= 16; ++tokens) {
      const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 19, .first_row = 0, .tokens = tokens}};
      const std::vector<float> queries = Random(tokens * heads * dim, 0.5f);
      std::vector<float> keys = Random(kv_heads * kContext * dim, 0.5f);
      std::vector<float> values = Random(kv_heads * kContext * dim);
      const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
      const KvCache cache{.storage = Storage::kFloat32, .keys = keys.data(), .values = values.data(), .context = kContext,
                          .kv_heads = kv_heads, .head_dim = dim};
      std::vector<float> ours(static_cast<size_t>(tokens * heads * dim), kNan);
      AttendCall call{.runs = runs, .queries = queries.data(), .query_stride = heads * dim, .query_head_stride = dim,
                      .heads = heads, .scale = scale, .cache = cache, .output = ours.data()};
      Attend(cpu_, call);
      std::vector<float> theirs = ours;
      call.output = theirs.data();
      Attend(reference_, call);
      // The bound takes the sizes of the largest product sum and of the largest value.
      for (int64_t row = 0; row < tokens; ++row) {
        for (int64_t h = 0; h < heads; ++h) {
          const float* q = queries.data() + (row * heads + h) * dim;
          const int64_t base = h / (heads / kv_heads) * kContext * dim;
          double products = 0;
          std::vector<double> largest(static_cast<size_t>(dim));
          const int64_t positions = 20 + row;
          for (int64_t p = 0; p < positions; ++p) {
            double sum = 0;
            for (int64_t i = 0; i < dim; ++i) {
              sum += std::abs(static_cast<double>(q[i]) * keys[static_cast<size_t>(base + p * dim + i)]);
              double& most = largest[static_cast<size_t>(i)];
              most = std::max(most, std::abs(static_cast<double>(values[static_cast<size_t>(base + p * dim + i)])));
            }
            products = std::max(products, sum);
          }
          const double score_error = (static_cast<double>(dim) + 2) * kEpsilon * products * static_cast<double>(scale);
          const double relative = 2 * (2 * score_error + 4 * kEpsilon) + 2 * static_cast<double>(positions + 2) * kEpsilon;
          for (int64_t i = 0; i < dim; ++i) {
            const auto at = static_cast<size_t>((row * heads + h) * dim + i);
            ASSERT_NEAR(ours[at], theirs[at], relative * largest[static_cast<size_t>(i)]) << "dim " << dim << " tokens " << tokens;
          }
        }
      }
    }
  }
}

TEST_F(Limits, AttentionOfOnePositionIsItsValue) {
  const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 1}};
  const std::vector<float> query = Random(2 * 9, 100);
  std::vector<float> keys = Random(9, 100);
  std::vector<float> values = Random(9);
  std::vector<float> out(18);
  for (const Context* context : {&cpu_, &reference_}) {
    Attend(*context, {.runs = runs, .queries = query.data(), .query_stride = 18, .query_head_stride = 9, .heads = 2, .scale = 1,
                      .cache = {.storage = Storage::kFloat32, .keys = keys.data(), .values = values.data(), .context = 1,
                                .kv_heads = 1, .head_dim = 9},
                      .output = out.data()});
    for (size_t i = 0; i < 18; ++i) EXPECT_EQ(out[i], values[i % 9]);
  }
}

// A NaN must reach the logits, where it ends the trial; a score that is one makes the whole head one, wherever it stands.
TEST_F(Limits, AttentionPassesOnAKeyThatIsNan) {
  constexpr int64_t kDim = 20;
  for (int32_t positions : {1, 5, 16, 40}) {
    for (int32_t bad = 0; bad < positions; ++bad) {
      const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = positions - 1, .first_row = 0, .tokens = 1}};
      const std::vector<float> query = Random(kDim);
      std::vector<float> keys = Random(positions * kDim);
      keys[static_cast<size_t>(bad * kDim + bad % kDim)] = kNan;
      std::vector<float> values = Random(positions * kDim);
      for (const Context* context : {&cpu_, &reference_}) {
        std::vector<float> out(kDim);
        Attend(*context, {.runs = runs, .queries = query.data(), .query_stride = kDim, .query_head_stride = kDim, .heads = 1,
                          .scale = 1, .cache = {.storage = Storage::kFloat32, .keys = keys.data(), .values = values.data(),
                                                .context = positions, .kv_heads = 1, .head_dim = kDim},
                          .output = out.data()});
        for (float v : out) ASSERT_TRUE(std::isnan(v)) << "key " << bad << " of " << positions;
      }
    }
  }
}

// silu and sigmoid take any float32; exp(-x) leaves its range at x = -88.
std::vector<float> Extremes() {
  std::vector<float> values = {0.0f, -0.0f, 1e-40f, -1e-40f, 87.0f, -87.0f, -88.8f, -104.0f, -104.5f, -178.0f, -300.0f, -355.0f,
                               -356.0f, -400.0f, -1000.0f, -1e6f, -1e20f, -3e38f, 300.0f, 1000.0f, 1e20f, 3e38f};
  for (int i = 0; i < 60; ++i) values.push_back(-90.0f - 10.0f * static_cast<float>(i));
  return values;
}

// 8 bits have no NaN of their own: the scale has it, and with it the whole position.
TEST_F(Limits, Int8CacheKeepsNanAndInfinity) {
  constexpr int64_t kDim = 37;
  const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 2}};
  const std::vector<float> queries = Random(2 * kDim);
  for (const Context* context : {&cpu_, &reference_}) {
    for (int64_t bad = 0; bad < kDim; ++bad) {
      for (const bool in_keys : {true, false}) {
        for (const float value : {kNan, -kNan, std::numeric_limits<float>::infinity()}) {
          std::vector<float> keys = Random(2 * kDim);
          std::vector<float> values = Random(2 * kDim);
          (in_keys ? keys : values)[static_cast<size_t>(kDim + bad)] = value;
          std::vector<int8_t> held_keys(2 * kDim);
          std::vector<int8_t> held_values(2 * kDim);
          std::vector<uint16_t> key_scales(2);
          std::vector<uint16_t> value_scales(2);
          const KvCache cache{.storage = Storage::kInt8, .keys = held_keys.data(), .values = held_values.data(),
                              .key_scales = key_scales.data(), .value_scales = value_scales.data(), .context = 2,
                              .kv_heads = 1, .head_dim = kDim};
          StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
          std::vector<float> out(2 * kDim);
          Attend(*context, {.runs = runs, .queries = queries.data(), .query_stride = kDim, .query_head_stride = kDim, .heads = 1,
                            .scale = 0.1f, .cache = cache, .output = out.data()});
          for (int64_t i = 0; i < 2 * kDim; ++i) ASSERT_EQ(std::isnan(out[static_cast<size_t>(i)]), i >= kDim) << bad << " at " << i;
        }
      }
    }
  }
}

// In whole registers and in the tail behind them: what the cache makes a number of is lost to every later token.
TEST_F(Limits, Float16CacheKeepsNan) {
  constexpr int64_t kDim = 37;
  const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 2}};
  const std::vector<float> queries = Random(2 * kDim);
  for (const Context* context : {&cpu_, &reference_}) {
    for (int64_t bad = 0; bad < kDim; ++bad) {
      for (const bool in_keys : {true, false}) {
        for (const float nan : {kNan, -kNan}) {
          std::vector<float> keys = Random(2 * kDim);
          std::vector<float> values = Random(2 * kDim);
          (in_keys ? keys : values)[static_cast<size_t>(kDim + bad)] = nan;
          std::vector<uint16_t> held_keys(2 * kDim);
          std::vector<uint16_t> held_values(2 * kDim);
          const KvCache cache{.storage = Storage::kFloat16, .keys = held_keys.data(), .values = held_values.data(), .context = 2,
                              .kv_heads = 1, .head_dim = kDim};
          StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
          for (int64_t i = 0; i < 2 * kDim; ++i) {
            const bool is_bad = i == kDim + bad;
            ASSERT_EQ(std::isnan(quant::HalfToFloat(held_keys[static_cast<size_t>(i)])), is_bad && in_keys) << bad << " at " << i;
            ASSERT_EQ(std::isnan(quant::HalfToFloat(held_values[static_cast<size_t>(i)])), is_bad && !in_keys) << bad << " at " << i;
          }
          std::vector<float> out(2 * kDim);
          Attend(*context, {.runs = runs, .queries = queries.data(), .query_stride = kDim, .query_head_stride = kDim, .heads = 1,
                            .scale = 0.1f, .cache = cache, .output = out.data()});
          for (int64_t i = 0; i < 2 * kDim; ++i) {
            const bool is_nan = i >= kDim && (in_keys || i == kDim + bad);
            ASSERT_EQ(std::isnan(out[static_cast<size_t>(i)]), is_nan) << bad << " at " << i;
          }
        }
      }
    }
  }
}

TEST_F(Limits, GatesTakeAnyNumber) {
  const std::vector<float> x = Extremes();
  const auto size = static_cast<int64_t>(x.size());
  const std::vector<float> ones(x.size(), 1);
  const StoredMatrix weight = StorePlain(ones, size, Storage::kFloat32);
  const auto run = [&](const Context& context) {
    std::vector<float> glu(x.size());
    SwiGlu(context, {.gate = x.data(), .up = ones.data(), .input_stride = size, .output = glu.data(), .rows = 1, .columns = size});
    std::vector<float> gated = ones;
    SigmoidGate(context, {.values = gated.data(), .gate = x.data(), .gate_row_stride = size, .gate_head_stride = size, .rows = 1,
                          .heads = 1, .columns = size});
    std::vector<float> normed = ones;
    GatedRmsNorm(context, {.values = normed.data(), .gate = x.data(), .rows = 1, .columns = size, .weight = &weight.matrix, .epsilon = 0});
    std::vector<float> conv = x;
    const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 1}};
    float state = 0;
    CausalConvSilu(context, {.runs = runs, .values = conv.data(), .channels = size, .kernel = 1, .weight = &weight.matrix, .state = &state});
    return std::array{glu, gated, normed, conv};
  };
  const auto ours = run(cpu_);
  const auto theirs = run(reference_);
  for (size_t k = 0; k < ours.size(); ++k) {
    for (size_t i = 0; i < x.size(); ++i) {
      // Eight roundings: exp's four, the sum, the quotient, two products. Where exp(-x) overflows float32 the result is
      // nought instead of what is left below 1e-36.
      const double tolerance = 8 * kEpsilon * std::abs(static_cast<double>(theirs[k][i])) + 1e-36;
      EXPECT_NEAR(ours[k][i], theirs[k][i], tolerance) << "operation " << k << " of " << x[i];
    }
  }
}

TEST_F(Limits, GatesPassOnWhatIsNoNumber) {
  for (int64_t size : {3, 40}) {  // tails alone, registers first
    for (int64_t bad = 0; bad < size; ++bad) {
      std::vector<float> gate = Random(size);
      gate[static_cast<size_t>(bad)] = kNan;
      const std::vector<float> ones(static_cast<size_t>(size), 1);
      for (const Context* context : {&cpu_, &reference_}) {
        std::vector<float> values = ones;
        SigmoidGate(*context, {.values = values.data(), .gate = gate.data(), .gate_row_stride = size, .gate_head_stride = size,
                               .rows = 1, .heads = 1, .columns = size});
        EXPECT_TRUE(std::isnan(values[static_cast<size_t>(bad)])) << bad << " of " << size;
        SwiGlu(*context, {.gate = gate.data(), .up = ones.data(), .input_stride = size, .output = values.data(), .rows = 1, .columns = size});
        EXPECT_TRUE(std::isnan(values[static_cast<size_t>(bad)])) << bad << " of " << size;
      }
    }
  }
}

// How a pass is spread over threads depends on its length, the result must not.
TEST_F(Limits, ConvolutionGivesTheSameBitsHoweverItsTokensAreCut) {
  for (int64_t channels : {100, 1000, 1024, 3001}) {
    const StoredMatrix weight = StorePlain(Random(channels * 4), channels * 4, Storage::kBfloat16);
    const std::vector<float> inputs = Random(32 * channels);
    const auto run = [&](int32_t piece, int threads) {
      ThreadPool pool(threads);
      const Context context{Backend::kCpu, &pool};
      std::vector<float> values = inputs;
      std::vector<float> state(static_cast<size_t>(3 * channels));
      for (int32_t first = 0; first < 32; first += piece) {
        const std::vector<SequenceRun> runs = {
            {.slot = 0, .first_position = first, .first_row = first, .tokens = std::min(piece, 32 - first)}};
        CausalConvSilu(context, {.runs = runs, .values = values.data(), .channels = channels, .kernel = 4, .weight = &weight.matrix,
                                 .state = state.data()});
      }
      values.insert(values.end(), state.begin(), state.end());
      return values;
    };
    const std::vector<float> whole = run(32, 1);
    for (int32_t piece : {1, 2, 3, 4, 7, 16, 32}) {
      for (int threads : {1, 2, 4}) {
        ASSERT_TRUE(run(piece, threads) == whole) << channels << " channels, pieces of " << piece << ", threads " << threads;
      }
    }
  }
}

// The step S -> g (I - beta k k^T) S + beta k v^T has norm at most 1 for |k| = 1, so the errors of T tokens add up: each of
// them key_dim + 16 roundings of the state's size.
TEST_F(Limits, DeltaRuleIsWithinItsRoundings) {
  for (const auto& [key_heads, value_heads, key_dim, value_dim] :
       {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 1}, {2, 2, 3, 5}, {3, 6, 10, 7}, {1, 2, 17, 33}, {2, 4, 32, 80}}) {
    const StoredMatrix a_log = StorePlain(Random(value_heads), value_heads, Storage::kBfloat16);
    const StoredMatrix dt_bias = StorePlain(Random(value_heads), value_heads, Storage::kBfloat16);
    for (int32_t tokens = 1; tokens <= 16; ++tokens) {
      const int64_t row_size = 2 * key_heads * key_dim + value_heads * value_dim;
      const std::vector<float> qkv = Random(tokens * row_size);
      const std::vector<float> a = Random(tokens * value_heads);
      const std::vector<float> b = Random(tokens * value_heads);
      const std::vector<float> state = Random(value_heads * key_dim * value_dim);
      const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = tokens}};
      std::vector<float> states[2] = {state, state};
      std::vector<float> outputs[2];
      for (const Context* context : {&cpu_, &reference_}) {
        std::vector<float> inputs = qkv;
        const size_t at = context == &cpu_ ? 0 : 1;
        outputs[at].assign(static_cast<size_t>(tokens * value_heads * value_dim), kNan);
        GatedDeltaRule(*context, {.runs = runs, .qkv = inputs.data(), .a = a.data(), .b = b.data(), .a_log = &a_log.matrix,
                                  .dt_bias = &dt_bias.matrix, .key_heads = key_heads, .value_heads = value_heads, .key_dim = key_dim,
                                  .value_dim = value_dim, .state = states[at].data(), .output = outputs[at].data()});
      }
      // The size of a state is at most where it began plus all values written into it; column by column would be tighter.
      double size = 0;
      for (float s : state) size += static_cast<double>(s) * s;
      double written = 0;
      for (float v : qkv) written += static_cast<double>(v) * v;
      const double bound = tokens * static_cast<double>(key_dim + 16) * kEpsilon * (std::sqrt(size) + std::sqrt(tokens * written));
      for (size_t i = 0; i < states[0].size(); ++i) ASSERT_NEAR(states[0][i], states[1][i], bound) << key_dim << " x " << value_dim;
      // |q| is key_dim^-0.5.
      for (size_t i = 0; i < outputs[0].size(); ++i) ASSERT_NEAR(outputs[0][i], outputs[1][i], bound) << key_dim << " x " << value_dim;
    }
  }
}

TEST_F(Limits, DeltaRuleTakesKeysAndQueriesOfNought) {
  for (const Context* context : {&cpu_, &reference_}) {
    std::vector<float> qkv(2 * 8 + 8, 0.0f);
    qkv[20] = 1;  // a value
    const std::vector<float> zero(1);
    const StoredMatrix scalar = StorePlain({0.0f}, 1, Storage::kFloat32);
    std::vector<float> state(64, 2.0f);
    std::vector<float> out(8, kNan);
    const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 1}};
    GatedDeltaRule(*context, {.runs = runs, .qkv = qkv.data(), .a = zero.data(), .b = zero.data(), .a_log = &scalar.matrix,
                              .dt_bias = &scalar.matrix, .key_heads = 1, .value_heads = 1, .key_dim = 8, .value_dim = 8,
                              .state = state.data(), .output = out.data()});
    // exp(-exp(0) * softplus(0)) = 1/2: the state decays and takes nothing in.
    for (float s : state) EXPECT_FLOAT_EQ(s, 1);
    for (float o : out) EXPECT_EQ(o, 0);
  }
}

TEST_F(Limits, RoutesAllTopsOfAllSizes) {
  for (int64_t experts : {1, 2, 5, 48}) {
    for (int64_t top = 1; top <= std::min<int64_t>(experts, 16); ++top) {
      for (int64_t rows : {0, 1, 16}) {
        const std::vector<float> logits = Random(std::max<int64_t>(1, rows * experts));
        const auto size = static_cast<size_t>(rows * top);
        std::vector<int32_t> ours(size), theirs(size);
        std::vector<float> our_weights(size), their_weights(size);
        RouteCall call{.logits = logits.data(), .rows = rows, .experts = experts, .top = top, .normalize = true,
                       .chosen = ours.data(), .weights = our_weights.data()};
        Route(cpu_, call);
        call.chosen = theirs.data();
        call.weights = their_weights.data();
        Route(reference_, call);
        EXPECT_EQ(ours, theirs);
        // exp's rounding of both, the difference's in the exponent (|x| <= 20), the sum's.
        for (size_t i = 0; i < size; ++i) {
          EXPECT_NEAR(our_weights[i], their_weights[i], static_cast<double>(top + 2 * 20 + 6) * kEpsilon * static_cast<double>(their_weights[i]));
        }
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          for (int64_t k = 0; k < top; ++k) sum += our_weights[static_cast<size_t>(r * top + k)];
          EXPECT_NEAR(sum, 1, static_cast<double>(top + 2) * kEpsilon * 2);
        }
      }
    }
  }
}

// A sum of top + 1 products, each rounded once and added once.
TEST_F(Limits, CombineIsWithinItsRoundings) {
  for (int64_t columns : {1, 15, 16, 17, 63}) {
    for (int64_t rows = 0; rows <= 16; ++rows) {
      constexpr int64_t kTop = 3;
      const auto size = static_cast<size_t>(rows * columns);
      const std::vector<float> residual = Random(static_cast<int64_t>(size) + 1);
      const std::vector<float> routed = Random(static_cast<int64_t>(size) * kTop + 1);
      const std::vector<float> weights = Random(rows * kTop + 1);
      const std::vector<float> shared = Random(static_cast<int64_t>(size) + 1);
      const std::vector<float> gate = Random(rows + 1);
      for (int parts = 0; parts < 4; ++parts) {
        std::vector<float> ours = residual;
        std::vector<float> theirs = residual;
        CombineCall call{.residual = ours.data(), .routed = (parts & 1) != 0 ? routed.data() : nullptr, .weights = weights.data(),
                         .top = kTop, .shared = (parts & 2) != 0 ? shared.data() : nullptr,
                         .shared_gate = (parts & 2) != 0 ? gate.data() : nullptr, .rows = rows, .columns = columns};
        Combine(cpu_, call);
        call.residual = theirs.data();
        Combine(reference_, call);
        for (size_t i = 0; i < ours.size(); ++i) {
          double sizes = std::abs(static_cast<double>(residual[i]));
          if (i < size) {
            const size_t row = i / static_cast<size_t>(columns);
            for (size_t k = 0; k < kTop; ++k) {
              const size_t at = (row * kTop + k) * static_cast<size_t>(columns) + i % static_cast<size_t>(columns);
              sizes += std::abs(static_cast<double>(weights[row * kTop + k]) * routed[at]);
            }
            sizes += std::abs(static_cast<double>(shared[i]));
          }
          ASSERT_NEAR(ours[i], theirs[i], (2 * (kTop + 1) + 6) * kEpsilon * sizes) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace hproc::kernels
