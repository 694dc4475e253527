// Every operation besides the matrix product: the CPU backend against the plain-loop reference, on the same inputs.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/attention.h"
#include "kernels/gated_delta.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/sampling.h"
#include "tests/kernels/stored_matrix.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

class Backends : public testing::Test {
 protected:
  std::vector<float> Random(int64_t size, float scale = 1) {
    std::vector<float> values = quant::RandomRows(1, size, ++seed_);
    for (float& v : values) v *= 50 * scale;
    return values;
  }

  // ||a - b|| / ||b||, or infinity where either holds a value that is not finite.
  static double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      difference += d * d;
      norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return std::sqrt(difference / norm);
  }

  // float32 sums of some hundred terms and exponentials of one unit in the last place.
  static constexpr double kTolerance = 2e-6;

  ThreadPool pool_{2};
  Context cpu_{Backend::kCpu, &pool_};
  Context reference_{Backend::kReference, &pool_};
  uint32_t seed_ = 0;
};

TEST_F(Backends, GreedyTakesTheHighestLogitAndTheLowestTokenOnATie) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1, 3, 3, 2,  //
                                     kNan, -2, -1, kNan,  //
                                     kNan, kNan, kNan, kNan,  //
                                     -kInfinity, -5, kInfinity, 0};
  std::vector<TokenChoice> choices(4);
  PickGreedy(cpu_, {.logits = logits.data(), .rows = 4, .columns = 4, .choices = choices.data()});
  const std::vector<std::pair<int, int>> expected = {{1, 0}, {2, 2}, {0, 4}, {2, 2}};  // token, values that are none
  for (size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(choices[r].token, expected[r].first) << r;
    EXPECT_EQ(choices[r].nonfinite, expected[r].second) << r;
  }
}

TEST_F(Backends, RmsNormAgrees) {
  for (int64_t columns : {1, 7, 64, 100, 384}) {
    for (int64_t rows : {1, 3, 300}) {
      const std::vector<float> x = Random(rows * (columns + 3));
      const StoredMatrix weight = StorePlain(Random(columns), columns, Storage::kBfloat16);
      std::vector<float> ours(static_cast<size_t>(rows * columns));
      std::vector<float> theirs = ours;
      RmsNormCall call{.input = x.data(), .input_stride = columns + 3, .output = ours.data(), .output_stride = columns,
                       .rows = rows, .columns = columns, .weight = &weight.matrix, .weight_offset = 1, .epsilon = 1e-6f};
      RmsNorm(cpu_, call);
      call.output = theirs.data();
      RmsNorm(reference_, call);
      EXPECT_LT(RelativeError(ours, theirs), kTolerance) << rows << " x " << columns;
    }
  }
}

TEST_F(Backends, RmsNormWorksInPlace) {
  std::vector<float> x = Random(4 * 64);
  std::vector<float> apart(x.size());
  const StoredMatrix weight = StorePlain(Random(64), 64, Storage::kFloat32);
  RmsNormCall call{.input = x.data(), .input_stride = 64, .output = apart.data(), .output_stride = 64, .rows = 4,
                   .columns = 64, .weight = &weight.matrix, .weight_offset = 0, .epsilon = 1e-6f};
  RmsNorm(cpu_, call);
  call.output = x.data();
  RmsNorm(cpu_, call);
  EXPECT_EQ(x, apart);
}

TEST_F(Backends, GatedRmsNormAgrees) {
  for (int64_t columns : {5, 32, 64, 130}) {
    std::vector<float> ours = Random(20 * columns);
    std::vector<float> theirs = ours;
    const std::vector<float> gate = Random(20 * columns);
    const StoredMatrix weight = StorePlain(Random(columns), columns, Storage::kFloat32);
    GatedRmsNormCall call{.values = ours.data(), .gate = gate.data(), .rows = 20, .columns = columns,
                          .weight = &weight.matrix, .epsilon = 1e-6f};
    GatedRmsNorm(cpu_, call);
    call.values = theirs.data();
    GatedRmsNorm(reference_, call);
    EXPECT_LT(RelativeError(ours, theirs), kTolerance) << columns;
  }
}

