// What a study file is beyond the contract: frozen by its schema too, and safe from whatever else
// lies at its path.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "base/file.h"
#include "base/sha256.h"
#include "controller/database.h"
#include "controller/migrations.h"
#include "controller/study_json.h"
#include "tests/controller/store_contract.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// ---- the contract ------------------------------------------------------------------------------

class InFile : public StoreUnderTest {
 public:
  InFile(Clock clock, bool reopens) : clock_(std::move(clock)), reopens_(reopens) {}

  Store& store() override {
    if (reopens_) store_.reset();
    if (store_ == nullptr) {
      store_ = OpenSqliteStore(folder_ / "study.db", OpenMode::kReadWrite, clock_).value();
    }
    return *store_;
  }

 private:
  TestFolder folder_;
  const Clock clock_;
  const bool reopens_;
  std::unique_ptr<Store> store_;
};

INSTANTIATE_TEST_SUITE_P(
    Sqlite, StoreContract,
    testing::Values(
        StoreFactory{"Sqlite",
                     [](Clock clock) { return std::make_unique<InFile>(std::move(clock), false); }},
        StoreFactory{"SqliteReopenedForEachCall",
                     [](Clock clock) { return std::make_unique<InFile>(std::move(clock), true); }}),
    StoreFactoryName);

// ---- helpers -----------------------------------------------------------------------------------

std::unique_ptr<Store> OpenToWrite(const fs::path& path) {
  return OpenSqliteStore(path, OpenMode::kReadWrite, TickingClock()).value();
}

std::unique_ptr<Store> OpenToRead(const fs::path& path) {
  return OpenSqliteStore(path, OpenMode::kReadOnly).value();
}

// One study with three finished trials and one that runs, enough for several pages.
void MakeStudyFile(const fs::path& path) {
  const std::unique_ptr<Store> store = OpenToWrite(path);
  const int64_t study = store->CreateStudy(ExampleSpec("study")).value().id;
  for (int n = 0; n < 3; ++n) ASSERT_TRUE(AddFinishedTrial(*store, study, n).ok());
  const Trial trial = store->AddTrial(study, ExamplePlan(3)).value();
  ASSERT_TRUE(store->StartAttempt(trial.id, "log").ok());
  ASSERT_TRUE(store->AddAnswers(trial.id, ExampleAnswers(3, 0, 200)).ok());
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// What the folder holds: a digest for every file. Locks, the log's index and empty logs carry
// nothing.
std::map<std::string, std::string> Contents(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".lock") || name.ends_with("-shm")) continue;
    if (!fs::is_regular_file(entry.symlink_status())) {
      contents[name] = "not a file";
    } else if (!name.ends_with("-wal") || entry.file_size() > 0) {
      contents[name] = Sha256Hex(*ReadFile(entry.path(), 1 << 30));
    }
  }
  return contents;
}

// Neither mode opens `path`, both say `why` and name the file, and nothing in its folder changes.
void ExpectRefused(const fs::path& path, const std::string& why) {
  const auto before = Contents(path.parent_path());
  for (const OpenMode mode : {OpenMode::kReadWrite, OpenMode::kReadOnly}) {
    const std::string error = ErrorOf(OpenSqliteStore(path, mode));
    EXPECT_THAT(error, HasSubstr(why));
    EXPECT_THAT(error, testing::StartsWith(path.string() + ": "));
  }
  EXPECT_EQ(Contents(path.parent_path()), before);
}

// ---- frozen rows -------------------------------------------------------------------------------

