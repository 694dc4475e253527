// The schema of a study file, as numbered migrations: controller/schema/NNN_*.sql, embedded at
// build time.
//
// Version n (PRAGMA user_version) is what the first n files make. A released file never changes; a
// new column, table or JSON field is a new file, which also rewrites the rows that are there.
// tests/data/schema keeps a database of every version, and reading them is a test.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace hproc::controller {

class Database;

// "hpro" in PRAGMA application_id: tells a study file from any other SQLite database.
inline constexpr int32_t kApplicationId = 0x6870726f;

struct Migration {
  int version = 0;  // 1, 2, … without a gap
  std::string_view name;
  const char* sql = nullptr;
};

std::span<const Migration> Migrations();

enum class FileKind {
  kBlank,    // no schema yet: a file just created, or one whose creation was interrupted
  kStudies,  // ours
};

// Looks, and writes nothing. An error for another program's database and for a version beyond the
// last of `migrations`. Throws DatabaseError where SQLite cannot read the file.
Result<FileKind> Identify(Database& database, std::span<const Migration> migrations);

int SchemaVersion(Database& database);

// Brings a blank or older file to the last version, in one transaction: a kill, a full disk or a
// bad migration leaves the version that was there. Foreign keys are off meanwhile (tables may have
// to be rebuilt) and checked before the commit. The error names the migration. The file must be one
// that Identify accepts.
Result<void> Migrate(Database& database, std::span<const Migration> migrations);

}  // namespace hproc::controller
