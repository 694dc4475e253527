// Workers behind a relay, with commands that play Slurm's (fake_slurm/): what comes through, what a job's state makes of a
// run, and who is let in.
#include "controller/slurm/relay.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>

#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "controller/slurm/handshake.h"
#include "controller/slurm/relay_port.h"
#include "controller/slurm/slurm_launcher.h"
#include "controller/verdict.h"
#include "controller/worker_group.h"
#include "tests/controller/fake.h"
#include "tests/controller/processes.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

bool Eventually(const std::function<bool()>& holds) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < limit) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return holds();
}

std::string CommandLine(pid_t pid) {
  std::ifstream stream("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

pid_t ParentOf(pid_t pid) {
  std::ifstream stream("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("PPid:")) return std::stoi(line.substr(5));
  }
  return -1;
}

UniqueFd ConnectToPort(int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.Reset();
  timeval patience{.tv_sec = 2, .tv_usec = 0};
  if (fd) ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

std::string HearBytes(const UniqueFd& fd, size_t bytes) {
  std::string text(bytes, '\0');
  const ssize_t n = ::recv(fd.get(), text.data(), text.size(), MSG_WAITALL);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

class RelayTest : public testing::Test {
 protected:
  std::string File(const std::string& name) const { return folder_ / name; }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(File(name)) << text; }
  void Remove(const std::string& name) const { std::filesystem::remove(File(name)); }
  bool Exists(const std::string& name) const { return std::filesystem::exists(File(name)); }
  std::string Read(const std::string& name) const {
    std::ifstream stream(File(name));
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }

  // `relay`: options of its own, before those that the launcher gives it.
  WorkerOptions Launched(const json& script = json::object(), const std::vector<std::string>& avoid = {},
                         const std::vector<std::string>& relay = {}, int ranks = 1) {
    WorkerOptions options = FakeWorker(script.dump());
    options.environment.push_back("FAKE_SLURM=" + File(""));
    options.environment.push_back(std::string("PATH=") + HPROC_FAKE_SLURM + ":/usr/bin:/bin");
    launcher_.Launch(options, {.name = "t3-a1", .threads = 2, .ranks = ranks, .avoid = avoid, .faulty = {}});
    options.arguments.insert(options.arguments.begin() + 1, relay.begin(), relay.end());
    options.on_note = [this](const LaunchNote& note) {
      const std::scoped_lock lock(mutex_);
      notes_.push_back(note);
    };
    return options;
  }
  std::vector<LaunchNote> Notes() {
    const std::scoped_lock lock(mutex_);
    return notes_;
  }
  std::vector<LaunchNote::Kind> Kinds() {
    std::vector<LaunchNote::Kind> kinds;
    for (const LaunchNote& note : Notes()) kinds.push_back(note.kind);
    return kinds;
  }
  std::vector<std::string> Remarks() {
    std::vector<std::string> remarks;
    for (const LaunchNote& note : Notes()) {
      if (note.kind == LaunchNote::Kind::kRemark) remarks.push_back(note.reason);
    }
    return remarks;
  }
  bool HasNote(LaunchNote::Kind kind) {
    for (const LaunchNote& note : Notes()) {
      if (note.kind == kind) return true;
    }
    return false;
  }
  RunVerdict RunToItsEnd(WorkerOptions options) {
    const auto process = *WorkerProcess::Start(std::move(options), MakeTrial());
    const WorkerEnd end = AwaitEnd(*process);
    end_ = end;
    return Judge(end);
  }

  std::unique_ptr<WorkerGroup> Ranks(int ranks, const json& script = json::object()) {
    worker::TrialJob job = MakeTrial();
    job.deployment.world_size = ranks;
    WorkerOptions options = Launched(script, {}, {}, ranks);
    options.terminate = milliseconds(500);
    return *WorkerGroup::Start(options, job, nullptr, {}, &launcher_);
  }

  // Connects to the relay as the agent of a rank would, with the secret of the job that waits.
  UniqueFd AgentOfRank(int rank) const {
    const std::string variable = "HPROC_STEP_SECRET=";
    std::string secret;
    for (const pid_t pid : Marked("FAKE_SLURM=" + File(""))) {
      std::ifstream stream("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
      const std::string environment{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
      const size_t at = environment.find(variable);
      if (at != std::string::npos) secret = environment.c_str() + at + variable.size();
    }
    std::smatch port;
    const std::string arguments = Read("srun.args");
    if (secret.empty() || !std::regex_search(arguments, port, std::regex("--port=(\\d+)"))) return {};
    UniqueFd fd = ConnectToPort(std::stoi(port[1].str()));
    const std::string nonce_r = HearBytes(fd, kGreetingBytes).substr(kMagic.size());
    const std::string nonce_a = MakeNonce();
    const std::string own = SecretOfRank(secret, rank);
    const std::string answer = AgentAnswer(own, nonce_r, nonce_a);
    EXPECT_EQ(::send(fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL), static_cast<ssize_t>(answer.size()));
    EXPECT_TRUE(CheckRelayProof(own, nonce_a, nonce_r, HearBytes(fd, kProofBytes)));
    return fd;
  }

  const SlurmLauncher launcher_{HPROC_SLURM, {"--partition=gpu"}, "/somewhere/study.db"};
  TestFolder folder_;
  std::mutex mutex_;
  std::vector<LaunchNote> notes_;
  WorkerEnd end_;
};

TEST_F(RelayTest, AWholeConversationComesThrough) {
  Write("job", "7|RUNNING|node1|None\n");
  WorkerOptions options = Launched({{"load", {{{"do", "print"}, {"text", "said by the worker"}}}}});
  options.log_file = File("log");
  const auto client = *WorkerClient::Start(options, MakeTrial(), nullptr);
  ASSERT_TRUE(client->AwaitLoad("").ok());
  std::vector<evals::GenerationRequest> requests(40);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = static_cast<int64_t>(i);
    requests[i].prompt = std::string(20'000, 'x');
  }
  size_t answers = 0;
  const auto generated = client->Generate(requests, [&](evals::Completion) {
    ++answers;
    return true;
  });
  ASSERT_TRUE(generated.ok());
  EXPECT_EQ(answers, requests.size());
  EXPECT_TRUE(client->Throughput({}).ok());
  const RunVerdict verdict = client->Finish();
  EXPECT_EQ(verdict.verdict, Verdict{});
  ASSERT_TRUE(client->end()->launch);
  EXPECT_EQ(client->end()->launch->node, "node1");
  EXPECT_EQ(client->end()->launch->job, "7");
  EXPECT_THAT(Read("log"), HasSubstr("said by the worker"));
  EXPECT_THAT(Read("srun.args"), AllOf(HasSubstr("--job-name=hproc-"), HasSubstr("-t3-a1-"), HasSubstr("--cpus-per-task=2\n--partition=gpu\n")));
  ASSERT_TRUE(HasNote(LaunchNote::Kind::kConnected));
}

// What a job's state makes of a worker that is gone without a word.
struct StateCase {
  const char* state;
  Reason reason;
  const char* words;
};
class JobState : public RelayTest, public testing::WithParamInterface<StateCase> {};

TEST_P(JobState, IsTheVerdictOnAWorkerThatLeftNoWord) {
  Write("job", "7|RUNNING|node1|None\n");
  const RunVerdict run = RunToItsEnd(Launched(
      {{"load", {{{"do", "write_file"}, {"file", File("job")}, {"text", "7|" + std::string(GetParam().state) + "|node1|None\n"}}, "sigkill"}}}));
  EXPECT_EQ(run.state, TrialState::kFailed);
  EXPECT_EQ(run.verdict.reason, GetParam().reason);
  EXPECT_THAT(run.verdict.message, HasSubstr(GetParam().words));
  EXPECT_EQ(run.verdict.device, "node1") << "so that the next attempt can be made elsewhere";
  EXPECT_EQ(run.verdict.phase, "load");
}

INSTANTIATE_TEST_SUITE_P(
    OfSlurm, JobState,
    testing::Values(StateCase{"CANCELLED", Reason::kKilled, "the job was cancelled: job 7 on node1"},
                    StateCase{"PREEMPTED", Reason::kKilled, "the job was preempted"},
                    StateCase{"REVOKED", Reason::kKilled, "taken over"},
                    StateCase{"REQUEUED", Reason::kKilled, "the job was requeued"},
                    StateCase{"PENDING", Reason::kKilled, "the job was requeued"},
                    StateCase{"SPECIAL_EXIT", Reason::kKilled, "the job was requeued"},
                    StateCase{"TIMEOUT", Reason::kTimeout, "time limit"},
                    StateCase{"DEADLINE", Reason::kTimeout, "deadline"},
                    StateCase{"NODE_FAIL", Reason::kNodeLost, "the node failed"},
                    StateCase{"BOOT_FAIL", Reason::kNodeLost, "did not boot"},
                    StateCase{"OUT_OF_MEMORY", Reason::kHostOutOfMemory, "more host memory"},
                    StateCase{"FAILED", Reason::kKilled, "SIGKILL"},
                    StateCase{"COMPLETED", Reason::kKilled, "SIGKILL"}),
    [](const auto& tested) { return std::string(tested.param.state); });

TEST_F(RelayTest, WhatTheWorkerSaidItselfStandsWhateverBecameOfTheJob) {
  Write("job", "7|CANCELLED|node1|None\n");
  EXPECT_EQ(RunToItsEnd(Launched({{"cache", {"oom"}}})).verdict.reason, Reason::kOutOfMemory);
  EXPECT_EQ(end_.exit_code, worker::kExitReported);
}

TEST_F(RelayTest, ACrashIsTheWorkersOwn) {
  Write("job", "7|FAILED|node1|NonZeroExitCode\n");
  const RunVerdict run = RunToItsEnd(Launched({{"load", {"segv"}}}));
  EXPECT_EQ(run.verdict.reason, Reason::kCrash);
  EXPECT_THAT(run.verdict.message, HasSubstr("SIGSEGV"));
}

TEST_F(RelayTest, TimeInTheQueueIsNotTheWorkers) {
  Write("hold", "");
  Write("job", "7|PENDING||Resources\n");
  WorkerOptions options = Launched();
  options.deadlines.hello = milliseconds(1500);
  const auto client = *WorkerClient::Start(options, MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  EXPECT_EQ(Notes()[0].reason, "Resources");
  EXPECT_EQ(Notes()[0].job, "7");
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_FALSE(HasNote(LaunchNote::Kind::kConnected));
  Remove("hold");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, AJobThatIsRefusedIsNotLaunchedInSrunsOwnWords) {
  Write("refuse", "srun: error: invalid partition specified: gpu\nsrun: error: Unable to allocate resources: Invalid partition name specified\n");
  const RunVerdict run = RunToItsEnd(Launched());
  EXPECT_EQ(run.verdict.reason, Reason::kNotLaunched);
  EXPECT_THAT(run.verdict.message, HasSubstr("Invalid partition name specified"));
  EXPECT_TRUE(IsTriedAgain(run.verdict.reason, {}));
  EXPECT_FALSE(IsTriedAgain(run.verdict.reason, {.failures = 1}));
}

TEST_F(RelayTest, NodesAreAvoidedUnlessThereIsNoOther) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto client = *WorkerClient::Start(Launched(json::object(), {"node5"}), MakeTrial(), nullptr);
  EXPECT_TRUE(client->AwaitLoad("").ok()) << client->verdict()->verdict.message;
  EXPECT_THAT(Read("srun.args"), HasSubstr("--exclude=node5\n"));
  client->Finish();

  Write("refuse_exclude", "");
  const auto again = *WorkerClient::Start(Launched(json::object(), {"node5"}), MakeTrial(), nullptr);
  EXPECT_TRUE(again->AwaitLoad("").ok());
  EXPECT_THAT(Read("srun.args"), Not(HasSubstr("--exclude")));
  EXPECT_EQ(again->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, AnotherNodeIsWorthAShortWait) {
  Write("hold", "");
  Write("job", "7|PENDING||ReqNodeNotAvail, UnavailableNodes:node6\n");
  const auto client = *WorkerClient::Start(Launched(json::object(), {"node5"}, {"--elsewhere-patience=1"}), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  EXPECT_THAT(Read("srun.args"), HasSubstr("--exclude=node5\n"));
  ASSERT_TRUE(Eventually([&] { return Read("launches") == "x\nx\n"; }));
  EXPECT_EQ(Read("ended"), "terminated\n");
  EXPECT_THAT(Read("srun.args"), Not(HasSubstr("--exclude")));
  Remove("hold");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, InPlaceOfAFaultyNodeALongWaitIsWorthIt) {
  Write("hold", "");
  Write("job", "7|PENDING||ReqNodeNotAvail, UnavailableNodes:node6\n");
  const auto client =
      *WorkerClient::Start(Launched(json::object(), {"node5"}, {"--elsewhere-patience=1", "--faulty=node4"}), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  EXPECT_THAT(Read("srun.args"), HasSubstr("--exclude=node4,node5\n"));
  ASSERT_TRUE(Eventually([&] { return Read("launches") == "x\nx\n"; }));
  EXPECT_THAT(Read("srun.args"), HasSubstr("--exclude=node4\n"));
  std::this_thread::sleep_for(milliseconds(1500));
  EXPECT_EQ(Read("launches"), "x\nx\n");
  Remove("hold");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  client->Finish();

  // Unless there is none.
  EXPECT_FALSE(HasNote(LaunchNote::Kind::kRemark));
  Write("refuse_exclude", "");
  const auto again = *WorkerClient::Start(Launched(json::object(), {"node5"}, {"--faulty=node4"}), MakeTrial(), nullptr);
  EXPECT_TRUE(again->AwaitLoad("").ok());
  EXPECT_THAT(Read("srun.args"), Not(HasSubstr("--exclude")));
  EXPECT_EQ(again->Finish().verdict, Verdict{});
  EXPECT_THAT(Remarks(), testing::ElementsAre("Slurm has no other node: srun: error: Requested node configuration is not available; "
                                              "node4, where an attempt met a fault, may be used again"));
}

TEST_F(RelayTest, ButNoEndlessOneAndThatIsSaid) {
  Write("hold", "");
  Write("job", "7|PENDING||ReqNodeNotAvail, UnavailableNodes:node6\n");
  const auto client = *WorkerClient::Start(
      Launched(json::object(), {"node5"}, {"--elsewhere-patience=1", "--faulty-patience=2", "--faulty=node3", "--faulty=node4"}), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return Read("launches") == "x\nx\n"; }));
  EXPECT_THAT(Remarks(), testing::IsEmpty());
  const auto begun = std::chrono::steady_clock::now();
  ASSERT_TRUE(Eventually([&] { return Read("launches") == "x\nx\nx\n"; }));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, milliseconds(1500)) << "its own patience, not what was left of the other";
  Remove("hold");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_THAT(Read("srun.args"), Not(HasSubstr("--exclude")));
  EXPECT_THAT(Remarks(), testing::ElementsAre("no other node was to be had within 2 s; node3, node4, where an attempt met a fault, may be used again"));
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, ASlurmThatGivesNoAnswerIsWaitedFor) {
  Write("refuse", "srun: error: Unable to contact slurm controller (connect failure)\n");
  Write("squeue_error", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n");
  const auto client = *WorkerClient::Start(Launched(), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  EXPECT_THAT(Notes()[0].reason, HasSubstr("Slurm does not answer"));
  Remove("refuse");
  Remove("squeue_error");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, ButNotForEver) {
  Write("refuse", "srun: error: Unable to contact slurm controller (connect failure)\n");
  Write("squeue_error", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n");
  const RunVerdict run = RunToItsEnd(Launched(json::object(), {}, {"--patience=0"}));
  EXPECT_EQ(run.verdict.reason, Reason::kNotLaunched);
  EXPECT_THAT(run.verdict.message, HasSubstr("Unable to contact slurm controller"));
}

TEST_F(RelayTest, ButOnlyAsLongAsSlurmIsAwayIsHeldAgainstIt) {
  Write("hold", "");
  Write("job", "7|PENDING||Resources\n");
  const auto client = *WorkerClient::Start(Launched(json::object(), {}, {"--patience=5"}), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  std::this_thread::sleep_for(milliseconds(5500));  // in the queue, longer than the patience
  Write("squeue_error", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n");
  Write("lose_contact", "srun: error: Unable to contact slurm controller (connect failure)\n");
  ASSERT_TRUE(Eventually([&] { return Notes().back().reason.find("Slurm does not answer") != std::string::npos; }));
  EXPECT_FALSE(Exists("cancelled"));
  for (const char* wish : {"squeue_error", "lose_contact", "hold"}) Remove(wish);
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(Read("launches"), "x\nx\n");
  EXPECT_THAT(Read("cancelled"), HasSubstr("--name=hproc-")) << "what the first srun left in the queue";
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

// ---- what nobody hears any more, or never did ----

TEST_F(RelayTest, ANodeThatDoesNotConnectInTimeIsGivenUpAndNamed) {
  Write("deaf_node", "");
  Write("job", "7|RUNNING|node1|None\n");
  const RunVerdict run = RunToItsEnd(Launched(json::object(), {}, {"--connect-patience=1"}));
  EXPECT_EQ(run.state, TrialState::kFailed);
  EXPECT_EQ(run.verdict.reason, Reason::kNodeLost);
  EXPECT_THAT(run.verdict.message, HasSubstr("the worker could not reach the controller: job 7 on node1: it did not connect within 1 s"));
  EXPECT_EQ(run.verdict.device, "node1");
  EXPECT_EQ(Read("ended"), "terminated\n") << "the job was given back";
  EXPECT_THAT(Read("cancelled"), HasSubstr("--name=hproc-"));
}

TEST_F(RelayTest, TimeInTheQueueIsNotTheAgentsEither) {
  Write("hold", "");
  Write("job", "7|RUNNING|node1|None\n");  // for a moment, then it is put back
  const auto client = *WorkerClient::Start(Launched(json::object(), {}, {"--connect-patience=1"}), MakeTrial(), nullptr);
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kStarted); }));
  Write("job", "7|PENDING||BeginTime\n");
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  std::this_thread::sleep_for(milliseconds(1500));
  Remove("hold");
  EXPECT_TRUE(client->AwaitLoad("").ok());
  EXPECT_EQ(client->Finish().verdict, Verdict{});
}

TEST_F(RelayTest, AMachineThatIsLostIsGivenUpThoughSrunWaitsForIt) {
  Write("lost_node", "");
  Write("job", "7|RUNNING|node1|None\n");
  const auto process = *WorkerProcess::Start(Launched({{"load", {"hang"}}}, {}, {"--agent-grace=1"}), MakeTrial());
  const auto hello = AwaitEvent<worker::HelloEvent>(*process);
  const pid_t agent = ParentOf(static_cast<pid_t>(hello.pid));
  ::kill(static_cast<pid_t>(hello.pid), SIGSTOP);  // nothing there says a word
  ::kill(agent, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return Exists("ended"); }));
  Write("job", "7|CANCELLED|node1|None\n");
  const RunVerdict run = Judge(AwaitEnd(*process));
  ::kill(static_cast<pid_t>(hello.pid), SIGKILL);
  EXPECT_EQ(run.verdict.reason, Reason::kNodeLost) << "that the job was cancelled is our own doing";
  EXPECT_THAT(run.verdict.message, HasSubstr("the connection to the worker was lost: job 7 on node1"));
  EXPECT_EQ(run.verdict.device, "node1");
}

TEST_F(RelayTest, ARelayThatIsKilledTakesAJobAlongThatWaits) {
  Write("hold", "");
  Write("job", "7|PENDING||Resources\n");
  auto process = *WorkerProcess::Start(Launched(), MakeTrial());
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  process.reset();  // SIGKILL
  EXPECT_TRUE(Eventually([&] { return Exists("ended"); })) << "srun still waits";
}

TEST_F(RelayTest, AStopInTheQueueGivesTheJobBack) {
  Write("hold", "");
  Write("job", "7|PENDING||Resources\n");
  const auto process = *WorkerProcess::Start(Launched(), MakeTrial());
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  process->Stop("the study was interrupted");
  EXPECT_EQ(Judge(AwaitEnd(*process)).verdict.reason, Reason::kInterrupted);
  EXPECT_TRUE(Eventually([&] { return Exists("cancelled"); }));
  EXPECT_THAT(Read("cancelled"), HasSubstr("--name=hproc-"));
}

TEST_F(RelayTest, AStopOfARunningWorkerEndsItAsALocalOne) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto process = *WorkerProcess::Start(Launched({{"load", {"hang"}}}), MakeTrial());
  const auto hello = AwaitEvent<worker::HelloEvent>(*process);
  process->Stop("the study was interrupted");
  const WorkerEnd end = AwaitEnd(*process);
  EXPECT_EQ(Judge(end).verdict.reason, Reason::kInterrupted);
  EXPECT_EQ(end.exit_code, worker::kExitControllerGone);
  EXPECT_NE(::kill(static_cast<pid_t>(hello.pid), 0), 0);
}

TEST_F(RelayTest, AWorkerThatIgnoresEverythingIsKilledOnItsNode) {
  Write("job", "7|RUNNING|node1|None\n");
  const json note = {{"do", "write_file"}, {"file", File("deaf")}, {"text", "now"}};
  const auto process = *WorkerProcess::Start(Launched({{"load", {"ignore_sigterm", "deaf", note, "hang"}}}), MakeTrial());
  const auto hello = AwaitEvent<worker::HelloEvent>(*process);
  ASSERT_TRUE(Eventually([&] { return Exists("deaf"); }));
  process->Stop("enough");
  EXPECT_EQ(Judge(AwaitEnd(*process)).verdict.reason, Reason::kInterrupted);
  EXPECT_NE(::kill(static_cast<pid_t>(hello.pid), 0), 0);
}

TEST_F(RelayTest, NothingOutlivesARelayThatIsKilled) {
  Write("job", "7|RUNNING|node1|None\n");
  auto process = *WorkerProcess::Start(Launched({{"load", {"hang"}}}), MakeTrial());
  const auto hello = AwaitEvent<worker::HelloEvent>(*process);
  process.reset();  // SIGKILL
  EXPECT_TRUE(Eventually([&] { return ::kill(static_cast<pid_t>(hello.pid), 0) != 0; }));
}

TEST_F(RelayTest, ADeadlineOfTheWorkerIsStillItsOwn) {
  Write("job", "7|RUNNING|node1|None\n");
  WorkerOptions options = Launched({{"load", {"hang"}}});
  options.deadlines.of(worker::Phase::kLoad) = milliseconds(300);
  const RunVerdict run = RunToItsEnd(options);
  EXPECT_EQ(run.verdict.reason, Reason::kTimeout);
  EXPECT_THAT(run.verdict.message, HasSubstr("load: not done within 0.3 s"));
  EXPECT_EQ(run.verdict.device, "node1");
}

TEST_F(RelayTest, TheSecretIsOnNoCommandLine) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto process = *WorkerProcess::Start(Launched({{"load", {"describe", "hang"}}}), MakeTrial());
  AwaitEvent<worker::HelloEvent>(*process);
  const std::regex secret("[0-9a-f]{64}");
  EXPECT_FALSE(std::regex_search(Read("srun.args"), secret));
  for (const std::string& argument : process->argv()) EXPECT_FALSE(std::regex_search(argument, secret));
}

// ---- several ranks ----

TEST_F(RelayTest, TheRanksOfATrialAreOneJob) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto group = Ranks(3);
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_TRUE(loaded.ok()) << loaded.verdict().verdict.message;
  EXPECT_EQ(group->Ledgers().size(), 3U);
  std::vector<evals::GenerationRequest> requests(20);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].id = static_cast<int64_t>(i);
  int answers = 0;
  EXPECT_TRUE(group->Generate(requests, [&](const evals::Completion&) { return ++answers > 0; }).ok());
  EXPECT_EQ(answers, 20);
  EXPECT_EQ(group->Finish().verdict, Verdict{});
  EXPECT_EQ(group->node(), "node1");
  EXPECT_EQ(Read("launches"), "x\n");
  EXPECT_THAT(Read("srun.args"), AllOf(HasSubstr("--nodes=1\n--ntasks=1\n"), HasSubstr("--ranks=3\n")));
  EXPECT_EQ(std::ranges::count(Kinds(), LaunchNote::Kind::kConnected), 1) << "the job is told of once";
}

TEST_F(RelayTest, ARankThatDiesEndsTheTrialInItsOwnName) {
  Write("job", "7|RUNNING|node1|None\n");
  for (const int rank : {0, 1, 2}) {
    const json over = {{"do", "write_file"}, {"rank", rank}, {"file", File("job")}, {"text", "7|FAILED|node1|None\n"}};
    const auto group = Ranks(3, {{"load", {over, {{"do", "sigkill"}, {"rank", rank}}}}, {"cache", {"hang"}}});
    Outcome<LoadedModel> loaded = group->AwaitLoad("");
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kKilled);
    EXPECT_THAT(loaded.verdict().verdict.message, testing::StartsWith("rank " + std::to_string(rank) + ": SIGKILL"));
    EXPECT_EQ(loaded.verdict().verdict.device, "node1");
  }
}

