// What stands on either machine for the ranks of a trial but 0: the agents on the node (node_agent.h), with a test in the relay's
// place, and the programs on the controller's (rank_relay.h), with a test for both the relay and the agent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "controller/launch_note.h"
#include "controller/slurm/frame_channel.h"
#include "controller/slurm/handshake.h"
#include "controller/slurm/node_agent.h"
#include "controller/slurm/rank_links.h"
#include "controller/slurm/relay_port.h"
#include "controller/spawn.h"
#include "tests/controller/processes.h"
#include "worker/protocol.h"

namespace hproc::controller {
namespace {

using testing::HasSubstr;

constexpr std::chrono::seconds kLimit{20};

// What a process prints or notes until it says no more, or the limit; its descriptor does not block.
std::string ReadAll(const UniqueFd& fd) {
  std::string text;
  const auto until = std::chrono::steady_clock::now() + kLimit;
  while (std::chrono::steady_clock::now() < until) {
    pollfd wait{fd.get(), POLLIN, 0};
    ::poll(&wait, 1, 100);
    std::array<char, 4096> chunk{};
    const ssize_t n = ::read(fd.get(), chunk.data(), chunk.size());
    if (n == 0) break;
    if (n > 0) text.append(chunk.data(), static_cast<size_t>(n));
  }
  return text;
}

// ---- the agents of a node ----

class NodeTest : public testing::Test {
 protected:
  ~NodeTest() override {
    if (node_.pidfd) KillAndReap(node_.pid);
  }
  void Start(int ranks) {
    const std::vector<std::string> argv = {HPROC_SLURM, "node", "--ranks=" + std::to_string(ranks), "--port=" + std::to_string(port_->port()),
                                           "--host=127.0.0.1", "--connect-patience=1", "--", HPROC_FAKE_WORKER, "--events-fd",
                                           std::to_string(kEventsFd)};
    node_ = *SpawnWorker(argv, EnvironmentWith({std::string(kSecretVariable) + "=" + secret_}));
  }
  // Until the agents of `ranks` are there.
  void Accept(size_t ranks) {
    const auto until = std::chrono::steady_clock::now() + kLimit;
    while (channels_.size() < ranks && std::chrono::steady_clock::now() < until) {
      std::vector<pollfd> fds;
      port_->AppendTo(fds);
      ::poll(fds.data(), fds.size(), 100);
      if (std::optional<RelayPort::Agent> agent = port_->Take(fds)) channels_.try_emplace(agent->rank, std::move(agent->connection));
    }
    ASSERT_EQ(channels_.size(), ranks);
  }
  // The next frame of that type from a rank's agent, as a note.
  std::optional<LaunchNote> Await(int rank, char type) {
    FrameChannel& channel = channels_.at(rank);
    const auto until = std::chrono::steady_clock::now() + kLimit;
    while (std::chrono::steady_clock::now() < until) {
      while (const std::optional<Frame> frame = channel.Next()) {
        if (frame->type == type) return DecodeNote(frame->payload);
      }
      if (channel.broken()) return std::nullopt;
      pollfd wait{channel.fd(), POLLIN, 0};
      ::poll(&wait, 1, 100);
      channel.Read();
    }
    return std::nullopt;
  }
  int ExitCode() {
    int status = 0;
    while (::waitpid(node_.pid, &status, 0) < 0 && errno == EINTR) {
    }
    node_.pidfd.Reset();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  const std::string secret_ = MakeSecret();
  std::optional<RelayPort> port_;
  std::map<int, FrameChannel> channels_;
  SpawnedWorker node_;
};

TEST_F(NodeTest, EndsTheJobWhereTheAgentOfARankCannotReachTheRelay) {
  port_ = *RelayPort::Open(secret_);  // which knows rank 0 alone
  Start(2);
  Accept(1);
  const std::optional<LaunchNote> end = Await(0, kExitFrame);
  ASSERT_TRUE(end) << "rank 0's worker would wait for the other's for minutes";
  EXPECT_EQ(end->end.exit_code, worker::kExitControllerGone);
  channels_.clear();
  EXPECT_THAT(ReadAll(node_.log), HasSubstr("hproc-slurm: the controller cannot be reached from "));
  EXPECT_EQ(ExitCode(), kAgentCannotReach);
}

TEST_F(NodeTest, EndsTheJobWhereASignalEndedAWorker) {
  port_ = *RelayPort::Open(secret_, 2);
  Start(2);
  Accept(2);
  for (const int rank : {0, 1}) ASSERT_TRUE(Await(rank, kHelloFrame));
  pid_t worker = 0;
  for (const pid_t child : ChildrenOf(node_.pid)) {
    for (const pid_t grandchild : ChildrenOf(child)) worker = grandchild;
  }
  ASSERT_GT(worker, 0);
  ::kill(worker, SIGKILL);
  const std::optional<LaunchNote> end = Await(1, kExitFrame);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->end.signal, SIGKILL);
  channels_.erase(1);
  const std::optional<LaunchNote> end_0 = Await(0, kExitFrame);
  ASSERT_TRUE(end_0);
  EXPECT_EQ(end_0->end.exit_code, worker::kExitControllerGone);
  channels_.clear();
  EXPECT_EQ(ExitCode(), 0) << "the relay was told";
}

// ---- the program of a rank ----

class RankTest : public testing::Test {
 protected:
  RankTest() : name_("rank-test-" + MakeSecret().substr(0, 10)), links_(*RankLinks::Open(name_, 2)) {
    rank_ = *SpawnWorker({HPROC_SLURM, "rank", "--job-name=" + name_, "--rank=1", "--notes-fd=" + std::to_string(kNotesFd)},
                         EnvironmentWith({}), Notes::kWanted);
    // A stranger comes, then it is known.
    size_t before = 0;
    const auto until = std::chrono::steady_clock::now() + kLimit;
    for (size_t now = 1; !(before == 2 && now == 1) && std::chrono::steady_clock::now() < until;) {
      before = now;
      std::vector<pollfd> fds;
      links_.AppendTo(fds);
      ::poll(fds.data(), fds.size(), 100);
      links_.Take(fds);
      fds.clear();
      links_.AppendTo(fds);
      now = fds.size();
    }
  }
  ~RankTest() override { KillAndReap(rank_.pid); }

