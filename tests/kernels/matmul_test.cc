#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/stored_matrix.h"
#include "tests/quant/random_rows.h"

namespace hproc::kernels {
namespace {

using quant::Centroids;
using quant::Mode;

struct Input {
  Input(int64_t tokens, int64_t columns, uint32_t seed) : values(quant::RandomRows(tokens, columns, seed)) {
    for (float& v : values) v *= 30;
    quantized.assign(static_cast<size_t>(tokens * PaddedColumns(columns)), int16_t{-1});
    scales.assign(static_cast<size_t>(tokens), -1);
    activations = {tokens, columns, values.data(), quantized.data(), scales.data()};
  }
  std::vector<float> values;
  std::vector<int16_t> quantized;
  std::vector<float> scales;
  Activations activations;
};

// |y - y_reference| of one pair is at most the rounding of x (half a step of largest / 16383 a column) times the sum of
// |w|, plus float32 rounding of the scale products; for plain storage the float32 sum of n products.
double Tolerance(const Matrix& weight, int64_t row, const float* x) {
  std::vector<float> w(static_cast<size_t>(weight.columns));
  DecodeMatrixRow(weight, row, w.data());
  double largest = 0;
  double sum = 0;
  double products = 0;
  for (int64_t c = 0; c < weight.columns; ++c) {
    const double wc = std::abs(static_cast<double>(w[static_cast<size_t>(c)]));
    const double xc = std::abs(static_cast<double>(x[c]));
    largest = std::max(largest, xc);
    sum += wc;
    products += wc * xc;
  }
  const double float_error = products * std::numeric_limits<float>::epsilon() * static_cast<double>(weight.columns);
  return weight.storage == Storage::kXfp ? 0.5 * largest / kQuantizedActivationMax * sum + float_error : float_error;
}

void ExpectMatchesReference(const Matrix& weight, int64_t tokens, int threads) {
  ThreadPool pool(threads);
  const Context cpu{Backend::kCpu, &pool};
  const Context reference{Backend::kReference, &pool};
  Input input(tokens, weight.columns, 77);
  QuantizeActivations(cpu, input.activations);
  const auto size = static_cast<size_t>(tokens * weight.rows);
  std::vector<float> ours(size, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> theirs(size);
  const MatmulCall call = WholeProduct(weight, input.activations, ours.data());
  const MatmulCall reference_call = WholeProduct(weight, input.activations, theirs.data());
  Matmul(cpu, {&call, 1});
  Matmul(reference, {&reference_call, 1});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < weight.rows; ++r) {
      const auto i = static_cast<size_t>(t * weight.rows + r);
      ASSERT_NEAR(ours[i], theirs[i], Tolerance(weight, r, input.values.data() + t * weight.columns))
          << "token " << t << " row " << r;
    }
  }
}

class XfpMatmul : public testing::TestWithParam<std::tuple<Mode, int>> {};

TEST_P(XfpMatmul, MatchesTheReferenceAtTailsAndTokenCounts) {
  const auto [mode, levels] = GetParam();
  const quant::XfpFormat format{.mode = mode, .levels = levels, .centroids = Centroids::kInt8, .group_scales = false};
  for (int64_t columns : {64, 100, 384}) {
    const StoredMatrix w = StoreXfp(quant::RandomRows(70, columns, 5), columns, format, ReachableFloor(levels) - 0.05);
    for (int64_t tokens : {1, 2, 3, 4, 5, 17}) ExpectMatchesReference(w.matrix, tokens, 2);
  }
}

TEST_P(XfpMatmul, AddsOutliers) {
  const auto [mode, levels] = GetParam();
  const quant::XfpFormat format{.mode = mode, .levels = levels, .centroids = Centroids::kInt8, .group_scales = false};
  const StoredMatrix w = StoreXfp(quant::RandomRows(70, 384, 6, 0.01), 384, format, ReachableFloor(levels) + (levels <= 8 ? 0.004 : 0));
  if (levels <= 8) {
    ASSERT_GT(w.matrix.xfp.outliers, 0);
  }
  for (int64_t tokens : {1, 6}) ExpectMatchesReference(w.matrix, tokens, 2);
}

std::string XfpCaseName(const testing::TestParamInfo<std::tuple<Mode, int>>& info) {
  return std::string(std::get<0>(info.param) == Mode::kV2 ? "V2_K" : "V2a_K") + std::to_string(std::get<1>(info.param));
}
INSTANTIATE_TEST_SUITE_P(EveryLevelCount, XfpMatmul,
                         testing::Combine(testing::Values(Mode::kV2, Mode::kV2a), testing::ValuesIn(quant::kLevelCounts)),
                         XfpCaseName);

TEST(Matmul, WideRowsAreSummedInSegmentsThatCannotOverflow) {
  // All weights at the largest centroid, all activations at the largest value: the worst case for 32-bit sums.
  constexpr int64_t kColumns = 5000;
  std::vector<float> values(2 * kColumns, 0.5f);
  const quant::XfpFormat format{.mode = Mode::kV2, .levels = 2, .centroids = Centroids::kInt8, .group_scales = false};
  const StoredMatrix w = StoreXfp(values, kColumns, format, 0.9);
  ThreadPool pool(1);
  const Context cpu{Backend::kCpu, &pool};
  Input input(1, kColumns, 1);
  std::fill(input.values.begin(), input.values.end(), 2.0f);
  QuantizeActivations(cpu, input.activations);
  std::vector<float> out(2, 0);
  const MatmulCall call = WholeProduct(w.matrix, input.activations, out.data());
  Matmul(cpu, {&call, 1});
  // The scale is bfloat16 and rounded up, the one centroid in use to a 127th: at most 1 % off.
  EXPECT_NEAR(out[0], 5000, 50);
}

TEST(Matmul, PlainAndRareStoragesMatchTheReference) {
  for (int64_t columns : {5, 64, 390}) {
    const std::vector<float> values = quant::RandomRows(33, columns, 8);
    for (Storage storage : {Storage::kFloat32, Storage::kFloat16, Storage::kBfloat16}) {
      const StoredMatrix w = StorePlain(values, columns, storage);
      for (int64_t tokens : {1, 7}) ExpectMatchesReference(w.matrix, tokens, 2);
    }
  }
  const std::vector<float> values = quant::RandomRows(40, 300, 9, 0.01);
  const StoredMatrix half = StoreXfp(values, 300, {Mode::kV2, 8, Centroids::kHalf, false}, 0.97);
  const StoredMatrix grouped = StoreXfp(values, 300, {Mode::kV2a, 8, Centroids::kInt8, true}, 0.97);
  ExpectMatchesReference(half.matrix, 5, 2);
  ExpectMatchesReference(grouped.matrix, 5, 2);
}

TEST(Matmul, ScalesOfGroupsMatchTheReferenceAtTailsAndTokenCounts) {
  for (int64_t columns : {64, 100, 128, 130, 390, 2000}) {
    const StoredMatrix w = StoreInt4(quant::RandomRows(39, columns, 15), columns);
    ASSERT_EQ(w.matrix.xfp.outliers, 0);
    for (int64_t tokens : {1, 2, 3, 4, 5, 17}) ExpectMatchesReference(w.matrix, tokens, 2);
  }
}

TEST(Matmul, APairsResultIsTheSameBitsInEveryBatch) {
  const std::vector<float> values = quant::RandomRows(50, 384, 10, 0.01);
  const StoredMatrix xfp = StoreXfp(values, 384, {Mode::kV2a, 6, Centroids::kInt8, false}, 0.96);
  const StoredMatrix plain = StorePlain(values, 384, Storage::kBfloat16);
  const StoredMatrix int4 = StoreInt4(values, 384);
  ThreadPool pool(2);
  const Context cpu{Backend::kCpu, &pool};
  for (const StoredMatrix* w : {&xfp, &plain, &int4}) {
    Input input(9, 384, 11);
    QuantizeActivations(cpu, input.activations);
    std::vector<float> together(9 * 50);
    const MatmulCall all = WholeProduct(w->matrix, input.activations, together.data());
    Matmul(cpu, {&all, 1});
    for (int32_t t = 0; t < 9; ++t) {
      std::vector<float> alone(50);
      MatmulCall one = WholeProduct(w->matrix, input.activations, alone.data());
      one.tokens = 1;
      one.input_tokens = &t;
      Matmul(cpu, {&one, 1});
      for (size_t r = 0; r < 50; ++r) EXPECT_EQ(alone[r], together[static_cast<size_t>(t) * 50 + r]);
    }
  }
}

TEST(Matmul, ExpertsAreRowRangesWithTheirOwnTokens) {
  const StoredMatrix w = StoreXfp(quant::RandomRows(60, 128, 12, 0.01), 128, {Mode::kV2a, 4, Centroids::kInt8, false}, 0.9);
  ThreadPool pool(2);
  const Context cpu{Backend::kCpu, &pool};
  Input input(4, 128, 13);
  QuantizeActivations(cpu, input.activations);
  std::vector<float> whole(4 * 60);
  const MatmulCall all = WholeProduct(w.matrix, input.activations, whole.data());
  Matmul(cpu, {&all, 1});

  const int32_t tokens_a[] = {2, 0};
  const int32_t rows_a[] = {1, 3};
  const int32_t tokens_b[] = {3};
  const int32_t rows_b[] = {0};
  std::vector<float> out(4 * 21, -1.0f);
  MatmulCall calls[2];
  calls[0] = {.weight = &w.matrix, .first_row = 7, .rows = 20, .input = &input.activations, .tokens = 2,
              .input_tokens = tokens_a, .output_rows = rows_a, .output = out.data(), .output_stride = 21};
  calls[1] = {.weight = &w.matrix, .first_row = 39, .rows = 21, .input = &input.activations, .tokens = 1,
              .input_tokens = tokens_b, .output_rows = rows_b, .output = out.data(), .output_stride = 21};
  Matmul(cpu, calls);
  for (size_t r = 0; r < 20; ++r) {
    EXPECT_EQ(out[21 + r], whole[2 * 60 + 7 + r]);
    EXPECT_EQ(out[63 + r], whole[7 + r]);
  }
  for (size_t r = 0; r < 21; ++r) EXPECT_EQ(out[r], whole[3 * 60 + 39 + r]);
  EXPECT_EQ(out[41], -1.0f) << "a row beyond the call's";
  EXPECT_EQ(out[42], -1.0f) << "a row nobody writes";
}

TEST(QuantizeActivations, TokensTooSmallForAFactorCountAsZero) {
  ThreadPool pool(1);
  const Context cpu{Backend::kCpu, &pool};
  for (const float size : {1e-45f, 1e-38f, 4.8e-35f, 4.9e-35f, 1e-30f}) {
    for (const size_t at : {size_t{3}, size_t{69}}) {  // in a register and behind the last
      Input input(1, 70, 14);
      std::fill(input.values.begin(), input.values.end(), 0.0f);
      input.values[at] = -size;
      QuantizeActivations(cpu, input.activations);
      const bool is_zero = size < 4.85e-35f;
      EXPECT_EQ(input.scales[0] == 0, is_zero) << size;
      for (size_t c = 0; c < 128; ++c) EXPECT_EQ(input.quantized[c], c == at && !is_zero ? -kQuantizedActivationMax : 0) << size;
    }
  }
}

TEST(QuantizeActivations, ZeroTokensStayZeroAndNonFiniteOnesShow) {
  ThreadPool pool(1);
  const Context cpu{Backend::kCpu, &pool};
  Input input(3, 70, 14);
  std::fill_n(input.values.begin(), 70, 0.0f);
  input.values[70 + 69] = std::numeric_limits<float>::infinity();
  QuantizeActivations(cpu, input.activations);
  EXPECT_EQ(input.scales[0], 0);
  EXPECT_TRUE(std::isnan(input.scales[1]));
  EXPECT_GT(input.scales[2], 0);
  for (size_t c = 0; c < 128; ++c) EXPECT_EQ(input.quantized[c], 0);
  for (size_t c = 70; c < 128; ++c) EXPECT_EQ(input.quantized[256 + c], 0) << "padding";
}

}  // namespace
}  // namespace hproc::kernels
