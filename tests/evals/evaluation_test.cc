#include "evals/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/sha256.h"
#include "evals/question_order.h"
#include "evals/statistics.h"

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;

// Question i asks for i; its gold is i.
Gsm8kTask MakeTask(int questions) {
  TaskFile tasks;
  for (int i = 0; i < questions; ++i) {
    const std::string n = std::to_string(i);
    tasks.items.push_back(
        {.question = "Say " + n, .answer = "It is " + n + ".\n#### " + n, .gold = n});
  }
  return *Gsm8kTask::Create(std::move(tasks), {}, 0);
}

// Completes the requests in an order of its own, with answers of its own.
class ScriptedGenerator : public Generator {
 public:
  std::vector<GenerationRequest> asked;
  std::map<int64_t, std::string> texts;  // by id; others get the right answer
  std::map<int64_t, FinishReason> finishes;
  std::vector<int64_t> completion_order;  // by id; those left out follow in the order asked
  std::vector<Completion> more;           // handed over last, whether asked for or not
  std::set<int64_t> dropped;              // never completed
  std::optional<Error> error;             // returned in the end
  int completed = 0;

  Result<void> Generate(std::span<const GenerationRequest> requests,
                        const std::function<bool(Completion)>& on_completion) override {
    asked.assign(requests.begin(), requests.end());
    std::vector<int64_t> ids = completion_order;
    for (const GenerationRequest& request : requests) {
      if (std::find(ids.begin(), ids.end(), request.id) == ids.end()) ids.push_back(request.id);
    }
    for (const int64_t id : ids) {
      if (dropped.contains(id)) continue;
      ++completed;
      if (!on_completion(Complete(id))) return Ok();
    }
    for (const Completion& completion : more) {
      if (!on_completion(completion)) return Ok();
    }
    if (error) return *error;
    return Ok();
  }

  Completion Complete(int64_t id) const {
    const auto text = texts.find(id);
    const auto finish = finishes.find(id);
    return {.id = id,
            .text = text != texts.end() ? text->second : " #### " + std::to_string(id),
            .token_ids = {1, 2, 3},
            .prompt_tokens = 7,
            .finish = finish != finishes.end() ? finish->second : FinishReason::kEndToken};
  }
};

std::vector<int> UpTo(int n) {
  std::vector<int> questions(static_cast<size_t>(n));
  std::iota(questions.begin(), questions.end(), 0);
  return questions;
}

struct Evaluated {
  Result<EvaluationResult> result = Error{"not run"};
  std::vector<int> order;  // questions as handed over
  std::vector<int> old;    // those among them that were not new
  std::vector<Answer> answers;
};

Evaluated RunAll(const Gsm8kTask& task, const std::vector<int>& questions,
                 ScriptedGenerator& generator, const std::vector<Answer>& answered = {},
                 const EvaluationSpec& spec = {}, int stop_after = 1 << 30) {
  Evaluated run;
  run.result =
      Evaluate(task, questions, answered, spec, generator, [&](const Answer& answer, bool is_new) {
        run.order.push_back(answer.question);
        if (!is_new) run.old.push_back(answer.question);
        run.answers.push_back(answer);
        return std::ssize(run.order) < stop_after;
      });
  return run;
}

TEST(Evaluation, AsksEachQuestionOnceInTheGivenOrder) {
  const Gsm8kTask task = MakeTask(5);
  ScriptedGenerator generator;
  const Evaluated run = RunAll(task, {3, 1, 4}, generator);
  ASSERT_TRUE(run.result.ok()) << run.result.error().message;
  EXPECT_THAT(run.order, ElementsAre(3, 1, 4));
  ASSERT_EQ(generator.asked.size(), 3u);
  EXPECT_EQ(generator.asked[0].id, 3);
  EXPECT_EQ(generator.asked[0].prompt, "Question: Say 3\nAnswer:");
  EXPECT_EQ(generator.asked[0].max_new_tokens, 420);
  EXPECT_THAT(generator.asked[0].stop, ElementsAre("Question:", "</s>", "<|im_end|>"));
  EXPECT_EQ(generator.asked[0].sampling, SamplingParams{});
  EXPECT_EQ(run.result->end, EvaluationEnd::kAllAnswered);
}

TEST(Evaluation, HandsOverInOrderHoweverCompletionsArrive) {
  const Gsm8kTask task = MakeTask(100);
  const std::vector<int> questions = QuestionOrder(100, 7);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ScriptedGenerator generator;
    for (const int id : QuestionOrder(100, 100 + seed)) generator.completion_order.push_back(id);
    EXPECT_THAT(RunAll(task, questions, generator).order, ElementsAreArray(questions));
  }
}