TEST_F(Backends, RotateAgreesAndLeavesTheRestOfTheHead) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kHeads = 3;
  constexpr int64_t kDim = 20;
  for (int64_t pairs : {1, 5, 10}) {
    std::vector<float> ours = Random(kRows * kHeads * kDim);
    const std::vector<float> before = ours;
    std::vector<float> theirs = ours;
    std::vector<float> cosines(static_cast<size_t>(kRows * pairs));
    std::vector<float> sines = cosines;
    std::vector<float> frequencies(static_cast<size_t>(pairs));
    for (int64_t i = 0; i < pairs; ++i) {
      frequencies[static_cast<size_t>(i)] =
          static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs)));
    }
    std::vector<SequenceRun> runs;
    for (int32_t r = 0; r < kRows; ++r) runs.push_back({.slot = r, .first_position = 7 * r, .first_row = r, .tokens = 1});
    RotaryAngles(cpu_, {.runs = runs, .rows = kRows, .inverse_frequencies = frequencies.data(), .pairs = pairs,
                        .cosines = cosines.data(), .sines = sines.data()});
    RotateCall call{.values = ours.data(), .rows = kRows, .heads = kHeads, .row_stride = kHeads * kDim,
                    .head_stride = kDim, .pairs = pairs, .cosines = cosines.data(), .sines = sines.data()};
    Rotate(cpu_, call);
    call.values = theirs.data();
    Rotate(reference_, call);
    EXPECT_LT(RelativeError(ours, theirs), kTolerance) << pairs;
    for (size_t i = 0; i < ours.size(); ++i) {
      if (static_cast<int64_t>(i % kDim) >= 2 * pairs) {
        EXPECT_EQ(ours[i], before[i]);
      }
    }
    for (int64_t i = 0; i < kHeads * kDim; ++i) EXPECT_EQ(ours[static_cast<size_t>(i)], before[static_cast<size_t>(i)]) << "position 0 is not turned";
  }
}

// Three sequences at different positions, in one pass; queries are strided as in a gated projection.
TEST_F(Backends, AttentionAgreesOverAMixedBatch) {
  for (Storage storage : {Storage::kFloat16, Storage::kFloat32}) {
    for (int64_t dim : {16, 40, 64, 128}) {
      constexpr int64_t kContext = 50;
      constexpr int64_t kSlots = 4;
      constexpr int64_t kKvHeads = 2;
      constexpr int64_t kHeads = 6;
      const std::vector<SequenceRun> runs = {{.slot = 2, .first_position = 0, .first_row = 0, .tokens = 7},
                                             {.slot = 0, .first_position = 40, .first_row = 7, .tokens = 1},
                                             {.slot = 3, .first_position = 11, .first_row = 8, .tokens = 3}};
      constexpr int64_t kRows = 11;
      const std::vector<float> queries = Random(kRows * kHeads * 2 * dim);
      const std::vector<float> keys = Random(kRows * kKvHeads * dim, 0.3f);
      const std::vector<float> values = Random(kRows * kKvHeads * dim);
      const int64_t cache_size = kSlots * kKvHeads * kContext * dim;
      // Both backends start from the same history.
      std::vector<float> history = Random(cache_size, 0.3f);
      std::vector<float> results[2];
      for (const Context* context : {&cpu_, &reference_}) {
        StoredMatrix cached_keys = StorePlain(history, dim, storage);
        StoredMatrix cached_values = StorePlain(history, dim, storage);
        KvCache cache{.storage = storage, .keys = cached_keys.bytes.get(), .values = cached_values.bytes.get(),
                      .context = kContext, .kv_heads = kKvHeads, .head_dim = dim};
        StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
        std::vector<float>& out = results[context == &cpu_ ? 0 : 1];
        out.assign(static_cast<size_t>(kRows * kHeads * dim), std::numeric_limits<float>::quiet_NaN());
        Attend(*context, {.runs = runs, .queries = queries.data(), .query_stride = kHeads * 2 * dim,
                          .query_head_stride = 2 * dim, .heads = kHeads,
                          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim))), .cache = cache,
                          .output = out.data()});
      }
      EXPECT_LT(RelativeError(results[0], results[1]), kTolerance) << dim;
    }
  }
}

