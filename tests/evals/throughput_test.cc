#include "evals/throughput.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Takes 1 ms a prompt token and 10 ms a decoded step, and remembers what it was asked to do.
class FakeModel : public TimedModel {
 public:
  explicit FakeModel(int context) : context_(context) {}

  int context() const override { return context_; }
  Result<double> Prefill(int batch, int tokens) override {
    calls.push_back("prefill " + std::to_string(batch) + "x" + std::to_string(tokens));
    return Next(0.001 * tokens * batch);
  }
  Result<double> Decode(int batch, int tokens) override {
    calls.push_back("decode " + std::to_string(batch) + "x" + std::to_string(tokens));
    return Next(0.01 * tokens);
  }

  std::vector<std::string> calls;
  int faulty_call = -1;  // counted from 0
  Result<double> fault = 0.0;

 private:
  Result<double> Next(double seconds) {
    if (static_cast<int>(calls.size()) - 1 == faulty_call) return fault;
    return seconds;
  }

  int context_;
};

TEST(RunThroughput, WarmsUpThenRepeatsWithAPrefillBeforeEachDecode) {
  FakeModel model(4096);
  const auto samples = RunThroughput({.batch = 2, .repetitions = 1, .warmups = 1}, model);
  ASSERT_TRUE(samples.ok()) << samples.error().message;
  EXPECT_THAT(model.calls,
              ElementsAre("prefill 2x512", "decode 2x32", "prefill 2x512", "decode 2x256",  //
                          "prefill 2x512", "decode 2x32", "prefill 2x512", "decode 2x256"));
}

TEST(RunThroughput, GivesOneSampleAKindAndRepetition) {
  FakeModel model(4096);
  const auto samples = RunThroughput({.batch = 2, .repetitions = 3, .warmups = 2}, model);
  ASSERT_TRUE(samples.ok());
  ASSERT_EQ(samples->size(), 9u);
  EXPECT_EQ((*samples)[3].kind, ThroughputKind::kPrefill);
  EXPECT_EQ((*samples)[3].repetition, 1);
  EXPECT_EQ((*samples)[3].tokens, 1024);
  EXPECT_EQ((*samples)[3].batch, 2);
  EXPECT_DOUBLE_EQ((*samples)[3].seconds, 1.024);
  EXPECT_EQ((*samples)[5].kind, ThroughputKind::kLongDecode);
  EXPECT_EQ((*samples)[5].tokens, 512);
  EXPECT_DOUBLE_EQ((*samples)[5].seconds, 2.56);
}

TEST(RunThroughput, CutsThePromptToWhatTheLongestDecodeLeaves) {
  FakeModel model(640);
  ASSERT_TRUE(RunThroughput({.repetitions = 1, .warmups = 0}, model).ok());
  EXPECT_THAT(model.calls,
              ElementsAre("prefill 1x384", "decode 1x32", "prefill 1x384", "decode 1x256"));
}

TEST(RunThroughput, CutsDecodesToHalfOfAShortContext) {
  FakeModel model(50);
  ASSERT_TRUE(RunThroughput({.repetitions = 1, .warmups = 0}, model).ok());
  EXPECT_THAT(model.calls,
              ElementsAre("prefill 1x25", "decode 1x25", "prefill 1x25", "decode 1x25"));
  FakeModel tiny(2);
  ASSERT_TRUE(RunThroughput({.repetitions = 1, .warmups = 0}, tiny).ok());
  EXPECT_THAT(tiny.calls, ElementsAre("prefill 1x1", "decode 1x1", "prefill 1x1", "decode 1x1"));
  FakeModel none(1);
  EXPECT_FALSE(RunThroughput({}, none).ok());
}

TEST(RunThroughput, RefusesNonsense) {
  FakeModel model(4096);
  EXPECT_FALSE(RunThroughput({.prompt_tokens = 0}, model).ok());
  EXPECT_FALSE(RunThroughput({.short_decode_tokens = 0}, model).ok());
  EXPECT_FALSE(RunThroughput({.batch = 0}, model).ok());
  EXPECT_FALSE(RunThroughput({.repetitions = 0}, model).ok());
  EXPECT_FALSE(RunThroughput({.warmups = -1}, model).ok());
  EXPECT_THAT(model.calls, testing::IsEmpty());
}

