// Nothing outlives its owner: workers, their children, and the workers of a controller that is
// killed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/unique_fd.h"
#include "tests/controller/fake.h"
#include "tests/controller/processes.h"

namespace hproc::controller {
namespace {

using testing::IsEmpty;

bool EndsWithin(int pidfd, milliseconds limit) {
  pollfd ended{pidfd, POLLIN, 0};
  return ::poll(&ended, 1, static_cast<int>(limit.count())) == 1;
}

TEST(Death, LeavesNoOrphanAndNoZombieOfTwoHundredKilledWorkers) {
  const std::string mark = "HPROC_TEST_MARK=two_hundred_" + std::to_string(::getpid());
  const std::string scripts[] = {
      R"({"load": ["hang"]})",
      R"({"load": ["ignore_sigterm", "deaf", "grandchild", "hang"]})",
      R"({"load": ["freeze"]})",
      R"({"load": ["grandchild", "segv"]})",
      R"({"load": ["grandchild", {"do": "exit", "code": 0}]})",
  };
  for (int round = 0; round < 40; ++round) {
    std::vector<std::unique_ptr<WorkerProcess>> workers;
    for (const std::string& script : scripts) {
      WorkerOptions options = FakeWorker(script);
      options.environment.push_back(mark);
      auto worker = WorkerProcess::Start(options, MakeTrial());
      ASSERT_TRUE(worker.ok()) << worker.error().message;
      workers.push_back(*std::move(worker));
    }
    // In every state: before hello in the first round, at work or dead in the others.
    if (round > 0) {
      for (auto& worker : workers) {
        for (;;) {
          const auto next = worker->NextEvent();
          if (std::holds_alternative<WorkerEnd>(next)) break;
          const auto* phase = std::get_if<worker::PhaseEvent>(&std::get<worker::Event>(next).body);
          if (phase != nullptr && phase->phase == worker::Phase::kLoad) break;
        }
      }
    }
  }
  EXPECT_THAT(ChildrenOf(::getpid()), IsEmpty());
  EXPECT_THAT(MarkedAfterAWhile(mark), IsEmpty());
}

// Runs doomed_controller, kills it with SIGKILL, and says whether its worker ends within a second.
bool WorkerEndsWithItsController(const std::string& script) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  std::string arguments[] = {HPROC_DOOMED_CONTROLLER, HPROC_FAKE_WORKER, script};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  pid_t controller = -1;
  EXPECT_EQ(::posix_spawn(&controller, argv[0], &actions, nullptr, argv, environ), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  input.Reset();

  std::string line;
  for (char c = 0; ::read(output.get(), &c, 1) == 1 && c != '\n';) line += c;
  EXPECT_FALSE(line.empty());
  const UniqueFd worker(static_cast<int>(::syscall(SYS_pidfd_open, std::atoi(line.c_str()), 0)));
  EXPECT_TRUE(worker);
  EXPECT_FALSE(EndsWithin(worker.get(), milliseconds(0)));

  ::kill(controller, SIGKILL);
  EXPECT_EQ(::waitpid(controller, nullptr, 0), controller);
  return EndsWithin(worker.get(), std::chrono::seconds(1));
}

TEST(Death, OfTheControllerEndsAWorkerThatHangs) {
  EXPECT_TRUE(WorkerEndsWithItsController(R"({"load": ["hang"]})"));
}

TEST(Death, OfTheControllerEndsAWorkerThatIsBusyAndPrints) {
  EXPECT_TRUE(WorkerEndsWithItsController(
      R"({"load": ["ignore_sigterm", {"do": "flood", "bytes": 1000000000000}]})"));
}

// A sibling inherits no end of a worker's pipes, so it cannot keep that worker alive.
TEST(Death, OfOneWorkersControlPipeIsNotDelayedByItsSiblings) {
  auto first = WorkerProcess::Start(FakeWorker(R"({"load": ["hang"]})"), MakeTrial());
  auto second = WorkerProcess::Start(FakeWorker(R"({"load": ["hang"]})"), MakeTrial());
  ASSERT_TRUE(first.ok() && second.ok());
  AwaitEvent<worker::PhaseEvent>(**first);
  AwaitEvent<worker::PhaseEvent>(**second);
  (*first)->Stop("enough");
  const WorkerEnd end = AwaitEnd(**first);
  EXPECT_EQ(end.exit_code, worker::kExitControllerGone);  // by EOF, not by a signal
}

}  // namespace
}  // namespace hproc::controller