// Keys and values in 8 bits: both backends store the same and read the same.
TEST_F(Backends, Int8CachesAgreeOverAMixedBatch) {
  for (int64_t dim : {5, 16, 40, 128}) {
    constexpr int64_t kContext = 30;
    constexpr int64_t kSlots = 3;
    constexpr int64_t kKvHeads = 2;
    constexpr int64_t kHeads = 4;
    const std::vector<SequenceRun> runs = {{.slot = 2, .first_position = 0, .first_row = 0, .tokens = 7},
                                           {.slot = 0, .first_position = 0, .first_row = 7, .tokens = 20}};
    constexpr int64_t kRows = 27;
    const std::vector<float> queries = Random(kRows * kHeads * dim);
    const std::vector<float> keys = Random(kRows * kKvHeads * dim, 0.3f);
    const std::vector<float> values = Random(kRows * kKvHeads * dim);
    std::vector<float> results[2];
    std::vector<int8_t> stored[2];
    for (const Context* context : {&cpu_, &reference_}) {
      const size_t which = context == &cpu_ ? 0 : 1;
      std::vector<int8_t> cached_keys(static_cast<size_t>(kSlots * kKvHeads * kContext * dim));
      std::vector<int8_t> cached_values(cached_keys.size());
      std::vector<uint16_t> key_scales(static_cast<size_t>(kSlots * kKvHeads * kContext));
      std::vector<uint16_t> value_scales(key_scales.size());
      const KvCache cache{.storage = Storage::kInt8, .keys = cached_keys.data(), .values = cached_values.data(),
                          .key_scales = key_scales.data(), .value_scales = value_scales.data(), .context = kContext,
                          .kv_heads = kKvHeads, .head_dim = dim};
      StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
      results[which].assign(static_cast<size_t>(kRows * kHeads * dim), std::numeric_limits<float>::quiet_NaN());
      Attend(*context, {.runs = runs, .queries = queries.data(), .query_stride = kHeads * dim, .query_head_stride = dim,
                        .heads = kHeads, .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim))),
                        .cache = cache, .output = results[which].data()});
      stored[which] = cached_keys;
      stored[which].insert(stored[which].end(), cached_values.begin(), cached_values.end());
    }
    EXPECT_EQ(stored[0], stored[1]) << dim;
    EXPECT_LT(RelativeError(results[0], results[1]), kTolerance) << dim;
  }
}

