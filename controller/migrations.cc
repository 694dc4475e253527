#include "controller/migrations.h"

#include <string>

#include "base/check.h"
#include "controller/database.h"

namespace hproc::controller {
namespace {

// PRAGMA takes no bound parameters; both callers pass numbers.
void SetPragma(Database& database, const char* name, int value) {
  database.Execute(("PRAGMA " + std::string(name) + " = " + std::to_string(value)).c_str());
}

Result<void> MigrateFrom(int version, Database& database, std::span<const Migration> migrations) {
  Transaction transaction(database, Transaction::Kind::kWrite);
  for (const Migration& migration : migrations.subspan(static_cast<size_t>(version))) {
    const std::string label = "schema migration " + std::to_string(migration.version) + " (" +
                              std::string(migration.name) + ")";
    try {
      database.Execute(migration.sql);
      if (database.Prepare("PRAGMA foreign_key_check").Step()) {
        return Error{label + " leaves rows that refer to nothing"};
      }
    } catch (const DatabaseError& error) {
      return Error{label + ": " + error.what()};
    }
    HPROC_CHECK(database.InTransaction(), label);  // the runner commits, not the file
  }
  SetPragma(database, "application_id", kApplicationId);
  SetPragma(database, "user_version", migrations.back().version);
  transaction.Commit();
  return Ok();
}

}  // namespace

int SchemaVersion(Database& database) {
  return static_cast<int>(database.QueryInt64("PRAGMA user_version"));
}

Result<FileKind> Identify(Database& database, std::span<const Migration> migrations) {
  const int64_t application_id = database.QueryInt64("PRAGMA application_id");
  const int version = SchemaVersion(database);
  const int64_t tables = database.QueryInt64("SELECT count(*) FROM sqlite_schema");
  if (application_id == 0 && version == 0 && tables == 0) return FileKind::kBlank;
  if (application_id != kApplicationId || version < 1) {
    return Error{"is a database of another program"};
  }
  const int latest = static_cast<int>(migrations.size());
  if (version > latest) {
    return Error{"has schema " + std::to_string(version) + ", and this hproc knows " +
                 std::to_string(latest) + " at most: it was written by a newer one"};
  }
  return FileKind::kStudies;
}

Result<void> Migrate(Database& database, std::span<const Migration> migrations) {
  for (size_t i = 0; i < migrations.size(); ++i) {
    HPROC_CHECK(migrations[i].version == static_cast<int>(i) + 1, migrations[i].name);
  }
  const int version = SchemaVersion(database);
  if (version == static_cast<int>(migrations.size())) return Ok();
  database.Execute("PRAGMA foreign_keys = OFF");  // no effect inside a transaction
  Result<void> migrated = MigrateFrom(version, database, migrations);
  database.Execute("PRAGMA foreign_keys = ON");
  return migrated;
}

}  // namespace hproc::controller
