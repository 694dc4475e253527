#include "controller/database.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;

class DatabaseTest : public testing::Test {
 protected:
  DatabaseTest() : database_(folder_ / "test.db", Database::Access::kReadWrite) {
    database_.Execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a ANY, b ANY) STRICT");
  }
  int64_t Rows() { return database_.QueryInt64("SELECT count(*) FROM t"); }

  TestFolder folder_;
  Database database_;
};

TEST_F(DatabaseTest, GivesBackWhatWasBound) {
  using std::string_literals::operator""s;
  const std::string text = "a\0b\xff"s;
  const std::string empty;
  Statement insert = database_.Prepare("INSERT INTO t (a, b) VALUES (?, ?)");
  insert.Bind(int64_t{-5}, 2.5).Run();
  insert.Bind(text, Blob{text}).Run();
  insert.Bind(std::string_view(), Blob{empty}).Run();
  insert.Bind(std::nan(""), nullptr).Run();
  EXPECT_EQ(database_.LastInsertId(), 4);

  Statement select = database_.Prepare("SELECT a, b, typeof(a), typeof(b) FROM t ORDER BY id");
  ASSERT_TRUE(select.Step());
  EXPECT_EQ(select.Int64(0), -5);
  EXPECT_EQ(select.Double(1), 2.5);
  ASSERT_TRUE(select.Step());
  EXPECT_EQ(select.Text(0), text);
  EXPECT_EQ(select.Text(1), text);
  EXPECT_EQ(select.Text(2) + " " + select.Text(3), "text blob");
  ASSERT_TRUE(select.Step());
  EXPECT_EQ(select.Text(0) + select.Text(1), "");
  EXPECT_EQ(select.Text(2) + " " + select.Text(3), "text blob");
  ASSERT_TRUE(select.Step());
  EXPECT_TRUE(select.IsNull(0) && select.IsNull(1));
  EXPECT_TRUE(std::isnan(select.Double(0)));
  EXPECT_FALSE(select.Step());
}

TEST_F(DatabaseTest, ThrowsWhereANumberDoesNotFitTheColumnsType) {
  database_.Execute("INSERT INTO t (a) VALUES (3000000000)");
  Statement select = database_.Prepare("SELECT a FROM t");
  ASSERT_TRUE(select.Step());
  EXPECT_EQ(select.Int64(0), 3'000'000'000);
  EXPECT_THROW(select.Int(0), DatabaseError);
}

TEST_F(DatabaseTest, SaysWhatIsWrongWithAStatement) {
  try {
    database_.Execute("SELECT * FROM nowhere");
    FAIL() << "no exception";
  } catch (const DatabaseError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no such table: nowhere"));
  }
}

TEST_F(DatabaseTest, RollsBackATransactionThatIsNotCommitted) {
  {
    Transaction transaction(database_, Transaction::Kind::kWrite);
    database_.Execute("INSERT INTO t (a) VALUES (1)");
    EXPECT_TRUE(database_.InTransaction());
  }
  EXPECT_FALSE(database_.InTransaction());
  EXPECT_EQ(Rows(), 0);
  {
    Transaction transaction(database_, Transaction::Kind::kWrite);
    database_.Execute("INSERT INTO t (a) VALUES (1)");
    transaction.Commit();
  }
  EXPECT_EQ(Rows(), 1);
}

TEST_F(DatabaseTest, RollsBackAlsoWhileAStatementIsHalfRead) {
  database_.Execute("INSERT INTO t (a) VALUES (1), (2), (3)");
  {
    Transaction transaction(database_, Transaction::Kind::kWrite);
    database_.Execute("DELETE FROM t WHERE a = 1");
    Statement select = database_.Prepare("SELECT a FROM t");
    ASSERT_TRUE(select.Step());
  }
  EXPECT_FALSE(database_.InTransaction());
  EXPECT_EQ(Rows(), 3);
}

TEST_F(DatabaseTest, RollsBackWhatItCannotCommit) {
  database_.Execute(
      "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)");
  {
    Transaction transaction(database_, Transaction::Kind::kWrite);
    database_.Execute("INSERT INTO child VALUES (77)");
    EXPECT_THROW(transaction.Commit(), DatabaseError);
    EXPECT_FALSE(database_.InTransaction());
  }
  EXPECT_EQ(database_.QueryInt64("SELECT count(*) FROM child"), 0);
}

TEST_F(DatabaseTest, EnforcesForeignKeysAndSyncsEachCommit) {
  EXPECT_EQ(database_.QueryInt64("PRAGMA foreign_keys"), 1);
  EXPECT_EQ(database_.QueryInt64("PRAGMA synchronous"), 2);  // FULL
  EXPECT_GT(database_.QueryInt64("PRAGMA busy_timeout"), 0);
}

TEST_F(DatabaseTest, WritesNothingThroughAReadOnlyConnection) {
  Database reader(folder_ / "test.db", Database::Access::kReadOnly);
  EXPECT_TRUE(reader.IsReadOnly());
  EXPECT_THROW(reader.Execute("INSERT INTO t (a) VALUES (1)"), DatabaseError);
}

}  // namespace
}  // namespace hproc::controller
