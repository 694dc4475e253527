#include "controller/slurm/node_agent.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "base/result.h"
#include "controller/launch_note.h"
#include "controller/oom_kills.h"
#include "controller/slurm/end_signals.h"
#include "controller/slurm/frame_channel.h"
#include "controller/slurm/handshake.h"
#include "controller/spawn.h"

namespace hproc::controller {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kAnswerPatience = std::chrono::seconds(5);  // of one host, for each step

int MillisecondsUntil(Clock::time_point at) {
  return static_cast<int>(std::max<int64_t>(0, std::chrono::ceil<milliseconds>(at - Clock::now()).count()));
}

std::string EnvironmentOr(const char* name, std::string otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : std::move(otherwise);
}

std::string HostName() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "?";
}

int Fail(int code, const std::string& message) {
  std::fprintf(stderr, "hproc-slurm: %s\n", message.c_str());
  return code;
}

// ---- connecting --------------------------------------------------------------------------------------------------------

bool WaitFor(int fd, short what, milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  for (;;) {
    pollfd wait{fd, what, 0};
    const int n = ::poll(&wait, 1, MillisecondsUntil(until));
    if (n > 0) return true;
    if (n == 0) return false;
  }
}

bool ReadExactly(int fd, size_t bytes, std::string* text) {
  text->clear();
  while (text->size() < bytes) {
    if (!WaitFor(fd, POLLIN, kAnswerPatience)) return false;
    std::array<char, 256> chunk{};
    const ssize_t n = ::recv(fd, chunk.data(), std::min(chunk.size(), bytes - text->size()), 0);
    if (n <= 0 && errno != EINTR && errno != EAGAIN) return false;
    if (n == 0) return false;
    if (n > 0) text->append(chunk.data(), static_cast<size_t>(n));
  }
  return true;
}

// Both prove that they know the secret, or the connection is none.
Result<void> Prove(int fd, const std::string& secret) {
  std::string greeting;
  if (!ReadExactly(fd, kGreetingBytes, &greeting) || !greeting.starts_with(kMagic)) return Error{"no answer of ours"};
  const std::string nonce_r = greeting.substr(kMagic.size());
  const std::string nonce_a = MakeNonce();
  const std::string answer = AgentAnswer(secret, nonce_r, nonce_a);
  if (::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(answer.size())) return Error{"cut off"};
  std::string proof;
  if (!ReadExactly(fd, kProofBytes, &proof)) return Error{"it does not take us for its own"};
  if (!CheckRelayProof(secret, nonce_a, nonce_r, proof)) return Error{"it is not the controller it pretends to be"};
  return Ok();
}

Result<UniqueFd> ConnectTo(const std::string& host, int port, const std::string& secret) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); code != 0) {
    return Error{::gai_strerror(code)};
  }
  Error last{"no address"};
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    UniqueFd fd(::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) continue;
    int code = ::connect(fd.get(), at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    if (code == EINPROGRESS) {
      socklen_t size = sizeof code;
      code = ETIMEDOUT;
      if (WaitFor(fd.get(), POLLOUT, kAnswerPatience)) ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &size);
    }
    if (code != 0) {
      last = Error{std::generic_category().message(code)};
      continue;
    }
    if (const Result<void> proved = Prove(fd.get(), secret); !proved.ok()) {
      last = proved.error();
      continue;
    }
    ::freeaddrinfo(found);
    return fd;
  }
  ::freeaddrinfo(found);
  return last;
}

Result<UniqueFd> Connect(const NodeAgentOptions& options, const std::string& secret) {
  const Clock::time_point until = Clock::now() + options.connect_patience;
  std::string tried;
  do {
    tried.clear();
    for (const std::string& host : options.hosts) {
      Result<UniqueFd> socket = ConnectTo(host, options.port, secret);
      if (socket.ok()) return socket;
      tried += (tried.empty() ? "" : "; ") + host + ": " + socket.error().message;
    }
    ::poll(nullptr, 0, 1000);
  } while (Clock::now() < until);
  return Error{"the controller cannot be reached from " + HostName() + " at port " + std::to_string(options.port) + " (" + tried + ")"};
}