TEST(Evaluation, RecordsWhatWasAskedSaidAndExtracted) {
  const Gsm8kTask task = MakeTask(3);
  ScriptedGenerator generator;
  generator.texts[2] = " It is 2.\n#### 2\nOr 17";
  generator.finishes[2] = FinishReason::kStopText;
  EvaluationSpec spec;
  spec.protocol.seeds = 3;
  spec.stage = "smoke";
  spec.seed = 1;
  const Evaluated run = RunAll(task, {2}, generator, {}, spec);
  ASSERT_EQ(run.answers.size(), 1u);
  EXPECT_EQ(run.answers[0], (Answer{.stage = "smoke",
                                    .question = 2,
                                    .seed = 1,
                                    .prompt_sha256 = Sha256Hex("Question: Say 2\nAnswer:"),
                                    .text = " It is 2.\n#### 2\nOr 17",
                                    .strict = "2",
                                    .flexible = "17",
                                    .strict_correct = true,
                                    .flexible_correct = false,
                                    .finish = FinishReason::kStopText,
                                    .prompt_tokens = 7,
                                    .generated_tokens = 3}));
}

TEST(Evaluation, TalliesRightInvalidAndTruncated) {
  const Gsm8kTask task = MakeTask(6);
  ScriptedGenerator generator;
  generator.texts = {{1, "1"}, {2, "no idea"}, {3, "#### 4"}, {4, "#### 4 and so on"}};
  generator.finishes = {
      {2, FinishReason::kLength}, {3, FinishReason::kContext}, {4, FinishReason::kLength}};
  const Evaluated run = RunAll(task, UpTo(6), generator);
  ASSERT_TRUE(run.result.ok());
  EXPECT_EQ(run.result->tally, (AccuracyTally{.total = 6,
                                              .strict_correct = 3,    // 0, 4, 5
                                              .flexible_correct = 4,  // and 1
                                              .invalid = 2,           // 1, 2
                                              .truncated = 3,
                                              .strict_by_seed = {3},
                                              .strict_squares = 3,
                                              .all_questions = true}));
}

TEST(Evaluation, StopsWhereTheCallbackSaysHoweverCompletionsArrive) {
  const Gsm8kTask task = MakeTask(40);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ScriptedGenerator generator;
    for (const int id : QuestionOrder(40, seed)) generator.completion_order.push_back(id);
    const Evaluated run = RunAll(task, UpTo(40), generator, {}, {}, /*stop_after=*/13);
    ASSERT_TRUE(run.result.ok());
    EXPECT_THAT(run.order, ElementsAreArray(UpTo(13)));
    EXPECT_EQ(run.result->end, EvaluationEnd::kStopped);
    EXPECT_EQ(run.result->tally.total, 13);
    EXPECT_FALSE(run.result->tally.all_questions);
  }
}

TEST(Evaluation, StoppingDropsTheRequestsStillOpen) {
  const Gsm8kTask task = MakeTask(40);
  ScriptedGenerator generator;
  RunAll(task, UpTo(40), generator, {}, {}, /*stop_after=*/5);
  EXPECT_EQ(generator.completed, 5);
}

TEST(Evaluation, AStopAtTheLastQuestionHasStillSeenAll) {
  const Gsm8kTask task = MakeTask(4);
  ScriptedGenerator generator;
  const Evaluated run = RunAll(task, UpTo(4), generator, {}, {}, /*stop_after=*/4);
  EXPECT_EQ(run.result->end, EvaluationEnd::kStopped);
  EXPECT_TRUE(run.result->tally.all_questions);
}

TEST(Evaluation, ResumedAsksOnlyWhatIsLeftAndEndsAsIfUninterrupted) {
  const Gsm8kTask task = MakeTask(10);
  ScriptedGenerator whole;
  const Evaluated uninterrupted = RunAll(task, UpTo(10), whole);
  // What a store may hold after a kill: not only a prefix.
  const std::vector<Answer> stored{uninterrupted.answers[0], uninterrupted.answers[1],
                                   uninterrupted.answers[5]};
  ScriptedGenerator rest;
  const Evaluated resumed = RunAll(task, UpTo(10), rest, stored);
  ASSERT_TRUE(resumed.result.ok()) << resumed.result.error().message;
  std::vector<int64_t> asked;
  for (const GenerationRequest& request : rest.asked) asked.push_back(request.id);
  EXPECT_THAT(asked, ElementsAre(2, 3, 4, 6, 7, 8, 9));
  EXPECT_THAT(resumed.old, ElementsAre(0, 1, 5));
  EXPECT_EQ(resumed.answers, uninterrupted.answers);
  EXPECT_EQ(resumed.result->tally, uninterrupted.result->tally);
}

