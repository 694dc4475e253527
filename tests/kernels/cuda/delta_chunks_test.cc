// The delta rule in chunks against the reference, token by token.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/op_kernels.h"
#include "kernels/gated_delta_backends.h"
#include "tests/kernels/device_array.h"

namespace hproc::kernels {
namespace {

// A product of pairs of bfloat16 is off by 2^-18 of its size for what either factor lacks, and as much for low by low.
constexpr double kProductError = 3.0 / (1 << 18);
// A product stands behind four others at most: K S, one block's own triangle, one with another block, what D adds to.
constexpr double kTolerance = 5 * kProductError;

class DeltaChunks : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoDevice(); !why.empty()) GTEST_SKIP() << why;
    if (!cuda::CanRuleInChunks({.key_heads = 1, .value_heads = 1, .key_dim = 128, .value_dim = 128})) {
      GTEST_SKIP() << "no device with the shared memory for chunks";
    }
  }
  std::vector<float> Random(int64_t size, float scale = 1, float mean = 0) {
    std::normal_distribution<float> normal(mean, scale);
    std::vector<float> values(static_cast<size_t>(size));
    for (float& v : values) v = normal(random_);
    return values;
  }
  // Frobenius norm of the difference over that of the second; not finite where anything is not.
  static double RelativeError(std::span<const float> ours, std::span<const float> theirs) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      difference += std::pow(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]), 2);
      size += std::pow(static_cast<double>(theirs[i]), 2);
    }
    return std::sqrt(difference / size);
  }

  struct Shape {
    int64_t key_heads, value_heads, key_dim, value_dim;
  };
  // Runs of `lengths` tokens in slots of their own, the last first.
  void ExpectReference(const Shape& shape, const std::vector<int32_t>& lengths, float log_rate) {
    SCOPED_TRACE(testing::Message() << shape.value_heads << " heads of " << shape.key_dim << " x " << shape.value_dim << ", first of "
                                    << lengths.front() << " tokens, log rate " << log_rate);
    std::vector<SequenceRun> runs;
    int32_t rows = 0;
    for (const int32_t length : lengths) {
      runs.push_back({.slot = static_cast<int32_t>(lengths.size() - runs.size()) - 1, .first_row = rows, .tokens = length});
      rows += length;
    }
    std::vector<float> qkv = Random(rows * (2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim));
    const std::vector<float> a = Random(rows * shape.value_heads), b = Random(rows * shape.value_heads, 2);
    const std::vector<float> log_rates = Random(shape.value_heads, 0.3f, log_rate), biases = Random(shape.value_heads);
    std::vector<float> state = Random(std::ssize(runs) * shape.value_heads * shape.key_dim * shape.value_dim, 0.3f);
    const DeviceArray<SequenceRun> device_runs(runs);
    const DeviceArray<float> device_qkv(qkv), device_a(a), device_b(b), device_rates(log_rates), device_biases(biases), device_state(state);
    const DeviceArray<float> device_output(std::vector<float>(static_cast<size_t>(rows * shape.value_heads * shape.value_dim), std::nanf("")));
    std::vector<float> output(device_output.size());
    const Matrix rates{.rows = 1, .columns = shape.value_heads, .data = log_rates.data()}, biases_of{.rows = 1, .columns = shape.value_heads, .data = biases.data()};
    Matrix on_device[2] = {rates, biases_of};
    on_device[0].data = device_rates.get();
    on_device[1].data = device_biases.get();
    DeltaRuleCall call{.runs = {device_runs.get(), runs.size()}, .rows = rows, .qkv = device_qkv.get(), .a = device_a.get(),
                       .b = device_b.get(), .a_log = &on_device[0], .dt_bias = &on_device[1], .key_heads = shape.key_heads,
                       .value_heads = shape.value_heads, .key_dim = shape.key_dim, .value_dim = shape.value_dim,
                       .state = device_state.get(), .output = device_output.get()};
    cuda::LaunchDeltaChunks(call, nullptr);
    HPROC_CUDA_CHECK(cudaDeviceSynchronize());
    call.runs = runs;
    call.qkv = qkv.data();
    call.a = a.data();
    call.b = b.data();
    call.a_log = &rates;
    call.dt_bias = &biases_of;
    call.state = state.data();
    call.output = output.data();
    reference::GatedDeltaRule(call);
    const double output_error = RelativeError(device_output.ToHost(), output), state_error = RelativeError(device_state.ToHost(), state);
    EXPECT_LT(output_error, kTolerance);
    EXPECT_LT(state_error, kTolerance);
    if (output_error > worst_ || std::isnan(output_error)) worst_ = output_error;
  }

  std::mt19937 random_{7};
  double worst_ = 0;
};

TEST_F(DeltaChunks, GiveWhatTheTokensGiveOneByOne) {
  for (const Shape& shape : {Shape{2, 4, 128, 128}, Shape{1, 2, 64, 64}, Shape{3, 3, 36, 100}, Shape{1, 1, 4, 4}}) {
    for (const std::vector<int32_t>& lengths : {std::vector<int32_t>{64}, {200, 1, 65}, {63, 17}}) ExpectReference(shape, lengths, 0);
  }
  RecordProperty("worst_relative_error", std::to_string(worst_));
}

// Decays of nearly one, which forget nothing, and of e^-30 a token, whose product over a chunk is below what a float has.
TEST_F(DeltaChunks, TakeDecaysOfAnySize) {
  for (const float log_rate : {-9.0f, 3.5f}) ExpectReference({2, 4, 128, 128}, {300}, log_rate);
}

}  // namespace
}  // namespace hproc::kernels
