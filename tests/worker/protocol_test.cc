// The rules of the protocol for messages that are well meant; protocol_hostile_test.cc has the
// others.
#include "worker/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace hproc::worker {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string WithoutNewline(std::string line) {
  EXPECT_EQ(line.back(), '\n');
  line.pop_back();
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  return line;
}

// Encodes, decodes, encodes again: equal lines mean that no field was lost, provided that every
// field of `message` was given a value of its own.
template <typename T>
T RoundTrip(const T& message) {
  const auto encode = [](const T& m) {
    if constexpr (std::is_same_v<T, Job>) return EncodeJob(m);
    if constexpr (std::is_same_v<T, Command>) return EncodeCommand(m);
    if constexpr (std::is_same_v<T, Event>) return EncodeEvent(m);
  };
  const auto decode = [](const std::string& line) {
    if constexpr (std::is_same_v<T, Job>) return DecodeJob(line);
    if constexpr (std::is_same_v<T, Command>) return DecodeCommand(line);
    if constexpr (std::is_same_v<T, Event>) return DecodeEvent(line);
  };
  const std::string line = encode(message);
  Result<T> decoded = decode(WithoutNewline(line));
  EXPECT_TRUE(decoded.ok()) << decoded.error().message << "\n" << line;
  EXPECT_EQ(encode(*decoded), line);
  return *std::move(decoded);
}

template <typename Body>
Body RoundTripBody(const Body& body) {
  const Event event = RoundTrip(Event{.seq = 41, .t = 2.5, .body = body});
  EXPECT_EQ(event.seq, 41);
  EXPECT_EQ(event.t, 2.5);
  return std::get<Body>(event.body);
}

template <typename R>
R RoundTripResult(const R& result) {
  return std::get<R>(RoundTripBody(ResultEvent{result}).result);
}

Deployment EveryFieldSet() {
  return {.device = "cuda:GPU-1",
          .threads = 3,
          .rank = 1,
          .world_size = 2,
          .context = 4096,
          .batch = 8,
          .prefill_chunk = 512,
          .kv_dtype = "f32"};
}

TEST(ProtocolRoundTrip, Jobs) {
  const Job measure = MeasureJob{"models/a", "out/table", EveryFieldSet(), "v2a"};
  EXPECT_EQ(std::get<MeasureJob>(RoundTrip(measure)).deployment, EveryFieldSet());
  EXPECT_EQ(std::get<MeasureJob>(RoundTrip(measure)).table_folder, "out/table");
  EXPECT_EQ(std::get<MeasureJob>(RoundTrip(measure)).mode, "v2a");

  const Job trial = TrialJob{"models/b", R"({"tensors":["é"]})", EveryFieldSet(), int64_t{7} << 40, int64_t{6} << 40, 2.5, "abc", "unix:/tmp/there"};
  const TrialJob back = std::get<TrialJob>(RoundTrip(trial));
  EXPECT_EQ(back.model_dir, "models/b");
  EXPECT_EQ(back.plan_json, R"({"tensors":["é"]})");
  EXPECT_EQ(back.deployment, EveryFieldSet());
  EXPECT_EQ(back.memory_cap_bytes, int64_t{7} << 40);
  EXPECT_EQ(back.needed_free_bytes, int64_t{6} << 40);
  EXPECT_EQ(back.idle_wait_seconds, 2.5);
  EXPECT_EQ(back.fingerprint, "abc");
  EXPECT_EQ(back.rendezvous, "unix:/tmp/there");
}

TEST(ProtocolRoundTrip, Commands) {
  GenerateCommand generate;
  generate.requests.push_back({.id = -5,
                               .prompt = "Question: 1+1?\nAnswer:",
                               .max_new_tokens = 420,
                               .stop = {"Question:", "</s>"},
                               .sampling = {.temperature = 0.6,
                                            .top_k = 20,
                                            .top_p = 0.95,
                                            .seed = std::numeric_limits<uint64_t>::max()}});
  generate.requests.push_back(
      {.id = 6, .prompt = "", .max_new_tokens = 1, .stop = {}, .sampling = {}});
  const auto back = std::get<GenerateCommand>(RoundTrip(Command(generate)));
  ASSERT_EQ(back.requests.size(), 2u);
  EXPECT_EQ(back.requests[0].prompt, "Question: 1+1?\nAnswer:");
  EXPECT_EQ(back.requests[0].stop, generate.requests[0].stop);
  EXPECT_EQ(back.requests[0].sampling, generate.requests[0].sampling);
  EXPECT_EQ(back.requests[1].id, 6);

  EXPECT_TRUE(std::holds_alternative<CancelCommand>(RoundTrip(Command(CancelCommand{}))));
  EXPECT_TRUE(std::holds_alternative<FinishCommand>(RoundTrip(Command(FinishCommand{}))));
  const evals::ThroughputSpec spec{.prompt_tokens = 2,
                                   .short_decode_tokens = 3,
                                   .long_decode_tokens = 4,
                                   .batch = 5,
                                   .repetitions = 6,
                                   .warmups = 7};
  EXPECT_EQ(std::get<ThroughputCommand>(RoundTrip(Command(ThroughputCommand{spec}))).spec, spec);
}

