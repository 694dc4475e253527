#include "controller/spawn.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>

#include "base/file.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// Restores what a test changes in this process.
class IgnoredSignals {
 public:
  IgnoredSignals() {
    pipe_ = std::signal(SIGPIPE, SIG_IGN);
    ::sigemptyset(&blocked_);
    ::sigaddset(&blocked_, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &blocked_, &before_);
  }
  ~IgnoredSignals() {
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    std::signal(SIGPIPE, pipe_);
  }

 private:
  void (*pipe_)(int);
  sigset_t blocked_;
  sigset_t before_;
};

// What a worker finds when it starts, whatever the controller has open, blocked and ignored.
TEST(SpawnWorker, GivesTheWorkerFourDescriptorsAGroupAndCleanSignals) {
  const IgnoredSignals ignored;
  const UniqueFd leaky(::dup(STDERR_FILENO));  // not close-on-exec
  auto process = WorkerProcess::Start(
      FakeWorker(R"({"start": ["describe"], "load": [{"do": "exit", "code": 1}]})"), MakeTrial());
  ASSERT_TRUE(process.ok()) << process.error().message;
  const std::string log = AwaitEnd(**process).log_tail;
  // 4 is the eventfd of the worker's own reader of its control pipe.
  EXPECT_THAT(log, HasSubstr("fds: 0 1 2 3 4\n"));
  EXPECT_THAT(log, HasSubstr("SigBlk:\t0000000000000000\n"));
  // The C library keeps its own two signals (32 and 33) as they are.
  const size_t ignored_mask = log.find("SigIgn:\t");
  ASSERT_NE(ignored_mask, std::string::npos);
  EXPECT_EQ(std::stoull(log.substr(ignored_mask + 8, 16), nullptr, 16) & 0x7fffffff, 0u);
  EXPECT_THAT(log, HasSubstr("group leader: 1\n"));
}

TEST(SpawnWorker, NamesAnExecutableThatIsNotThereAndLeavesNoZombie) {
  const Result<SpawnedWorker> missing = SpawnWorker({"/no/such/worker"}, {});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().message, "cannot start /no/such/worker: No such file or directory");

  const TestFolder folder;
  ASSERT_TRUE(WriteFileAtomically(folder / "text", "no program").ok());
  EXPECT_FALSE(SpawnWorker({folder / "text"}, {}).ok());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(EnvironmentWith, LaysChangesOverWhatIsInherited) {
  ::setenv("HPROC_TEST_OLD", "old", 1);
  ::setenv("HPROC_TEST_KEPT", "a=b", 1);
  const std::vector<std::string> environment =
      EnvironmentWith({"HPROC_TEST_OLD=new", "HPROC_TEST_NEW=1"});
  EXPECT_THAT(environment, Contains("HPROC_TEST_OLD=new"));
  EXPECT_THAT(environment, Not(Contains("HPROC_TEST_OLD=old")));
  EXPECT_THAT(environment, Contains("HPROC_TEST_NEW=1"));
  EXPECT_THAT(environment, Contains("HPROC_TEST_KEPT=a=b"));
}

}  // namespace
}  // namespace hproc::controller
