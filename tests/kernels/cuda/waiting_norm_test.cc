// A norm of one row waits for the product that reads it (kernels/cuda/backend.cc).
#include "kernels/cuda/backend.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/kernels/decode_gpu_fixture.h"
#include "tests/kernels/stored_matrix.h"

namespace hproc::kernels {
namespace {

class WaitingNorm : public GpuTest {
 protected:
  static constexpr int64_t kColumns = 1024, kRows = 700;

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    norm_weight_ = StorePlain(RandomFloats(kColumns, 1, 3), kColumns, Storage::kBfloat16);
    norm_bytes_ = std::make_unique<DeviceArray<std::byte>>(
        std::vector<std::byte>(norm_weight_.bytes.get(), norm_weight_.bytes.get() + norm_weight_.byte_count));
    norm_weight_.matrix.data = norm_bytes_->get();
    weight_ = std::make_unique<Weight>(kRows, kColumns, quant::XfpFormat{.mode = Mode::kV2, .levels = 16}, 3, 5);
    packed_ = {.storage = Storage::kDecodeOrder, .rows = kRows, .columns = kColumns, .data = nullptr, .xfp = {}, .decode = weight_->matrix};
    values_ = RandomFloats(2 * kColumns, 3, 7);
    workspace_ = std::make_unique<DeviceArray<std::byte>>(
        static_cast<size_t>(CudaWorkspaceBytes({.rows = 2, .most_columns = kColumns, .hidden = kColumns})));
    backend_ = std::make_unique<CudaBackend>(Device());
    backend_->UseWorkspace({workspace_->get(), workspace_->size()});
  }

  // Rows and their norms.
  struct Row {
    explicit Row(const std::vector<float>& of)
        : values(of), input(values), output(std::vector<float>(values.size(), std::nanf(""))), rounded(values.size()), scales(size_t{2}),
          product(std::vector<float>(2 * kRows, std::nanf(""))) {
      activations = {.tokens = static_cast<int64_t>(values.size()) / kColumns, .columns = kColumns, .values = output.get(),
                     .quantized = rounded.get(), .scales = scales.get(), .rounded = true};
    }
    bool HasNorm() const { return !std::isnan(output.ToHost().front()); }
    std::vector<float> values;
    DeviceArray<float> input, output;
    DeviceArray<int16_t> rounded;
    DeviceArray<float> scales, product;
    Activations activations;
  };
  RmsNormCall NormOf(const Row& row) const {
    return {.input = row.input.get(), .input_stride = kColumns, .output = row.output.get(), .output_stride = kColumns,
            .rows = row.activations.tokens, .columns = kColumns, .weight = &norm_weight_.matrix, .rounded = &row.activations};
  }
  void Multiply(const Row& row, float* output) {
    const MatmulCall call = WholeProduct(packed_, row.activations, output);
    backend_->Matmul({&call, 1});
  }
  // Row `row` of the norms against their definition, its product against the norm as the device has it.
  void ExpectNormAndProduct(const Row& rows, const std::vector<float>& products, size_t row = 0) const {
    const std::vector<float> outputs = rows.output.ToHost();
    const float* const output = outputs.data() + row * kColumns;
    double square = 0;
    for (size_t i = 0; i < kColumns; ++i) square += std::pow(static_cast<double>(rows.values[row * kColumns + i]), 2);
    const double root = std::sqrt(square / kColumns + 1e-6);
    const double relative = kFloatEpsilon * (32 + std::sqrt(static_cast<double>(kColumns)));
    const auto* weights = reinterpret_cast<const uint16_t*>(norm_weight_.bytes.get());
    for (size_t i = 0; i < kColumns; ++i) {
      const double expected = rows.values[row * kColumns + i] / root * static_cast<double>(quant::Bfloat16ToFloat(weights[i]));
      ASSERT_NEAR(output[i], expected, relative * std::abs(expected) + 1e-30) << i;
    }
    for (int64_t r = 0; r < kRows; ++r) {
      const Expected expected = DotOf(weight_->container.view, r, output);
      ASSERT_NEAR(products[row * kRows + static_cast<size_t>(r)], expected.value, expected.tolerance) << r;
    }
  }
  std::vector<float> OneRow(int64_t row = 0) const { return {values_.begin() + row * kColumns, values_.begin() + (row + 1) * kColumns}; }

  StoredMatrix norm_weight_;
  std::unique_ptr<DeviceArray<std::byte>> norm_bytes_, workspace_;
  std::unique_ptr<Weight> weight_;
  Matrix packed_;
  std::vector<float> values_;
  std::unique_ptr<CudaBackend> backend_;
};

TEST_F(WaitingNorm, IsNotMadeBeforeTheProductThatReadsIt) {
  const Row row(OneRow());
  backend_->RmsNorm(NormOf(row));
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_FALSE(row.HasNorm());
  Multiply(row, row.product.get());
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  ExpectNormAndProduct(row, row.product.ToHost());
}

TEST_F(WaitingNorm, GoesAheadOfWhateverElseComesFirst) {
  const Row row(OneRow());
  const DeviceArray<float> other(size_t{4});
  backend_->RmsNorm(NormOf(row));
  backend_->Zero(other.get(), 16);
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(row.HasNorm());
  Multiply(row, row.product.get());
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  ExpectNormAndProduct(row, row.product.ToHost());
}

TEST_F(WaitingNorm, IsOneAtATime) {
  const Row first(OneRow(0)), second(OneRow(1));
  backend_->RmsNorm(NormOf(first));
  backend_->RmsNorm(NormOf(second));
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(first.HasNorm());
  EXPECT_FALSE(second.HasNorm());
  Multiply(first, first.product.get());
  Multiply(second, second.product.get());
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  ExpectNormAndProduct(first, first.product.ToHost());
  ExpectNormAndProduct(second, second.product.ToHost());
}

TEST_F(WaitingNorm, IsOfOneRow) {
  const Row rows(values_);
  backend_->RmsNorm(NormOf(rows));
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_TRUE(rows.HasNorm());
  Multiply(rows, rows.product.get());
  HPROC_CUDA_CHECK(cudaDeviceSynchronize());
  const std::vector<float> products = rows.product.ToHost();
  ExpectNormAndProduct(rows, products, 0);
  ExpectNormAndProduct(rows, products, 1);
}

}  // namespace
}  // namespace hproc::kernels
