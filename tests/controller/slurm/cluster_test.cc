// Studies on a Slurm of two nodes on this machine (cluster.sh): nodes drained, jobs cancelled, controllers killed, and
// Slurm itself away in the middle. Workers are fake ones, which take as long as a test wants.
#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <regex>

#include "controller/cli/exit_codes.h"
#include "controller/store_rules.h"
#include "tests/controller/cli/cli_fixture.h"
#include "tests/controller/processes.h"

namespace hproc::controller {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

struct Said {
  int code = -1;
  std::string text;
};

// By a shell, with both streams; for Slurm's commands, whose arguments are the test's own.
Said Shell(const std::string& command) {
  Said said;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");  // NOLINT: no argument of foreign origin
  if (pipe == nullptr) return said;
  std::array<char, 4096> chunk{};
  for (size_t n = 0; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) said.text.append(chunk.data(), n);
  const int status = ::pclose(pipe);
  said.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return said;
}

std::string CommandLine(pid_t pid) {
  std::ifstream stream("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

class ClusterTest : public CliTest {
 protected:
  // Processes of this study: srun, or by their first argument relays, what stands for other ranks ("rank"), agents ("node") and
  // workers ("session").
  std::vector<pid_t> Ours(const std::string& what) const {
    std::vector<pid_t> ours;
    for (const pid_t pid : Marked(cluster() + "/slurm.conf")) {
      const std::string line = CommandLine(pid);
      const std::string program = std::filesystem::path(line.c_str()).filename();
      const size_t first = line.find('\0') + 1;
      const bool is_it = what == "srun" ? program == "srun" : program != "hproc" && first < line.size() && what == line.c_str() + first;
      if (is_it) ours.push_back(pid);
    }
    return ours;
  }
  void SetUp() override {
    const Said able = Shell(std::string(HPROC_CLUSTER) + " check");
    if (able.code == 77) GTEST_SKIP() << able.text;
    ASSERT_EQ(able.code, 0) << able.text;
    const Said started = Shell(std::string(HPROC_CLUSTER) + " start " + cluster());
    if (started.code == 77) GTEST_SKIP() << started.text;
    ASSERT_EQ(started.code, 0) << started.text;
    json settings = kSloping;
    settings["garbage_below"] = {{"strict", 0.9}};
    Play({.questions = 40, .settings = settings});
  }
  void TearDown() override {
    if (std::filesystem::exists(cluster() + "/env")) Shell(std::string(HPROC_CLUSTER) + " stop " + cluster());
  }

  std::string cluster() const { return folder_ / "cluster"; }
  std::string Conf() const { return "SLURM_CONF=" + cluster() + "/slurm.conf"; }
  std::string Slurm(const std::string& command) const { return Shell(Conf() + " " + command).text; }
  // Jobs in the queue or on a node.
  std::string Jobs() const { return Slurm("squeue --noheader --format='%i %T %N %j'"); }
  std::string JobOn(const std::string& node) const {
    std::smatch match;
    const std::string jobs = Jobs();
    return std::regex_search(jobs, match, std::regex("(\\d+) RUNNING " + node + " ")) ? match[1].str() : "";
  }

  Command::Options OnCluster() const {
    Command::Options options = WithFakeWorker();
    options.environment.push_back(Conf());
    return options;
  }
  std::vector<std::string> TuneOnSlurm(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = Tune({"--launcher", "slurm", "--parallel", "2", "--json", "--candidates", "2"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<Trial> Trials() const {
    const auto store = *OpenSqliteStore(db(), OpenMode::kReadOnly);
    return *store->ListTrials(1);
  }
  static bool Eventually(const std::function<bool()>& holds, int limit_s = 40) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(limit_s);
    while (std::chrono::steady_clock::now() < limit) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return holds();
  }
  // Every worker waits for the file `go` after so many answers.
  void HoldWorkers() {
    fake_->SetScript({{"load", {{{"do", "wait_file"}, {"file", fake_->File("go")}}}}});
  }
  void LetWorkersGo() { std::ofstream(fake_->File("go")) << "go"; }

  void ExpectComplete(const Finished& finished) const {
    EXPECT_EQ(finished.exit_code, kExitDone) << finished.err;
    EXPECT_FALSE(json::parse(finished.out, nullptr, false)["recommended"].is_null()) << finished.out;
    std::set<std::string> digests;
    for (const Trial& trial : Trials()) {
      EXPECT_TRUE(IsFinished(trial.state));
      EXPECT_NE(trial.state, TrialState::kFailed) << trial.number << ": " << trial.verdict.message;
      EXPECT_TRUE(digests.insert(trial.plan.plan_digest).second) << "a plan run twice";
    }
    EXPECT_TRUE(Eventually([&] { return Jobs().empty(); })) << Jobs();
  }

  TestFolder folder_;
};

TEST_F(ClusterTest, AStudyOutlivesADrainedNodeAndACancelledJob) {
  HoldWorkers();
  Command tune(TuneOnSlurm(), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  Slurm("scontrol update nodename=node2 state=drain reason=test");
  const std::string cancelled = JobOn("node2");
  Slurm("scancel " + cancelled);
  // Its second attempt has no node left: node1 is busy, node2 drained.
  ASSERT_TRUE(Eventually([&] { return Jobs().find("PENDING") != std::string::npos; })) << Jobs();
  Slurm("scontrol update nodename=node2 state=resume");
  LetWorkersGo();
  const Finished finished = tune.Wait();
  ExpectComplete(finished);
  EXPECT_THAT(finished.err, AllOf(HasSubstr("the job was cancelled: job " + cancelled + " on node2"), HasSubstr("waits in the queue")));
  int again = 0;
  for (const Trial& trial : Trials()) {
    for (const Attempt& attempt : trial.attempts) again += attempt.verdict.reason == Reason::kKilled ? 1 : 0;
  }
  EXPECT_EQ(again, 1);
}

TEST_F(ClusterTest, ANodeThatFailsIsAvoidedByTheNextAttempt) {
  HoldWorkers();
  Command tune(TuneOnSlurm(), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  Slurm("scontrol update nodename=node2 state=down reason=test");
  ASSERT_TRUE(Eventually([&] {
    for (const Trial& trial : Trials()) {
      if (!trial.attempts.empty() && trial.attempts[0].verdict.reason == Reason::kNodeLost) return true;
    }
    return false;
  }));
  Slurm("scontrol update nodename=node2 state=resume");
  LetWorkersGo();
  const Finished finished = tune.Wait();
  ExpectComplete(finished);
  EXPECT_THAT(finished.err, HasSubstr("node_lost: the node failed: job "));
}

TEST_F(ClusterTest, NoJobOutlivesAControllerThatIsKilledAndTheStudyGoesOn) {
  HoldWorkers();
  {
    Command tune(TuneOnSlurm(), OnCluster());
    ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
    tune.Signal(SIGKILL);
    tune.Wait();
  }
  EXPECT_TRUE(Eventually([&] { return Jobs().empty(); })) << Jobs();
  LetWorkersGo();
  // As it was launched, without being told again.
  const Finished finished = Command(On("resume", {"--json"}), OnCluster()).Wait();
  ExpectComplete(finished);
  EXPECT_THAT(finished.err, HasSubstr(" runs on node"));
}

TEST_F(ClusterTest, AJobInTheQueueGoesWithItsController) {
  Slurm("scontrol update nodename=node[1-2] state=drain reason=test");
  Command tune(TuneOnSlurm(), OnCluster());
  ASSERT_TRUE(Eventually([&] { return Jobs().find("PENDING") != std::string::npos; })) << Jobs();
  tune.Signal(SIGKILL);
  tune.Wait();
  EXPECT_TRUE(Eventually([&] { return Jobs().empty(); })) << Jobs();
  Slurm("scontrol update nodename=node[1-2] state=resume");
}

TEST_F(ClusterTest, AJobInTheQueueGoesWithItsRelayAndTheTrialIsLaunchedAgain) {
  HoldWorkers();
  Command tune(TuneOnSlurm(), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  Slurm("scontrol update nodename=node2 state=drain reason=test");
  Slurm("scancel " + JobOn("node2"));
  const auto pending = [&]() -> std::pair<std::string, std::string> {
    std::smatch match;
    const std::string jobs = Jobs();
    if (!std::regex_search(jobs, match, std::regex("(\\d+) PENDING  (\\S+)"))) return {};
    return {match[1].str(), match[2].str()};
  };
  ASSERT_TRUE(Eventually([&] { return !pending().first.empty(); })) << Jobs();
  const auto [job, name] = pending();
  for (const pid_t relay : Ours("relay")) {
    if (CommandLine(relay).find("--job-name=" + name) != std::string::npos) ::kill(relay, SIGKILL);
  }
  ASSERT_TRUE(Eventually([&] { return !pending().first.empty() && pending().first != job; })) << Jobs();
  EXPECT_THAT(Jobs(), Not(HasSubstr(name)));
  Slurm("scontrol update nodename=node2 state=resume");
  LetWorkersGo();
  ExpectComplete(tune.Wait());
}

// Whatever is killed, and when: the study comes to its end, runs no plan twice, and leaves nothing behind.
TEST_F(ClusterTest, AStudySurvivesKillsOfAnythingAtAnyMoment) {
  std::mt19937 random(20261126);  // NOLINT(cert-msc51-cpp): the same kills every time
  const int kills = TortureKills(6);
  fake_->SetScript({{"load", {{{"do", "slow"}, {"ms", 200}, {"ticks", 4}}}}});
  auto tune = std::make_unique<Command>(TuneOnSlurm({"--tp", "2"}), OnCluster());
  ASSERT_TRUE(Eventually([&] { return Jobs().find("-t0-") != std::string::npos; })) << Jobs();
  for (int i = 0; i < kills; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100 + random() % 1200));
    constexpr std::array<const char*, 6> kWhat = {"controller", "relay", "rank", "node", "srun", "session"};
    const std::string what = kWhat[random() % kWhat.size()];
    if (what == "controller") {
      tune->Signal(SIGKILL);
      tune->Wait();
      tune = std::make_unique<Command>(On("resume", {"--json"}), OnCluster());
    } else if (const std::vector<pid_t> found = Ours(what); !found.empty()) {
      ::kill(found[random() % found.size()], SIGKILL);
    }
  }
  const Finished finished = tune->Wait();
  EXPECT_EQ(finished.exit_code, kExitDone) << finished.err;
  std::set<std::string> digests;
  for (const Trial& trial : Trials()) {
    EXPECT_TRUE(IsFinished(trial.state));
    // A trial may be unlucky more than once.
    if (trial.state == TrialState::kFailed) {
      EXPECT_THAT(trial.attempts, testing::SizeIs(testing::Ge(2)));
    }
    EXPECT_TRUE(digests.insert(trial.plan.plan_digest).second) << "a plan run twice";
  }
  EXPECT_TRUE(Eventually([&] { return Jobs().empty(); })) << Jobs();
  for (const char* what : {"relay", "rank", "node", "srun", "session"}) EXPECT_TRUE(Eventually([&] { return Ours(what).empty(); })) << what;
}

TEST_F(ClusterTest, TheRanksOfATrialRunInOneJobOnOneNode) {
  HoldWorkers();
  Command tune(TuneOnSlurm({"--tp", "3"}), OnCluster());
  // Two jobs, each with an agent and a worker for every rank.
  ASSERT_TRUE(Eventually([&] { return Ours("session").size() == 6; })) << Jobs();
  EXPECT_THAT(JobOn("node1"), Not(IsEmpty()));
  EXPECT_THAT(JobOn("node2"), Not(IsEmpty()));
  EXPECT_EQ(Ours("node").size(), 6U);
  EXPECT_EQ(Ours("relay").size(), 2U);
  EXPECT_EQ(Ours("rank").size(), 4U);
  // A job that is cancelled takes all its ranks along, and only them.
  const std::string cancelled = JobOn("node2");
  Slurm("scancel " + cancelled);
  ASSERT_TRUE(Eventually([&] {
    const std::vector<Trial> trials = Trials();
    return std::ranges::any_of(trials, [](const Trial& trial) {
      return !trial.attempts.empty() && trial.attempts[0].verdict.reason == Reason::kKilled;
    });
  }));
  LetWorkersGo();
  const Finished finished = tune.Wait();
  ExpectComplete(finished);
  EXPECT_THAT(finished.err, HasSubstr("killed: rank 0: the job was cancelled: job " + cancelled + " on node2"));
  for (const char* what : {"relay", "rank", "node", "srun", "session"}) EXPECT_TRUE(Eventually([&] { return Ours(what).empty(); })) << what;
}

// ---- faults ----

TEST_F(ClusterTest, AFaultOfOneNodeCountsAgainstThatNode) {
  fake_->SetScript({{"load", {{{"do", "error"}, {"kind", "bad_checkpoint"}, {"message", "shard 3: Input/output error"}, {"node", "node2"}}}}});
  const Finished finished = Command(TuneOnSlurm(), OnCluster()).Wait();
  ExpectComplete(finished);
  EXPECT_THAT(finished.err, HasSubstr("loader_fault: shard 3: Input/output error (on node2); trying again"));
  // Those in flight when it was found out, and none after them.
  int faults = 0;
  for (const Trial& trial : Trials()) {
    if (trial.state == TrialState::kComplete) {
      EXPECT_EQ(trial.verdict.device, "node1");
    }
    for (const Attempt& attempt : trial.attempts) {
      if (attempt.verdict.reason != Reason::kLoaderFault) continue;
      EXPECT_EQ(attempt.verdict.device, "node2");
      ++faults;
    }
  }
  EXPECT_GE(faults, 1);
  EXPECT_LE(faults, 2);
}

TEST_F(ClusterTest, AFaultOfTwoNodesIsTheCheckpoints) {
  fake_->SetScript({{"load", {{{"do", "error"}, {"kind", "bad_checkpoint"}, {"message", "shard 3: no such tensor"}}}}});
  const Finished finished = Command(Tune({"--launcher", "slurm", "--json"}), OnCluster()).Wait();
  EXPECT_THAT(json::parse(finished.out, nullptr, false)["fault"].dump(), HasSubstr("shard 3: no such tensor (on node2)")) << finished.err;
  ASSERT_THAT(Trials(), testing::SizeIs(1));
  const Trial trial = Trials()[0];
  EXPECT_EQ(trial.verdict.reason, Reason::kLoaderFault);
  ASSERT_THAT(trial.attempts, testing::SizeIs(2));
  EXPECT_EQ(trial.attempts[0].verdict.device, "node1");
  EXPECT_EQ(trial.verdict.device, "node2");
}

TEST_F(ClusterTest, SlurmMayBeAwayForAWhile) {
  HoldWorkers();
  Command tune(TuneOnSlurm({"--garbage-loads", "0"}), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  const std::string pid = "$(cat " + cluster() + "/slurmctld.was)";
  Shell("cp " + cluster() + "/run/slurmctld.pid " + cluster() + "/slurmctld.was && kill " + pid);
  ASSERT_TRUE(Eventually([&] { return Shell(Conf() + " squeue").code != 0; }));
  LetWorkersGo();  // what runs comes to its end, and what follows waits
  std::this_thread::sleep_for(std::chrono::seconds(2));
  // It answers no more before it is gone, and while it saves its state another would not start.
  ASSERT_TRUE(Eventually([&] { return Shell("grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/" + pid + "/status").code != 0; }));
  EXPECT_EQ(Shell(Conf() + " slurmctld -f " + cluster() + "/slurm.conf").code, 0);
  ASSERT_TRUE(Eventually([&] { return Shell(Conf() + " squeue").code == 0; }));
  ExpectComplete(tune.Wait());
}

TEST_F(ClusterTest, TwoStudiesAtOnceKeepApart) {
  HoldWorkers();
  Command first(TuneOnSlurm({"--garbage-loads", "0"}), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  const std::string others = Jobs();
  // Another file, so other jobs; and its start clears away nothing of the first's.
  std::vector<std::string> arguments = TuneOnSlurm({"--garbage-loads", "0"});
  *(std::ranges::find(arguments, "--db") + 1) = fake_->File("second.db");
  Command second(arguments, OnCluster());
  ASSERT_TRUE(Eventually([&] { return Jobs().find("PENDING") != std::string::npos; })) << Jobs();
  EXPECT_THAT(Jobs(), HasSubstr(others.substr(0, others.find('\n'))));
  LetWorkersGo();
  ExpectComplete(first.Wait());
  EXPECT_EQ(second.Wait().exit_code, kExitDone);
}

TEST_F(ClusterTest, AnInterruptGivesTheJobsBackAndCanBeResumed) {
  HoldWorkers();
  Command tune(TuneOnSlurm(), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  tune.Signal(SIGINT);
  EXPECT_EQ(tune.Wait().exit_code, kExitInterrupted);
  EXPECT_TRUE(Eventually([&] { return Jobs().empty(); })) << Jobs();
  LetWorkersGo();
  ExpectComplete(Command(On("resume", {"--json"}), OnCluster()).Wait());
}

TEST_F(ClusterTest, AJobThatSlurmRefusesStopsTheStudyInOneLine) {
  const Finished finished = Command(TuneOnSlurm({"--slurm-args=--partition=nowhere"}), OnCluster()).Wait();
  ExpectFailure(finished, kExitInfrastructure, "Invalid partition name specified");
}

// Where Slurm is not.
class NoCluster : public CliTest {};

TEST_F(NoCluster, IsToldInOneLine) {
  Command::Options options = WithFakeWorker();
  options.environment.push_back("PATH=/nowhere");
  ExpectRefusal(Command(Tune({"--launcher", "slurm"}), options).Wait(), kExitInfrastructure,
                "--launcher slurm: srun: not found in PATH; is Slurm installed here?");
}

TEST_F(NoCluster, ArgumentsAreCheckedBeforeAnythingIsAsked) {
  for (const auto& [arguments, what] : {std::pair<std::vector<std::string>, const char*>{{"--launcher", "slurm", "--slurm-args=-c 2 rm"}, "'rm' is no option of srun"},
                                        {{"--slurm-args=-p gpu"}, "--slurm-args goes with --launcher slurm"},
                                        {{"--launcher", "kubernetes"}, "kubernetes"},
                                        {{"--parallel", "0"}, "--parallel"},
                                        {{"--parallel", "2", "--device", "cuda:0"}, "--parallel 2: --device cuda:0 names 1 devices for 2 ranks"}}) {
    ExpectRefusal(Run(Tune(arguments)), kExitUsage, what);
  }
}

}  // namespace
}  // namespace hproc::controller
