#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hproc {
namespace {

std::filesystem::path TestFolder() {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("file_test" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  return folder;
}

TEST(WriteFileAtomically, ReplacesTheWholeFileAndLeavesNoTemporary) {
  const std::filesystem::path folder = TestFolder();
  ASSERT_TRUE(WriteFileAtomically(folder / "a", "a longer first version").ok());
  ASSERT_TRUE(WriteFileAtomically(folder / "a", "second").ok());
  EXPECT_EQ(*ReadFile(folder / "a", 100), "second");
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++files;
  EXPECT_EQ(files, 1);
  std::filesystem::remove_all(folder);
}

TEST(WriteFileAtomically, NamesTheFolderThatIsMissing) {
  const Result<void> written = WriteFileAtomically("/no/such/folder/file", "x");
  ASSERT_FALSE(written.ok());
  EXPECT_NE(written.error().message.find("/no/such/folder/file"), std::string::npos);
}

TEST(ReadFile, RefusesWhatIsMissingTooLargeOrNotAFile) {
  const std::filesystem::path folder = TestFolder();
  ASSERT_TRUE(WriteFileAtomically(folder / "a", "12345").ok());
  EXPECT_FALSE(ReadFile(folder / "missing", 10).ok());
  EXPECT_FALSE(ReadFile(folder / "a", 4).ok());
  EXPECT_FALSE(ReadFile(folder, 10).ok());
  EXPECT_EQ(*ReadFile(folder / "a", 5), "12345");
  std::filesystem::remove_all(folder);
}

TEST(ReadFile, RefusesAPipeThatNobodyWritesTo) {
  const std::filesystem::path folder = TestFolder();
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  ::alarm(20);  // against waiting for a writer
  const Result<std::string> read = ReadFile(folder / "pipe", 10);
  ::alarm(0);
  ASSERT_FALSE(read.ok());
  EXPECT_NE(read.error().message.find("not a regular file"), std::string::npos) << read.error().message;
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace hproc
