// The supervisor against workers with bad manners. Verdicts on worse ones: verdict_process_test.cc.
#include "controller/worker_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "base/file.h"
#include "tests/controller/fake.h"

namespace hproc::controller {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

std::unique_ptr<WorkerProcess> Start(WorkerOptions options, const worker::Job& job = MakeTrial()) {
  auto process = WorkerProcess::Start(std::move(options), job);
  EXPECT_TRUE(process.ok()) << process.error().message;
  return *std::move(process);
}

TEST(WorkerProcess, DeliversEventsInOrderWithoutHeartbeatsAndThenTheEndForGood) {
  auto process = Start(FakeWorker(R"({"heartbeat_ms": 1, "load": [{"do": "slow", "ms": 20}]})"));
  AwaitResult<worker::ReadyResult>(*process);
  ASSERT_TRUE(process->Send(worker::FinishCommand{}).ok());
  AwaitResult<worker::ExitResult>(*process);
  for (int i = 0; i < 3; ++i) {
    const auto next = process->NextEvent();
    ASSERT_TRUE(std::holds_alternative<WorkerEnd>(next));
    const WorkerEnd& end = std::get<WorkerEnd>(next);
    EXPECT_EQ(end.exit_code, 0);
    EXPECT_EQ(end.kill_cause, KillCause::kNone);
    EXPECT_TRUE(end.record.exit_announced);
    EXPECT_GT(end.wall_seconds, 0.02);
    EXPECT_GT(end.peak_rss_bytes, 0);
  }
  EXPECT_TRUE(process->Send(worker::FinishCommand{}).ok());  // goes nowhere
}

TEST(WorkerProcess, SaysThatItCannotStart) {
  WorkerOptions options;
  options.executable = "/no/such/worker";
  const auto process = WorkerProcess::Start(options, MakeTrial());
  ASSERT_FALSE(process.ok());
  EXPECT_THAT(process.error().message, HasSubstr("/no/such/worker"));
}

TEST(WorkerProcess, KeepsTheCommandLineForReports) {
  WorkerOptions options = FakeWorker("{}");
  options.arguments = {"--verbose"};
  auto process = Start(options);
  EXPECT_THAT(process->argv(), ElementsAre(HPROC_FAKE_WORKER, "--verbose", "--events-fd", "3"));
  EXPECT_THAT(process->environment(), ElementsAre("HPROC_FAKE={}"));
}

// The plan of a large model does not fit into the pipe; the worker reads while the supervisor does
// other things.
TEST(WorkerProcess, SendsAJobLargerThanThePipe) {
  const std::string plan =
      R"({"weight_bytes": 5, "padding": ")" + std::string(10 << 20, 'x') + "\"}";
  auto process = Start(FakeWorker("{}"), MakeTrial(plan));
  EXPECT_EQ(AwaitResult<worker::LoadResult>(*process).weight_bytes, 5);
}

TEST(WorkerProcess, RefusesAJobOrACommandBeyondTheLineLimit) {
  const auto refused =
      WorkerProcess::Start(FakeWorker("{}"), MakeTrial(std::string(worker::kMaxLineBytes, 'x')));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("a job of "));

  auto process = Start(FakeWorker("{}"));
  worker::GenerateCommand command;
  command.requests.emplace_back().prompt = std::string(worker::kMaxLineBytes, 'x');
  EXPECT_THAT(process->Send(command).error().message, HasSubstr("more than 67108864"));
}

TEST(WorkerProcess, EndsAWorkerPolitelyByEofEvenWhenItHangs) {
  auto process = Start(FakeWorker(R"({"load": ["ignore_sigterm", "hang"]})"));
  AwaitEvent<worker::PhaseEvent>(*process);
  process->Stop("enough");
  process->Stop("a second reason");
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.exit_code, worker::kExitControllerGone);
  EXPECT_EQ(end.kill_cause, KillCause::kStopped);
  EXPECT_EQ(end.kill_detail, "enough");
  EXPECT_FALSE(end.sigkill_sent);
}

