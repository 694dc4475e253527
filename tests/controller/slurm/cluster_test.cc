// Studies on a Slurm of two nodes on this machine (cluster.sh): nodes drained, jobs cancelled, controllers killed, and
// Slurm itself away in the middle. Workers are fake ones, which take as long as a test wants.
#include <signal.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>

#include "controller/cli/exit_codes.h"
#include "controller/store_rules.h"
#include "tests/controller/cli/cli_fixture.h"

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

class ClusterTest : public CliTest {
 protected:
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

TEST_F(ClusterTest, SlurmMayBeAwayForAWhile) {
  HoldWorkers();
  Command tune(TuneOnSlurm({"--garbage-loads", "0"}), OnCluster());
  ASSERT_TRUE(Eventually([&] { return !JobOn("node1").empty() && !JobOn("node2").empty(); })) << Jobs();
  Shell("kill $(cat " + cluster() + "/run/slurmctld.pid)");
  ASSERT_TRUE(Eventually([&] { return Shell(Conf() + " squeue").code != 0; }));
  LetWorkersGo();  // what runs comes to its end, and what follows waits
  std::this_thread::sleep_for(std::chrono::seconds(2));
  EXPECT_EQ(Shell(Conf() + " slurmctld -f " + cluster() + "/slurm.conf").code, 0);
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
                                        {{"--launcher", "slurm", "--tp", "2"}, "workers of one rank"},
                                        {{"--launcher", "kubernetes"}, "kubernetes"},
                                        {{"--parallel", "0"}, "--parallel"},
                                        {{"--parallel", "2", "--device", "cuda:0"}, "--parallel 2: --device cuda:0 names 1 devices for 2 ranks"}}) {
    ExpectRefusal(Run(Tune(arguments)), kExitUsage, what);
  }
}

}  // namespace
}  // namespace hproc::controller
