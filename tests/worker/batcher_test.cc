#include "worker/batcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "tests/worker/small_engine.h"
#include "worker/sampler.h"

namespace hproc::worker {
namespace {

using evals::Completion;
using evals::FinishReason;
using evals::GenerationRequest;
using evals::SamplingParams;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr EngineShape kShape{.slots = 3, .context = 48, .pass_tokens = 8, .logit_rows = 3, .kv_storage = kernels::Storage::kFloat16};

// A model over the bytes and a few ids more; no end token unless a test gives it one.
SmallCheckpoint ByteModel() {
  SmallCheckpoint small({.layers = "LF", .vocabulary = 260});
  small.text_config["eos_token_id"] = nullptr;
  return small;
}

class BatcherTest : public testing::Test {
 protected:
  void Use(const SmallCheckpoint& small, const EngineShape& shape = kShape) {
    small.WriteTo(folder_);
    engine_.emplace(folder_.path(), shape);
  }
  std::map<int64_t, Completion> Generate(const std::vector<GenerationRequest>& requests, PassHook hook = {}) {
    Batcher batcher(engine_->engine(), tokenizer_, std::move(hook));
    std::map<int64_t, Completion> completions;
    const Result<void> done = batcher.Generate(requests, [&](Completion completion) {
      const int64_t id = completion.id;
      EXPECT_TRUE(completions.emplace(id, std::move(completion)).second) << "twice: " << id;
      return true;
    });
    EXPECT_TRUE(done.ok()) << done.error().message;
    EXPECT_EQ(completions.size(), requests.size());
    return completions;
  }
  Completion One(const GenerationRequest& request) { return Generate({request}).begin()->second; }
  std::string ErrorOf(const GenerationRequest& request) {
    Batcher batcher(engine_->engine(), tokenizer_, {});
    const Result<void> done = batcher.Generate({&request, 1}, [](Completion) { return true; });
    return done.ok() ? "generated" : done.error().message;
  }

  TestFolder folder_;
  const Tokenizer tokenizer_ = SmallTokenizer{}.Load();
  std::optional<SmallEngine> engine_;
};

GenerationRequest Request(int64_t id, std::string prompt, int tokens, SamplingParams sampling = {}) {
  return {.id = id, .prompt = std::move(prompt), .max_new_tokens = tokens, .stop = {}, .sampling = sampling};
}

// Prompts of one to some thirty tokens, half of them greedy.
std::vector<GenerationRequest> Requests(int count) {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < count; ++i) {
    const SamplingParams sampling{.temperature = i % 2 == 0 ? 0 : 0.9, .top_k = i % 3 * 20, .seed = static_cast<uint64_t>(i)};
    requests.push_back(Request(100 + i, std::string(static_cast<size_t>(1 + i * 7 % 31), static_cast<char>('a' + i)), 1 + i * 5 % 14, sampling));
  }
  return requests;
}

void ExpectSame(const std::map<int64_t, Completion>& a, const std::map<int64_t, Completion>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [id, completion] : a) {
    EXPECT_EQ(completion.token_ids, b.at(id).token_ids) << id;
    EXPECT_EQ(completion.text, b.at(id).text) << id;
    EXPECT_EQ(completion.finish, b.at(id).finish) << id;
  }
}

TEST_F(BatcherTest, GreedyAnswersAreThoseOfTheEngineTokenByToken) {
  Use(ByteModel());
  const Completion completion = One(Request(1, "hello", 10));
  EXPECT_EQ(completion.prompt_tokens, 5);
  EXPECT_EQ(completion.finish, FinishReason::kLength);
  engine_->engine().ResetSlot(1);
  std::vector<int32_t> expected;
  std::vector<float> logits = engine_->Feed(1, std::vector<int32_t>{'h', 'e', 'l', 'l', 'o'});
  for (int i = 0; i < 10; ++i) {
    expected.push_back(Sampler(SamplingParams{}).Next(std::span(logits).last(260)));
    logits = engine_->Feed(1, {{expected.back()}}, 5 + i);
  }
  EXPECT_EQ(completion.token_ids, expected);
  EXPECT_EQ(completion.text, tokenizer_.Decode(expected));
}

