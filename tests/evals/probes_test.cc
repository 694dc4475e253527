#include "evals/probes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/sha256.h"
#include "evals/question_order.h"

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Gsm8kTask MakeTask(int questions) {
  TaskFile tasks;
  for (int i = 0; i < questions; ++i) {
    const std::string n = std::to_string(i);
    tasks.items.push_back({.question = "Say " + n, .answer = "#### " + n, .gold = n});
  }
  return *Gsm8kTask::Create(std::move(tasks), {}, 0);
}

// Completes in reverse, then hands over `more`.
class ReversingGenerator : public Generator {
 public:
  Result<void> Generate(std::span<const GenerationRequest> requests,
                        const std::function<bool(Completion)>& on_completion) override {
    asked.assign(requests.begin(), requests.end());
    for (size_t i = requests.size(); i > drop; --i) {
      Completion completion;
      completion.id = requests[i - 1].id;
      completion.text = "to " + requests[i - 1].prompt;
      completion.finish = finish;
      if (!on_completion(completion)) return Ok();
    }
    for (const int64_t id : more) {
      Completion completion;
      completion.id = id;
      if (!on_completion(completion)) return Ok();
    }
    if (fails) return Error{"gone"};
    return Ok();
  }

  std::vector<GenerationRequest> asked;
  std::vector<int64_t> more;
  FinishReason finish = FinishReason::kEndToken;
  size_t drop = 0;  // so many of the first requests
  bool fails = false;
};

TEST(Probes, AreGeneralPromptsSumsAndTheFirstQuestionsOfTheOrder) {
  const Gsm8kTask task = MakeTask(100);
  const std::vector<int> order{42, 7, 99};
  const std::vector<Probe> probes = MakeProbes(task, order, 2);
  ASSERT_EQ(probes.size(), 12u);
  EXPECT_EQ(probes[0].kind, ProbeKind::kGeneral);
  EXPECT_EQ(probes[0].prompt, "The capital of France is");
  EXPECT_EQ(probes[0].answer, "");
  EXPECT_EQ(probes[6].kind, ProbeKind::kArithmetic);
  EXPECT_EQ(probes[6].prompt, "Question: What is 7 + 5?\nAnswer:");
  EXPECT_EQ(probes[6].answer, "12");
  EXPECT_EQ(probes[10].kind, ProbeKind::kTask);
  EXPECT_EQ(probes[10].prompt, task.Prompt(42));
  EXPECT_EQ(probes[11].answer, "#### 7");
}

TEST(Probes, TakeNoMoreQuestionsThanThereAre) {
  const Gsm8kTask task = MakeTask(3);
  EXPECT_EQ(MakeProbes(task, QuestionOrder(3, 1)).size(), 13u);
  EXPECT_EQ(MakeProbes(task, {}, 5).size(), 10u);
}

TEST(RunProbes, BringsCompletionsBackIntoTheOrderOfTheProbes) {
  const std::vector<Probe> probes = MakeProbes(MakeTask(3), QuestionOrder(3, 1));
  ReversingGenerator generator;
  const Result<std::vector<ProbeResult>> results = RunProbes(probes, 1024, generator);
  ASSERT_TRUE(results.ok()) << results.error().message;
  ASSERT_EQ(results->size(), probes.size());
  for (size_t i = 0; i < probes.size(); ++i) {
    EXPECT_EQ((*results)[i].completion.id, static_cast<int64_t>(i));
    EXPECT_EQ((*results)[i].completion.text, "to " + probes[i].prompt);
    EXPECT_EQ((*results)[i].probe.prompt, probes[i].prompt);
  }
  EXPECT_EQ(generator.asked[0].max_new_tokens, 256);
  EXPECT_EQ(generator.asked.back().max_new_tokens, 1024);
  EXPECT_THAT(generator.asked[0].stop, ElementsAre("Question:", "</s>", "<|im_end|>"));
  EXPECT_EQ(generator.asked[0].sampling.temperature, 0);
}

TEST(RunProbes, FindsOutAGeneratorThatMiscounts) {
  const std::vector<Probe> probes = MakeProbes(MakeTask(3), QuestionOrder(3, 1));
  for (const int64_t id : {int64_t{0}, int64_t{13}, int64_t{-1}}) {
    ReversingGenerator generator;
    generator.more = {id};
    EXPECT_FALSE(RunProbes(probes, 100, generator).ok()) << id;
  }
  ReversingGenerator forgetful;
  forgetful.drop = 2;
  const Result<std::vector<ProbeResult>> results = RunProbes(probes, 100, forgetful);
  ASSERT_FALSE(results.ok());
  EXPECT_THAT(results.error().message, HasSubstr("left 2 probes unanswered"));
  ReversingGenerator cancelled;
  cancelled.finish = FinishReason::kCancelled;
  EXPECT_EQ(RunProbes(probes, 100, cancelled).error().message, "the probes were cancelled");
  ReversingGenerator failing;
  failing.fails = true;
  EXPECT_EQ(RunProbes(probes, 100, failing).error().message, "gone");
}

TEST(ProbeAnswer, IsScoredWhereTheProbeHasAnAnswer) {
  ProbeResult result;
  result.probe = {.kind = ProbeKind::kArithmetic,
                  .prompt = "Question: What is 7 + 5?\nAnswer:",
                  .answer = "12"};
  result.completion.id = 6;
  result.completion.text = " 7 + 5 = 12";
  result.completion.token_ids = {1, 2, 3};
  const Answer answer = ProbeAnswer(result);
  EXPECT_EQ(answer.stage, "probe");
  EXPECT_EQ(answer.question, 6);
  EXPECT_EQ(answer.prompt_sha256, Sha256Hex(result.probe.prompt));
  EXPECT_EQ(answer.strict, "[invalid]");
  EXPECT_TRUE(answer.flexible_correct);
  EXPECT_EQ(answer.generated_tokens, 3);

  result.probe.answer = "";
  result.completion.text = "i.e., nothing";  // its flexible extract is the empty string
  EXPECT_FALSE(ProbeAnswer(result).flexible_correct);
}

}  // namespace
}  // namespace hproc::evals
