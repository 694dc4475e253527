#include "controller/database.h"

#include <sqlite3.h>

#include <array>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace hproc::controller {
namespace {

// How long a statement waits for a lock. Readers never hold up the writer; this is for a log being
// recovered or folded in by another process, and for somebody's sqlite3 shell.
constexpr int kBusyTimeoutMs = 10'000;

std::string SystemMessage(int code) { return std::generic_category().message(code); }

std::string Describe(sqlite3* handle, int code) {
  const int os_error = handle != nullptr ? sqlite3_system_errno(handle) : 0;
  const std::string detail = handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(code);
  const bool io = (code & 0xff) == SQLITE_IOERR || (code & 0xff) == SQLITE_CANTOPEN;
  // A full disk also shows as a shared-memory file or a journal that cannot grow.
  if ((code & 0xff) == SQLITE_FULL || (io && os_error == ENOSPC)) return "disk is full";
  if (io && os_error == EDQUOT) return "disk quota is exceeded";
  switch (code & 0xff) {
    case SQLITE_NOTADB:
      return "is not a database";
    case SQLITE_CORRUPT:
      return "is damaged: " + detail;
    case SQLITE_BUSY:
      return "another program keeps the database locked";
    case SQLITE_READONLY:
      return "cannot be written";
    case SQLITE_CANTOPEN:
      return "cannot open" + (os_error != 0 ? ": " + SystemMessage(os_error) : std::string());
    case SQLITE_IOERR:
      return "cannot read or write" +
             (os_error != 0 ? ": " + SystemMessage(os_error) : ": " + detail);
    default:
      return detail + " (SQLite code " + std::to_string(code) + ")";
  }
}

[[noreturn]] void Throw(sqlite3* handle, int code) { throw DatabaseError(Describe(handle, code)); }

// As a URI, the only way to say that a file is immutable.
std::string FrozenUri(const std::filesystem::path& file) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string uri = "file:";
  for (const char c : file.string()) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '/' || c == '.' || c == '-' || c == '_';
    if (plain) {
      uri += c;
    } else {
      uri += '%';
      uri += kHex[byte >> 4];
      uri += kHex[byte & 15];
    }
  }
  return uri + "?immutable=1";
}

// What every connection has. synchronous=FULL: a commit in the write-ahead log is fsynced before it
// returns; NORMAL would lose the last ones to a power cut (store.h promises not to). A study file
// may come from anywhere, so functions in its schema are not trusted and its cells are checked.
constexpr const char* kConfigure =
    "PRAGMA foreign_keys = ON;"
    "PRAGMA synchronous = FULL;"
    "PRAGMA trusted_schema = OFF;"
    "PRAGMA cell_size_check = ON;";

}  // namespace

// ---- Statement ---------------------------------------------------------------------------------

void Statement::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

bool Statement::Step() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  Throw(sqlite3_db_handle(statement_.get()), code);
}

void Statement::Run() {
  while (Step()) {
  }
  Reset();
}

void Statement::Reset() {
  sqlite3_reset(statement_.get());  // repeats the error of the last step, which was thrown then
}

