// OpenSqliteStore: everything that may be wrong with a path before a study file is trusted. The
// order matters: nothing is written before the lock is held, and nothing into a file that is not
// known to be ours and whole.

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "controller/migrations.h"
#include "controller/sqlite_store.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;

// SQLite's least page. A file between nothing and this cannot be a database, yet SQLite takes one
// of a single byte for an empty one and would write over it.
constexpr int64_t kLeastDatabaseBytes = 512;

fs::path WithSuffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

// Whether the write-ahead log beside `file` holds anything. Readers leave empty ones behind.
bool HasLog(const fs::path& file) {
  std::error_code code;
  const uintmax_t bytes = fs::file_size(WithSuffix(file, "-wal"), code);
  return !code && bytes > 0;
}

struct FileState {
  bool exists = false;
  int64_t bytes = 0;
  nlink_t links = 0;
};

// By stat alone: to open and close the file here would drop the locks of any other connection in
// this process.
Result<FileState> Look(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return Error{"is a folder"};
    if (!S_ISREG(info.st_mode)) return Error{"is not a regular file"};
    return FileState{.exists = true, .bytes = info.st_size, .links = info.st_nlink};
  }
  if (errno != ENOENT) return Error{"cannot open: " + std::generic_category().message(errno)};
  if (::lstat(path.c_str(), &info) == 0) return Error{"is a symbolic link to nothing"};
  return FileState{};
}

// The one name under which SQLite keeps the log, and we the lock: through a link two writers would
// not meet.
Result<fs::path> Resolve(const fs::path& path, bool exists) {
  std::error_code code;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path resolved =
      exists ? fs::canonical(path, code) : fs::canonical(folder, code) / path.filename();
  if (code) return Error{"no folder " + folder.string() + ": " + code.message()};
  return resolved;
}

Result<void> CheckSize(const fs::path& file, const FileState& state) {
  if (state.bytes >= kLeastDatabaseBytes) return Ok();
  if (state.bytes > 0) return Error{"is not a database"};
  // SQLite would drop the log, and with it the last that is left of a file cut to nothing.
  if (HasLog(file)) return Error{"is damaged: it is empty, but the log beside it is not"};
  return Ok();
}

// Without a log, all pages are in the file. SQLite sees whole pages missing, but fills one cut
// short with zeros.
Result<void> CheckLength(Database& database, const FileState& state, bool has_log) {
  if (has_log || state.bytes % database.QueryInt64("PRAGMA page_size") == 0) return Ok();
  return Error{"is damaged: its last page is cut short"};
}

Result<void> CheckWhole(Database& database) {
  const std::string verdict = database.QueryText("PRAGMA quick_check(1)");
  if (verdict != "ok") return Error{"is damaged: " + verdict};
  return Ok();
}

Result<SqliteStore::Opened> OpenForWriting(const fs::path& path, std::string_view now_utc) {
  Result<FileState> before = Look(path);
  if (!before) return before.error();
  Result<fs::path> file = Resolve(path, before->exists);
  if (!file) return file.error();
  Result<FileLock> lock = FileLock::Acquire(*file, now_utc);
  if (!lock) return lock.error();
  Result<FileState> state = Look(*file);  // again: only now nobody else is creating it
  if (!state) return state.error();
  if (state->links > 1) {
    return Error{"has " + std::to_string(state->links) +
                 " hard links, and its log could go by one of them only: make it a copy"};
  }
  if (Result<void> size = CheckSize(*file, *state); !size) return size.error();

  const bool has_log = HasLog(*file);
  Database database(*file, Database::Access::kReadWrite);
  database.SetCheckpointOnClose(!has_log);  // no fold of a log until it is known to be ours
  if (database.IsReadOnly()) return Error{"cannot be written: permission denied"};
  Result<FileKind> kind = Identify(database, Migrations());
  if (!kind) return kind.error();
  if (*kind == FileKind::kStudies) {
    Result<void> whole = CheckLength(database, *state, has_log);
    if (whole) whole = CheckWhole(database);
    if (!whole) return whole.error();
  }
  database.SetCheckpointOnClose(true);
  if (const std::string mode = database.QueryText("PRAGMA journal_mode = WAL"); mode != "wal") {
    return Error{"cannot keep a write-ahead log here (journal mode " + mode + ")"};
  }
  if (Result<void> migrated = Migrate(database, Migrations()); !migrated) return migrated.error();
  return SqliteStore::Opened{.name = path.string(),
                             .file = *std::move(file),
                             .lock = std::move(*lock),
                             .database = std::move(database),
                             .access = Database::Access::kReadWrite};
}

// SQLite needs the log's index beside the file, even to read, and makes it. Where it cannot (a
// read-only folder) and there is no log either, nobody is writing the file, and it is read as it
// lies.
Database::Access ReaderAccess(const fs::path& file) {
  std::error_code ignored;
  const bool journal = fs::exists(WithSuffix(file, "-journal"), ignored);
  const bool may_create = ::access(file.parent_path().c_str(), W_OK) == 0;
  return may_create || journal || HasLog(file) ? Database::Access::kReadOnly
                                               : Database::Access::kFrozen;
}

Result<SqliteStore::Opened> OpenForReading(const fs::path& path) {
  Result<FileState> state = Look(path);
  if (!state) return state.error();
  if (!state->exists) return Error{"no such file"};
  Result<fs::path> file = Resolve(path, true);
  if (!file) return file.error();
  if (Result<void> size = CheckSize(*file, *state); !size) return size.error();
  if (state->bytes == 0) return Error{"is empty: no study was started in it"};

  const bool has_log = HasLog(*file);
  const Database::Access access = ReaderAccess(*file);
  Database database(*file, access);
  Result<FileKind> kind = Identify(database, Migrations());
  if (!kind) return kind.error();
  if (*kind == FileKind::kBlank) return Error{"is empty: no study was started in it"};
  if (Result<void> whole = CheckLength(database, *state, has_log); !whole) return whole.error();
  const int version = SchemaVersion(database);
  if (version < static_cast<int>(Migrations().size())) {
    return Error{"has schema " + std::to_string(version) +
                 ", an older one: open it for writing once to bring it up to date"};
  }
  return SqliteStore::Opened{.name = path.string(),
                             .file = *std::move(file),
                             .lock = std::nullopt,
                             .database = std::move(database),
                             .access = access};
}

}  // namespace

Result<std::unique_ptr<Store>> OpenSqliteStore(const fs::path& path, OpenMode mode, Clock clock) {
  if (path.empty()) return Error{"a study file needs a name"};
  try {
    Result<SqliteStore::Opened> opened = mode == OpenMode::kReadWrite
                                             ? OpenForWriting(path, FormatUtc(clock()))
                                             : OpenForReading(path);
    if (!opened) return Error{path.string() + ": " + opened.error().message};
    return std::unique_ptr<Store>(
        std::make_unique<SqliteStore>(*std::move(opened), std::move(clock)));
  } catch (const std::exception& error) {  // DatabaseError, and no memory
    return Error{path.string() + ": " + error.what()};
  }
}

}  // namespace hproc::controller