// With keys of zero the output is the mean of the values, each off by half a step of its position at most: a step is a
// 127th of the largest magnitude there, rounded up to 8 bits.
TEST_F(Backends, Int8CacheIsWithinHalfAStepOfEachPosition) {
  constexpr int64_t kDim = 24;
  constexpr int64_t kPositions = 9;
  const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = kPositions}};
  const std::vector<float> keys(kPositions * kDim, 0.0f);
  std::vector<float> values = Random(kPositions * kDim);
  for (int64_t p = 0; p < kPositions; ++p) {  // positions of very different size do not share a scale
    for (int64_t i = 0; i < kDim; ++i) values[static_cast<size_t>(p * kDim + i)] *= std::pow(10.0f, static_cast<float>(p - 4));
  }
  for (const Context* context : {&cpu_, &reference_}) {
    std::vector<int8_t> cached_keys(kPositions * kDim);
    std::vector<int8_t> cached_values(kPositions * kDim);
    std::vector<uint16_t> key_scales(kPositions);
    std::vector<uint16_t> value_scales(kPositions);
    const KvCache cache{.storage = Storage::kInt8, .keys = cached_keys.data(), .values = cached_values.data(),
                        .key_scales = key_scales.data(), .value_scales = value_scales.data(), .context = kPositions,
                        .kv_heads = 1, .head_dim = kDim};
    StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
    for (int64_t p = 0; p < kPositions; ++p) {
      float largest = 0;
      for (int64_t i = 0; i < kDim; ++i) largest = std::max(largest, std::abs(values[static_cast<size_t>(p * kDim + i)]));
      const float scale = quant::Bfloat16ToFloat(value_scales[static_cast<size_t>(p)]);
      EXPECT_GE(scale * 127, largest);
      EXPECT_LE(scale * 127, largest * (1 + 0x1p-7f));
      for (int64_t i = 0; i < kDim; ++i) {
        const auto at = static_cast<size_t>(p * kDim + i);
        EXPECT_LE(std::abs(static_cast<float>(cached_values[at]) * scale - values[at]), scale * 0.5001f) << p;
      }
    }
    for (int8_t k : cached_keys) EXPECT_EQ(k, 0);
  }
}

TEST_F(Backends, Float16CacheHoldsLargeValuesAtItsLargest) {
  const std::vector<SequenceRun> runs = {{.slot = 0, .first_position = 0, .first_row = 0, .tokens = 1}};
  const std::vector<float> keys(20, 1e6f);
  const std::vector<float> values(20, -1e6f);
  for (const Context* context : {&cpu_, &reference_}) {
    std::vector<uint16_t> cached_keys(20);
    std::vector<uint16_t> cached_values(20);
    KvCache cache{.storage = Storage::kFloat16, .keys = cached_keys.data(), .values = cached_values.data(), .context = 1,
                  .kv_heads = 1, .head_dim = 20};
    StoreKeysValues(*context, {.runs = runs, .keys = keys.data(), .values = values.data(), .cache = cache});
    for (uint16_t k : cached_keys) EXPECT_EQ(quant::HalfToFloat(k), 65504.0f);
    for (uint16_t v : cached_values) EXPECT_EQ(quant::HalfToFloat(v), -65504.0f);
  }
}

TEST_F(Backends, ConvolutionAgreesAndContinuesFromItsState) {
  for (int64_t kernel : {1, 2, 4}) {
    for (int64_t channels : {6, 64, 100}) {
      const StoredMatrix weight = StorePlain(Random(channels * kernel), channels * kernel, Storage::kBfloat16);
      const std::vector<float> inputs = Random(9 * channels);
      const std::vector<float> state = Random(3 * channels * (kernel - 1) + 1);
      const std::vector<SequenceRun> whole = {{.slot = 1, .first_position = 0, .first_row = 0, .tokens = 7},
                                              {.slot = 2, .first_position = 5, .first_row = 7, .tokens = 2}};
      std::vector<float> ours = inputs;
      std::vector<float> theirs = inputs;
      std::vector<float> our_state = state;
      std::vector<float> their_state = state;
      CausalConvCall call{.runs = whole, .values = ours.data(), .channels = channels, .kernel = kernel,
                          .weight = &weight.matrix, .state = our_state.data()};
      CausalConvSilu(cpu_, call);
      call.values = theirs.data();
      call.state = their_state.data();
      CausalConvSilu(reference_, call);
      EXPECT_LT(RelativeError(ours, theirs), kTolerance);
      EXPECT_EQ(our_state, their_state);

      // The same tokens in two passes give the same bits.
      std::vector<float> pieces = inputs;
      std::vector<float> piece_state = state;
      for (const auto& [first, tokens] : {std::pair<int32_t, int32_t>{0, 2}, {2, 1}, {3, 4}}) {
        const std::vector<SequenceRun> piece = {{.slot = 1, .first_position = first, .first_row = first, .tokens = tokens}};
        call.runs = piece;
        call.values = pieces.data();
        call.state = piece_state.data();
        CausalConvSilu(cpu_, call);
      }
      EXPECT_TRUE(std::equal(pieces.begin(), pieces.begin() + 7 * channels, ours.begin()));
    }
  }
}