TEST(SqliteStoreSchema, HoldsFinishedTrialsAgainstHandWrittenSql) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  Database database(folder / "study.db", Database::Access::kReadWrite);
  const std::vector<const char*> forbidden = {
      "UPDATE trials SET message = 'x' WHERE number = 0",
      "UPDATE trials SET state = 'running', finished_utc = '' WHERE number = 2",
      "DELETE FROM trials WHERE number = 1",
      "UPDATE trials SET state = 'waiting' WHERE number = 3",
      "DELETE FROM attempts WHERE trial_id = 1",
      "UPDATE attempts SET ended_utc = '' WHERE trial_id = 2",
      "INSERT INTO attempts (trial_id, number, started_utc, log_path) VALUES (1, 9, '', '')",
      "UPDATE ledger_lines SET bytes = 0 WHERE trial_id = 1",
      "UPDATE rank_ledgers SET live_bytes = 0 WHERE trial_id = 1",
      "DELETE FROM rank_ledger_lines WHERE trial_id = 1",
      "DELETE FROM throughput_samples WHERE trial_id = 1",
      "INSERT INTO phase_times VALUES (1, 99, 'load', 1)",
      "INSERT INTO seed_scores VALUES (1, 99, 1)",
      "UPDATE family_reports SET min_cosine = 1 WHERE trial_id = 1",
      "UPDATE trial_plans SET plan_json = '' WHERE trial_id = 1",
      "INSERT INTO answers VALUES (1, 'full', 1, 0, 1, '', x'', '', '', 0, 0, 'length', 0, 0)"};
  for (const char* sql : forbidden) {
    EXPECT_THROW(database.Execute(sql), DatabaseError) << sql;
  }
  database.Execute("UPDATE attempts SET log_path = 'other' WHERE trial_id = 4");  // still running
}

TEST(SqliteStoreSchema, RefusesASecondTrialOfAPlanAndRowsOfNoTrial) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  Database database(folder / "study.db", Database::Access::kReadWrite);
  EXPECT_THROW(
      database.Execute("INSERT INTO trials (study_id, number, state, created_utc, kind,"
                       " strict_floor, lazy_floor, head_floor, plan_digest,"
                       " predicted_bytes, predicted_weight_bytes, bits_per_weight, purpose)"
                       " SELECT study_id, 10, 'waiting', '', kind, 1, 1, 1, plan_digest, 0,"
                       " 0, 0, '' FROM trials WHERE number = 0"),
      DatabaseError);
  EXPECT_THROW(database.Execute("INSERT INTO phase_times VALUES (77, 0, 'load', 1)"),
               DatabaseError);
  EXPECT_THROW(database.Execute("INSERT INTO answers VALUES (4, 'full', 1, 0, 9, '', x'', '', '', 0, 0, 'length', 0, 0)"),
               DatabaseError) << "of no attempt";
}

// ---- reading beside a writer -------------------------------------------------------------------

TEST(SqliteStore, ReadersSeeEachWriteThatReturned) {
  const TestFolder folder;
  const std::unique_ptr<Store> writer = OpenToWrite(folder / "study.db");
  const std::unique_ptr<Store> reader = OpenToRead(folder / "study.db");
  EXPECT_TRUE(reader->ListStudies()->empty());
  const int64_t study = writer->CreateStudy(ExampleSpec("study")).value().id;
  ASSERT_TRUE(reader->FindStudy("study")->has_value());
  const Trial trial = writer->AddTrial(study, ExamplePlan(0)).value();
  EXPECT_EQ(ToJson(reader->GetTrial(trial.id).value()), ToJson(trial));
}

TEST(SqliteStore, RefusesToWriteWhereItWasOpenedToRead) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  const std::unique_ptr<Store> reader = OpenToRead(folder / "study.db");
  const std::string wanted = (folder / "study.db").string() + ": is open for reading only";
  EXPECT_EQ(ErrorOf(reader->CreateStudy(ExampleSpec("b"))), wanted);
  EXPECT_EQ(ErrorOf(reader->SetStudyState(1, StudyState::kDone)), wanted);
  EXPECT_EQ(ErrorOf(reader->SetStudyOutcome(1, "")), wanted);
  EXPECT_EQ(ErrorOf(reader->SetStudyMeasure(1, "")), wanted);
  EXPECT_EQ(ErrorOf(reader->AddTrial(1, ExamplePlan(9))), wanted);
  EXPECT_EQ(ErrorOf(reader->StartAttempt(4, "")), wanted);
  EXPECT_EQ(ErrorOf(reader->EndAttempt(4, 1, {})), wanted);
  EXPECT_EQ(ErrorOf(reader->AddAnswers(4, {})), wanted);
  EXPECT_EQ(ErrorOf(reader->FinishTrial(4, TrialState::kComplete, {}, {})), wanted);
}