// ---- the other ranks ---------------------------------------------------------------------------------------------------

int PidFd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }  // close-on-exec from birth

// The agents of the other ranks, children of rank 0's.
class OtherRanks {
 public:
  // Returns the rank of the calling process, which may be a new one.
  int Start(int ranks) {
    const pid_t parent = ::getpid();
    for (int rank = 1; rank < ranks; ++rank) {
      const pid_t pid = ::fork();  // nothing else runs here yet
      if (pid == 0) {
        *this = OtherRanks();
        ::prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (::getppid() != parent) ::_exit(kAgentCutOff);
        return rank;
      }
      UniqueFd ended(pid > 0 ? PidFd(pid) : -1);
      if (!ended) {
        const std::string why = std::generic_category().message(errno);
        Fail(kAgentCannotReach, HostName() + ": cannot start the agent of rank " + std::to_string(rank) + ": " + why);
        is_one_unheard_ = true;
      }
      if (pid > 0) children_.push_back({pid, std::move(ended)});
    }
    return 0;
  }

  void AppendTo(std::vector<pollfd>& fds) const {
    for (const Child& child : children_) fds.push_back({child.ended.get(), POLLIN, 0});
  }
  // Whether one is gone without which the trial is over: rank 0's worker would wait for its worker for minutes.
  bool HaveLostOne() {
    std::erase_if(children_, [this](const Child& child) {
      int status = 0;
      if (::waitpid(child.pid, &status, WNOHANG) == 0) return false;
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : kAgentCutOff;
      is_one_unheard_ |= code == kAgentCannotReach;
      is_one_lost_ |= code != 0;
      return true;
    });
    return is_one_lost_ || is_one_unheard_;
  }
  // One of which its relay does not even know that it was there.
  bool is_one_unheard() const { return is_one_unheard_; }

  // Rank 0 is gone. Where it left by itself, the others see that; who does not is ended.
  void End(const NodeAgentOptions& options, bool left_by_itself) {
    for (const auto& [signal, patience] : {std::pair{0, left_by_itself ? options.polite + options.terminate : milliseconds(0)},
                                           {SIGTERM, options.polite + options.terminate + kAnswerPatience},
                                           {SIGKILL, kAnswerPatience}}) {
      for (const Child& child : children_) {
        if (signal != 0) ::kill(child.pid, signal);
      }
      const Clock::time_point until = Clock::now() + patience;
      do {
        HaveLostOne();
        if (children_.empty()) return;
        ::poll(nullptr, 0, 20);
      } while (Clock::now() < until);
    }
  }

 private:
  struct Child {
    pid_t pid;
    UniqueFd ended;  // readable then
  };
  std::vector<Child> children_;
  bool is_one_lost_ = false;
  bool is_one_unheard_ = false;
};

// ---- passing on --------------------------------------------------------------------------------------------------------

class Agent {
 public:
  Agent(const NodeAgentOptions& options, UniqueFd socket, SpawnedWorker worker, UniqueFd signals, OtherRanks& others)
      : options_(options), channel_(std::move(socket)), worker_(std::move(worker)), signals_(std::move(signals)), others_(others) {}

  int Run() {
    channel_.Send(kHelloFrame, EncodeNote({.kind = LaunchNote::Kind::kConnected, .job = EnvironmentOr("SLURM_JOB_ID", ""),
                                           .node = EnvironmentOr("SLURMD_NODENAME", HostName()), .reason = {}, .end = {}}));
    while (!dead_) Turn();
    return Bury();
  }
  // Not on the relay's word, a signal's, or for want of another rank.
  bool left_by_itself() const { return ending_ == Ending::kNone; }
  // What the worker died of; 0: of none.
  int signal() const { return signal_; }