TEST_F(Backends, DeltaRuleAgreesAndContinuesFromItsState) {
  struct Shape {
    int64_t key_heads, value_heads, key_dim, value_dim;
  };
  for (const Shape& shape : {Shape{2, 4, 32, 32}, Shape{3, 3, 20, 7}, Shape{1, 4, 64, 128}}) {
    const int64_t row_size = 2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim;
    constexpr int64_t kRows = 12;
    const std::vector<float> qkv = Random(kRows * row_size);
    const std::vector<float> a = Random(kRows * shape.value_heads);
    const std::vector<float> b = Random(kRows * shape.value_heads);
    const StoredMatrix a_log = StorePlain(Random(shape.value_heads), shape.value_heads, Storage::kFloat32);
    const StoredMatrix dt_bias = StorePlain(Random(shape.value_heads), shape.value_heads, Storage::kBfloat16);
    const std::vector<float> state = Random(2 * shape.value_heads * shape.key_dim * shape.value_dim, 0.2f);
    const std::vector<SequenceRun> runs = {{.slot = 1, .first_position = 3, .first_row = 0, .tokens = 11},
                                           {.slot = 0, .first_position = 0, .first_row = 11, .tokens = 1}};
    const auto run = [&](const Context& context, std::span<const SequenceRun> part, std::vector<float>& states,
                         std::vector<float>& out) {
      std::vector<float> inputs = qkv;  // normalized in place
      GatedDeltaRule(context, {.runs = part, .qkv = inputs.data(), .a = a.data(), .b = b.data(), .a_log = &a_log.matrix,
                               .dt_bias = &dt_bias.matrix, .key_heads = shape.key_heads, .value_heads = shape.value_heads,
                               .key_dim = shape.key_dim, .value_dim = shape.value_dim, .state = states.data(),
                               .output = out.data()});
    };
    const auto size = static_cast<size_t>(kRows * shape.value_heads * shape.value_dim);
    std::vector<float> ours(size);
    std::vector<float> theirs(size);
    std::vector<float> our_state = state;
    std::vector<float> their_state = state;
    run(cpu_, runs, our_state, ours);
    run(reference_, runs, their_state, theirs);
    EXPECT_LT(RelativeError(ours, theirs), 10 * kTolerance);  // errors pass through twelve updates of the state
    EXPECT_LT(RelativeError(our_state, their_state), 10 * kTolerance);

    std::vector<float> pieces(size);
    std::vector<float> piece_state = state;
    for (const auto& [first, tokens] : {std::pair<int32_t, int32_t>{0, 4}, {4, 1}, {5, 6}}) {
      const std::vector<SequenceRun> piece = {{.slot = 1, .first_position = 3 + first, .first_row = first, .tokens = tokens}};
      run(cpu_, piece, piece_state, pieces);
    }
    const auto heads = static_cast<size_t>(shape.value_heads * shape.value_dim);
    EXPECT_TRUE(std::equal(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(11 * heads), ours.begin()));
  }
}

TEST_F(Backends, RouteAgreesAndBreaksTiesTowardsTheLowerExpert) {
  for (bool normalize : {true, false}) {
    for (int64_t experts : {2, 16, 100}) {
      std::vector<float> logits = Random(30 * experts);
      for (size_t e = 0; e < static_cast<size_t>(experts); ++e) logits[e] = 1.5f;  // a row of ties
      RouteCall call{.logits = logits.data(), .rows = 30, .experts = experts, .top = 2, .normalize = normalize};
      std::vector<int32_t> ours(60);
      std::vector<int32_t> theirs(60);
      std::vector<float> our_weights(60);
      std::vector<float> their_weights(60);
      call.chosen = ours.data();
      call.weights = our_weights.data();
      Route(cpu_, call);
      call.chosen = theirs.data();
      call.weights = their_weights.data();
      Route(reference_, call);
      EXPECT_EQ(ours, theirs);
      EXPECT_EQ(ours[0], 0);
      EXPECT_EQ(ours[1], 1);
      EXPECT_LT(RelativeError(our_weights, their_weights), kTolerance);
    }
  }
}

