#include "evals/scoring.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

#include "evals/gsm8k.h"
#include "evals/score_file.h"
#include "evals/task_file.h"
#include "test_files.h"

namespace hproc::evals {
namespace {

std::string Strict(std::string_view output) { return ScoreAnswer("", output).strict; }
std::string Flexible(std::string_view output) { return ScoreAnswer("", output).flexible; }

TEST(StrictMatch, WantsTheMarkOneSpaceAndANumber) {
  EXPECT_EQ(Strict("#### 18"), "18");
  EXPECT_EQ(Strict("#### -18 apples"), "-18");
  EXPECT_EQ(Strict("####18"), "[invalid]");
  EXPECT_EQ(Strict("#### $18"), "[invalid]");
  EXPECT_EQ(Strict("18."), "[invalid]");
  EXPECT_EQ(Strict("\\boxed{18}"), "[invalid]");
  EXPECT_EQ(Strict(""), "[invalid]");
}

TEST(StrictMatch, TakesTheFirstNumberThatMatches) {
  EXPECT_EQ(Strict("#### 42\n#### 43"), "42");
  EXPECT_EQ(Strict("#### none\n##### 43"), "43");
}

TEST(FlexibleExtract, TakesTheLastNumber) {
  EXPECT_EQ(Flexible("#### 42\n#### 43"), "43");
  EXPECT_EQ(Flexible("18."), "18");
  EXPECT_EQ(Flexible("#### $18"), "18");
  EXPECT_EQ(Flexible("\\boxed{18}"), "18");
  EXPECT_EQ(Flexible("18 dollars, 50 cents."), "50");
  EXPECT_EQ(Flexible("1-2-"), "-2");
  EXPECT_EQ(Flexible("no digits"), "[invalid]");
}

TEST(FlexibleExtract, TakesPunctuationForANumberAsTheHarnessDoes) {
  EXPECT_EQ(Flexible("5..."), "5..");
  EXPECT_EQ(Flexible("x, i.e., y"), "");
  EXPECT_EQ(*ExtractFlexible("x, i.e., y"), ".,");
}

TEST(Extraction, KnowsAsciiDigitsOnly) {
  EXPECT_EQ(Strict("#### \u0661\u0668"), "[invalid]");
  EXPECT_EQ(Flexible("\uFF11\uFF18"), "[invalid]");
}

TEST(Extraction, ReadsThroughBrokenUtf8) {
  EXPECT_EQ(Strict("\xFF#### 7\xC3"), "7");
  EXPECT_EQ(Flexible("\xE2\x82\x37\x80"), "7");
}

TEST(CleanAnswer, DeletesInTheOrderOfTheHarness) {
  EXPECT_EQ(CleanAnswer("1,000."), "1000");
  EXPECT_EQ(CleanAnswer("18.0"), "18.0");
  EXPECT_EQ(CleanAnswer("$1,234.50"), "1234.50");
  EXPECT_EQ(CleanAnswer("first\n#### 1\nthen\n#### 2"), "2");
  EXPECT_EQ(CleanAnswer("####, 18"), "18");  // the comma goes first, and then the mark is one
  EXPECT_EQ(CleanAnswer("5.."), "5.");
  EXPECT_EQ(CleanAnswer("18.\n"), "18\n");
  EXPECT_EQ(CleanAnswer("#### ABC."), "abc");
  EXPECT_EQ(CleanAnswer(""), "");
}

TEST(ScoreAnswer, ComparesTextNotNumbers) {
  EXPECT_TRUE(ScoreAnswer("#### 1,000", "#### 1000.").strict_correct);
  EXPECT_FALSE(ScoreAnswer("#### 18", "#### 18.0").strict_correct);
  EXPECT_FALSE(ScoreAnswer("#### 18", "#### 018").strict_correct);
}

TEST(ScoreAnswer, TakesASolutionOrABareNumberForGold) {
  for (const std::string_view gold :
       {"So 9 + 9 = <<9+9=18>>18.\n#### 18", "#### 18", "18", "18."}) {
    const AnswerScore score = ScoreAnswer(gold, "#### 18");
    EXPECT_TRUE(score.strict_correct && score.flexible_correct) << gold;
  }
}

TEST(ScoreAnswer, ScoresTheTwoReadingsApart) {
  const AnswerScore score = ScoreAnswer("#### 42", "#### 42\nIs that right? 43");
  EXPECT_TRUE(score.strict_correct);
  EXPECT_FALSE(score.flexible_correct);
  EXPECT_EQ(score.flexible, "43");
}

TEST(ScoreAnswer, EveryGoldSolutionScoresAgainstItself) {
  const Result<TaskFile> tasks = ReadTaskFile(WordmathFolder() / "dev.jsonl");
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  for (const TaskItem& item : tasks->items) {
    const AnswerScore score = ScoreAnswer(item.answer, item.answer);
    EXPECT_TRUE(score.strict_correct && score.flexible_correct) << item.answer;
    EXPECT_EQ(score.strict, item.gold);
  }
}

TEST(EmbeddedModel, ScoresFiftyThreeOfItsSixtyFourGoldenAnswers) {
  const Result<TaskFile> tasks = ReadTaskFile(WordmathFolder() / "test.jsonl");
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  std::ifstream file(std::filesystem::path(HPROC_TEST_DATA) / "goldens" / "wordmath_greedy.json");
  const nlohmann::json goldens = nlohmann::json::parse(file);
  ASSERT_EQ(goldens.size(), 64u);
  int strict = 0;
  int flexible = 0;
  for (size_t i = 0; i < goldens.size(); ++i) {
    ASSERT_EQ(goldens[i]["question"], tasks->items[i].question);
    const AnswerScore score =
        ScoreAnswer(tasks->items[i].answer, goldens[i]["greedy_float32"].get<std::string>());
    strict += score.strict_correct ? 1 : 0;
    flexible += score.flexible_correct ? 1 : 0;
  }
  EXPECT_EQ(strict, 53);
  EXPECT_EQ(flexible, 53);
}

TEST(CutAtStop, EndsBeforeTheFirstOfAnyStop) {
  EXPECT_EQ(CutAtStop("18\n\nQuestion: more", kGsm8kStops), "18\n\n");
  EXPECT_EQ(CutAtStop("1</s>2Question:3<|im_end|>", kGsm8kStops), "1");
  EXPECT_EQ(CutAtStop("1<|im_end|>2</s>", kGsm8kStops), "1");
  EXPECT_EQ(CutAtStop("Question", kGsm8kStops), "Question");
  EXPECT_EQ(CutAtStop("Question:", kGsm8kStops), "");
  constexpr std::array<std::string_view, 1> kEmpty{""};
  EXPECT_EQ(CutAtStop("text", kEmpty), "text");
}

TEST(AfterThinking, KeepsWhatFollowsTheLastEndOfThinking) {
  EXPECT_EQ(AfterThinking("a</think>b</think>\n\n 18", "</think>"), "18");
  EXPECT_EQ(AfterThinking("a</think>\u3000\u2003\x1c\u0085"
                          "18 ",
                          "</think>"),
            "18 ");
  EXPECT_EQ(AfterThinking("  never ends", "</think>"), "never ends");
  EXPECT_EQ(AfterThinking("  as it is", ""), "  as it is");
  EXPECT_EQ(AfterThinking("a</think>", "</think>"), "");
  EXPECT_EQ(AfterThinking("a</think>\u200b18", "</think>"),
            "\u200b18");  // a zero-width space is no white space
}

// 226 tricky pairs whose expectations Python's re printed for the patterns of the harness: marks
// and signs in odd places, other alphabets' digits, punctuation, stops, golds of every form. One
// JSON object a line.
std::filesystem::path CaseFile() {
  return std::filesystem::path(HPROC_TEST_DATA) / "evals" / "scoring_cases.jsonl";
}

TEST(ScoreAnswer, AgreesWithPythonOnTheTableOfCases) {
  std::ifstream file(CaseFile());
  int cases = 0;
  for (std::string line; std::getline(file, line); ++cases) {
    const nlohmann::json c = nlohmann::json::parse(line);
    const std::string output = c["output"];
    const AnswerScore score =
        ScoreAnswer(c["answer"].get<std::string>(), CutAtStop(output, kGsm8kStops));
    EXPECT_EQ(score.strict, c["strict"]) << line;
    EXPECT_EQ(score.flexible, c["flexible"]) << line;
    EXPECT_EQ(score.strict_correct, c["strict_correct"]) << line;
    EXPECT_EQ(score.flexible_correct, c["flexible_correct"]) << line;
  }
  EXPECT_EQ(cases, 226);
}

TEST(ScoreFile, CountsTheTableOfCases) {
  const Result<FileScore> score = ScoreFile(CaseFile());
  ASSERT_TRUE(score.ok()) << score.error().message;
  EXPECT_EQ(*score, (FileScore{.total = 226, .strict = 54, .flexible = 116, .invalid = 137}));
}

TEST(ScoreFile, CutsTheOutputAtItsStop) {
  const TemporaryFile file(
      R"({"answer": "x\n#### 1,234", "output": " #### 1,234\n\nQuestion: next #### 5"})");
  const Result<FileScore> score = ScoreFile(file.path());
  ASSERT_TRUE(score.ok()) << score.error().message;
  EXPECT_EQ(*score, (FileScore{.total = 1, .strict = 1, .flexible = 1, .invalid = 0}));
}

TEST(ScoreFile, NamesTheLineThatIsBroken) {
  const TemporaryFile file("{\"answer\": \"1\", \"output\": \"1\"}\n{\"answer\": \"1\"}\n");
  const Result<FileScore> score = ScoreFile(file.path());
  ASSERT_FALSE(score.ok());
  EXPECT_EQ(score.error().message, file.path().string() + ": line 2: no field \"output\"");
}

}  // namespace
}  // namespace hproc::evals