TEST(SqliteStore, PutsTheFilesNameBeforeEveryError) {
  const TestFolder folder;
  const std::unique_ptr<Store> store = OpenToWrite(folder / "study.db");
  EXPECT_EQ(ErrorOf(store->GetTrial(7)), (folder / "study.db").string() + ": no trial 7");
}

// ---- paths -------------------------------------------------------------------------------------

TEST(OpenSqliteStore, CreatesTheFileAndTakesAnEmptyOneForNew) {
  const TestFolder folder;
  WriteFile(folder / "empty.db", "");
  for (const char* name : {"new.db", "empty.db", ":memory:", "a b?c#d%41&mode=ro.db", "ü.db"}) {
    const fs::path path = folder / name;
    ASSERT_TRUE(OpenToWrite(path)->CreateStudy(ExampleSpec("study")).ok()) << name;
    EXPECT_TRUE(OpenToRead(path)->FindStudy("study")->has_value()) << name;
    EXPECT_GT(fs::file_size(path), 0U) << name;
  }
}

TEST(OpenSqliteStore, LeavesOneFileAndItsLockWhenClosed) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    names.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("study.db", "study.db.lock"));
}

TEST(OpenSqliteStore, ReadsNothingWhereThereIsNothing) {
  const TestFolder folder;
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "none.db", OpenMode::kReadOnly)),
              HasSubstr("no such file"));
  WriteFile(folder / "empty.db", "");
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "empty.db", OpenMode::kReadOnly)),
              HasSubstr("is empty"));
  EXPECT_EQ(fs::file_size(folder / "empty.db"), 0U);
  EXPECT_FALSE(fs::exists(folder / "none.db"));
}

TEST(OpenSqliteStore, RefusesPathsThatAreNoFile) {
  const TestFolder folder;
  fs::create_directory(folder / "folder");
  ExpectRefused(folder / "folder", "is a folder");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  ExpectRefused(folder / "pipe", "is not a regular file");
  fs::create_symlink(folder / "nowhere", folder / "dangling");
  ExpectRefused(folder / "dangling", "is a symbolic link to nothing");
  fs::create_symlink(folder / "circle", folder / "circle");
  ExpectRefused(folder / "circle", "cannot open");
  EXPECT_THAT(ErrorOf(OpenSqliteStore("", OpenMode::kReadWrite)), HasSubstr("needs a name"));
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "no" / "study.db", OpenMode::kReadWrite)),
              HasSubstr("no folder " + (folder / "no").string()));
}

