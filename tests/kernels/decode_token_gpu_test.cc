// Products of one token whose columns are whole pairs of tiles (kernels/cuda/decode_token.cuh).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "kernels/matrix.h"
#include "tests/kernels/decode_gpu_fixture.h"

namespace hproc::kernels {
namespace {

class DecodeTokenGpu : public DecodeGpu {
 protected:
  std::vector<float> Given(const Weight& weight, const RoundedRows& rows, const float* input) {
    const DeviceArray<float> output(std::vector<float>(static_cast<size_t>(weight.matrix.rows), std::nanf("")));
    DecodeMatmul({.stream = stream_, .overlap = true}, {.weight = weight.matrix, .input = input, .input_stride = weight.matrix.columns,
                                                        .rounded = rows, .output = output.get(), .output_stride = weight.matrix.rows});
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return output.ToHost();
  }
};

class DecodeTokenGpuLevels : public DecodeTokenGpu, public testing::WithParamInterface<int> {};

// Alone, rounded by the product or before it, as among others, which another kernel multiplies.
TEST_P(DecodeTokenGpuLevels, GivesATokenTheBitsItHasAmongOthers) {
  for (const int64_t columns : {512, 1024, 2560, 10240}) {
    for (const int outliers : {0, 9, 70}) {  // a lane holds 4 of a row at a time, of each fourth
      if (outliers > 9 && columns < 10240) continue;
      const Weight weight(columns > 5000 ? 60 : 1211, columns, {.mode = Mode::kV2, .levels = GetParam()}, outliers, 5, outliers == 0);
      const std::vector<float> x = RandomFloats(static_cast<size_t>(3 * columns), 30, 7);
      const std::vector<float> first = Product(weight, x, 3);
      const std::vector<float> one(x.begin(), x.begin() + columns);
      const DeviceArray<float> input(one);
      const Rounded rounded(input.get(), 1, columns, columns, stream_);
      const std::vector<float> expected(first.begin(), first.begin() + weight.matrix.rows);
      EXPECT_EQ(Product(weight, one, 1, true), expected) << columns << " columns, " << outliers << " outliers";
      EXPECT_EQ(Given(weight, rounded.rows(), input.get()), expected) << columns << " columns, " << outliers << " outliers";
      ExpectProduct(weight, 1, 7);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Every, DecodeTokenGpuLevels, testing::ValuesIn(quant::kLevelCounts),
                         [](const auto& test) { return "K" + std::to_string(test.param); });

TEST_F(DecodeTokenGpu, ABlockMayHaveMoreRowsThanThreads) {
  int device = 0, multiprocessors = 0;
  HPROC_CUDA_CHECK(cudaGetDevice(&device));
  HPROC_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int64_t rows = multiprocessors * int64_t{520} + 1;  // 512 threads
  const Weight weight(rows, 512, {.mode = Mode::kV2, .levels = 16}, 20, 5);
  const std::vector<float> x = RandomFloats(size_t{3 * 512}, 30, 7);
  const std::vector<float> one(x.begin(), x.begin() + 512);
  const std::vector<float> of_three = Product(weight, x, 3);
  EXPECT_EQ(Product(weight, one, 1, true), std::vector<float>(of_three.begin(), of_three.begin() + rows));
}

TEST_F(DecodeTokenGpu, ShowsNonFiniteInputsAndKeepsZeros) {
  const Weight weight(40, 512, {.mode = Mode::kV2, .levels = 16}, 3, 1);
  std::vector<float> x(512, 0);
  for (const float y : Product(weight, x, 1)) EXPECT_EQ(y, 0);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    x[317] = bad;
    for (const float y : Product(weight, x, 1)) EXPECT_FALSE(std::isfinite(y));
    const DeviceArray<float> input(x);
    const Rounded rounded(input.get(), 1, 512, 512, stream_);
    for (const float y : Given(weight, rounded.rows(), input.get())) EXPECT_FALSE(std::isfinite(y));
  }
}

struct Halves {
  Halves(int64_t rows, int64_t columns, Storage storage, uint32_t seed) : values(RandomFloats(static_cast<size_t>(rows * columns), 1, seed)) {
    std::vector<uint16_t> bits;
    for (float& value : values) {
      if (storage == Storage::kBfloat16) {
        const __nv_bfloat16 half = __float2bfloat16(value);
        bits.push_back(__bfloat16_as_ushort(half));
        value = __bfloat162float(half);
      } else {
        const __half half = __float2half(value);
        bits.push_back(__half_as_ushort(half));
        value = __half2float(half);
      }
    }
    device = std::make_unique<DeviceArray<uint16_t>>(bits);
    matrix = {.storage = storage, .rows = rows, .columns = columns, .data = device->get(), .xfp = {}, .decode = {}};
  }
  std::vector<float> values;  // as stored
  std::unique_ptr<DeviceArray<uint16_t>> device;
  Matrix matrix;
};

// (input + added) by its root mean square and the norm's weights: the sum, the row, plain products of it, and packed ones.
TEST_F(DecodeTokenGpu, MakesTheNormThatItReads) {
  constexpr double kEpsilon = 1e-6;
  for (const int64_t columns : {512, 3072, 4096}) {
    for (const Storage storage : {Storage::kBfloat16, Storage::kFloat16}) {
      for (const size_t plain : {0, 1, 2}) {
        const bool adds = plain != 1;
        const float offset = plain == 2 ? 1.0f : 0.0f;
        const Weight weight(1500, columns, {.mode = Mode::kV2, .levels = 16}, 5, 5), beside(700, columns, {.mode = Mode::kV2, .levels = 16}, 5, 9);
        const Halves norm_weight(1, columns, storage, 6), first(24, columns, storage, 7), second(16, columns, storage, 8);
        const std::vector<float> x = RandomFloats(static_cast<size_t>(columns), 3, 1), y = RandomFloats(static_cast<size_t>(columns), 3, 2);
        const DeviceArray<float> input(x), added(y), sum(x.size()), output(x.size()), scale(size_t{1});
        const DeviceArray<float> of_first(size_t{24}), of_second(size_t{16}), products(std::vector<float>(1500, std::nanf("")));
        const DeviceArray<float> of_beside(std::vector<float>(700, std::nanf("")));
        const DeviceArray<std::byte> rounded(static_cast<size_t>(RoundedRowBytes(columns)));
        const MatmulCall plain_calls[] = {{.weight = &first.matrix, .rows = 24, .output = of_first.get(), .output_stride = 24},
                                          {.weight = &second.matrix, .rows = 16, .output = of_second.get(), .output_stride = 16}};
        const DecodeNorm norm{.input = input.get(), .added = adds ? added.get() : nullptr, .sum = adds ? sum.get() : nullptr, .columns = columns,
                              .weight = &norm_weight.matrix, .offset = offset, .epsilon = static_cast<float>(kEpsilon),
                              .products = std::span(plain_calls).first(plain), .output = output.get(), .rounded = rounded.get(),
                              .scale = scale.get()};
        const DecodeMatrix matrices[] = {weight.matrix, beside.matrix};
        ASSERT_TRUE(CanNormInProduct(norm, matrices));
        const DecodeMatmulCall calls[] = {{.weight = weight.matrix, .input = output.get(), .input_stride = columns, .tokens = 1,
                                           .output = products.get(), .output_stride = 1500},
                                          {.weight = beside.matrix, .input = output.get(), .input_stride = columns, .tokens = 1,
                                           .output = of_beside.get(), .output_stride = 700}};
        DecodeNormedMatmul({.stream = stream_, .overlap = true}, norm, calls, nullptr);
        HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));

        std::vector<float> total = x;
        if (adds) {
          for (size_t i = 0; i < total.size(); ++i) total[i] += y[i];
          EXPECT_EQ(sum.ToHost(), total);
        }
        double square = 0;
        for (const float value : total) square += static_cast<double>(value) * value;
        const double root = std::sqrt(square / static_cast<double>(columns) + kEpsilon);
        // Sums of `columns` terms in pairs and rows, a root and a quotient to two units: far below 32 units and a root of columns.
        const double relative = kFloatEpsilon * (32 + std::sqrt(static_cast<double>(columns)));
        const std::vector<float> row = output.ToHost();
        const auto expected = [&](size_t i) { return total[i] / root * (static_cast<double>(norm_weight.values[i]) + offset); };
        for (size_t i = 0; i < row.size(); ++i) ASSERT_NEAR(row[i], expected(i), relative * std::abs(expected(i)) + 1e-30) << i;
        const auto expect_plain = [&](const Halves& of, const std::vector<float>& got) {
          for (size_t r = 0; r < got.size(); ++r) {
            double dot = 0, magnitude = 0;
            for (size_t i = 0; i < row.size(); ++i) {
              const double term = expected(i) * of.values[r * row.size() + i];
              dot += term, magnitude += std::abs(term);
            }
            ASSERT_NEAR(got[r], dot, relative * magnitude) << r;
          }
        };
        if (plain > 0) expect_plain(first, of_first.ToHost());
        if (plain > 1) expect_plain(second, of_second.ToHost());
        // What others read is what it read itself.
        const std::vector<float> got = products.ToHost();
        EXPECT_EQ(Given(beside, {.values = rounded.get(), .scales = scale.get()}, output.get()), of_beside.ToHost());
        EXPECT_EQ(Given(weight, {.values = rounded.get(), .scales = scale.get()}, output.get()), got);
        for (int64_t r = 0; r < 1500; ++r) {
          const Expected product = DotOf(weight.container.view, r, row.data());
          ASSERT_NEAR(got[static_cast<size_t>(r)], product.value, product.tolerance) << r;
        }
      }
    }
  }
}

TEST_F(DecodeTokenGpu, RefusesNormsThatItCannotMake) {
  const Halves norm_weight(1, 512, Storage::kBfloat16, 6), many(512, 512, Storage::kBfloat16, 7), other(8, 512, Storage::kFloat16, 8);
  const MatmulCall too_many[] = {{.weight = &many.matrix, .rows = 512}};
  const MatmulCall mixed[] = {{.weight = &norm_weight.matrix, .rows = 1}, {.weight = &other.matrix, .rows = 8}};
  const DecodeNorm norm{.columns = 512, .weight = &norm_weight.matrix, .products = {}};
  const auto can = [&](Mode mode, int64_t columns, const DecodeNorm& of) {
    const DecodeMatrix matrix{.rows = 800, .columns = columns, .format = {.mode = mode, .levels = 8}};
    Matrix as_long = *of.weight;
    as_long.columns = columns;
    DecodeNorm norm_of = of;
    norm_of.weight = &as_long;
    norm_of.columns = columns;
    return CanNormInProduct(norm_of, {&matrix, 1});
  };
  EXPECT_TRUE(can(Mode::kV2, 512, norm));
  EXPECT_FALSE(can(Mode::kV2a, 512, norm)) << "codebooks of a library";
  EXPECT_FALSE(can(Mode::kV2, 768, norm)) << "an odd number of column tiles";
  EXPECT_FALSE(can(Mode::kV2, 1000, norm)) << "a tile that is not full";
  EXPECT_FALSE(can(Mode::kV2, 8192, norm)) << "more columns than a block keeps";
  DecodeNorm rows = norm;
  rows.products = too_many;
  EXPECT_FALSE(can(Mode::kV2, 512, rows)) << "more plain rows than blocks";
  rows.products = mixed;
  EXPECT_FALSE(can(Mode::kV2, 512, rows)) << "plain weights of two storages";
  Matrix wide = norm_weight.matrix;
  wide.storage = Storage::kFloat32;
  EXPECT_FALSE(can(Mode::kV2, 512, {.columns = 512, .weight = &wide, .products = {}})) << "float32";
}

}  // namespace
}  // namespace hproc::kernels