TEST_F(RelayTest, ARankThatLacksMemoryNamesItself) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto group = Ranks(2, {{"load", {{{"do", "oom"}, {"rank", 1}, {"requested", 900}, {"available", 200}}}}});
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().state, TrialState::kInfeasible);
  EXPECT_EQ(loaded.verdict().verdict.short_bytes, 700);
  EXPECT_THAT(loaded.verdict().verdict.message, testing::StartsWith("rank 1: "));
}

TEST_F(RelayTest, AJobOfRanksThatIsCancelledIsKilledForAllOfThem) {
  Write("job", "7|RUNNING|node1|None\n");
  const auto group = Ranks(2, {{"load", {{{"do", "write_file"}, {"file", File("loading")}, {"text", "now"}}, "hang"}}});
  ASSERT_TRUE(Eventually([&] { return Exists("loading"); }));
  Write("job", "7|CANCELLED|node1|None\n");
  std::vector<pid_t> agents;
  for (const pid_t pid : Marked("FAKE_SLURM=" + File(""))) {
    if (CommandLine(pid).find(std::string(1, '\0') + "node" + std::string(1, '\0')) != std::string::npos) agents.push_back(pid);
  }
  for (const pid_t agent : agents) ::kill(agent, SIGTERM);  // as Slurm does
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kKilled);
  EXPECT_THAT(loaded.verdict().verdict.message, HasSubstr("rank 0: the job was cancelled: job 7 on node1"));
}