TEST(OpenSqliteStore, RefusesFilesThatAreNoDatabase) {
  const TestFolder folder;
  const std::vector<std::string> contents = {
      "x",
      "SQLite format 3",
      std::string(100, '\0'),
      std::string(511, 'a'),
      std::string(100'000, '\0'),
      "{\"a\": 1}\n" + std::string(5'000, ' '),
      std::string("SQLite format 3\0", 16) + std::string(5'000, 'j')};
  for (const std::string& bytes : contents) {
    WriteFile(folder / "file", bytes);
    ExpectRefused(folder / "file", "is not a database");
  }
}

TEST(OpenSqliteStore, RefusesTheDatabaseOfAnotherProgram) {
  const TestFolder folder;
  Database(folder / "other.db", Database::Access::kReadWrite)
      .Execute("CREATE TABLE t (a); INSERT INTO t VALUES (1)");
  ExpectRefused(folder / "other.db", "is a database of another program");
  Database(folder / "other.db", Database::Access::kReadWrite)
      .Execute("PRAGMA application_id = 1196444487; PRAGMA user_version = 1");
  ExpectRefused(folder / "other.db", "is a database of another program");
}

TEST(OpenSqliteStore, LeavesTheWriteAheadLogOfAnotherProgramAlone) {
  const TestFolder folder;
  {
    Database database(folder / "other.db", Database::Access::kReadWrite);
    database.Execute("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    database.SetCheckpointOnClose(false);
  }
  const std::string log = *ReadFile(folder / "other.db-wal", 1 << 20);
  const std::string file = *ReadFile(folder / "other.db", 1 << 20);
  ASSERT_FALSE(log.empty());
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "other.db", OpenMode::kReadWrite)),
              HasSubstr("another program"));
  EXPECT_TRUE(*ReadFile(folder / "other.db-wal", 1 << 20) == log);
  EXPECT_TRUE(*ReadFile(folder / "other.db", 1 << 20) == file);
}

TEST(OpenSqliteStore, RefusesANewerSchema) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  Database(folder / "study.db", Database::Access::kReadWrite).Execute("PRAGMA user_version = 999");
  ExpectRefused(folder / "study.db", "has schema 999");
}

TEST(OpenSqliteStore, RefusesAStudyFileCutShort) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  const auto whole = static_cast<int64_t>(fs::file_size(folder / "study.db"));
  for (const int64_t bytes : {whole - 1, whole / 2, int64_t{4096}, int64_t{700}}) {
    fs::resize_file(folder / "study.db", static_cast<uintmax_t>(bytes));
    ExpectRefused(folder / "study.db", "is damaged");
  }
  fs::resize_file(folder / "study.db", 300);
  ExpectRefused(folder / "study.db", "is not a database");
}

TEST(OpenSqliteStore, RefusesToTakeAFileForNewWhoseLogIsThere) {
  const TestFolder folder;
  WriteFile(folder / "study.db", "");
  WriteFile(folder / "study.db-wal", "the last that is left");
  ExpectRefused(folder / "study.db", "is damaged");
}

TEST(OpenSqliteStore, RefusesToWriteIntoADamagedFile) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  const std::string whole = *ReadFile(folder / "study.db", 1 << 30);
  int refused = 0;
  for (size_t page = 1; page * 4096 < whole.size(); ++page) {
    std::string damaged = whole;
    damaged.replace(page * 4096, 64, std::string(64, '\xa5'));
    WriteFile(folder / "study.db", damaged);
    Result<std::unique_ptr<Store>> opened =
        OpenSqliteStore(folder / "study.db", OpenMode::kReadWrite);
    if (opened) continue;  // a page where those bytes carry no structure
    ++refused;
    EXPECT_THAT(opened.error().message, HasSubstr("study.db: is damaged"));
    EXPECT_TRUE(*ReadFile(folder / "study.db", 1 << 30) == damaged);
    // A reader does not look through the whole file; what it meets is an error too, and no more.
    if (Result<std::unique_ptr<Store>> reader =
            OpenSqliteStore(folder / "study.db", OpenMode::kReadOnly)) {
      if (Result<std::vector<Trial>> trials = (*reader)->ListTrials(1); !trials.ok()) {
        EXPECT_THAT(trials.error().message, HasSubstr("study.db: "));
      }
    }
  }
  EXPECT_GT(refused, 20);
}

TEST(OpenSqliteStore, RefusesAFileThatSaysItIsOursAndIsNot) {
  const TestFolder folder;
  Database(folder / "study.db", Database::Access::kReadWrite)
      .Execute("CREATE TABLE t (a); PRAGMA application_id = 1752199791; PRAGMA user_version = 1");
  const std::unique_ptr<Store> store = OpenToWrite(folder / "study.db");
  EXPECT_THAT(ErrorOf(store->ListStudies()), HasSubstr("study.db: no such table"));
}