 private:
  enum class Ending { kNone, kClosed, kTerminated, kKilled };

  void Turn() {
    const bool gone = channel_.broken();
    enum Source { kSocket, kSignal, kProcess, kControl, kEvents, kLog };
    std::vector<pollfd> fds = {
        {gone ? -1 : channel_.fd(), static_cast<short>(POLLIN | (channel_.has_to_write() ? POLLOUT : 0)), 0},
        {signals_.get(), POLLIN, 0},
        {worker_.pidfd.get(), POLLIN, 0},
        {control_.empty() ? -1 : worker_.control.get(), POLLOUT, 0},
        {!gone && channel_.queued_bytes() > kMostQueuedBytes ? -1 : worker_.events.get(), POLLIN, 0},
        {worker_.log.get(), POLLIN, 0},
    };
    others_.AppendTo(fds);
    const int timeout = ending_ == Ending::kNone || ending_ == Ending::kKilled ? 60'000 : MillisecondsUntil(next_step_);
    if (::poll(fds.data(), fds.size(), timeout) < 0) return;
    if (fds[kLog].revents != 0) PassLog();
    if (fds[kEvents].revents != 0) PassEvents();
    if (fds[kSocket].revents != 0) Hear();
    channel_.Flush();
    if (fds[kSignal].revents != 0) {
      signalfd_siginfo info{};
      [[maybe_unused]] const ssize_t n = ::read(signals_.get(), &info, sizeof info);
      BeginEnding();  // the job is cancelled, or out of time; the worker has got the signal too
    }
    WriteControl();
    if (channel_.broken() || others_.HaveLostOne()) BeginEnding();
    if (fds[kProcess].revents != 0) dead_ = true;
    if (!dead_) Step();
  }

  void Hear() {
    channel_.Read();
    while (std::optional<Frame> frame = channel_.Next()) {
      if (frame->type == kControlFrame && ending_ == Ending::kNone) control_ += frame->payload;
      if (frame->type == kEndControlFrame) BeginEnding();
    }
  }

  void BeginEnding() {
    if (ending_ != Ending::kNone) return;
    ending_ = Ending::kClosed;
    next_step_ = Clock::now() + options_.polite;
    control_.clear();
    worker_.control.Reset();
  }

  void Step() {
    if ((ending_ != Ending::kClosed && ending_ != Ending::kTerminated) || Clock::now() < next_step_) return;
    const bool first = ending_ == Ending::kClosed;
    ending_ = first ? Ending::kTerminated : Ending::kKilled;
    next_step_ = Clock::now() + options_.terminate;
    ::kill(-worker_.pid, first ? SIGTERM : SIGKILL);
  }

  void WriteControl() {
    size_t written = 0;
    while (worker_.control && written < control_.size()) {
      const ssize_t n = ::write(worker_.control.get(), control_.data() + written, control_.size() - written);
      if (n >= 0) {
        written += static_cast<size_t>(n);
      } else if (errno == EAGAIN) {
        break;
      } else if (errno != EINTR) {
        worker_.control.Reset();
      }
    }
    control_.erase(0, worker_.control ? written : std::string::npos);
  }

  // Both: the bytes passed on, 0 where there are none now or ever.
  size_t PassEvents() {
    std::array<char, kMaxFrameBytes> chunk{};
    const ssize_t n = ::read(worker_.events.get(), chunk.data(), chunk.size());
    if (n > 0) channel_.Send(kEventsFrame, {chunk.data(), static_cast<size_t>(n)});
    if (n == 0) worker_.events.Reset();
    return n > 0 ? static_cast<size_t>(n) : 0;
  }