TEST_F(RelayTest, AStopEndsRanksThatWaitAndRanksThatRun) {
  for (const bool waits : {true, false}) {
    if (waits) Write("hold", "");
    Write("job", waits ? "7|PENDING||Resources\n" : "7|RUNNING|node1|None\n");
    const auto group = Ranks(2, {{"load", {"hang"}}});
    ASSERT_TRUE(Eventually([&] { return HasNote(waits ? LaunchNote::Kind::kPending : LaunchNote::Kind::kConnected); }));
    group->Stop("the study was interrupted");
    Outcome<LoadedModel> loaded = group->AwaitLoad("");
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kInterrupted);
    Remove("hold");
    EXPECT_TRUE(Eventually([&] { return Marked("FAKE_SLURM=" + File("")).empty(); }));
  }
}

TEST_F(RelayTest, AnAgentOfARankThatCannotStartIsNamedAtOnce) {
  Write("lost_rank", "");
  Write("job", "7|RUNNING|node1|None\n");
  const auto group = Ranks(2, {{"load", {{{"do", "write_file"}, {"file", File("loading")}, {"text", "now"}}, "hang"}}});
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kNodeLost);
  EXPECT_THAT(loaded.verdict().verdict.message,
              AllOf(testing::StartsWith("rank 1: the worker could not reach the controller: job 7 on node1: "),
                    HasSubstr("cannot start the agent of rank 1: Resource temporarily unavailable")));
  EXPECT_EQ(loaded.verdict().verdict.device, "node1") << "so that the next attempt is made elsewhere";
}

