// A full disk: calls fail, say so, change nothing, and succeed again when there is room.

#include <gmock/gmock.h>

#include <fstream>

#include "controller/database.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;
using testing::StartsWith;

constexpr int64_t kDiskBytes = int64_t{4} << 20;

// Takes `bytes` of the disk; all that is left where it is 0.
void Fill(const fs::path& path, int64_t bytes) {
  std::ofstream file(path, std::ios::binary);
  const std::string block(4096, 'f');
  for (int64_t done = 0; (bytes == 0 || done < bytes) && file.write(block.data(), 4096).flush();) {
    done += 4096;
  }
}

// One answer of `bytes` for `question`.
std::vector<Answer> AnswerOf(int question, size_t bytes) {
  Answer answer = ExampleAnswer(0, question);
  answer.text = std::string(bytes, static_cast<char>('a' + question % 26));
  return {answer};
}

// Adds answers until one is refused, and appends those that were not; the refusal.
std::string AddUntilRefused(Store& store, int64_t trial, size_t bytes, std::vector<Answer>& added) {
  while (added.size() < 10'000) {
    const std::vector<Answer> answer = AnswerOf(static_cast<int>(added.size()), bytes);
    if (Result<void> result = store.AddAnswers(trial, answer); !result.ok()) {
      return result.error().message;
    }
    added.push_back(answer[0]);
  }
  return "the disk does not fill";
}

class FullDisk : public testing::Test {
 protected:
  void SetUp() override {
    if (!MountSmallDisk(folder_.path(), kDiskBytes)) {
      GTEST_SKIP() << "mounting a tmpfs is not permitted here";
    }
  }

  TestFolder folder_;
  fs::path path_ = folder_ / "study.db";
  const std::string full_ = path_.string() + ": disk is full";
};

TEST_F(FullDisk, FailsTheCallKeepsWhatWasThereAndGoesOnWhenThereIsRoom) {
  Fill(folder_ / "ballast", kDiskBytes / 3);
  const auto store = OpenSqliteStore(path_, OpenMode::kReadWrite).value();
  const int64_t study = store->CreateStudy(ExampleSpec("study")).value().id;
  const int64_t trial = store->AddTrial(study, ExamplePlan(0)).value().id;
  ASSERT_TRUE(store->StartAttempt(trial, "log").ok());
  std::vector<Answer> added;
  EXPECT_EQ(AddUntilRefused(*store, trial, size_t{64} << 10, added), full_);
  ASSERT_GT(added.size(), 5U);
  EXPECT_EQ(store->ListAnswers(trial).value(), added);

  // The room that the refused call had in the log goes to smaller ones; then there is none for
  // anything.
  Fill(folder_ / "rest", 0);
  EXPECT_EQ(AddUntilRefused(*store, trial, 16, added), full_);
  EXPECT_EQ(ErrorOf(store->FinishTrial(trial, TrialState::kComplete, {}, ExampleMeasurements(0))),
            full_);
  EXPECT_EQ(ErrorOf(store->AddTrial(study, ExamplePlan(1))), full_);
  EXPECT_EQ(store->GetTrial(trial)->state, TrialState::kRunning);
  EXPECT_EQ(WhyNotWhole(store->GetTrial(trial).value()), "");
  EXPECT_EQ(store->ListTrials(study)->size(), 1U);
  EXPECT_EQ(store->ListAnswers(trial).value(), added);

  fs::remove(folder_ / "ballast");
  fs::remove(folder_ / "rest");
  const std::vector<Answer> next = AnswerOf(static_cast<int>(added.size()), size_t{64} << 10);
  ASSERT_TRUE(store->AddAnswers(trial, next).ok());
  added.push_back(next[0]);
  const Result<void> finished =
      store->FinishTrial(trial, TrialState::kComplete, {}, ExampleMeasurements(0));
  ASSERT_TRUE(finished.ok()) << finished.error().message;
  EXPECT_EQ(store->ListAnswers(trial).value(), added);
}

TEST_F(FullDisk, LosesNothingWhereTheWriterDiesOnIt) {
  Fill(folder_ / "ballast", kDiskBytes / 2);
  std::string said;
  {
    Helper writer({"write", path_.string()});
    while (const std::optional<std::string> line = writer.ReadLine()) said = *line;
    EXPECT_EQ(writer.Wait(), 1);
  }
  Fill(folder_ / "rest", 0);
  // The log cannot be folded into the file now, but it can be read.
  const auto reader = OpenSqliteStore(path_, OpenMode::kReadOnly);
  if (reader) {
    const std::vector<Trial> trials = (*reader)->ListTrials(1).value();
    for (const Trial& trial : trials) EXPECT_EQ(WhyNotWhole(trial), "");
  } else {
    EXPECT_EQ(reader.error().message, full_);
  }
  fs::remove(folder_ / "ballast");
  fs::remove(folder_ / "rest");
  const auto store = OpenSqliteStore(path_, OpenMode::kReadWrite);
  ASSERT_TRUE(store.ok()) << store.error().message;
  const std::vector<Trial> trials = (*store)->ListTrials(1).value();
  for (const Trial& trial : trials) EXPECT_EQ(WhyNotWhole(trial), "");
  const int last = std::stoi(said.substr(said.find(' ') + 1));
  EXPECT_GT(static_cast<int>(trials.size()), last) << said;
}

TEST_F(FullDisk, CannotStartAStudyAndLeavesTheWayOpenForLater) {
  Fill(folder_ / "ballast", 0);
  EXPECT_THAT(ErrorOf(OpenSqliteStore(path_, OpenMode::kReadWrite)), StartsWith(path_.string()));
  fs::remove(folder_ / "ballast");
  const auto store = OpenSqliteStore(path_, OpenMode::kReadWrite);
  ASSERT_TRUE(store.ok()) << store.error().message;
  EXPECT_TRUE((*store)->CreateStudy(ExampleSpec("study")).ok());
}

// The same by SQLite's own limit on pages, for machines where nothing may be mounted: an error of
// this kind inside a transaction undoes all of it and leaves the connection fit for the next.
TEST(DatabaseFull, UndoesTheWholeTransactionAndServesTheNext) {
  const TestFolder folder;
  Database database(folder / "test.db", Database::Access::kReadWrite);
  database.Execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a); PRAGMA max_page_count = 20");
  const std::string large(16 << 10, 'x');
  bool full = false;
  try {
    Transaction transaction(database, Transaction::Kind::kWrite);
    for (int i = 0; i < 100; ++i) {
      database.Prepare("INSERT INTO t VALUES (?)").Bind(large).Run();
    }
    transaction.Commit();
  } catch (const DatabaseError& error) {
    full = true;
    EXPECT_STREQ(error.what(), "disk is full");
  }
  EXPECT_TRUE(full);
  EXPECT_FALSE(database.InTransaction());
  EXPECT_EQ(database.QueryInt64("SELECT count(*) FROM t"), 0);
  Transaction transaction(database, Transaction::Kind::kWrite);
  database.Prepare("INSERT INTO t VALUES (?)").Bind(large).Run();
  transaction.Commit();
  EXPECT_EQ(database.QueryInt64("SELECT count(*) FROM t"), 1);
}

}  // namespace
}  // namespace hproc::controller