TEST(RunThroughput, PassesOnTheModelsErrorFromAnyCall) {
  for (int call = 0; call < 4; ++call) {
    FakeModel model(4096);
    model.faulty_call = call;
    model.fault = Error{"the device is gone"};
    const auto samples = RunThroughput({.repetitions = 1, .warmups = 0}, model);
    ASSERT_FALSE(samples.ok()) << call;
    EXPECT_EQ(samples.error().message, "the device is gone");
  }
}

TEST(RunThroughput, RefusesDurationsThatAreNone) {
  for (const double seconds : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity()}) {
    FakeModel model(4096);
    model.faulty_call = 1;
    model.fault = seconds;
    const auto samples = RunThroughput({.repetitions = 1, .warmups = 0}, model);
    ASSERT_FALSE(samples.ok()) << seconds;
    EXPECT_THAT(samples.error().message, HasSubstr("short_decode took"));
  }
}

TEST(SummarizeThroughput, GivesMeanDeviationAndMedianOfTheRates) {
  std::vector<ThroughputSample> samples;
  for (const double seconds : {1.0, 0.5, 2.0, 0.25}) {  // 100, 200, 50, 400 tokens/s
    samples.push_back(
        {.kind = ThroughputKind::kLongDecode, .tokens = 100, .batch = 4, .seconds = seconds});
  }
  samples.push_back({.kind = ThroughputKind::kPrefill, .tokens = 512, .seconds = 2});
  const std::vector<ThroughputSummary> summaries = SummarizeThroughput(samples);
  ASSERT_EQ(summaries.size(), 2u);
  EXPECT_EQ(summaries[0].kind, ThroughputKind::kPrefill);
  EXPECT_EQ(summaries[0].repetitions, 1);
  EXPECT_DOUBLE_EQ(summaries[0].mean_tok_per_s, 256);
  EXPECT_EQ(summaries[0].sd_tok_per_s, 0);
  EXPECT_DOUBLE_EQ(summaries[0].median_tok_per_s, 256);
  EXPECT_EQ(summaries[1].kind, ThroughputKind::kLongDecode);
  EXPECT_EQ(summaries[1].repetitions, 4);
  EXPECT_EQ(summaries[1].tokens, 100);
  EXPECT_EQ(summaries[1].batch, 4);
  EXPECT_DOUBLE_EQ(summaries[1].mean_tok_per_s, 187.5);
  EXPECT_NEAR(summaries[1].sd_tok_per_s, 154.784796842, 1e-8);  // sqrt(71875 / 3)
  EXPECT_DOUBLE_EQ(summaries[1].median_tok_per_s, 150);
}

TEST(SummarizeThroughput, PassesOverSamplesWithoutADuration) {
  const std::vector<ThroughputSample> samples{
      {.kind = ThroughputKind::kPrefill, .tokens = 10, .seconds = 0},
      {.kind = ThroughputKind::kPrefill, .tokens = 10, .seconds = 2}};
  const std::vector<ThroughputSummary> summaries = SummarizeThroughput(samples);
  ASSERT_EQ(summaries.size(), 1u);
  EXPECT_EQ(summaries[0].repetitions, 1);
  EXPECT_DOUBLE_EQ(summaries[0].median_tok_per_s, 5);
  EXPECT_TRUE(SummarizeThroughput({}).empty());
}

TEST(ThroughputKindName, IsTheWordOfTheReports) {
  EXPECT_EQ(ThroughputKindName(ThroughputKind::kPrefill), "prefill");
  EXPECT_EQ(ThroughputKindName(ThroughputKind::kShortDecode), "short_decode");
  EXPECT_EQ(ThroughputKindName(ThroughputKind::kLongDecode), "long_decode");
}

}  // namespace
}  // namespace hproc::evals