  size_t PassLog() {
    std::array<char, 16 << 10> chunk{};
    const ssize_t n = ::read(worker_.log.get(), chunk.data(), chunk.size());
    if (n == 0) worker_.log.Reset();
    for (ssize_t at = 0; at < n;) {
      const ssize_t written = ::write(STDERR_FILENO, chunk.data() + at, static_cast<size_t>(n - at));
      if (written <= 0 && errno != EINTR) break;
      at += std::max<ssize_t>(0, written);
    }
    return n > 0 ? static_cast<size_t>(n) : 0;
  }

  int Bury() {
    ::kill(-worker_.pid, SIGKILL);  // before the wait, while the number cannot be another group's
    while (worker_.log && PassLog() > 0) {
    }
    while (worker_.events && !channel_.broken() && PassEvents() > 0) {
    }
    int status = 0;
    while (::waitpid(worker_.pid, &status, 0) < 0 && errno == EINTR) {
    }
    const std::optional<int64_t> after = oom_kills_.Read();
    LaunchNote note{.kind = LaunchNote::Kind::kEnded, .job = {}, .node = {}, .reason = {}, .end = {}};
    if (WIFEXITED(status)) note.end.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) note.end.signal = signal_ = WTERMSIG(status);
    if (before_ && after) note.end.oom_kills = *after > *before_ ? OomKills::kSome : OomKills::kNone;
    channel_.Send(kExitFrame, EncodeNote(note));
    const Clock::time_point until = Clock::now() + kAnswerPatience;
    for (channel_.Flush(); channel_.has_to_write() && Clock::now() < until; channel_.Flush()) {
      WaitFor(channel_.fd(), POLLOUT, milliseconds(MillisecondsUntil(until)));
    }
    // Closing now could throw away what the relay has not read yet: it closes first.
    while (!channel_.broken() && Clock::now() < until) {
      if (WaitFor(channel_.fd(), POLLIN, milliseconds(MillisecondsUntil(until)))) channel_.Read();
    }
    return channel_.has_to_write() ? kAgentCutOff : 0;
  }

  const NodeAgentOptions& options_;
  FrameChannel channel_;
  SpawnedWorker worker_;
  UniqueFd signals_;
  OtherRanks& others_;
  const OomKillCounter oom_kills_ = OomKillCounter::OfThisProcess();
  const std::optional<int64_t> before_ = oom_kills_.Read();
  std::string control_;  // for the worker, not written yet
  Ending ending_ = Ending::kNone;
  Clock::time_point next_step_;
  bool dead_ = false;
  int signal_ = 0;
};

int RunRank(const NodeAgentOptions& options, const std::string& secret, int rank, OtherRanks& others, bool* left_by_itself) {
  UniqueFd signals = EndSignals();
  if (!signals) return Fail(kAgentCannotReach, "out of file descriptors");
  Result<UniqueFd> socket = Connect(options, secret);
  if (!socket.ok()) return Fail(kAgentCannotReach, socket.error().message);
  Result<SpawnedWorker> worker = SpawnWorker(options.worker, EnvironmentWith({}));
  if (!worker.ok()) return Fail(kAgentCannotReach, HostName() + ": " + worker.error().message);
  Agent agent(options, *std::move(socket), *std::move(worker), std::move(signals), others);
  const int code = agent.Run();
  *left_by_itself = agent.left_by_itself();
  return code == 0 && rank > 0 && agent.signal() != 0 ? kAgentWorkerKilled : code;
}

}  // namespace

int RunNodeAgent(const NodeAgentOptions& options) {
  const std::string secret = EnvironmentOr(kSecretVariable, "");
  ::unsetenv(kSecretVariable);
  if (secret.empty()) return Fail(kAgentCannotReach, std::string(kSecretVariable) + " is not set: started by hand, or srun passed no environment on");
  OtherRanks others;
  const int rank = others.Start(options.ranks);
  bool left_by_itself = false;
  const int code = RunRank(options, SecretOfRank(secret, rank), rank, others, &left_by_itself);
  others.End(options, left_by_itself);
  return code == 0 && others.is_one_unheard() ? kAgentCannotReach : code;
}

}  // namespace hproc::controller