TEST(Evaluation, ResumedTestDecidesBeforeAskingWhereItHasEnough) {
  const Gsm8kTask task = MakeTask(10);
  ScriptedGenerator whole;
  const std::vector<Answer> stored = RunAll(task, UpTo(10), whole).answers;
  ScriptedGenerator rest;
  const Evaluated resumed =
      RunAll(task, UpTo(10), rest, {stored[0], stored[1], stored[2]}, {}, /*stop_after=*/3);
  EXPECT_EQ(resumed.result->end, EvaluationEnd::kStopped);
  EXPECT_THAT(rest.asked, IsEmpty());
}

TEST(Evaluation, AsksNothingWhenAllIsAnswered) {
  const Gsm8kTask task = MakeTask(3);
  ScriptedGenerator whole;
  const std::vector<Answer> stored = RunAll(task, UpTo(3), whole).answers;
  ScriptedGenerator rest;
  const Evaluated resumed = RunAll(task, UpTo(3), rest, stored);
  EXPECT_EQ(resumed.result->end, EvaluationEnd::kAllAnswered);
  EXPECT_TRUE(resumed.result->tally.all_questions);
  EXPECT_THAT(rest.asked, IsEmpty());
}

TEST(Evaluation, PassesOverStoredAnswersOfOtherSeedsAndQuestions) {
  const Gsm8kTask task = MakeTask(3);
  ScriptedGenerator whole;
  std::vector<Answer> stored = RunAll(task, UpTo(3), whole).answers;
  stored[0].seed = 1;
  ScriptedGenerator rest;
  const Evaluated resumed = RunAll(task, {0, 2}, rest, stored);
  EXPECT_THAT(resumed.order, ElementsAre(0, 2));
  EXPECT_THAT(resumed.old, ElementsAre(2));
}

TEST(Evaluation, RefusesStoredAnswersToAnotherPrompt) {
  const Gsm8kTask task = MakeTask(3);
  ScriptedGenerator whole;
  std::vector<Answer> stored = RunAll(task, UpTo(3), whole).answers;
  stored[1].prompt_sha256 = Sha256Hex("something else");
  ScriptedGenerator rest;
  const Evaluated resumed = RunAll(task, UpTo(3), rest, stored);
  ASSERT_FALSE(resumed.result.ok());
  EXPECT_EQ(resumed.result.error().message, "the stored answer to question 1 is to another prompt");
}

TEST(Evaluation, PassesOnTheGeneratorsError) {
  const Gsm8kTask task = MakeTask(4);
  ScriptedGenerator generator;
  generator.dropped = {2, 3};
  generator.error = Error{"the worker is gone"};
  const Evaluated run = RunAll(task, UpTo(4), generator);
  ASSERT_FALSE(run.result.ok());
  EXPECT_EQ(run.result.error().message, "the worker is gone");
  EXPECT_THAT(run.order, ElementsAre(0, 1));  // what came before it was handed over
}

TEST(Evaluation, FindsOutAGeneratorThatAnswersWhatWasNotAsked) {
  const Gsm8kTask task = MakeTask(4);
  for (const int64_t id :
       {int64_t{3}, int64_t{99}, int64_t{-1}, int64_t{0}}) {  // not asked, unknown, twice
    ScriptedGenerator generator;
    generator.dropped = {1};
    generator.more = {generator.Complete(id)};
    const Evaluated run = RunAll(task, {0, 1}, generator);
    ASSERT_FALSE(run.result.ok()) << id;
    EXPECT_THAT(run.result.error().message, HasSubstr("which is not open"));
  }
}

TEST(Evaluation, FindsOutAGeneratorThatLeavesQuestionsOut) {
  const Gsm8kTask task = MakeTask(4);
  ScriptedGenerator generator;
  generator.dropped = {1};
  const Evaluated run = RunAll(task, UpTo(4), generator);
  ASSERT_FALSE(run.result.ok());
  EXPECT_EQ(run.result.error().message, "the generator returned with 1 requests unanswered");
}

TEST(Evaluation, EndsAsCancelledWhenTheGeneratorWasToldToStop) {
  const Gsm8kTask task = MakeTask(4);
  ScriptedGenerator generator;
  generator.finishes = {{2, FinishReason::kCancelled}, {3, FinishReason::kCancelled}};
  const Evaluated run = RunAll(task, UpTo(4), generator);
  ASSERT_TRUE(run.result.ok()) << run.result.error().message;
  EXPECT_EQ(run.result->end, EvaluationEnd::kCancelled);
  EXPECT_THAT(run.order, ElementsAre(0, 1));
  EXPECT_FALSE(run.result->tally.all_questions);
}

