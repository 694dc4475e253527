#include "controller/tune_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "controller/file_lock.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Types(const std::vector<std::string>& lines) {
  std::vector<std::string> types;
  for (const std::string& line : lines) types.push_back(json::parse(line)["type"]);
  return types;
}

class TuneJournalTest : public testing::Test {
 protected:
  TestFolder folder_;
  std::filesystem::path file_ = EventsFileOf(folder_ / "study.db");
};

TEST_F(TuneJournalTest, IsReadAsItIsWritten) {
  TuneJournalReader reader(file_);
  EXPECT_THAT(reader.Read().lines, IsEmpty()) << "no file yet";
  TuneJournal journal(file_, TickingClock());
  journal.OnMeasureStart("model \"x\"\n");
  EXPECT_THAT(Types(reader.Read().lines), ElementsAre("measure_start"));
  EXPECT_THAT(reader.Read().lines, IsEmpty());
  journal.OnNote("one");
  journal.OnNote("two");
  const std::vector<std::string> lines = reader.Read().lines;
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(json::parse(lines[1]), (json{{"type", "note"}, {"utc", "2026-01-02T03:04:07.000Z"}, {"line", "two"}}));
}

TEST_F(TuneJournalTest, BeginsANewFileForEachRunAndTheOldOneIsReadToItsEnd) {
  TuneJournalReader reader(file_);
  TuneJournal first(file_, TickingClock());
  first.OnNote("1");
  ASSERT_EQ(reader.Read().new_run, 0U);
  first.OnNote("2");
  TuneJournal second(file_, TickingClock());
  second.OnMeasureStart("3");
  const TuneJournalReader::Batch batch = reader.Read();
  EXPECT_THAT(Types(batch.lines), ElementsAre("note", "measure_start"));
  EXPECT_EQ(batch.new_run, 1U);
}

TEST_F(TuneJournalTest, SaysSeldomHowFarItIsButAlwaysHowItEnds) {
  TuneJournal journal(file_, TickingClock());
  for (int i = 1; i <= 1000; ++i) journal.OnQuestions(0, i, 1000, i / 2);
  TuneJournalReader reader(file_);
  const std::vector<std::string> lines = reader.Read().lines;
  EXPECT_LT(lines.size(), 100U);
  EXPECT_EQ(json::parse(lines.back())["answered"], 1000);
}

TEST_F(TuneJournalTest, CountsTokensOfAnAttempt) {
  TuneJournal journal(file_, TickingClock());
  Trial trial;
  trial.number = 4;
  journal.OnTrialStart(trial, 1);
  journal.OnAnswer(4, ExampleAnswer(0, 1));
  journal.OnAnswer(4, ExampleAnswer(0, 2));
  journal.OnQuestions(4, 2, 2, 1);
  TuneJournalReader reader(file_);
  EXPECT_EQ(json::parse(reader.Read().lines.back())["generated_tokens"],
            ExampleAnswer(0, 1).generated_tokens + ExampleAnswer(0, 2).generated_tokens);
}

TEST_F(TuneJournalTest, TellsTrialsInFlightApart) {
  TuneJournal journal(file_, TickingClock());
  Trial trial;
  for (trial.number = 0; trial.number < 2; ++trial.number) journal.OnTrialStart(trial, 1);
  journal.OnAnswer(0, ExampleAnswer(0, 1));
  journal.OnPhase(1, {.phase = worker::Phase::kLoad, .begin = true});
  // Due for each of them, whatever the other said just now.
  journal.OnQuestions(0, 1, 2, 1);
  journal.OnQuestions(1, 1, 2, 1);
  journal.OnPhase(kNoTrial, {.phase = worker::Phase::kMeasure, .begin = true});
  TuneJournalReader reader(file_);
  const std::vector<std::string> lines = reader.Read().lines;
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(json::parse(lines[2])["trial"], 1);
  EXPECT_EQ(json::parse(lines[3])["trial"], 0);
  EXPECT_EQ(json::parse(lines[3])["generated_tokens"], ExampleAnswer(0, 1).generated_tokens);
  EXPECT_EQ(json::parse(lines[4])["trial"], 1);
  EXPECT_EQ(json::parse(lines[4])["generated_tokens"], 0);
  EXPECT_TRUE(json::parse(lines[5])["trial"].is_null());
}

TEST_F(TuneJournalTest, ReaderLeavesOutALineWithoutEnd) {
  std::ofstream file(file_);
  file << "{\"type\":\"note\"}\n" << std::string(3 << 20, 'x') << "\n{\"type\":\"note\"}\n{\"type\":";
  file.flush();
  TuneJournalReader reader(file_);
  std::vector<std::string> all;
  for (int i = 0; i < 10; ++i) {
    for (std::string& line : reader.Read().lines) all.push_back(std::move(line));
  }
  EXPECT_THAT(Types(all), ElementsAre("note", "note"));
  file << "\"phase\"}\n";
  file.flush();
  EXPECT_THAT(Types(reader.Read().lines), ElementsAre("phase"));
}

TEST_F(TuneJournalTest, ATuneGoesOnWithoutItsJournal) {
  TuneJournal journal(folder_ / "no/such/folder.events");
  journal.OnNote("said to nobody");
}

TEST(HolderOf, SeesWhoHoldsTheLockWithoutTakingIt) {
  const TestFolder folder;
  const std::filesystem::path db = folder / "study.db";
  std::ofstream(db) << "x";
  EXPECT_FALSE(HolderOf(db));
  {
    const Result<FileLock> lock = FileLock::Acquire(db, "2026-01-02T03:04:05Z");
    ASSERT_TRUE(lock.ok());
    const std::optional<LockHolder> holder = HolderOf(db);
    ASSERT_TRUE(holder);
    EXPECT_EQ(holder->pid, ::getpid());
    EXPECT_TRUE(HolderOf(db)) << "a look changes nothing";
  }
  EXPECT_FALSE(HolderOf(db));
}

TEST(HolderOf, BelievesNoNameThatAKilledHolderLeftBehind) {
  const TestFolder folder;
  const std::filesystem::path db = folder / "study.db";
  std::ofstream(db) << "x";
  for (const std::string& pid : std::vector<std::string>{"1", "999999999", std::to_string(::getpid()), "-1", "x"}) {
    std::ofstream(folder / "study.db.lock") << "hproc pid " + pid + " on here since then\n";
    EXPECT_FALSE(HolderOf(db)) << pid;
  }
}

}  // namespace
}  // namespace hproc::controller
