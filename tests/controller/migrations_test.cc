#include "controller/migrations.h"

#include <gmock/gmock.h>

#include <vector>

#include "base/file.h"
#include "controller/database.h"
#include "controller/study_json.h"
#include "tests/controller/schema_fixture.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

fs::path SchemaFile(int version) {
  return fs::path(HPROC_TEST_DATA) / "schema" / ("v" + std::to_string(version) + ".db");
}

// The migrations there are, and one more.
std::vector<Migration> AndThen(const char* name, const char* sql) {
  std::vector<Migration> migrations(Migrations().begin(), Migrations().end());
  migrations.push_back(
      {.version = static_cast<int>(migrations.size()) + 1, .name = name, .sql = sql});
  return migrations;
}

// Everything the fixture wrote is in `store`.
void ExpectFixture(Store& store) {
  const std::vector<Study> studies = store.ListStudies().value();
  ASSERT_EQ(studies.size(), 1U);
  EXPECT_EQ(ToJson(studies[0]), ToJson(SchemaFixtureStudy()));
  const std::vector<Trial> expected = SchemaFixtureTrials();
  const std::vector<Trial> trials = store.ListTrials(studies[0].id).value();
  ASSERT_EQ(trials.size(), expected.size());
  for (size_t i = 0; i < trials.size(); ++i) EXPECT_EQ(ToJson(trials[i]), ToJson(expected[i]));
  EXPECT_EQ(store.ListAnswers(trials[0].id).value(), SchemaFixtureAnswers());
}

TEST(Schema, ReadsEveryFieldOfAFileOfEveryVersion) {
  for (const Migration& migration : Migrations()) {
    SCOPED_TRACE(migration.version);
    const TestFolder folder;
    const fs::path path = folder / "old.db";
    ASSERT_TRUE(fs::copy_file(SchemaFile(migration.version), path))
        << "no file of this version: see schema_fixture.h";
    EXPECT_EQ(SchemaVersion(*std::make_unique<Database>(path, Database::Access::kReadOnly)),
              migration.version);
    const auto store = OpenSqliteStore(path, OpenMode::kReadWrite);
    ASSERT_TRUE(store.ok()) << store.error().message;
    ExpectFixture(**store);
  }
}

TEST(Schema, ReadsTheCurrentVersionWithoutWritingToIt) {
  const TestFolder folder;
  const fs::path path = folder / "old.db";
  fs::copy_file(SchemaFile(static_cast<int>(Migrations().size())), path);
  ExpectFixture(*OpenSqliteStore(path, OpenMode::kReadOnly).value());
  EXPECT_EQ(*ReadFile(path, 1 << 20),
            *ReadFile(SchemaFile(static_cast<int>(Migrations().size())), 1 << 20));
}

TEST(Schema, IsTheFixturesOfTodayToo) {
  const TestFolder folder;
  const Result<void> written = WriteSchemaFixture(folder / "new.db");
  ASSERT_TRUE(written.ok()) << written.error().message;
  ExpectFixture(*OpenSqliteStore(folder / "new.db", OpenMode::kReadOnly).value());
}

TEST(Migrate, MakesTheLatestSchemaInABlankFile) {
  const TestFolder folder;
  Database database(folder / "a.db", Database::Access::kReadWrite);
  EXPECT_EQ(Identify(database, Migrations()).value(), FileKind::kBlank);
  ASSERT_TRUE(Migrate(database, Migrations()).ok());
  EXPECT_EQ(Identify(database, Migrations()).value(), FileKind::kStudies);
  EXPECT_EQ(SchemaVersion(database), static_cast<int>(Migrations().size()));
  EXPECT_EQ(database.QueryInt64("PRAGMA application_id"), kApplicationId);
  EXPECT_EQ(database.QueryInt64("PRAGMA foreign_keys"), 1);
}

TEST(Migrate, RunsWhatAnOlderFileLacksAndNothingElse) {
  const TestFolder folder;
  fs::copy_file(SchemaFile(1), folder / "a.db");
  Database database(folder / "a.db", Database::Access::kReadWrite);
  const std::vector<Migration> migrations =
      AndThen("notes",
              "ALTER TABLE trials ADD COLUMN note TEXT NOT NULL DEFAULT 'none';"
              "CREATE TABLE notes (id INTEGER PRIMARY KEY) STRICT");
  const int latest = static_cast<int>(migrations.size());
  const Result<void> migrated = Migrate(database, migrations);
  ASSERT_TRUE(migrated.ok()) << migrated.error().message;
  EXPECT_EQ(SchemaVersion(database), latest);
  EXPECT_EQ(database.QueryText("SELECT note FROM trials WHERE number = 0"), "none");
  ASSERT_TRUE(Migrate(database, migrations).ok());  // a second time is no time
  EXPECT_EQ(SchemaVersion(database), latest);

  EXPECT_THAT(ErrorOf(Identify(database, Migrations())),
              HasSubstr("has schema " + std::to_string(latest)));
  EXPECT_THAT(ErrorOf(OpenSqliteStore(folder / "a.db", OpenMode::kReadWrite)),
              HasSubstr("written by a newer one"));
}

TEST(Migrate, RebuildsATableThatOthersReferTo) {
  const TestFolder folder;
  fs::copy_file(SchemaFile(1), folder / "a.db");
  Database database(folder / "a.db", Database::Access::kReadWrite);
  const Result<void> migrated = Migrate(
      database, AndThen("rebuild",
                        "CREATE TABLE studies_new (id INTEGER PRIMARY KEY, name TEXT) STRICT;"
                        "INSERT INTO studies_new SELECT id, name FROM studies;"
                        "DROP TABLE studies; ALTER TABLE studies_new RENAME TO studies"));
  ASSERT_TRUE(migrated.ok()) << migrated.error().message;
  EXPECT_EQ(database.QueryInt64("SELECT count(*) FROM studies"), 1);
  EXPECT_EQ(database.QueryInt64("PRAGMA foreign_keys"), 1);
}

TEST(Migrate, LeavesTheOldVersionWhereOneOfItsSteps) {
  const TestFolder folder;
  fs::copy_file(SchemaFile(1), folder / "a.db");
  Database database(folder / "a.db", Database::Access::kReadWrite);
  const int version = SchemaVersion(database);

  const std::string broken = ErrorOf(Migrate(
      database, AndThen("broken", "CREATE TABLE notes (a); INSERT INTO nowhere VALUES (1)")));
  EXPECT_THAT(broken, HasSubstr("(broken): no such table: nowhere"));
  EXPECT_EQ(database.QueryInt64("SELECT count(*) FROM sqlite_schema WHERE name = 'notes'"), 0);

  const std::string orphans = ErrorOf(Migrate(
      database,
      AndThen("orphans", "DROP TABLE studies; CREATE TABLE studies (id INTEGER PRIMARY KEY)")));
  EXPECT_THAT(orphans, HasSubstr("(orphans) leaves rows that refer to nothing"));
  EXPECT_EQ(SchemaVersion(database), version);
  EXPECT_EQ(database.QueryInt64("PRAGMA foreign_keys"), 1);

  database = Database(folder / "b.db", Database::Access::kReadWrite);
  ExpectFixture(*OpenSqliteStore(folder / "a.db", OpenMode::kReadWrite).value());
}

}  // namespace
}  // namespace hproc::controller