TEST_F(BatcherTest, AnswersDoNotDependOnTheBatchTheyWereIn) {
  const std::vector<GenerationRequest> requests = Requests(9);
  EngineShape alone = kShape;
  alone.slots = alone.logit_rows = 1;
  Use(ByteModel(), alone);
  const std::map<int64_t, Completion> expected = Generate(requests);
  for (const auto& [slots, pass_tokens] : {std::pair{1, 1}, {2, 2}, {3, 8}, {5, 48}, {9, 9}}) {
    EngineShape shape = kShape;
    shape.slots = shape.logit_rows = slots;
    shape.pass_tokens = pass_tokens;
    Use(ByteModel(), shape);
    ExpectSame(Generate(requests), expected);
    // In another order, and again over slots that have been used.
    std::vector<GenerationRequest> reversed(requests.rbegin(), requests.rend());
    ExpectSame(Generate(reversed), expected);
  }
}

TEST_F(BatcherTest, CountsTheTokensItRanAndTellsThemToTheHook) {
  Use(ByteModel());
  const std::vector<GenerationRequest> requests = Requests(6);
  int64_t told = 0;
  Batcher batcher(engine_->engine(), tokenizer_, [&](int64_t tokens) {
    EXPECT_GE(tokens, 1);
    EXPECT_LE(tokens, kShape.pass_tokens);
    told += tokens;
    return true;
  });
  int64_t answered = 0;
  ASSERT_TRUE(batcher.Generate(requests, [&](Completion completion) {
                       answered += static_cast<int64_t>(completion.token_ids.size());
                       return true;
                     }).ok());
  int64_t prompts = 0;
  for (const GenerationRequest& request : requests) prompts += static_cast<int64_t>(request.prompt.size());
  EXPECT_EQ(batcher.prompt_tokens(), prompts);
  EXPECT_EQ(told, batcher.prompt_tokens() + batcher.generated_tokens());
  // The last token of an answer is never fed.
  EXPECT_EQ(batcher.generated_tokens(), answered - static_cast<int64_t>(requests.size()));
}

TEST_F(BatcherTest, EndsAtTheLengthAskedFor) {
  Use(ByteModel());
  for (int tokens : {1, 2, 7}) {
    const Completion completion = One(Request(1, "xy", tokens));
    EXPECT_EQ(completion.token_ids.size(), static_cast<size_t>(tokens));
    EXPECT_EQ(completion.finish, FinishReason::kLength);
  }
}

TEST_F(BatcherTest, EndsWhereTheContextIsFull) {
  Use(ByteModel());
  for (int prompt : {1, 40, 47}) {
    const Completion completion = One(Request(1, std::string(static_cast<size_t>(prompt), 'x'), 100));
    EXPECT_EQ(completion.finish, FinishReason::kContext);
    // One for every free position, and the one that those give and that needs none.
    EXPECT_EQ(completion.token_ids.size(), static_cast<size_t>(48 - prompt + 1));
  }
  for (int prompt : {48, 49, 500}) {
    const Completion completion = One(Request(1, std::string(static_cast<size_t>(prompt), 'x'), 100));
    EXPECT_EQ(completion.finish, FinishReason::kContext);
    EXPECT_EQ(completion.prompt_tokens, prompt);
    EXPECT_TRUE(completion.token_ids.empty() && completion.text.empty());
  }
}