void Statement::CheckAllBound(int count) const {
  HPROC_CHECK(sqlite3_bind_parameter_count(statement_.get()) == count,
              sqlite3_sql(statement_.get()));
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

int64_t Statement::Int64(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

int Statement::Int(int column) const {
  const int64_t value = Int64(column);
  if (!std::in_range<int>(value)) {
    throw DatabaseError(std::string(sqlite3_column_name(statement_.get(), column)) + ": " +
                        std::to_string(value) + " is out of range");
  }
  return static_cast<int>(value);
}

double Statement::Double(int column) const {
  if (IsNull(column)) return std::numeric_limits<double>::quiet_NaN();
  return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::Text(int column) const {
  // In this order: the first call makes the bytes that the second one counts.
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int count = sqlite3_column_bytes(statement_.get(), column);
  if (bytes == nullptr) return {};
  return {static_cast<const char*>(bytes), static_cast<size_t>(count)};
}

void Statement::BindOne(int parameter, int64_t value) {
  const int code = sqlite3_bind_int64(statement_.get(), parameter, value);
  if (code != SQLITE_OK) Throw(sqlite3_db_handle(statement_.get()), code);
}

void Statement::BindOne(int parameter, double value) {
  const int code = sqlite3_bind_double(statement_.get(), parameter, value);
  if (code != SQLITE_OK) Throw(sqlite3_db_handle(statement_.get()), code);
}

void Statement::BindOne(int parameter, std::string_view text) {
  // An empty view may have no pointer, which SQLite would take for null.
  const char* data = text.empty() ? "" : text.data();
  const int code = sqlite3_bind_text64(statement_.get(), parameter, data, text.size(),
                                       SQLITE_STATIC, SQLITE_UTF8);
  if (code != SQLITE_OK) Throw(sqlite3_db_handle(statement_.get()), code);
}

void Statement::BindOne(int parameter, Blob blob) {
  const char* data = blob.bytes.empty() ? "" : blob.bytes.data();
  const int code =
      sqlite3_bind_blob64(statement_.get(), parameter, data, blob.bytes.size(), SQLITE_STATIC);
  if (code != SQLITE_OK) Throw(sqlite3_db_handle(statement_.get()), code);
}

void Statement::BindOne(int parameter, std::nullptr_t) {
  const int code = sqlite3_bind_null(statement_.get(), parameter);
  if (code != SQLITE_OK) Throw(sqlite3_db_handle(statement_.get()), code);
}

// ---- Database ----------------------------------------------------------------------------------

void Database::Close::operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }

Database::Database(const std::filesystem::path& file, Access access) {
  // No mutex: a connection belongs to one store, which serializes its calls.
  constexpr int kAlways = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  std::string name = file.string();
  int flags = kAlways | SQLITE_OPEN_READONLY;
  if (access == Access::kReadWrite) flags = kAlways | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  if (access == Access::kFrozen) {
    name = FrozenUri(file);
    flags |= SQLITE_OPEN_URI;
  }
  sqlite3* handle = nullptr;
  const int code = sqlite3_open_v2(name.c_str(), &handle, flags, nullptr);
  handle_.reset(handle);  // there is one to close even where opening failed
  if (code != SQLITE_OK) Throw(handle, code);
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  Execute(kConfigure);
}

Statement Database::Prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                      &statement, nullptr);
  if (code != SQLITE_OK) Throw(handle_.get(), code);
  return Statement(statement);
}

void Database::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) Throw(handle_.get(), code);
}

int64_t Database::QueryInt64(std::string_view sql) {
  Statement statement = Prepare(sql);
  HPROC_CHECK(statement.Step(), sql);
  return statement.Int64(0);
}

std::string Database::QueryText(std::string_view sql) {
  Statement statement = Prepare(sql);
  HPROC_CHECK(statement.Step(), sql);
  return statement.Text(0);
}

int64_t Database::LastInsertId() const { return sqlite3_last_insert_rowid(handle_.get()); }

int64_t Database::RowsChanged() const { return sqlite3_changes64(handle_.get()); }

bool Database::InTransaction() const { return sqlite3_get_autocommit(handle_.get()) == 0; }

bool Database::IsReadOnly() const { return sqlite3_db_readonly(handle_.get(), "main") == 1; }

void Database::SetCheckpointOnClose(bool on) {
  sqlite3_db_config(handle_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, on ? 0 : 1, nullptr);
}

// ---- Transaction -------------------------------------------------------------------------------

Transaction::Transaction(Database& database, Kind kind) : database_(database) {
  database_.Execute(kind == Kind::kWrite ? "BEGIN IMMEDIATE" : "BEGIN");
}

Transaction::~Transaction() {
  if (open_) RollBack();
}

void Transaction::Commit() {
  open_ = false;
  try {
    database_.Execute("COMMIT");
  } catch (const DatabaseError&) {
    RollBack();
    throw;
  }
}

void Transaction::RollBack() noexcept {
  // SQLite has already rolled back after some errors (a full disk is one). Nothing is left to be
  // done where this fails: the connection keeps its transaction open and the next BEGIN says so.
  try {
    if (database_.InTransaction()) database_.Execute("ROLLBACK");
  } catch (const std::exception&) {
  }
}

}  // namespace hproc::controller
