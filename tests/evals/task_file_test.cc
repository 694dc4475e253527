#include "evals/task_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test_files.h"

namespace hproc::evals {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;

constexpr std::string_view kGood =
    R"({"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"})";

std::string ErrorOf(std::string_view content, const JsonLinesLimits& limits = {}) {
  const TemporaryFile file(content);
  const Result<TaskFile> tasks = ReadTaskFile(file.path(), limits);
  return tasks.ok() ? "" : tasks.error().message;
}

std::string Line(std::string_view question, std::string_view answer) {
  return R"({"question": ")" + std::string(question) + R"(", "answer": ")" + std::string(answer) +
         "\"}\n";
}

TEST(TaskFile, KeepsQuestionAndSolutionAndTakesTheGoldOutOfIt) {
  const TemporaryFile file(std::string(kGood) + "\n" + Line("é \\u00e9", "#### 1,234"));
  const Result<TaskFile> tasks = ReadTaskFile(file.path());
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  ASSERT_EQ(tasks->items.size(), 2u);
  EXPECT_EQ(tasks->items[0].question, "2 + 2?");
  EXPECT_EQ(tasks->items[0].answer, "2 + 2 = <<2+2=4>>4\n#### 4");
  EXPECT_EQ(tasks->items[0].gold, "4");
  EXPECT_EQ(tasks->items[1].question, "é é");
  EXPECT_EQ(tasks->items[1].gold, "1234");
}

TEST(TaskFile, GoldIsTheNumberBehindTheLastMark) {
  const TemporaryFile file(Line("a", "#### 1\\n#### -2.") + Line("b", "$3") + Line("c", "0.5"));
  const Result<TaskFile> tasks = ReadTaskFile(file.path());
  ASSERT_TRUE(tasks.ok()) << tasks.error().message;
  EXPECT_EQ(tasks->items[0].gold, "-2");
  EXPECT_EQ(tasks->items[1].gold, "3");
  EXPECT_EQ(tasks->items[2].gold, "0.5");
}

TEST(TaskFile, DigestIsThatOfTheBytes) {
  const TemporaryFile file(Line("1?", "#### 1"));
  const Result<TaskFile> tasks = ReadTaskFile(file.path());
  ASSERT_TRUE(tasks.ok());
  // printf '{"question": "1?", "answer": "#### 1"}\n' | sha256sum
  EXPECT_EQ(tasks->sha256, "adf5b09322b943665ac680b75e495ecba1ecadcff0d8bd53957ca75f40b9e4fe");
}

TEST(TaskFile, PassesOverBlankLinesButCountsThem) {
  EXPECT_EQ(ErrorOf("\n \t\r\n" + std::string(kGood) + "\r\n\n"), "");
  EXPECT_THAT(ErrorOf("\n\n" + std::string(kGood) + "\n{\n"), HasSubstr(": line 4: not JSON"));
}

TEST(TaskFile, ReadsALastLineWithoutNewline) { EXPECT_EQ(ErrorOf(kGood), ""); }

