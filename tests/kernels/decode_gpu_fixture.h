// Matrices in decode order on a device, and what their products must be.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/decode_params.h"
#include "kernels/decode.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/random_container.h"

namespace hproc::kernels {

using quant::Mode;

inline constexpr double kFloatEpsilon = std::numeric_limits<float>::epsilon();

inline std::vector<float> RandomFloats(size_t count, float largest, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-largest, largest);
  std::vector<float> values(count);
  for (float& v : values) v = uniform(random);
  return values;
}

// One matrix on the host, as float rows, and on the device in decode order.
struct Weight {
  Weight(int64_t rows, int64_t columns, const quant::XfpFormat& format, int outliers, uint32_t seed, bool ascending = false)
      : container(rows, columns, format, outliers, seed, ascending),
        device(Ordered(container.view)),
        matrix{rows, columns, format, container.view.outliers, device.get()} {}

  static std::vector<std::byte> Ordered(const quant::XfpMatrix& view) {
    std::vector<std::byte> bytes(
        static_cast<size_t>(DecodeOrderOf(view.rows, view.columns, view.format, view.outliers).total_bytes));
    WriteDecodeOrder(view, bytes);
    return bytes;
  }

  RandomContainer container;
  DeviceArray<std::byte> device;
  DecodeMatrix matrix;
};

// The product of a row with x in double, and how far the device may be from it: half a step of the rounded x at every
// column (kernels/decode.h), plus float32 rounding. Rounding is counted on the sum of magnitudes: the conversion of the
// integer sum and two multiplications take an epsilon each, an outlier two each in a sum of at most columns / 16 terms.
struct Expected {
  double value = 0;
  double tolerance = 0;
};
inline Expected DotOf(const quant::XfpMatrix& matrix, int64_t row, const float* x) {
  std::vector<float> w(static_cast<size_t>(matrix.columns));
  quant::DecodeRow(matrix, row, w);
  double largest = 0, magnitude = 0, products = 0;
  Expected expected;
  for (int64_t c = 0; c < matrix.columns; ++c) {
    const double wc = w[static_cast<size_t>(c)], xc = x[c];
    expected.value += wc * xc;
    largest = std::max(largest, std::abs(xc));
    magnitude += std::abs(wc);
    products += std::abs(wc * xc);
  }
  expected.tolerance = 0.5 * largest / kDecodeActivationMax * magnitude * 1.01 +
                       (8 + std::sqrt(static_cast<double>(matrix.columns))) * kFloatEpsilon * products;
  return expected;
}

class DecodeGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoDevice(); !why.empty()) GTEST_SKIP() << why;
    HPROC_CUDA_CHECK(cudaStreamCreate(&stream_));
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  std::vector<float> Product(const Weight& weight, const std::vector<float>& x, int64_t tokens, bool overlap = false) {
    const int64_t rows = weight.matrix.rows;
    const auto stride = static_cast<int64_t>(x.size()) / tokens;
    const DeviceArray<float> input(x);
    const DeviceArray<float> output(std::vector<float>(static_cast<size_t>(tokens * rows), std::nanf("")));
    const DeviceArray<std::byte> workspace(static_cast<size_t>(DecodeWorkspaceBytes(tokens, weight.matrix.columns)) + 16);
    DecodeMatmul({.stream = stream_, .overlap = overlap, .workspace = workspace.get()}, {.weight = weight.matrix,
                                                                                         .input = input.get(),
                                                                                         .input_stride = stride,
                                                                                         .tokens = tokens,
                                                                                         .output = output.get(),
                                                                                         .output_stride = rows});
    HPROC_CUDA_CHECK(cudaStreamSynchronize(stream_));
    return output.ToHost();
  }

  void ExpectProduct(const Weight& weight, int64_t tokens, uint32_t seed) {
    const int64_t columns = weight.matrix.columns;
    const int64_t stride = (columns + 3) / 4 * 4;
    const std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * stride), 30, seed);
    const std::vector<float> y = Product(weight, x, tokens);
    double worst = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < weight.matrix.rows; ++r) {
        const Expected expected = DotOf(weight.container.view, r, x.data() + t * stride);
        const double got = y[static_cast<size_t>(t * weight.matrix.rows + r)];
        ASSERT_NEAR(got, expected.value, expected.tolerance)
            << "token " << t << " row " << r << " of " << tokens << " tokens";
        worst = std::max(worst, std::abs(got - expected.value) / (expected.tolerance + 1e-300));
      }
    }
    EXPECT_LE(worst, 1);
  }

  cudaStream_t stream_ = nullptr;
};

// Tokens as the kernel that makes them would round them.
struct Rounded {
  Rounded(const float* x, int64_t tokens, int64_t columns, int64_t stride, cudaStream_t stream)
      : values(static_cast<size_t>(tokens * RoundedRowBytes(columns))), scales(static_cast<size_t>(tokens)) {
    cuda::LaunchRoundActivations(x, stride, static_cast<int32_t>(tokens), static_cast<int32_t>(columns),
                                 static_cast<int32_t>(RoundedRowBytes(columns) / 2), values.get(), scales.get(), false, stream);
  }
  RoundedRows rows() const { return {.values = reinterpret_cast<const std::byte*>(values.get()), .scales = scales.get()}; }
  DeviceArray<int8_t> values;
  DeviceArray<float> scales;
};

inline double Silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace hproc::kernels