TEST(WorkerProcess, EndsAWorkerThatIsDeafToEofBySigterm) {
  WorkerOptions options =
      FakeWorker(R"({"load": ["deaf", {"do": "print", "text": "ready"}, "hang"]})");
  options.polite = milliseconds(30);
  auto process = Start(options);
  while (process->LogTail(100) != "ready\n") std::this_thread::yield();
  process->Stop("enough");
  EXPECT_EQ(AwaitEnd(*process).signal, SIGTERM);
}

TEST(WorkerProcess, EndsAWorkerThatIgnoresEverythingBySigkill) {
  WorkerOptions options = FakeWorker(
      R"({"load": ["deaf", "ignore_sigterm", {"do": "print", "text": "ready"}, "hang"]})");
  options.polite = options.terminate = milliseconds(30);
  auto process = Start(options);
  while (process->LogTail(100) != "ready\n") std::this_thread::yield();
  process->Stop("enough");
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_TRUE(end.sigkill_sent);
}

TEST(WorkerProcess, KillsAtOnceWhenItsOwnerGoes) {
  WorkerOptions options = FakeWorker(R"({"load": ["deaf", "ignore_sigterm", "hang"]})");
  options.polite = options.terminate = std::chrono::minutes(10);
  auto process = Start(options);
  AwaitEvent<worker::PhaseEvent>(*process);
  process->Stop("politely");
  const auto before = std::chrono::steady_clock::now();
  process.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(10));
}

TEST(WorkerProcess, DrainsALogWithoutEndIntoABoundedFile) {
  const TestFolder folder;
  WorkerOptions options = FakeWorker(R"({"load": [{"do": "print", "text": "the first line"},
      {"do": "flood", "bytes": 100000000}, {"do": "print", "text": "the last line"}]})");
  options.log_file = folder / "log";
  auto process = Start(options);
  AwaitResult<worker::ReadyResult>(*process);
  ASSERT_TRUE(process->Send(worker::FinishCommand{}).ok());
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_EQ(end.log_error, "");
  EXPECT_THAT(end.log_tail, EndsWith("xxx\nthe last line\n"));
  const std::string file = *ReadFile(folder / "log", options.log_file_bytes);
  EXPECT_GT(static_cast<int64_t>(file.size()), options.log_file_bytes * 9 / 10);
  EXPECT_THAT(file, StartsWith("the first line\nxxx"));
  EXPECT_THAT(file, HasSubstr("bytes left out ...]\n"));
  EXPECT_THAT(file, EndsWith("xxx\nthe last line\n"));
}

TEST(WorkerProcess, RunsOnWhenTheDiskOfTheLogIsFull) {
  WorkerOptions options = FakeWorker(R"({"load": [{"do": "print", "text": "hello log"}]})");
  options.log_file = "/dev/full";
  auto process = Start(options);
  AwaitResult<worker::ReadyResult>(*process);
  ASSERT_TRUE(process->Send(worker::FinishCommand{}).ok());
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.exit_code, 0);
  EXPECT_EQ(end.log_tail, "hello log\n");
  EXPECT_THAT(end.log_error, HasSubstr("No space left"));
}

TEST(WorkerProcess, TakesStandardOutputForLog) {
  auto process = Start(FakeWorker(
      R"({"load": [{"do": "print_stdout", "text": "{\"v\":1,\"type\":\"oom\"}"}, {"do": "exit", "code": 1}]})"));
  EXPECT_EQ(AwaitEnd(*process).log_tail, "{\"v\":1,\"type\":\"oom\"}\n");
}

TEST(WorkerProcess, ToleratesATornLastLine) {
  auto process = Start(FakeWorker(R"({"heartbeat_ms": 0, "load": ["torn", "sigkill"]})"));
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.kill_cause, KillCause::kNone);
  EXPECT_EQ(end.torn_bytes, 21);
}

