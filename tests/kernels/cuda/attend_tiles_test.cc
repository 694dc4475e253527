// Attention in tiles against the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/attention_backends.h"
#include "kernels/cuda/op_kernels.h"
#include "tests/kernels/device_array.h"

namespace hproc::kernels {
namespace {

class AttendTiles : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoDevice(); !why.empty()) GTEST_SKIP() << why;
    if (!cuda::CanAttendInTiles({.cache = {.head_dim = 256}})) GTEST_SKIP() << "no device with the shared memory for tiles";
  }
  std::vector<float> Random(int64_t size, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(static_cast<size_t>(size));
    for (float& v : values) v = normal(random_);
    return values;
  }

  struct Shape {
    int64_t heads, kv_heads, head_dim;
  };
  struct Run {
    int32_t first_position, tokens;
  };

  // Queries of the size `query_scale`, whose scores are of size 1; cached values of size 1, the positions behind a run's end NaN.
  void ExpectReference(const Shape& shape, const std::vector<Run>& lengths, Storage storage, float query_scale = 1, bool gated = false) {
    SCOPED_TRACE(testing::Message() << shape.heads << " heads of " << shape.head_dim << ", first run of " << lengths[0].tokens << " behind "
                                    << lengths[0].first_position << (storage == Storage::kInt8 ? ", int8" : ", float16"));
    constexpr int64_t kContext = 700;
    std::vector<SequenceRun> runs;
    int32_t rows = 0;
    for (const Run& run : lengths) {
      runs.push_back({.slot = static_cast<int32_t>(lengths.size() - runs.size()) - 1, .first_position = run.first_position,
                      .first_row = rows, .tokens = run.tokens});
      rows += run.tokens;
    }
    // A gate behind every head's query, as of one projection.
    const int64_t stride = shape.heads * 2 * shape.head_dim;
    const std::vector<float> queries = Random(rows * stride, query_scale);
    const int64_t cached = std::ssize(runs) * shape.kv_heads * kContext;
    std::vector<uint16_t> halves[2];
    std::vector<int8_t> bytes[2];
    std::vector<uint16_t> scales[2];
    for (int of = 0; of < 2; ++of) {
      std::uniform_int_distribution<int> byte(-127, 127);
      for (const float v : Random(cached * shape.head_dim)) halves[of].push_back(quant::FloatToHalf(v));
      for (int64_t i = 0; i < cached * shape.head_dim; ++i) bytes[of].push_back(static_cast<int8_t>(byte(random_)));
      for (const float v : Random(cached)) scales[of].push_back(quant::FloatToBfloat16(0.01f + 0.002f * v));
      for (const SequenceRun& run : runs) {
        for (int64_t h = 0; h < shape.kv_heads; ++h) {
          for (int64_t p = run.first_position + run.tokens; p < kContext; ++p) {
            const int64_t row = run.slot * shape.kv_heads * kContext + h * kContext + p;
            scales[of][static_cast<size_t>(row)] = quant::FloatToBfloat16(std::nanf(""));
            std::fill_n(halves[of].begin() + row * shape.head_dim, shape.head_dim, quant::FloatToHalf(std::nanf("")));
          }
        }
      }
    }
    const DeviceArray<uint16_t> device_halves[2] = {DeviceArray(halves[0]), DeviceArray(halves[1])};
    const DeviceArray<int8_t> device_bytes[2] = {DeviceArray(bytes[0]), DeviceArray(bytes[1])};
    const DeviceArray<uint16_t> device_scales[2] = {DeviceArray(scales[0]), DeviceArray(scales[1])};
    const DeviceArray<float> device_queries(queries);
    const DeviceArray<SequenceRun> device_runs(runs);
    std::vector<float> expected(static_cast<size_t>(rows * shape.heads * shape.head_dim));
    const DeviceArray<float> output(std::vector<float>(expected.size(), std::nanf("")));
    const bool is_int8 = storage == Storage::kInt8;
    AttendCall call{.runs = runs, .rows = rows, .queries = queries.data(), .query_stride = stride,
                    .query_head_stride = 2 * shape.head_dim, .heads = shape.heads,
                    .scale = 1 / (query_scale * std::sqrt(static_cast<float>(shape.head_dim))),
                    .cache = {.storage = storage, .context = kContext, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim},
                    .output = expected.data()};
    call.cache.keys = is_int8 ? static_cast<void*>(bytes[0].data()) : halves[0].data();
    call.cache.values = is_int8 ? static_cast<void*>(bytes[1].data()) : halves[1].data();
    call.cache.key_scales = scales[0].data();
    call.cache.value_scales = scales[1].data();
    reference::Attend(call);
    call.runs = {device_runs.get(), runs.size()};
    call.queries = device_queries.get();
    call.gate = gated ? device_queries.get() + shape.head_dim : nullptr;
    call.cache.keys = is_int8 ? static_cast<void*>(device_bytes[0].get()) : device_halves[0].get();
    call.cache.values = is_int8 ? static_cast<void*>(device_bytes[1].get()) : device_halves[1].get();
    call.cache.key_scales = device_scales[0].get();
    call.cache.value_scales = device_scales[1].get();
    call.output = output.get();
    cuda::LaunchAttendTiles(call, nullptr);
    HPROC_CUDA_CHECK(cudaDeviceSynchronize());
    const std::vector<float> ours = output.ToHost();
    double difference = 0, size = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      double theirs = expected[i];
      if (gated) {
        const size_t head = i / static_cast<size_t>(shape.head_dim), value = i % static_cast<size_t>(shape.head_dim);
        theirs /= 1 + std::exp(-static_cast<double>(queries[(2 * head + 1) * static_cast<size_t>(shape.head_dim) + value]));
      }
      difference += std::pow(static_cast<double>(ours[i]) - theirs, 2);
      size += theirs * theirs;
    }
    // A score of |q| |k| scale = sqrt(head_dim) at most is off by 2^-22 of that for the queries' pairs, and 2^-24 for each of
    // its sums, one in 16 values, and as much as 8 for the rest; its weight by so much, relatively.
    const double dim = static_cast<double>(shape.head_dim);
    const double tolerance = std::sqrt(dim) * (4 + dim / 16 + 8) / (1 << 24);
    EXPECT_LT(std::sqrt(difference / size), tolerance);
  }

  std::mt19937 random_{11};
};

TEST_F(AttendTiles, GiveWhatTheReferenceGives) {
  for (const Storage storage : {Storage::kFloat16, Storage::kInt8}) {
    ExpectReference({4, 2, 256}, {{0, 300}}, storage);
    ExpectReference({2, 1, 256}, {{333, 130}, {0, 1}, {100, 129}}, storage, 1, true);
    ExpectReference({6, 2, 128}, {{5, 127}, {0, 64}}, storage);
    ExpectReference({1, 1, 40}, {{0, 33}, {31, 17}}, storage, 1, true);
  }
}

// Queries beyond what float16 holds, and near the least it has.
TEST_F(AttendTiles, TakeQueriesOfAnySize) {
  ExpectReference({2, 1, 64}, {{0, 140}}, Storage::kFloat16, 1e-12f);
  ExpectReference({2, 1, 64}, {{0, 140}}, Storage::kFloat16, 1e6f);
}

}  // namespace
}  // namespace hproc::kernels