TEST_F(BatcherTest, EndsAtAnEndTokenAndLeavesItOut) {
  Use(ByteModel());
  const std::vector<int32_t> free = One(Request(1, "hello", 20)).token_ids;
  // The first token that was not there before, so that it ends the answer where it stands.
  size_t at = 1;
  while (std::find(free.begin(), free.begin() + static_cast<std::ptrdiff_t>(at), free[at]) != free.begin() + static_cast<std::ptrdiff_t>(at)) ++at;
  SmallCheckpoint small = ByteModel();
  small.text_config["eos_token_id"] = {259, free[at]};
  Use(small);
  const Completion completion = One(Request(1, "hello", 20));
  EXPECT_EQ(completion.finish, FinishReason::kEndToken);
  EXPECT_EQ(completion.token_ids, std::vector<int32_t>(free.begin(), free.begin() + static_cast<std::ptrdiff_t>(at)));
  EXPECT_EQ(completion.text, tokenizer_.Decode(completion.token_ids));
}

// Answers over printable bytes: the head rows of all others are pushed away from whatever comes.
TEST_F(BatcherTest, CutsTheTextBeforeTheFirstStopString) {
  SmallCheckpoint small = ByteModel();
  // The last norm gives one value that is always 1 or so; the head takes it away from everything but a to z.
  StoredTensor& norm = small.tensors.at("model.norm.weight");
  StoredTensor& head = small.tensors.at("lm_head.weight");
  StoredTensor& embedding = small.tensors.at("model.embed_tokens.weight");
  norm.Put(0, 0);
  for (size_t token = 0; token < 260; ++token) {
    embedding.Put(token * 36, 30);
    head.Put(token * 36, token >= 'a' && token <= 'z' ? 0.0f : -100.0f);
  }
  Use(small);
  GenerationRequest request = Request(1, "hello", 20, {.temperature = 1.5, .seed = 3});
  const Completion free = One(request);
  ASSERT_EQ(free.text.size(), 20u) << free.text;
  ASSERT_EQ(free.text.find_first_not_of("abcdefghijklmnopqrstuvwxyz"), std::string::npos) << free.text;
  for (size_t from : {size_t{0}, size_t{1}, size_t{9}, size_t{17}}) {
    for (size_t size : {size_t{1}, size_t{3}}) {
      request.stop = {"", "0", free.text.substr(from, size), free.text.substr(19)};
      const size_t first = std::min(free.text.find(request.stop[2]), free.text.find(request.stop[3]));
      const Completion completion = One(request);
      EXPECT_EQ(completion.text, free.text.substr(0, first)) << request.stop[2];
      EXPECT_EQ(completion.finish, FinishReason::kStopText);
      // Everything that was generated, the stop string included.
      EXPECT_TRUE(std::equal(completion.token_ids.begin(), completion.token_ids.end(), free.token_ids.begin()));
      EXPECT_GT(completion.token_ids.size(), first);
    }
  }
  request.stop = {"0", free.text + "a"};
  EXPECT_EQ(One(request).finish, FinishReason::kLength);
}

TEST_F(BatcherTest, ReportsLogitsThatAreNoNumbers) {
  SmallCheckpoint small({.layers = "F", .vocabulary = 260, .dtype = "F32"});
  StoredTensor& head = small.tensors.at("lm_head.weight");
  for (size_t i = 0; i < 3 * 36; ++i) head.Put(i, 3e38f);  // three rows overflow
  Use(small);
  for (const auto& [id, completion] : Generate(Requests(4))) {
    EXPECT_EQ(completion.finish, FinishReason::kNonFinite) << id;
    EXPECT_EQ(completion.nonfinite_logits, 3) << id;
    EXPECT_TRUE(completion.token_ids.empty()) << id;
  }
}

TEST_F(BatcherTest, NeverHandsOutHalfACharacter) {
  Use(ByteModel());  // random bytes: most of them break off a character
  for (const auto& [id, completion] : Generate(Requests(9))) EXPECT_EQ(completion.text, tokenizer_.Decode(completion.token_ids)) << id;
}