TEST(Evaluation, WithThinkingStopsAtTheEndTokenAloneAndScoresWhatFollows) {
  const Gsm8kTask task = MakeTask(8);
  ScriptedGenerator generator;
  generator.texts[7] = "Question: was it #### 5? </think>\n\n#### 7</s> #### 9";
  EvaluationSpec spec;
  spec.think_end_token = "</think>";
  const Evaluated run = RunAll(task, {7}, generator, {}, spec);
  ASSERT_EQ(run.answers.size(), 1u);
  EXPECT_THAT(generator.asked[0].stop, IsEmpty());
  EXPECT_EQ(run.answers[0].strict, "7");
  EXPECT_EQ(run.answers[0].flexible, "7");
  EXPECT_EQ(run.answers[0].text, generator.texts[7]);
}

TEST(Evaluation, ScreensWithASequentialTest) {
  const Gsm8kTask task = MakeTask(200);
  ScriptedGenerator generator;
  for (int i = 0; i < 200; ++i) generator.texts[i] = "wrong";
  Sprt test = *Sprt::Create({.p0 = 0.50, .p1 = 0.65});
  const Result<EvaluationResult> result = Evaluate(
      task, UpTo(200), {}, EvaluationSpec(), generator, [&test](const Answer& answer, bool) {
        return test.Add(answer.strict_correct) == SprtDecision::kContinue;
      });
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(test.decision(), SprtDecision::kAcceptH0);
  EXPECT_EQ(result->tally.total, 9);
}

// Answers of `seeds` seeds to `questions` questions; right(question, seed) says which.
template <typename Right>
AccuracyTally TallyOf(int questions, int seeds, Right&& right) {
  AccuracyCounter counter;
  for (int seed = 0; seed < seeds; ++seed) {
    for (int question = 0; question < questions; ++question) {
      Answer answer;
      answer.question = question;
      answer.seed = seed;
      answer.strict_correct = right(question, seed);
      counter.Add(answer);
    }
  }
  return counter.tally();
}

TEST(AccuracyCounter, CountsSeedBySeed) {
  const AccuracyTally tally = TallyOf(10, 3, [](int question, int seed) { return question < 5 + seed; });
  EXPECT_EQ(tally.total, 30);
  EXPECT_EQ(tally.strict_correct, 18);
  EXPECT_THAT(tally.strict_by_seed, ElementsAre(5, 6, 7));
  EXPECT_EQ(tally.strict_squares, 5 * 9 + 4 + 1) << "five questions right under all seeds, one under two, one under one";
}

TEST(AccuracyInterval, IsWilsonsWithOneSeed) {
  const AccuracyTally tally = TallyOf(200, 1, [](int question, int) { return question % 4 != 0; });
  const Interval expected = WilsonInterval(150, 200);
  EXPECT_DOUBLE_EQ(AccuracyInterval(tally).low, expected.low);
  EXPECT_DOUBLE_EQ(AccuracyInterval(tally).high, expected.high);
}

TEST(AccuracyInterval, IsNoNarrowerForSeedsThatAllSayTheSame) {
  for (const int of_four : {0, 1, 3, 4}) {
    const auto right = [&](int question, int) { return question % 4 < of_four; };
    const Interval one = AccuracyInterval(TallyOf(200, 1, right));
    const Interval five = AccuracyInterval(TallyOf(200, 5, right));
    // The variance of the means is divided by one question less.
    EXPECT_NEAR(five.low, one.low, 1e-3) << of_four;
    EXPECT_NEAR(five.high, one.high, 1e-3) << of_four;
    EXPECT_LE(five.low, one.low + 1e-12);
    EXPECT_GE(five.high, one.high - 1e-12);
  }
}

TEST(AccuracyInterval, CountsEveryAnswerWhereSeedsDisagreeEverywhere) {
  // Each question is right under two seeds of four: the questions' means do not differ at all.
  const AccuracyTally tally = TallyOf(100, 4, [](int question, int seed) { return (question + seed) % 2 == 0; });
  const Interval expected = WilsonInterval(200, 400);
  EXPECT_DOUBLE_EQ(AccuracyInterval(tally).low, expected.low);
  EXPECT_DOUBLE_EQ(AccuracyInterval(tally).high, expected.high);
}

TEST(AccuracyTally, IsFlaggedWithMoreThanTwoPercentTruncated) {
  EXPECT_FALSE(TooManyTruncated({}));
  EXPECT_FALSE(TooManyTruncated({.total = 100, .truncated = 2}));
  EXPECT_TRUE(TooManyTruncated({.total = 100, .truncated = 3}));
}

}  // namespace
}  // namespace hproc::evals