TEST(TaskFile, IgnoresFurtherFields) {
  EXPECT_EQ(ErrorOf(R"({"id": [1, {"x": null}], "question": "q", "answer": "#### 1"})"), "");
}

TEST(TaskFile, NamesFileAndLineOfWhatIsWrong) {
  const TemporaryFile file(std::string(kGood) + "\nnonsense\n");
  const Result<TaskFile> tasks = ReadTaskFile(file.path());
  ASSERT_FALSE(tasks.ok());
  EXPECT_THAT(tasks.error().message,
              AllOf(HasSubstr(file.path().string()), HasSubstr(": line 2: not JSON")));
}

TEST(TaskFile, RefusesALineThatIsNoObjectOrLacksAField) {
  EXPECT_THAT(ErrorOf("[1]\n"), EndsWith("line 1: not a JSON object"));
  EXPECT_THAT(ErrorOf(R"({"question": "q"})"), EndsWith("line 1: no field \"answer\""));
  EXPECT_THAT(ErrorOf(R"({"answer": "#### 1"})"), EndsWith("line 1: no field \"question\""));
  EXPECT_THAT(ErrorOf(R"({"question": 7, "answer": "#### 1"})"),
              EndsWith("field \"question\" is not a string"));
  EXPECT_THAT(ErrorOf(R"({"question": "q", "answer": null})"),
              EndsWith("field \"answer\" is not a string"));
  EXPECT_THAT(ErrorOf(std::string(kGood) + std::string(kGood)), HasSubstr("line 1: not JSON"));
}

TEST(TaskFile, RefusesTextThatIsNotUtf8) {
  EXPECT_THAT(ErrorOf(Line("caf\xE9", "#### 1")), EndsWith("line 1: not UTF-8 (byte 18)"));
  EXPECT_THAT(ErrorOf(Line("\\ud800", "#### 1")),
              HasSubstr("line 1: not JSON"));  // half a surrogate pair
}

TEST(TaskFile, RefusesAnAnswerThatNoOutputCouldMatch) {
  for (const std::string_view answer :
       {"", "four", "#### ", "#### four", "####4", "#### 4 apples", "#### -", "#### ."}) {
    EXPECT_THAT(ErrorOf(Line("q", answer)),
                EndsWith("line 1: the answer has no number after \"#### \""))
        << answer;
  }
}

TEST(TaskFile, RefusesAnEmptyQuestion) {
  EXPECT_THAT(ErrorOf(Line("", "#### 1")), EndsWith("line 1: the question is empty"));
}

TEST(TaskFile, RefusesAFileThatHoldsNothing) {
  EXPECT_THAT(ErrorOf(""), EndsWith("holds no line"));
  EXPECT_THAT(ErrorOf("\n\n"), EndsWith("holds no line"));
  EXPECT_FALSE(ReadTaskFile("/no/such/file").ok());
}

TEST(TaskFile, KeepsToItsLimits) {
  const std::string two = Line("q", "#### 1") + Line("r", "#### 2");
  EXPECT_EQ(ErrorOf(two, {.max_file_bytes = std::ssize(two), .max_line_bytes = 37, .max_lines = 2}),
            "");
  EXPECT_THAT(ErrorOf(two, {.max_file_bytes = std::ssize(two) - 1}),
              HasSubstr("bytes, more than the"));
  EXPECT_THAT(ErrorOf(two, {.max_line_bytes = 36}),
              EndsWith("line 1: 37 bytes, more than the 36 allowed"));
  EXPECT_THAT(ErrorOf(two, {.max_lines = 1}), EndsWith("line 2: more than the 1 lines allowed"));
}

TEST(TaskFile, SurvivesDeepNesting) {
  const std::string deep(100'000, '[');
  EXPECT_THAT(ErrorOf(R"({"question": "q", "answer": "#### 1", "x": )" + deep),
              HasSubstr("line 1: not JSON"));
}

TEST(EmbeddedTask, HoldsTheProblemsItsReadmeNames) {
  const Result<TaskFile> test = ReadTaskFile(WordmathFolder() / "test.jsonl");
  ASSERT_TRUE(test.ok()) << test.error().message;
  EXPECT_EQ(test->items.size(), 1319u);
  EXPECT_EQ(test->sha256, "e0fc7d9a32547ac5997c989eda61a50414a26522e5b05cabdb232a134896adac");
  const Result<TaskFile> dev = ReadTaskFile(WordmathFolder() / "dev.jsonl");
  ASSERT_TRUE(dev.ok()) << dev.error().message;
  EXPECT_EQ(dev->items.size(), 512u);
  EXPECT_EQ(dev->sha256, "b967802da397954ae1d401bcb9997a49f53fd7d50b2cd848b9c819762949e49b");
}

}  // namespace
}  // namespace hproc::evals