TEST(ProtocolRoundTrip, Events) {
  const auto hello = RoundTripBody(HelloEvent{77, "0.1.0", "a CPU", 1, 4});
  EXPECT_EQ(hello.pid, 77);
  EXPECT_EQ(hello.world_size, 4);
  for (int i = 0; i < kPhaseCount; ++i) {
    const auto phase = RoundTripBody(PhaseEvent{static_cast<Phase>(i), false, 1.25});
    EXPECT_EQ(phase.phase, static_cast<Phase>(i));
    EXPECT_EQ(phase.seconds, 1.25);
  }
  EXPECT_TRUE(RoundTripBody(PhaseEvent{Phase::kLoad, true, 0}).begin);
  EXPECT_EQ(RoundTripBody(ProgressEvent{Phase::kLoad, 5, 9, "bytes"}).unit, "bytes");
  EXPECT_EQ(RoundTripBody(HeartbeatEvent{12}).counter, 12);
  const std::vector<LedgerLine> lines{{"weights_lazy", 1}, {"kv_cache", 2}};
  EXPECT_EQ(RoundTripBody(MemoryEvent{"cpu", 3, 4, 5, lines}).lines, lines);
  const auto oom = RoundTripBody(OutOfMemoryEvent{Phase::kCache, "cuda:0", 6, 7, "kv.3"});
  EXPECT_EQ(oom.phase, Phase::kCache);
  EXPECT_EQ(oom.what, "kv.3");
  for (const ErrorKind kind :
       {ErrorKind::kBadJob, ErrorKind::kBadCheckpoint, ErrorKind::kLoaderFault,
        ErrorKind::kHostOutOfMemory, ErrorKind::kContaminated, ErrorKind::kDeviceLost, ErrorKind::kInternal}) {
    EXPECT_EQ(RoundTripBody(ErrorEvent{kind, "why"}).kind, kind);
  }
}

