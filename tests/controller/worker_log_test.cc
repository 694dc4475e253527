#include "controller/worker_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kFileBytes = 1000;
constexpr int64_t kTailBytes = 200;

std::string Numbers(int from, int to) {
  std::string text;
  for (int i = from; i < to; ++i) text += std::to_string(i) + "\n";
  return text;
}

// Appends `text` in pieces and gives the finished file.
std::string FileOf(const std::string& text, size_t piece) {
  const TestFolder folder;
  WorkerLog log(folder / "log", kFileBytes, kTailBytes);
  for (size_t at = 0; at < text.size(); at += piece)
    log.Append(std::string_view(text).substr(at, piece));
  log.Close();
  EXPECT_EQ(log.error(), "");
  return *ReadFile(folder / "log", 1 << 20);
}

TEST(WorkerLog, KeepsEverythingThatFits) {
  // Up to the head alone, into the tail, up to the last byte that head and tail hold together.
  for (const size_t size : {0u, 1u, 735u, 736u, 737u, 900u, 936u}) {
    const std::string text = Numbers(0, 1000).substr(0, size);
    EXPECT_EQ(FileOf(text, 7), text) << size;
  }
}

TEST(WorkerLog, KeepsHeadAndTailOfTooMuchAndSaysWhatIsMissing) {
  const std::string text = Numbers(0, 10'000);
  for (const size_t piece : {1u, 64u, 5000u, 1u << 20}) {
    const std::string file = FileOf(text, piece);
    EXPECT_LE(file.size(), static_cast<size_t>(kFileBytes));
    EXPECT_THAT(file, StartsWith("0\n1\n2\n"));
    EXPECT_THAT(file, EndsWith("9998\n9999\n"));
    EXPECT_THAT(file, HasSubstr("\n[... " + std::to_string(text.size() - 736 - 200) +
                                " bytes left out ...]\n"));
  }
}

TEST(WorkerLog, GivesTheTailFromTheStartOfALine) {
  WorkerLog log({}, kFileBytes, kTailBytes);
  log.Append("first line\nsecond line\n");
  EXPECT_EQ(log.Tail(1000), "first line\nsecond line\n");
  EXPECT_EQ(log.Tail(15), "second line\n");
  EXPECT_EQ(log.Tail(5), "line\n");
  log.Append(Numbers(0, 10'000));
  EXPECT_LE(log.Tail(1000).size(), static_cast<size_t>(kTailBytes));
  EXPECT_THAT(log.Tail(1000), EndsWith("9998\n9999\n"));
}

TEST(WorkerLog, GoesOnWithoutItsFileWhenTheDiskIsFull) {
  WorkerLog log("/dev/full", kFileBytes, kTailBytes);
  log.Append("a line\n");
  log.Append("another\n");
  log.Close();
  EXPECT_THAT(log.error(), HasSubstr("No space left"));
  EXPECT_EQ(log.Tail(1000), "a line\nanother\n");
}

TEST(WorkerLog, GoesOnWithoutItsFileWhenItCannotBeOpened) {
  WorkerLog log("/no/such/folder/log", kFileBytes, kTailBytes);
  log.Append("a line\n");
  log.Close();
  EXPECT_THAT(log.error(), HasSubstr("/no/such/folder/log: cannot open"));
  EXPECT_EQ(log.Tail(1000), "a line\n");
}

}  // namespace
}  // namespace hproc::controller