  // The agent's end of a connection that the relay hands over.
  FrameChannel GiveConnection() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    links_.Give(1, UniqueFd(ends[0]));
    return FrameChannel(UniqueFd(ends[1]));
  }
  // An agent whose worker has ended so, and is known to have.
  void EndWorker(const LaunchEnd& end) {
    FrameChannel agent = GiveConnection();
    agent.Send(kHelloFrame, EncodeNote({.kind = LaunchNote::Kind::kConnected, .job = "7", .node = "node1", .reason = {}, .end = {}}));
    agent.Send(kExitFrame, EncodeNote({.kind = LaunchNote::Kind::kEnded, .job = {}, .node = {}, .reason = {}, .end = end}));
    const auto until = std::chrono::steady_clock::now() + kLimit;
    for (agent.Flush(); !agent.broken() && std::chrono::steady_clock::now() < until; agent.Read()) {
      pollfd wait{agent.fd(), POLLIN, 0};
      ::poll(&wait, 1, 100);
    }
  }
  void EndJob(const std::string& state, const std::string& node, const std::string& message) {
    links_.End(EncodeNote({.kind = LaunchNote::Kind::kEnded, .job = "7", .node = node, .reason = {},
                           .end = {.state = state, .job = {}, .node = {}, .message = message, .exit_code = {}, .signal = 0, .oom_kills = {}}}));
  }
  // Its last note.
  LaunchEnd End() {
    std::string notes = ReadAll(rank_.notes);
    if (!notes.empty()) notes.pop_back();
    const std::optional<LaunchNote> last = DecodeNote(notes.substr(notes.rfind('\n') + 1));
    EXPECT_TRUE(last && last->kind == LaunchNote::Kind::kEnded) << notes;
    return last ? last->end : LaunchEnd();
  }

  const std::string name_;
  RankLinks links_;
  SpawnedWorker rank_;
};

TEST_F(RankTest, TakesAWorkerThatLeftAtItsWord) {
  EndWorker({.state = {}, .job = {}, .node = {}, .message = {}, .exit_code = worker::kExitReported, .signal = 0, .oom_kills = {}});
  const LaunchEnd end = End();  // though the job goes on
  EXPECT_EQ(end.state, "");
  EXPECT_EQ(end.exit_code, worker::kExitReported);
  EXPECT_EQ(end.node, "node1");
}

TEST_F(RankTest, JudgesAWorkerThatASignalEndedByWhatBecameOfTheJob) {
  EndWorker({.state = {}, .job = {}, .node = {}, .message = {}, .exit_code = {}, .signal = SIGKILL, .oom_kills = OomKills::kNone});
  EndJob("TIMEOUT", "node1", "");
  const LaunchEnd end = End();
  EXPECT_EQ(end.state, "TIMEOUT");
  EXPECT_EQ(end.signal, SIGKILL);
}

TEST_F(RankTest, TakesASignalForTheWorkersOwnWhereTheJobSaysNothing) {
  EndWorker({.state = {}, .job = {}, .node = {}, .message = {}, .exit_code = {}, .signal = SIGSEGV, .oom_kills = OomKills::kNone});
  EndJob("", "node1", "");
  const LaunchEnd end = End();
  EXPECT_EQ(end.state, "");
  EXPECT_EQ(end.signal, SIGSEGV);
}

TEST_F(RankTest, WasNotHeardWhereItsJobRanWithoutIt) {
  EndJob("", "node1", "hproc-slurm: why");
  const LaunchEnd end = End();
  EXPECT_EQ(end.state, kJobNotHeard);
  EXPECT_EQ(end.node, "node1");
  EXPECT_EQ(end.message, "hproc-slurm: why");
}

TEST_F(RankTest, WasNotLaunchedWhereItsJobWasNot) {
  EndJob("", "", "");
  EXPECT_EQ(End().state, kJobNotLaunched);
}

}  // namespace
}  // namespace hproc::controller
