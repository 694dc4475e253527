#include "controller/file_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/controller/store_testing.h"

namespace hproc::controller {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kNow = "2026-01-02T03:04:05.000Z";

TEST(FileLock, RefusesASecondHolderAndNamesTheFirst) {
  const TestFolder folder;
  const Result<FileLock> first = FileLock::Acquire(folder / "study.db", kNow);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const std::string error = ErrorOf(FileLock::Acquire(folder / "study.db", kNow));
  EXPECT_THAT(error, StartsWith("is in use by hproc pid " + std::to_string(::getpid()) + " on "));
  EXPECT_THAT(error, testing::EndsWith(" since 2026-01-02T03:04:05.000Z"));
  EXPECT_TRUE(FileLock::Acquire(folder / "other.db", kNow).ok());
}

TEST(FileLock, IsFreeAgainWhenItsHolderLetsGoAndTheFileStays) {
  const TestFolder folder;
  ASSERT_TRUE(FileLock::Acquire(folder / "study.db", kNow).ok());
  EXPECT_TRUE(fs::exists(folder / "study.db.lock"));
  EXPECT_EQ(*ReadFile(folder / "study.db.lock", 1000), "");
  EXPECT_TRUE(FileLock::Acquire(folder / "study.db", kNow).ok());
}

TEST(FileLock, IsFreeWhateverALockFileLeftBehindSays) {
  const TestFolder folder;
  std::ofstream(folder / "study.db.lock") << "hproc pid 1 on this host since yesterday\n"
                                          << std::string(9000, 'x');
  const Result<FileLock> lock = FileLock::Acquire(folder / "study.db", kNow);
  ASSERT_TRUE(lock.ok()) << lock.error().message;
  EXPECT_THAT(ErrorOf(FileLock::Acquire(folder / "study.db", kNow)),
              HasSubstr("pid " + std::to_string(::getpid())));
}

TEST(FileLock, SaysAnotherProcessWhereTheLockFileNamesNobody) {
  const TestFolder folder;
  const Result<FileLock> lock = FileLock::Acquire(folder / "study.db", kNow);
  for (const std::string text : {"", "no line end", "\x1b[31m\n"}) {
    std::ofstream(folder / "study.db.lock") << text;
    EXPECT_EQ(ErrorOf(FileLock::Acquire(folder / "study.db", kNow)),
              "is in use by another process");
  }
}

TEST(FileLock, SaysWhyTheLockFileCannotBeHad) {
  const TestFolder folder;
  fs::create_directory(folder / "a.db.lock");
  EXPECT_THAT(ErrorOf(FileLock::Acquire(folder / "a.db", kNow)),
              HasSubstr("a.db.lock: Is a directory"));
  std::ofstream(folder / "precious") << "content";
  fs::create_symlink(folder / "precious", folder / "b.db.lock");
  EXPECT_THAT(ErrorOf(FileLock::Acquire(folder / "b.db", kNow)), HasSubstr("b.db.lock: "));
  EXPECT_EQ(*ReadFile(folder / "precious", 1000), "content");
  EXPECT_THAT(ErrorOf(FileLock::Acquire(folder / "no" / "c.db", kNow)),
              HasSubstr("c.db.lock: No such file or directory"));
}

// ---- the lock as the store holds it ------------------------------------------------------------

TEST(StudyFileLock, LetsOneControllerWriteAndAnyNumberRead) {
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  const auto writer = OpenSqliteStore(path, OpenMode::kReadWrite);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  EXPECT_THAT(ErrorOf(OpenSqliteStore(path, OpenMode::kReadWrite)),
              StartsWith(path.string() + ": is in use by hproc pid"));
  const auto a = OpenSqliteStore(path, OpenMode::kReadOnly);
  const auto b = OpenSqliteStore(path, OpenMode::kReadOnly);
  EXPECT_TRUE(a.ok() && b.ok());
}

TEST(StudyFileLock, HoldsForTheFileByWhateverNameItIsReached) {
  const TestFolder folder;
  fs::create_directory(folder / "real");
  fs::create_directory_symlink(folder / "real", folder / "folder_link");
  const auto writer = OpenSqliteStore(folder / "real" / "study.db", OpenMode::kReadWrite);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  fs::create_symlink("real/study.db", folder / "file_link.db");
  for (const fs::path& path : {folder / "file_link.db", folder / "folder_link" / "study.db",
                               folder / "real" / ".." / "real" / "study.db"}) {
    EXPECT_THAT(ErrorOf(OpenSqliteStore(path, OpenMode::kReadWrite)), HasSubstr("is in use by"));
  }
  EXPECT_FALSE(fs::exists(folder / "file_link.db.lock"));
}

TEST(StudyFileLock, WritesThroughASymbolicLink) {
  const TestFolder folder;
  fs::create_directory(folder / "real");
  ASSERT_TRUE(OpenSqliteStore(folder / "real" / "study.db", OpenMode::kReadWrite).ok());
  fs::create_symlink("real/study.db", folder / "link.db");
  ASSERT_TRUE(OpenSqliteStore(folder / "link.db", OpenMode::kReadWrite)
                  .value()
                  ->CreateStudy(ExampleSpec("study"))
                  .ok());
  EXPECT_TRUE(fs::is_symlink(folder / "link.db"));
  EXPECT_TRUE(OpenSqliteStore(folder / "real" / "study.db", OpenMode::kReadOnly)
                  .value()
                  ->FindStudy("study")
                  ->has_value());
}

TEST(StudyFileLock, IsReleasedByTheKernelWhenItsHolderIsKilled) {
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  Helper holder({"hold", path.string()});
  ASSERT_EQ(holder.ReadLine(), "holding");
  EXPECT_THAT(ErrorOf(OpenSqliteStore(path, OpenMode::kReadWrite)),
              HasSubstr("is in use by hproc pid " + std::to_string(holder.pid()) + " on "));
  holder.Kill();
  EXPECT_NE(*ReadFile(folder / "study.db.lock", 1000), "");  // left behind, and no obstacle
  const auto next = OpenSqliteStore(path, OpenMode::kReadWrite);
  EXPECT_TRUE(next.ok()) << next.error().message;
}

// A controller that is killed while it starts a worker leaves a child that has the lock until it is dead, too.
TEST(FileLock, WaitsForWhatIsLeftOfAHolderThatIsDead) {
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  pid_t dead = -1;
  {
    Helper helper({"idle"});
    dead = helper.pid();
  }
  std::string host(256, '\0');
  ASSERT_EQ(::gethostname(host.data(), host.size()), 0);
  host.resize(std::strlen(host.c_str()));
  const auto hold = [&](pid_t pid) {
    std::ofstream(folder / "study.db.lock") << "hproc pid " << pid << " on " << host << " since then\n";
    UniqueFd left(::open((folder / "study.db.lock").c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(::flock(left.get(), LOCK_EX | LOCK_NB), 0);
    return left;
  };
  UniqueFd left = hold(dead);
  std::jthread dying([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    left.Reset();
  });
  EXPECT_TRUE(FileLock::Acquire(path, "now").ok());
  dying.join();

  left = hold(::getpid());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(ErrorOf(FileLock::Acquire(path, "now")), HasSubstr("is in use by hproc pid "));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500)) << "who lives is not waited for";
}

TEST(StudyFileLock, IsNotInheritedByChildProcesses) {
  const TestFolder folder;
  const fs::path path = folder / "study.db";
  auto writer = OpenSqliteStore(path, OpenMode::kReadWrite);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  Helper child({"idle"});
  ASSERT_EQ(child.ReadLine(), "idle");
  writer = Error{"closed"};
  const auto next = OpenSqliteStore(path, OpenMode::kReadWrite);
  EXPECT_TRUE(next.ok()) << next.error().message;
}

}  // namespace
}  // namespace hproc::controller