// What waits in the pipe when the worker dies is read after its death.
TEST(WorkerProcess, LosesNoEventOfAWorkerThatDies) {
  WorkerOptions options = FakeWorker(R"({"load": ["oom"]})");
  options.max_queued_events = 0;  // as long as the worker lives, nothing is read
  auto process = Start(options);
  AwaitEvent<worker::HelloEvent>(*process);
  AwaitEvent<worker::OutOfMemoryEvent>(*process);
  const WorkerEnd end = AwaitEnd(*process);
  ASSERT_TRUE(end.record.oom.has_value());
  EXPECT_EQ(end.record.oom->requested_bytes, 1000);
  EXPECT_EQ(end.exit_code, worker::kExitReported);
}

TEST(WorkerProcess, EndsAtTheDeathOfTheWorkerThoughAGrandchildHoldsThePipesOpen) {
  // One in the process group, which is killed with it, and one that left the group and is beyond
  // reach.
  for (const char* escape : {"0", "1"}) {
    auto process = Start(FakeWorker(R"({"load": [{"do": "grandchild", "escape": )" +
                                    std::string(escape) + R"(}, {"do": "exit", "code": 1}]})"));
    const WorkerEnd end = AwaitEnd(*process);
    EXPECT_EQ(end.exit_code, 1);
    pid_t grandchild = 0;
    ASSERT_EQ(std::sscanf(end.log_tail.c_str(), "grandchild %d", &grandchild), 1);
    ::kill(grandchild, SIGKILL);
  }
}

// A worker that may not write, since nobody takes what it wrote, is not silent.
TEST(WorkerProcess, DoesNotTakeAWorkerForSilentThatItDoesNotListenTo) {
  WorkerOptions options = FakeWorker(R"({"heartbeat_ms": 5})");
  options.max_queued_events = 10;
  options.deadlines.silence = options.deadlines.frozen = milliseconds(400);
  auto process = Start(options);
  AwaitResult<worker::ReadyResult>(*process);
  worker::GenerateCommand command;
  for (int64_t id = 0; id < 1500; ++id) {
    command.requests.emplace_back().id = id;
    command.requests.back().prompt = "short";
  }
  ASSERT_TRUE(process->Send(command).ok());
  AwaitEvent<worker::SampleEvent>(*process);
  std::this_thread::sleep_for(milliseconds(900));  // a controller with other things to do
  int64_t samples = 1;
  for (;;) {
    const auto next = process->NextEvent();
    ASSERT_TRUE(std::holds_alternative<worker::Event>(next))
        << std::get<WorkerEnd>(next).kill_detail;
    const worker::EventBody& body = std::get<worker::Event>(next).body;
    if (std::holds_alternative<worker::ResultEvent>(body)) break;
    samples += std::holds_alternative<worker::SampleEvent>(body);
  }
  EXPECT_EQ(samples, 1500);
}

TEST(WorkerProcess, MissesTheHeartbeatOfAnIdleWorker) {
  WorkerOptions options = FakeWorker(R"({"heartbeat_ms": 10})");
  options.deadlines.silence = milliseconds(400);
  options.polite = options.terminate = milliseconds(30);
  auto process = Start(options);
  AwaitResult<worker::ReadyResult>(*process);
  ::kill(process->pid(), SIGSTOP);
  EXPECT_EQ(AwaitEnd(*process).kill_cause, KillCause::kSilent);
}

TEST(WorkerProcess, EndsAWorkerWhoseAnswerIsRejected) {
  auto process = Start(FakeWorker("{}"));
  AwaitResult<worker::ReadyResult>(*process);
  process->Reject("that cannot\nbe");
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(end.kill_cause, KillCause::kProtocolError);
  EXPECT_EQ(end.kill_detail, "that cannot be");
}

}  // namespace
}  // namespace hproc::controller
