#include "evals/gsm8k.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/sha256.h"
#include "base/utf8.h"
#include "test_files.h"

namespace hproc::evals {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TaskFile MakeTasks(const std::string& name, int items) {
  TaskFile file{.path = name, .sha256 = {}, .items = {}};
  for (int i = 0; i < items; ++i) {
    const std::string n = std::to_string(i);
    file.items.push_back(
        {.question = name + " " + n + "?", .answer = "<<" + n + ">>\n#### " + n, .gold = n});
  }
  return file;
}

Gsm8kTask MakeTask(int questions, int pool, int shots) {
  return *Gsm8kTask::Create(MakeTasks("q", questions), MakeTasks("s", pool), shots);
}

TEST(Gsm8kPrompt, WithoutShotsIsTheQuestionAlone) {
  EXPECT_EQ(MakeTask(2, 0, 0).Prompt(1), "Question: q 1?\nAnswer:");
}

TEST(Gsm8kPrompt, PutsTheShotsWithTheirWholeSolutionsBeforeTheQuestion) {
  // random.Random(1234).sample(range(100), 2) is [99, 56], the next one [14, 0].
  const Gsm8kTask task = MakeTask(2, 100, 2);
  EXPECT_THAT(task.ShotIndices(0), ElementsAre(99, 56));
  EXPECT_EQ(task.Prompt(0),
            "Question: s 99?\nAnswer: <<99>>\n#### 99\n\n"
            "Question: s 56?\nAnswer: <<56>>\n#### 56\n\n"
            "Question: q 0?\nAnswer:");
  EXPECT_EQ(task.Prompt(1),
            "Question: s 14?\nAnswer: <<14>>\n#### 14\n\n"
            "Question: s 0?\nAnswer: <<0>>\n#### 0\n\n"
            "Question: q 1?\nAnswer:");
}

TEST(Gsm8kPrompt, DependsOnTheIndexNotOnHowManyQuestionsThereAre) {
  EXPECT_EQ(MakeTask(3, 100, 5).Prompt(2), MakeTask(50, 100, 5).Prompt(2));
}

TEST(Gsm8kTask, RefusesMoreShotsThanThePoolHas) {
  const Result<Gsm8kTask> task =
      Gsm8kTask::Create(MakeTasks("q", 1), MakeTasks("pool.jsonl", 2), 3);
  ASSERT_FALSE(task.ok());
  EXPECT_EQ(task.error().message, "pool.jsonl: has 2 items, fewer than 3 shots");
  EXPECT_FALSE(Gsm8kTask::Create(MakeTasks("q", 1), MakeTasks("s", 2), -1).ok());
  EXPECT_TRUE(Gsm8kTask::Create(MakeTasks("q", 1), MakeTasks("s", 2), 2).ok());
}

TEST(Gsm8kTask, DigestCoversEachPromptAndItsEnd) {
  // printf 'Question: q 0?\nAnswer:\0Question: q 1?\nAnswer:\0' | sha256sum
  EXPECT_EQ(MakeTask(2, 0, 0).PromptsSha256(),
            "6a965785382956624c5c1bf7fadedf4584476ebbd1b0e67b5cd167fbdc81f12d");
}

TEST(Gsm8kTask, ReadsTheShotFileOnlyForShots) {
  const TemporaryFile tasks(R"({"question": "q", "answer": "#### 1"})");
  EXPECT_TRUE(ReadGsm8kTask(tasks.path(), "/no/such/file", 0).ok());
  const Result<Gsm8kTask> with_shots = ReadGsm8kTask(tasks.path(), "/no/such/file", 1);
  ASSERT_FALSE(with_shots.ok());
  EXPECT_THAT(with_shots.error().message, HasSubstr("/no/such/file"));
  EXPECT_EQ(ReadGsm8kTask(tasks.path(), tasks.path(), 1)->Prompt(0),
            "Question: q\nAnswer: #### 1\n\nQuestion: q\nAnswer:");
}

TEST(EmbeddedTask, AsksWithoutShots) {
  const Result<Gsm8kTask> task = ReadGsm8kTask(WordmathFolder() / "test.jsonl", {}, 0);
  ASSERT_TRUE(task.ok()) << task.error().message;
  EXPECT_EQ(task->size(), 1319);
  EXPECT_EQ(task->Prompt(1),
            "Question: Chloe orders 36 oranges at $16 each, 40 stamps at $21 each, 35 cookies at "
            "$27 each and 20 "
            "candles at $20 each. What is the bill?\nAnswer:");
  EXPECT_EQ(task->item(1).gold, "2761");
}

// ---- the real data set, where it is at hand
// ------------------------------------------------------------------------

TEST(Gsm8kData, IsTheOneTheDigestsBelongTo) {
  HPROC_SKIP_WITHOUT_GSM8K();
  const Result<TaskFile> test = ReadTaskFile(Gsm8kFolder() / "test.jsonl");
  ASSERT_TRUE(test.ok()) << test.error().message;
  EXPECT_EQ(test->items.size(), 1319u);
  EXPECT_EQ(test->sha256, "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14");
  const Result<TaskFile> train = ReadTaskFile(Gsm8kFolder() / "train.jsonl");
  ASSERT_TRUE(train.ok()) << train.error().message;
  EXPECT_EQ(train->items.size(), 7473u);
  EXPECT_EQ(train->sha256, "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465");
}

TEST(Gsm8kData, PromptsAreThoseOfTheHarnessToTheByte) {
  HPROC_SKIP_WITHOUT_GSM8K();
  const Result<Gsm8kTask> task =
      ReadGsm8kTask(Gsm8kFolder() / "test.jsonl", Gsm8kFolder() / "train.jsonl", 5);
  ASSERT_TRUE(task.ok()) << task.error().message;
  EXPECT_THAT(task->ShotIndices(0), ElementsAre(6374, 3610, 957, 61, 742));
  EXPECT_THAT(task->ShotIndices(1), ElementsAre(7462, 6610, 4769, 286, 5501));
  EXPECT_THAT(task->ShotIndices(1318), ElementsAre(220, 4179, 6064, 5599, 5541));
  const std::string prompt = task->Prompt(0);
  size_t characters = 0;
  for (std::string_view rest = prompt; !rest.empty();
       rest.remove_prefix(DecodeUtf8(rest, 0).bytes))
    ++characters;
  EXPECT_EQ(characters, 3187u);
  EXPECT_EQ(Sha256Hex(prompt), "32680f263ba83280e98a8a24ceefed10a722a4cdcd9f4d78e93c45d43143ca66");
  EXPECT_EQ(task->PromptsSha256(),
            "90c166d5c3e3026061cfa63a694800e2cc31cdc12da84ff0fea81cccf9c93092");
}

TEST(Gsm8kData, GoldsAreThoseCountedInIt) {
  HPROC_SKIP_WITHOUT_GSM8K();
  const Result<TaskFile> test = ReadTaskFile(Gsm8kFolder() / "test.jsonl");
  ASSERT_TRUE(test.ok()) << test.error().message;
  int with_comma = 0;
  int negative = 0;
  int decimal = 0;
  int one_digit = 0;
  for (const TaskItem& item : test->items) {
    with_comma += item.answer.find(',', item.answer.rfind("#### ")) != std::string::npos ? 1 : 0;
    negative += item.gold.starts_with('-') ? 1 : 0;
    decimal += item.gold.find('.') != std::string::npos ? 1 : 0;
    one_digit += item.gold.size() == 1 ? 1 : 0;
  }
  EXPECT_EQ(with_comma, 14);
  EXPECT_EQ(negative, 2);
  EXPECT_EQ(decimal, 0);
  EXPECT_EQ(one_digit, 252);
}

}  // namespace
}  // namespace hproc::evals