TEST_F(Backends, CombineLeavesTheResidualWhereThereIsASum) {
  const std::vector<float> before = {1, 2, 3, 4, 5, 6};
  const std::vector<float> shared = {10, 20, 30, 40, 50, 60};
  for (const Context* context : {&cpu_, &reference_}) {
    std::vector<float> residual = before;
    std::vector<float> sum(6, -1);
    Combine(*context, {.residual = residual.data(), .sum = sum.data(), .shared = shared.data(), .rows = 2, .columns = 3});
    EXPECT_EQ(residual, before);
    EXPECT_EQ(sum, (std::vector<float>{11, 22, 33, 44, 55, 66}));
  }
}

TEST_F(Backends, RouteNamesValidExpertsWhateverTheLogitsHold) {
  std::vector<float> logits(8, std::numeric_limits<float>::quiet_NaN());
  logits[5] = 1;
  std::vector<int32_t> chosen(3, -1);
  std::vector<float> weights(3);
  Route(cpu_, {.logits = logits.data(), .rows = 1, .experts = 8, .top = 3, .normalize = true, .chosen = chosen.data(),
               .weights = weights.data()});
  EXPECT_EQ(chosen, std::vector<int32_t>({5, 0, 1}));
}

TEST_F(Backends, ElementwiseStepsAgree) {
  for (int64_t columns : {3, 16, 100, 256}) {
    constexpr int64_t kRows = 70;
    const std::vector<float> gate_up = Random(kRows * 2 * columns, 3);
    std::vector<float> ours(static_cast<size_t>(kRows * columns));
    std::vector<float> theirs = ours;
    SwiGluCall glu{.gate = gate_up.data(), .up = gate_up.data() + columns, .input_stride = 2 * columns,
                   .output = ours.data(), .rows = kRows, .columns = columns};
    SwiGlu(cpu_, glu);
    glu.output = theirs.data();
    SwiGlu(reference_, glu);
    EXPECT_LT(RelativeError(ours, theirs), kTolerance);

    std::vector<float> our_values = Random(kRows / 2 * 2 * columns);
    std::vector<float> their_values = our_values;
    SigmoidGateCall gate{.values = our_values.data(), .gate = gate_up.data(), .gate_row_stride = 4 * columns,
                         .gate_head_stride = 2 * columns, .rows = kRows / 2, .heads = 2, .columns = columns};
    SigmoidGate(cpu_, gate);
    gate.values = their_values.data();
    SigmoidGate(reference_, gate);
    EXPECT_LT(RelativeError(our_values, their_values), kTolerance);

    std::vector<float> our_sum = Random(kRows * columns);
    std::vector<float> their_sum = our_sum;
    const std::vector<float> routed = Random(kRows * 3 * columns);
    const std::vector<float> weights = Random(kRows * 3);
    const std::vector<float> shared = Random(kRows * columns);
    const std::vector<float> shared_gate = Random(kRows);
    CombineCall combine{.residual = our_sum.data(), .routed = routed.data(), .weights = weights.data(), .top = 3,
                        .shared = shared.data(), .shared_gate = shared_gate.data(), .rows = kRows, .columns = columns};
    Combine(cpu_, combine);
    combine.residual = their_sum.data();
    Combine(reference_, combine);
    EXPECT_LT(RelativeError(our_sum, their_sum), kTolerance);
  }
}

}  // namespace
}  // namespace hproc::kernels