TEST(OpenSqliteStore, RefusesAFileOfSeveralNames) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  fs::create_hard_link(folder / "study.db", folder / "twin.db");
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "twin.db", OpenMode::kReadWrite)),
              HasSubstr("hard links"));
  fs::remove(folder / "twin.db");
  OpenToWrite(folder / "study.db");
}

TEST(SqliteStore, ReportsARowThatNamesNothingKnown) {
  const TestFolder folder;
  MakeStudyFile(folder / "study.db");
  Database(folder / "study.db", Database::Access::kReadWrite)
      .Execute(
          "UPDATE attempts SET reason = 'boredom' WHERE trial_id = 4;"
          "UPDATE studies SET spec_json = json_remove(spec_json, '$.eval.shots')");
  const std::unique_ptr<Store> store = OpenToRead(folder / "study.db");
  EXPECT_THAT(ErrorOf(store->GetTrial(4)), HasSubstr("\"boredom\" is no name known here"));
  EXPECT_TRUE(store->GetTrial(1).ok());
  EXPECT_THAT(ErrorOf(store->ListStudies()), HasSubstr("spec of study 1: eval.shots: missing"));
}

// ---- a folder that cannot be written -----------------------------------------------------------

// A disk of its own in `folder` that can be made read-only: root may write anywhere else.
#define ASSERT_DISK_OR_SKIP(folder)                           \
  if (!MountSmallDisk((folder).path(), int64_t{8} << 20)) {   \
    GTEST_SKIP() << "mounting a tmpfs is not permitted here"; \
  }

TEST(OpenSqliteStore, ReadsInAReadOnlyFolderAndRefusesToWriteThere) {
  const TestFolder folder;
  ASSERT_DISK_OR_SKIP(folder);
  const fs::path path = folder / "what? 100%.db";
  MakeStudyFile(path);
  ASSERT_TRUE(SetDiskReadOnly(folder.path(), true));
  const std::string error = ErrorOf(OpenSqliteStore(path, OpenMode::kReadWrite));
  EXPECT_THAT(error, testing::StartsWith(path.string() + ": "));
  EXPECT_THAT(error, HasSubstr("Read-only file system"));
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "new.db", OpenMode::kReadWrite)),
              HasSubstr("Read-only file system"));
  EXPECT_EQ(OpenToRead(path)->ListTrials(1)->size(), 4U);
}

TEST(OpenSqliteStore, ReadsInAReadOnlyFolderWhatAKilledWriterLeft) {
  const TestFolder folder;
  ASSERT_DISK_OR_SKIP(folder);
  MakeStudyFile(folder / "study.db");
  {
    Helper writer({"write", (folder / "study.db").string()});
    for (std::string line; line.substr(0, 10) != "finished 5";) line = writer.ReadLine().value();
    writer.Kill();
  }
  ASSERT_GT(fs::file_size(folder / "study.db-wal"), 0U);
  ASSERT_TRUE(SetDiskReadOnly(folder.path(), true));
  const std::vector<Trial> trials = OpenToRead(folder / "study.db")->ListTrials(1).value();
  ASSERT_GE(trials.size(), 6U);
  for (const Trial& trial : trials) EXPECT_EQ(WhyNotWhole(trial), "");
}

TEST(OpenSqliteStore, FollowsAWriterThatComesToAReadOnlyFolder) {
  const TestFolder folder;
  ASSERT_DISK_OR_SKIP(folder);
  MakeStudyFile(folder / "study.db");
  ASSERT_TRUE(SetDiskReadOnly(folder.path(), true));
  const std::unique_ptr<Store> reader = OpenToRead(folder / "study.db");
  EXPECT_EQ(reader->ListTrials(1)->size(), 4U);
  ASSERT_TRUE(SetDiskReadOnly(folder.path(), false));
  const std::unique_ptr<Store> writer = OpenToWrite(folder / "study.db");
  ASSERT_TRUE(writer->AddTrial(1, ExamplePlan(4)).ok());
  EXPECT_EQ(reader->ListTrials(1)->size(), 5U);
}

}  // namespace
}  // namespace hproc::controller