// An agent that is there says more than squeue, which is asked seldom.
TEST_F(RelayTest, ItsWaitInTheQueueIsOverOnceAnyRankIsThere) {
  Write("hold", "");
  Write("job", "7|PENDING||Resources\n");
  const auto process = *WorkerProcess::Start(Launched(json::object(), {"node5"}, {"--elsewhere-patience=2"}, 2), MakeTrial());
  ASSERT_TRUE(Eventually([&] { return HasNote(LaunchNote::Kind::kPending); }));
  const UniqueFd agent = AgentOfRank(1);
  ASSERT_TRUE(agent);
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_EQ(Read("launches"), "x\n");
  EXPECT_FALSE(Exists("ended"));
}

TEST_F(RelayTest, RanksAreNotLaunchedWhereTheirJobIsNot) {
  Write("refuse", "srun: error: Unable to allocate resources: Invalid partition name specified\n");
  const auto group = Ranks(2);
  Outcome<LoadedModel> loaded = group->AwaitLoad("");
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.verdict().verdict.reason, Reason::kNotLaunched);
  EXPECT_THAT(loaded.verdict().verdict.message, HasSubstr("Invalid partition name specified"));
}

// ---- who is let in ----

class RelayPortTest : public testing::Test {
 protected:
  UniqueFd Connect() const { return ConnectToPort(port_.port()); }
  // A turn of the relay's loop.
  std::optional<RelayPort::Agent> Turn() {
    std::vector<pollfd> fds;
    port_.AppendTo(fds);
    ::poll(fds.data(), fds.size(), 100);
    return port_.Take(fds);
  }
  static std::string Hear(const UniqueFd& fd, size_t bytes) { return HearBytes(fd, bytes); }
  std::string Nonce(const UniqueFd& fd) {
    EXPECT_FALSE(Turn());
    return Hear(fd, kGreetingBytes).substr(kMagic.size());
  }
  static void Say(const UniqueFd& fd, const std::string& text) {
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  const std::string secret_ = MakeSecret();
  RelayPort port_ = *RelayPort::Open(secret_);
};

TEST_F(RelayPortTest, LetsInWhoKnowsTheSecretAndClosesThePort) {
  const UniqueFd agent = Connect();
  const std::string nonce_r = Nonce(agent);
  const std::string nonce_a = MakeNonce();
  Say(agent, AgentAnswer(secret_, nonce_r, nonce_a));
  ASSERT_TRUE(Turn());
  EXPECT_TRUE(CheckRelayProof(secret_, nonce_a, nonce_r, Hear(agent, kProofBytes)));
  EXPECT_FALSE(Connect()) << "one agent a job";
}

TEST_F(RelayPortTest, LetsEachRankInOnce) {
  port_ = *RelayPort::Open(secret_, 2);
  std::vector<UniqueFd> agents;
  for (const int rank : {1, 0}) {
    agents.push_back(Connect());
    Say(agents.back(), AgentAnswer(SecretOfRank(secret_, rank), Nonce(agents.back()), MakeNonce()));
    const std::optional<RelayPort::Agent> agent = Turn();
    ASSERT_TRUE(agent);
    EXPECT_EQ(agent->rank, rank);
    if (rank == 0) continue;
    const UniqueFd again = Connect();
    Say(again, AgentAnswer(SecretOfRank(secret_, rank), Nonce(again), MakeNonce()));
    EXPECT_FALSE(Turn());
  }
  EXPECT_FALSE(Connect()) << "all are there";
}

TEST_F(RelayPortTest, CutsOffWhoDoesNot) {
  for (const std::string& said : {std::string("GET / HTTP/1.1\r\n\r\n") + std::string(100, 'x'), std::string(kAnswerBytes, '\0'),
                                  AgentAnswer(MakeSecret(), std::string(kNonceBytes, 'n'), MakeNonce())}) {
    const UniqueFd stranger = Connect();
    Nonce(stranger);
    Say(stranger, said);
    EXPECT_FALSE(Turn());
    EXPECT_EQ(Hear(stranger, 1), "") << "closed without a word";
  }
  // A wrong secret, rightly used.
  const UniqueFd stranger = Connect();
  const std::string nonce = Nonce(stranger);
  Say(stranger, AgentAnswer(MakeSecret(), nonce, MakeNonce()));
  EXPECT_FALSE(Turn());
  EXPECT_EQ(Hear(stranger, 1), "");
  EXPECT_TRUE(Connect()) << "and the port stays open for the agent";
}

TEST_F(RelayPortTest, TakesNoMoreStrangersThanItsMost) {
  std::vector<UniqueFd> strangers;
  for (size_t i = 0; i < kMostStrangers; ++i) {
    strangers.push_back(Connect());
    EXPECT_EQ(Nonce(strangers.back()).size(), kNonceBytes);
  }
  const UniqueFd one_more = Connect();
  EXPECT_FALSE(Turn());
  EXPECT_EQ(Hear(one_more, 1), "");
  // One goes, and there is room.
  strangers.pop_back();
  EXPECT_FALSE(Turn());
  EXPECT_EQ(Nonce(Connect()).size(), 0U + kNonceBytes);
}

TEST_F(RelayPortTest, SendsSilentStrangersAway) {
  const UniqueFd silent = Connect();
  Nonce(silent);
  ASSERT_TRUE(port_.Next());
  std::this_thread::sleep_until(*port_.Next() + milliseconds(10));
  EXPECT_FALSE(Turn());
  EXPECT_EQ(Hear(silent, 1), "");
  EXPECT_FALSE(port_.Next());
}

}  // namespace
}  // namespace hproc::controller