TEST(ProtocolRoundTrip, SamplesOfEveryFinish) {
  using evals::FinishReason;
  for (const FinishReason finish :
       {FinishReason::kEndToken, FinishReason::kStopText, FinishReason::kLength,
        FinishReason::kContext, FinishReason::kNonFinite, FinishReason::kCancelled}) {
    const auto sample = RoundTripBody(SampleEvent{{.id = 3,
                                                   .text = " #### 18\n",
                                                   .token_ids = {0, 151'643, 7},
                                                   .prompt_tokens = 11,
                                                   .finish = finish,
                                                   .nonfinite_logits = 13}});
    EXPECT_EQ(sample.completion.finish, finish);
    EXPECT_EQ(sample.completion.token_ids, (std::vector<int32_t>{0, 151'643, 7}));
    EXPECT_EQ(sample.completion.text, " #### 18\n");
    EXPECT_EQ(sample.completion.nonfinite_logits, 13);
  }
}

TEST(ProtocolRoundTrip, Results) {
  EXPECT_EQ(RoundTripResult(MeasureResult{"out/table", true, "sha", 64, 5, {{"kv_cache", 9}}}).fingerprint,
            "sha");
  const std::vector<RankForecast> ranks = {
      {.device = "cuda:0", .free_bytes = 7, .predicted = {{"kv_cache", 9}}, .parts = {{.rows = 4, .columns = 3}}},
      {.device = "cuda:1", .free_bytes = 8, .predicted = {}, .parts = {{.rows = 4, .columns = 2, .first_column = 3}}}};
  EXPECT_EQ(RoundTripResult(MeasureResult{"out/table", true, "sha", 64, 5, {}, ranks}).ranks, ranks);
  EXPECT_EQ(RoundTripResult(MeasureResult{"out/table", true, "sha", 64, 5, {}, ranks, "0110"}).arranged, "0110");
  const auto load = RoundTripResult(
      LoadResult{"digest",
                 100,
                 3.4,
                 1.5,
                 {{"lazy", 10, 20, 0.91, 0.99, 0.98, 1.02}, {"head", 1, 2, 1, 1, 1, 1}}});
  ASSERT_EQ(load.families.size(), 2u);
  EXPECT_EQ(load.families[0].min_cosine, 0.91);
  EXPECT_EQ(load.families[0].max_norm_ratio, 1.02);
  RoundTripResult(ReadyResult{});
  EXPECT_TRUE(RoundTripResult(GenerateResult{true, 10, 20, 0.5}).cancelled);
  using evals::ThroughputKind;
  const auto timed =
      RoundTripResult(ThroughputResult{{{ThroughputKind::kPrefill, 1, 512, 2, 0.25},
                                        {ThroughputKind::kShortDecode, 2, 64, 2, 0.5},
                                        {ThroughputKind::kLongDecode, 3, 512, 2, 1.5}}});
  ASSERT_EQ(timed.samples.size(), 3u);
  EXPECT_EQ(timed.samples[2].kind, ThroughputKind::kLongDecode);
  RoundTripResult(ExitResult{});
}

TEST(Protocol, KeepsDoublesToTheLastBit) {
  LoadResult load;
  load.bits_per_weight = std::nextafter(0.1, 1.0);
  EXPECT_EQ(RoundTripResult(load).bits_per_weight, load.bits_per_weight);
}

TEST(Protocol, CarriesMeasurementsThatAreNotFiniteAsNull) {
  LoadResult load;
  load.bits_per_weight = std::numeric_limits<double>::infinity();
  load.seconds = std::nan("");
  EXPECT_THAT(EncodeEvent({0, 0, ResultEvent{load}}),
              HasSubstr(R"("bits_per_weight":null,"seconds":null)"));
  EXPECT_TRUE(std::isnan(RoundTripResult(load).bits_per_weight));
  EXPECT_TRUE(std::isnan(RoundTripResult(load).seconds));
}

TEST(Protocol, PutsTheReplacementCharacterWhereTextIsNotUtf8) {
  SampleEvent half_a_character;
  half_a_character.completion.text = "caf\xc3";
  const Result<Event> decoded = DecodeEvent(WithoutNewline(EncodeEvent({0, 0, half_a_character})));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  EXPECT_EQ(std::get<SampleEvent>(decoded->body).completion.text, "caf\xef\xbf\xbd");

  // Every string that leaves, whoever made it.
  TrialJob job;
  job.model_dir = job.plan_json = "\xff\xfe";
  job.deployment.context = 1;
  EXPECT_TRUE(DecodeJob(WithoutNewline(EncodeJob(job))).ok());
  GenerateCommand generate;
  generate.requests.emplace_back().stop = {"\xff"};
  EXPECT_TRUE(DecodeCommand(WithoutNewline(EncodeCommand(generate))).ok());
}

TEST(Protocol, KeepsControlCharactersAndNulInsideText) {
  SampleEvent sample;
  sample.completion.text = std::string("a\0b\x1b[2J\nc", 9);
  EXPECT_EQ(RoundTripBody(sample).completion.text, sample.completion.text);
}

TEST(Protocol, IgnoresKeysThatItDoesNotKnow) {
  EXPECT_TRUE(DecodeCommand(R"({"v":1,"type":"finish","urgency":{"high":[true]}})").ok());
}

TEST(Protocol, LeadsEventLinesWithWhatAReaderLooksForFirst) {
  EXPECT_EQ(EncodeEvent({.seq = 2, .t = 0.5, .body = HeartbeatEvent{9}}),
            "{\"v\":1,\"type\":\"heartbeat\",\"seq\":2,\"t\":0.5,\"counter\":9}\n");
}

TEST(PhaseNames, AreTheWordsOfTheStoreAndComeBack) {
  EXPECT_EQ(PhaseName(Phase::kWarmup), "warmup");
  for (int i = 0; i < kPhaseCount; ++i) {
    EXPECT_EQ(PhaseFromName(PhaseName(static_cast<Phase>(i))), static_cast<Phase>(i));
  }
  EXPECT_EQ(PhaseFromName("Load"), std::nullopt);
  EXPECT_EQ(ErrorKindFromName("device_lost"), ErrorKind::kDeviceLost);
  EXPECT_EQ(ErrorKindFromName("bad_job"), ErrorKind::kBadJob);
  EXPECT_EQ(ErrorKindFromName(""), std::nullopt);
}

}  // namespace
}  // namespace hproc::worker
