// RAII over the C API of SQLite: Database (a connection), Statement, Transaction. Move-only or
// pinned, thread-compatible.
//
// Failures are DatabaseError, a typed exception, so that a dozen statements read as a dozen lines;
// the stores catch it at their boundary and hand out an Error (store.h: nothing throws). The
// message does not name the file: the catcher does.
//
// Values go in by Bind and never into the text of a statement.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace hproc::controller {

// "disk is full", "is not a database", "is damaged: …"
class DatabaseError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Bytes bound as BLOB; text is bound as std::string_view.
struct Blob {
  std::string_view bytes;
};

// One prepared statement. Keep it no longer than its Database.
class Statement {
 public:
  // Binds all parameters, from ?1 on, and starts over. A double that is NaN becomes null. The bytes
  // of text and blobs must live until the next Run or the end of stepping.
  template <typename... Values>
  Statement& Bind(const Values&... values) {
    Reset();
    int parameter = 0;
    (BindOne(++parameter, values), ...);
    CheckAllBound(parameter);
    return *this;
  }

  // On to the next row; false after the last.
  bool Step();
  // Steps to the end; for statements whose rows do not matter. Ready for the next Bind.
  void Run();

  // Of the current row, columns from 0.
  bool IsNull(int column) const;
  int64_t Int64(int column) const;
  int Int(int column) const;  // throws where the number does not fit
  bool Bool(int column) const { return Int64(column) != 0; }
  double Double(int column) const;     // null: NaN
  std::string Text(int column) const;  // or a blob's bytes; NULs kept, null: empty

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };

  explicit Statement(sqlite3_stmt* statement) : statement_(statement) {}
  void Reset();
  void CheckAllBound(int count) const;
  void BindOne(int parameter, int64_t value);
  void BindOne(int parameter, int value) { BindOne(parameter, int64_t{value}); }
  void BindOne(int parameter, bool value) { BindOne(parameter, int64_t{value}); }
  void BindOne(int parameter, double value);
  void BindOne(int parameter, std::string_view text);
  void BindOne(int parameter, const std::string& text) {
    BindOne(parameter, std::string_view(text));
  }
  void BindOne(int parameter, Blob blob);
  void BindOne(int parameter, const char* text) = delete;  // would be taken for a bool
  void BindOne(int parameter, std::nullptr_t);

  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Database {
 public:
  enum class Access {
    kReadWrite,  // creates the file where there is none
    kReadOnly,
    kFrozen,  // read-only and without locks or a look at the write-ahead log: for files that nobody
              // writes
  };

  // Sets what every connection of ours has (database.cc, Configure); looks at nothing in the file
  // yet.
  Database(const std::filesystem::path& file, Access access);

  Statement Prepare(std::string_view sql);
  // One or more statements without parameters.
  void Execute(const char* sql);
  // The first column of the first row; the statement must have one.
  int64_t QueryInt64(std::string_view sql);
  std::string QueryText(std::string_view sql);

  int64_t LastInsertId() const;
  int64_t RowsChanged() const;  // by the statement run last
  bool InTransaction() const;
  bool IsReadOnly() const;
  // Whether closing, as the last connection, folds the write-ahead log into the file. Off, closing
  // writes nothing.
  void SetCheckpointOnClose(bool on);

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

// Rolls back unless committed. kWrite takes the write lock at once (BEGIN IMMEDIATE): a transaction
// that reads first and writes later would be refused, without waiting, when somebody wrote in
// between. kRead gives several reads one snapshot.
class Transaction {
 public:
  enum class Kind { kRead, kWrite };
  Transaction(Database& database, Kind kind);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // What failed to commit is rolled back before this throws.
  void Commit();

 private:
  void RollBack() noexcept;

  Database& database_;
  bool open_ = true;
};

}  // namespace hproc::controller
