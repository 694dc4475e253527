// The pure pieces of the Slurm launcher: arguments, answers of squeue, proofs, frames, notes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <thread>

#include "controller/launch_note.h"
#include "controller/slurm/frame_channel.h"
#include "controller/slurm/handshake.h"
#include "controller/slurm/job_queue.h"
#include "controller/slurm/rank_links.h"
#include "controller/slurm/srun_arguments.h"

namespace hproc::controller {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

template <typename R>
std::string ErrorOf(const R& result) {
  return result.ok() ? "" : result.error().message;
}

// ---- arguments ----

TEST(SplitArguments, CutsAtBlanksOutsideOfQuotes) {
  EXPECT_THAT(*SplitArguments("  -p gpu\t--gres=gpu:1 \n"), ElementsAre("-p", "gpu", "--gres=gpu:1"));
  EXPECT_THAT(*SplitArguments(R"(--comment='two words' "-p" "a b"c '')"), ElementsAre("--comment=two words", "-p", "a bc", ""));
  EXPECT_THAT(*SplitArguments(""), IsEmpty());
  EXPECT_THAT(ErrorOf(SplitArguments("--comment='open")), HasSubstr("not closed"));
}

TEST(CheckSrunArguments, LetsResourcesThrough) {
  for (const char* text : {"", "-p gpu --gres=gpu:1 --time=4:00:00", "-pgpu -t 10", "--exclusive --mem=8G -A lab -w node3", "-s",
                           "--cpus-per-task=4 --qos=low --reservation=r1 --constraint=h100 --exclude=node9"}) {
    EXPECT_EQ(ErrorOf(CheckSrunArguments(*SplitArguments(text))), "") << text;
  }
}

TEST(CheckSrunArguments, RefusesWhatIsOursOrWouldBeRunAndNamesIt) {
  for (const auto& [text, named] : {std::pair{"--gres gpu:1", "'gpu:1' is no option"},
                                    {"bash -c id", "'bash' is no option"},
                                    {"-p gpu id", "'id' is no option"},
                                    {"-- id", "'--' ends the options"},
                                    {"--export=NONE", "'--export=NONE' is set by the launcher itself"},
                                    {"--exp=NONE", "'--exp=NONE' is --export, which is set by the launcher itself"},
                                    {"-J name", "'-J' is --job-name, which is set by the launcher itself"},
                                    {"--job-name=x", "'--job-name=x' is set"},
                                    {"-n2", "'-n2' is --ntasks, which is set"},
                                    {"--ntasks=2", "'--ntasks=2' is set"},
                                    {"--nodes=2", "'--nodes=2' is set"},
                                    {"--mpi=pmix", "'--mpi=pmix' is set"},
                                    {"--ntasks-per-node=2", "'--ntasks-per-node=2' would not be one task"},
                                    {"--output=/tmp/x", "'--output=/tmp/x' would take the worker's standard streams"},
                                    {"-Q", "'-Q' is --quiet, which would silence srun"},
                                    {"--test-only", "'--test-only' does not run the worker"},
                                    {"-I5", "'-I5' is --immediate, which changes how srun waits"},
                                    {"-k", "'-k' is --no-kill"},
                                    {"-M other", "'-M' is --clusters, which names another cluster"},
                                    {"-sv", "'-sv' is more than one option"},
                                    {"-p", "'-p' lacks its value"},
                                    {"-", "'-' is no option"}}) {
    EXPECT_THAT(ErrorOf(CheckSrunArguments(*SplitArguments(text))), HasSubstr(named)) << text;
  }
  EXPECT_THAT(ErrorOf(CheckSrunArguments({"--comment=a\nb"})), HasSubstr("control character"));
}

TEST(CheckSrunArguments, RefusesAllThatTheLauncherSetsButTheCpus) {
  for (const std::string& argument : SrunArguments({.job_name = "j", .threads = 2, .operators = {}, .avoid = {}, .command = {}})) {
    if (argument.starts_with("--cpus-per-task=")) continue;  // the operator's own comes behind and stands
    EXPECT_THAT(ErrorOf(CheckSrunArguments({argument})), HasSubstr("is set by the launcher itself")) << argument;
  }
}

TEST(SrunArguments, PutOursFirstAndTheCommandLast) {
  const SrunTask task{.job_name = "hproc-1-t0-a1", .threads = 3, .operators = {"-p", "gpu"}, .avoid = {}, .command = {"/bin/agent", "--", "w"}};
  const std::vector<std::string> argv = SrunArguments(task);
  EXPECT_EQ(argv[0], "--job-name=hproc-1-t0-a1");
  EXPECT_THAT(argv, Contains("--ntasks=1"));
  EXPECT_THAT(argv, Contains("--export=ALL"));
  EXPECT_THAT(argv, Contains("--cpus-per-task=3"));
  EXPECT_THAT(std::vector(argv.end() - 5, argv.end()), ElementsAre("-p", "gpu", "/bin/agent", "--", "w"));
}

TEST(SrunArguments, AvoidNodesBesideThoseTheOperatorExcludes) {
  for (const std::vector<std::string>& excluded : {std::vector<std::string>{"--exclude=node9"}, {"-x", "node9"}, {"-xnode9"}}) {
    const std::vector<std::string> argv = SrunArguments({.job_name = "j", .operators = excluded, .avoid = {"node1", "node2"}, .command = {"c"}});
    EXPECT_THAT(argv, Contains("--exclude=node9,node1,node2"));
    EXPECT_THAT(argv, Not(Contains("-x")));
  }
  EXPECT_THAT(SrunArguments({.job_name = "j", .operators = {}, .avoid = {}, .command = {"c"}}), Not(Contains(HasSubstr("--exclude"))));
}

// ---- squeue ----

TEST(ParseSqueue, TakesTheYoungestJobAndItsReason) {
  const std::optional<JobInfo> job = ParseSqueue("12|CANCELLED|node1|None\n13|PENDING||Nodes required for job are DOWN | DRAINED\n");
  ASSERT_TRUE(job);
  EXPECT_EQ(job->id, "13");
  EXPECT_EQ(job->state, "PENDING");
  EXPECT_EQ(job->node, "");
  EXPECT_EQ(job->reason, "Nodes required for job are DOWN | DRAINED");
  EXPECT_EQ(ParseSqueue("12|RUNNING|node[1-2]|None")->reason, "");
}

TEST(ParseSqueue, PassesOverWhatIsNoJob) {
  for (const char* text : {"", "\n", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", "a|b|c|d\n", "1|2\n", "|||\n"}) {
    EXPECT_FALSE(ParseSqueue(text)) << text;
  }
  EXPECT_EQ(ParseSqueue("squeue: warning\n7|RUNNING|n|None\n")->id, "7");
}

TEST(JobStates, AreInTheQueueActiveOrOver) {
  for (const char* state : {"PENDING", "CONFIGURING", "REQUEUED", "SPECIAL_EXIT"}) EXPECT_TRUE(IsPending(state)) << state;
  for (const char* state : {"RUNNING", "COMPLETING", "SUSPENDED"}) EXPECT_TRUE(IsActive(state)) << state;
  for (const char* state : {"CANCELLED", "COMPLETED", "NODE_FAIL", "TIMEOUT"}) EXPECT_FALSE(IsPending(state) || IsActive(state)) << state;
}

TEST(FindProgram, NamesWhatIsNotInPath) {
  EXPECT_EQ(FindProgram("sh")->filename(), "sh");
  EXPECT_EQ(ErrorOf(FindProgram("no-such-program")), "no-such-program: not found in PATH; is Slurm installed here?");
}

// ---- proofs ----

TEST(Handshake, BothSidesProveTheSecretAndNeitherSendsIt) {
  const std::string secret = MakeSecret();
  EXPECT_EQ(secret.size(), 64U);
  EXPECT_NE(secret, MakeSecret());
  const std::string nonce_r = MakeNonce();
  const std::string nonce_a = MakeNonce();
  const std::string answer = AgentAnswer(secret, nonce_r, nonce_a);
  EXPECT_EQ(answer.size(), kAnswerBytes);
  EXPECT_TRUE(CheckAgentAnswer(secret, nonce_r, answer));
  EXPECT_TRUE(CheckRelayProof(secret, nonce_a, nonce_r, RelayProof(secret, nonce_a, nonce_r)));
  EXPECT_THAT(answer, Not(HasSubstr(secret)));
}

TEST(Handshake, NothingElseIsAProof) {
  const std::string secret = MakeSecret();
  const std::string nonce = MakeNonce();
  const std::string other = MakeNonce();
  const std::string answer = AgentAnswer(secret, nonce, other);
  EXPECT_FALSE(CheckAgentAnswer(MakeSecret(), nonce, answer)) << "another secret";
  EXPECT_FALSE(CheckAgentAnswer(secret, other, answer)) << "an answer to another question";
  EXPECT_FALSE(CheckAgentAnswer(secret, nonce, answer.substr(1))) << "a part";
  EXPECT_FALSE(CheckAgentAnswer(secret, nonce, answer + "x")) << "more";
  EXPECT_FALSE(CheckAgentAnswer(secret, nonce, std::string(kAnswerBytes, '\0')));
  for (size_t i = 0; i < answer.size(); ++i) {
    std::string changed = answer;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(CheckAgentAnswer(secret, nonce, changed)) << "byte " << i;
  }
  // What one side says is no proof of the other's.
  const std::string said = answer.substr(kMagic.size() + kNonceBytes);
  EXPECT_FALSE(CheckRelayProof(secret, other, nonce, said));
  EXPECT_FALSE(CheckRelayProof(secret, nonce, other, said));
}

// ---- frames ----

class FrameChannelTest : public testing::Test {
 protected:
  FrameChannelTest() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    one_.emplace(UniqueFd(ends[0]));
    other_.emplace(UniqueFd(ends[1]));
  }
  std::optional<FrameChannel> one_;
  std::optional<FrameChannel> other_;
};

TEST_F(FrameChannelTest, CarriesBytesOfAnyLengthInOrder) {
  std::string text(3 * kMaxFrameBytes + 5, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7);
  one_->Send(kControlFrame, text);
  one_->Send(kEndControlFrame, "");
  std::string heard;
  bool ended = false;
  while (!ended && !other_->broken()) {
    one_->Flush();
    other_->Read();
    while (std::optional<Frame> frame = other_->Next()) {
      if (frame->type == kControlFrame) heard += frame->payload;
      ended |= frame->type == kEndControlFrame;
    }
  }
  EXPECT_EQ(heard, text);
  EXPECT_TRUE(ended);
  EXPECT_FALSE(one_->has_to_write());
}

TEST_F(FrameChannelTest, GivesWhatCameBeforeTheOtherSideWent) {
  one_->Send(kEventsFrame, "last words");
  one_->Flush();
  one_.reset();
  while (!other_->broken()) other_->Read();
  EXPECT_EQ(other_->Next()->payload, "last words");
  EXPECT_FALSE(other_->Next());
}

TEST_F(FrameChannelTest, IsBrokenByAFrameThatIsTooLong) {
  const std::string head = std::string("V") + "\xff\xff\xff\x7f";
  ASSERT_EQ(::send(one_->fd(), head.data(), head.size(), 0), static_cast<ssize_t>(head.size()));
  other_->Read();
  EXPECT_FALSE(other_->Next());
  EXPECT_TRUE(other_->broken());
}

// A connection over TCP whose other end neither hears nor answers from Unplug on, like a machine that lost its power.
class TcpPair {
 public:
  explicit TcpPair(std::chrono::seconds most_silence) {
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
    far_.Reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(far_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    near.emplace(UniqueFd(::accept(listener.get(), nullptr, nullptr)), most_silence);
  }
  // The kernel drops what comes for it, unacknowledged.
  void Unplug() const {
    sock_filter drop{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = 0};
    const sock_fprog program{.len = 1, .filter = &drop};
    EXPECT_EQ(::setsockopt(far_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  }
  std::optional<FrameChannel> near;

 private:
  UniqueFd far_;
};

TEST(FrameChannelOverTcp, IsBrokenWhereTheOtherMachineIsSilentForTooLong) {
  TcpPair idle(std::chrono::seconds(2));
  TcpPair busy(std::chrono::seconds(2));
  TcpPair patient(kMostSilence);
  for (TcpPair* pair : {&idle, &busy, &patient}) pair->Unplug();
  busy.near->Send(kControlFrame, "is there anybody?");
  busy.near->Flush();
  const auto start = std::chrono::steady_clock::now();
  const auto now = [&] { return std::chrono::steady_clock::now() - start; };
  while (!(idle.near->broken() && busy.near->broken()) && now() < std::chrono::seconds(20)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (TcpPair* pair : {&idle, &busy}) {
      if (!pair->near->broken()) pair->near->Read();
    }
    if (now() < std::chrono::seconds(1)) {
      EXPECT_FALSE(idle.near->broken() || busy.near->broken());
    }
  }
  EXPECT_TRUE(idle.near->broken());
  EXPECT_TRUE(busy.near->broken());
  EXPECT_FALSE(patient.near->broken());
}

// ---- links between the relay and its other ranks ----

class RankLinksTest : public testing::Test {
 protected:
  RankLinksTest() : name_("pieces-" + MakeSecret().substr(0, 10)), links_(*RankLinks::Open(name_, 3)) {}
  void Turn() {
    std::vector<pollfd> fds;
    links_.AppendTo(fds);
    ::poll(fds.data(), fds.size(), 100);
    links_.Take(fds);
  }
  UniqueFd Link(int rank) {
    std::optional<UniqueFd> link = LinkToRelay(name_, rank);
    EXPECT_TRUE(link);
    Turn();  // accepted
    Turn();  // known
    return link ? std::move(*link) : UniqueFd();
  }
  // One end of a connection; what is written to `other` is read from it.
  static UniqueFd Connection(UniqueFd* other) {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    other->Reset(ends[1]);
    return UniqueFd(ends[0]);
  }
  static std::string Hear(const UniqueFd& fd) {
    std::array<char, 64> chunk{};
    const ssize_t n = ::recv(fd.get(), chunk.data(), chunk.size(), 0);
    return {chunk.data(), n > 0 ? static_cast<size_t>(n) : 0};
  }

  const std::string name_;
  RankLinks links_;
};

TEST_F(RankLinksTest, GiveARankItsConnectionWhicheverComesFirst) {
  UniqueFd far_1;
  UniqueFd far_2;
  const UniqueFd link_1 = Link(1);
  links_.Give(1, Connection(&far_1));
  links_.Give(2, Connection(&far_2));
  const UniqueFd link_2 = Link(2);
  const UniqueFd one = ReceiveFromRelay(link_1.get()).connection;
  const UniqueFd two = ReceiveFromRelay(link_2.get()).connection;
  ASSERT_TRUE(one && two);
  ASSERT_EQ(::send(far_1.get(), "first", 5, 0), 5);
  ASSERT_EQ(::send(far_2.get(), "second", 6, 0), 6);
  EXPECT_EQ(Hear(one), "first");
  EXPECT_EQ(Hear(two), "second");
  links_.End("over");
  EXPECT_EQ(Hear(link_1), "over");
  EXPECT_EQ(Hear(link_1), "") << "closed";
  EXPECT_EQ(Hear(link_2), "over");
}

TEST_F(RankLinksTest, TurnAwayRanksThatAreNone) {
  const UniqueFd link_1 = Link(1);
  for (const int rank : {0, 1, 3, -1}) EXPECT_TRUE(ReceiveFromRelay(Link(rank).get()).is_over) << rank;  // 1 is there already
  links_.End("over");
  EXPECT_EQ(Hear(link_1), "over");
  EXPECT_FALSE(LinkToRelay(name_ + "x", 1)) << "no such relay";
  EXPECT_FALSE(RankLinks::Open(name_, 2).ok()) << "one relay a job";
}

TEST_F(RankLinksTest, TellARankHowTheJobEndedWholeWithAConnectionAndWithout) {
  UniqueFd far;
  const UniqueFd link_1 = Link(1);
  const UniqueFd link_2 = Link(2);
  EXPECT_FALSE(ReceiveFromRelay(link_1.get()).is_over) << "nothing was said yet";
  links_.Give(1, Connection(&far));
  links_.End("how it ended");
  for (const UniqueFd* link : {&link_1, &link_2}) {
    std::string said;
    int connections = 0;
    for (bool is_over = false; !is_over;) {
      const FromRelay heard = ReceiveFromRelay(link->get());
      said += heard.text;
      connections += heard.connection ? 1 : 0;
      is_over = heard.is_over;
    }
    EXPECT_EQ(said, "how it ended");
    EXPECT_EQ(connections, link == &link_1 ? 1 : 0);
  }
}

TEST_F(RankLinksTest, AreGoneWithTheRelay) {
  const UniqueFd link = Link(1);
  { const RankLinks gone = std::move(links_); }
  EXPECT_TRUE(ReceiveFromRelay(link.get()).is_over);
  EXPECT_FALSE(LinkToRelay(name_, 2));
}

// ---- notes ----

TEST(LaunchNote, ComesBackAsItWent) {
  LaunchNote note{.kind = LaunchNote::Kind::kPending, .job = "12", .node = "", .reason = "Resources \"x\"\n", .end = {}};
  std::optional<LaunchNote> read = DecodeNote(EncodeNote(note));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->kind, note.kind);
  EXPECT_EQ(read->job, "12");
  EXPECT_EQ(read->reason, note.reason);
  note = {.kind = LaunchNote::Kind::kEnded, .job = "12", .node = "node1", .reason = "",
          .end = {.state = "CANCELLED", .job = {}, .node = {}, .message = "m", .exit_code = 4, .signal = 0, .oom_kills = OomKills::kSome}};
  read = DecodeNote(EncodeNote(note));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->end.state, "CANCELLED");
  EXPECT_EQ(read->end.job, "12");
  EXPECT_EQ(read->end.node, "node1");
  EXPECT_EQ(read->end.exit_code, 4);
  EXPECT_EQ(read->end.oom_kills, OomKills::kSome);
  for (const char* text : {"", "x", "{}", "[]", R"({"kind":"flown","job":"","node":"","reason":""})", R"({"kind":"ended","job":"","node":"","reason":""})"}) {
    EXPECT_FALSE(DecodeNote(text)) << text;
  }
}

}  // namespace
}  // namespace hproc::controller