TEST_F(BatcherTest, StopsForACallerThatHasEnoughAndStartsAfresh) {
  Use(ByteModel());
  const std::vector<GenerationRequest> requests = Requests(9);
  const std::map<int64_t, Completion> expected = Generate(requests);
  Batcher batcher(engine_->engine(), tokenizer_, {});
  int seen = 0;
  ASSERT_TRUE(batcher.Generate(requests, [&](Completion) { return ++seen < 3; }).ok());
  EXPECT_EQ(seen, 3);
  std::map<int64_t, Completion> again;
  ASSERT_TRUE(batcher.Generate(requests, [&](Completion completion) {
                       const int64_t id = completion.id;
                       again.emplace(id, std::move(completion));
                       return true;
                     }).ok());
  ExpectSame(again, expected);
}

TEST_F(BatcherTest, ReturnsEveryRequestThatTheHookCancelled) {
  Use(ByteModel());
  const std::vector<GenerationRequest> requests = Requests(9);
  const std::map<int64_t, Completion> expected = Generate(requests);
  for (int passes : {1, 4, 9}) {
    int left = passes;
    const std::map<int64_t, Completion> completions = Generate(requests, [&](int64_t) { return --left > 0; });
    int cancelled = 0;
    for (const auto& [id, completion] : completions) {
      if (completion.finish == FinishReason::kCancelled) {
        ++cancelled;
        const std::vector<int32_t>& whole = expected.at(id).token_ids;
        ASSERT_LE(completion.token_ids.size(), whole.size());
        EXPECT_TRUE(std::equal(completion.token_ids.begin(), completion.token_ids.end(), whole.begin())) << id;
      } else {
        EXPECT_EQ(completion.token_ids, expected.at(id).token_ids) << id;
      }
    }
    EXPECT_GT(cancelled, 0) << passes;
    EXPECT_EQ(left, 0) << "a pass after the hook's last word";
  }
}

TEST_F(BatcherTest, RefusesWhatItCannotRun) {
  Use(SmallCheckpoint({.layers = "L", .vocabulary = 200}));
  EXPECT_THAT(ErrorOf(Request(7, "", 1)), HasSubstr("request 7 has an empty prompt"));
  EXPECT_THAT(ErrorOf(Request(7, "\U0001F600", 1)), HasSubstr("do not belong together"));  // from 0xF0 on
  EXPECT_EQ(ErrorOf(Request(7, "e", 1)), "generated");
}

TEST_F(BatcherTest, TimesWhatFitsAndRefusesWhatDoesNot) {
  Use(ByteModel());
  int64_t told = 0;
  Batcher batcher(engine_->engine(), tokenizer_, [&](int64_t tokens) { return told += tokens, true; });
  EXPECT_EQ(batcher.context(), 48);
  ASSERT_TRUE(batcher.Prefill(3, 20).ok());
  EXPECT_EQ(told, 60);
  const Result<double> seconds = batcher.Decode(3, 28);
  ASSERT_TRUE(seconds.ok()) << seconds.error().message;
  EXPECT_GT(*seconds, 0);
  EXPECT_EQ(told, 60 + 84);
  EXPECT_THAT(batcher.Decode(3, 1).error().message, HasSubstr("do not fit the context"));
  EXPECT_FALSE(batcher.Prefill(4, 1).ok());
  EXPECT_FALSE(batcher.Prefill(0, 1).ok());
  EXPECT_FALSE(batcher.Prefill(1, 0).ok());
  EXPECT_FALSE(batcher.Prefill(1, 49).ok());
  ASSERT_TRUE(batcher.Prefill(1, 48).ok());  // a prefill empties the slots
  Batcher stopped(engine_->engine(), tokenizer_, [](int64_t) { return false; });
  EXPECT_EQ(stopped.Prefill(1, 9).error().message, "throughput: stopped");
  EXPECT_EQ(stopped.Decode(1, 2).error().message, "throughput: stopped");
}

}  // namespace
}  // namespace hproc::worker
