#include "controller/slurm/relay.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>

#include "controller/launch_note.h"
#include "controller/slurm/end_signals.h"
#include "controller/slurm/frame_channel.h"
#include "controller/slurm/handshake.h"
#include "controller/slurm/job_queue.h"
#include "controller/slurm/node_agent.h"
#include "controller/slurm/pass_on.h"
#include "controller/slurm/rank_links.h"
#include "controller/slurm/relay_port.h"
#include "controller/slurm/run_command.h"
#include "controller/spawn.h"

namespace hproc::controller {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr size_t kTailBytes = size_t{4} << 10;  // of what srun and the worker print, for the last line

// squeue asks slurmctld, which serves a whole cluster: seldom, and more seldom the longer it takes.
constexpr milliseconds kFirstQuery{300};
constexpr milliseconds kMostBetweenQueries{10'000};
// After srun's end its job may still be on its way out.
constexpr milliseconds kBetweenLastQueries{500};
constexpr seconds kLastQueries{20};
constexpr seconds kBetweenLaunches{3};

// Of an ending that was asked for: the agent has the worker end (RelayOptions::agent_grace), then srun ends its job, then it is
// killed.
constexpr seconds kSrunGrace{6};

std::string DurationText(milliseconds duration) {
  const int64_t whole = duration.count() / 1000;
  return whole % 60 == 0 && whole > 0 ? std::to_string(whole / 60) + " min" : std::to_string(whole) + " s";
}

class Relay {
 public:
  Relay(const RelayOptions& options, SlurmPrograms programs, UniqueFd signals)
      : options_(options), programs_(std::move(programs)), signals_(std::move(signals)), tail_() {
    ::fcntl(STDIN_FILENO, F_SETFL, ::fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
  }

  int Run() {
    if (options_.ranks > 1) {
      Result<RankLinks> links = RankLinks::Open(options_.task.job_name, options_.ranks);
      if (!links.ok()) return Give(kJobNotLaunched, links.error().message) ? 0 : 1;
      links_ = *std::move(links);
    }
    if (!Launch()) return 1;
    while (!done_) Turn();
    channel_.reset();  // the agent waits for it
    if (cancel_) {
      pollfd wait{cancel_->pidfd(), POLLIN, 0};
      ::poll(&wait, 1, static_cast<int>(milliseconds(kSrunGrace).count()));
    }
    return 0;
  }

 private:
  enum class Ending { kNone, kAsked, kCancelled, kKilled };
  enum class Avoiding { kAll, kFaulty, kNone };

  // ---- srun ----

  bool Launch() {
    const std::string secret = MakeSecret();
    Result<RelayPort> port = RelayPort::Open(secret, options_.ranks);
    if (!port.ok()) return Give(kJobNotLaunched, port.error().message);
    port_ = *std::move(port);
    SrunTask task = options_.task;
    task.avoid.clear();
    if (avoiding_ != Avoiding::kNone) task.avoid = options_.faulty;
    if (avoiding_ == Avoiding::kAll) task.avoid.insert(task.avoid.end(), options_.avoid.begin(), options_.avoid.end());
    task.command = {options_.agent, "node", "--port=" + std::to_string(port_->port()),
                    "--ranks=" + std::to_string(options_.ranks)};
    for (const std::string& host : options_.hosts.empty() ? OwnHosts() : options_.hosts) task.command.push_back("--host=" + host);
    task.command.emplace_back("--");
    task.command.insert(task.command.end(), options_.worker.begin(), options_.worker.end());
    std::vector<std::string> argv = SrunArguments(task);
    argv.insert(argv.begin(), {options_.agent, "srun", "--parent=" + std::to_string(::getpid()), "--", programs_.srun});
    Result<SpawnedWorker> spawned = SpawnWorker(argv, EnvironmentWith({std::string(kSecretVariable) + "=" + secret}));
    if (!spawned.ok()) return Give(kJobNotLaunched, spawned.error().message);
    srun_ = *std::move(spawned);
    srun_->control.Reset();
    srun_->events.Reset();
    next_query_ = Clock::now() + kFirstQuery;
    query_period_ = kFirstQuery;
    elsewhere_until_.reset();
    tail_.clear();
    return true;
  }

  // srun is gone, and no worker was heard. Whether it is worth another go.
  bool LaunchAgain() {
    if (ending_ != Ending::kNone) return false;
    if (is_tired_) {
      is_tired_ = false;
      AvoidLess("no other node was to be had within " + DurationText(PatienceElsewhere().value_or(milliseconds(0))));
      launch_at_ = Clock::now();
      return true;
    }
    const bool is_refused = !job_ || (job_->state == "FAILED" && job_->node.empty());  // it was never on a node
    if (!is_refused && !IsPending(job_->state)) return false;
    if (no_answer_since_) {  // neither srun nor squeue reaches Slurm: it may be back soon
      if (Clock::now() - *no_answer_since_ >= options_.slurm_patience) return false;
      Note(LaunchNote::Kind::kPending, "Slurm does not answer: " + (tail_.empty() ? query_error_ : LastLine(tail_)));
      launch_at_ = Clock::now() + kBetweenLaunches;
      return true;
    }
    if (!is_refused || !AvoidLess("Slurm has no other node: " + LastLine(tail_))) return false;
    launch_at_ = Clock::now();
    return true;
  }

  // How long the job may wait in the queue for the sake of the nodes that it avoids; none where it avoids none.
  std::optional<milliseconds> PatienceElsewhere() const {
    if (avoiding_ == Avoiding::kAll && !options_.avoid.empty()) return options_.elsewhere_patience;
    if (avoiding_ != Avoiding::kNone && !options_.faulty.empty()) return options_.faulty_patience;
    return std::nullopt;
  }

  bool AvoidLess(const std::string& why) {
    if (!PatienceElsewhere()) return false;
    const bool has_avoided_all = avoiding_ == Avoiding::kAll && !options_.avoid.empty();
    avoiding_ = has_avoided_all && !options_.faulty.empty() ? Avoiding::kFaulty : Avoiding::kNone;
    if (avoiding_ == Avoiding::kNone && !options_.faulty.empty()) {
      std::string nodes;
      for (const std::string& node : options_.faulty) nodes += (nodes.empty() ? "" : ", ") + node;
      Note(LaunchNote::Kind::kRemark, why + "; " + nodes + ", where an attempt met a fault, may be used again");
    }
    return true;
  }

  // What srun left in the queue goes first, or there would be two jobs of this name. Slurm may be away for that, too.
  void ClearQueue() {
    launch_at_.reset();
    is_clearing_ = true;
    StartCancel();
    if (!cancel_) Cleared(1);
  }

  void Cleared(int code) {
    is_clearing_ = false;
    if (ending_ != Ending::kNone) return;
    job_.reset();
    if (code == 0) {
      Launch();
      return;
    }
    if (!no_answer_since_) no_answer_since_ = Clock::now();
    if (!LaunchAgain()) Give(kJobNotLaunched, LastLine(tail_));
  }

  void StartCancel() {
    Result<ChildCommand> cancel = ChildCommand::Start({programs_.scancel, "--quiet", "--name=" + options_.task.job_name});
    cancel_until_ = Clock::now() + kMostBetweenQueries;
    if (cancel.ok()) cancel_.emplace(*std::move(cancel));
  }

  void ReapSrun() {
    while (srun_->log && PassLog() > 0) {
    }
    int status = 0;
    while (::waitpid(srun_->pid, &status, 0) < 0 && errno == EINTR) {
    }
    srun_.reset();
    last_queries_until_ = Clock::now() + kLastQueries;
    next_query_ = Clock::now();
    is_query_answered_ = false;
    is_asked_since_end_ = false;
  }

  size_t PassLog() {
    std::array<char, 16 << 10> chunk{};
    const ssize_t n = ::read(srun_->log.get(), chunk.data(), chunk.size());
    if (n == 0) srun_->log.Reset();
    if (n <= 0) return 0;
    tail_.append(chunk.data(), static_cast<size_t>(n));
    if (tail_.size() > 2 * kTailBytes) tail_.erase(0, tail_.size() - kTailBytes);
    WriteAll(STDERR_FILENO, {chunk.data(), static_cast<size_t>(n)});
    return static_cast<size_t>(n);
  }

  // ---- squeue ----

  void Ask() {
    std::vector<std::string> argv = SqueueArguments(options_.task.job_name);
    argv.insert(argv.begin(), programs_.squeue);
    Result<ChildCommand> query = ChildCommand::Start(argv);
    query_until_ = Clock::now() + kMostBetweenQueries;
    if (query.ok()) query_.emplace(*std::move(query));
    query_period_ = srun_ ? std::min(query_period_ * 2, kMostBetweenQueries) : kBetweenLastQueries;
    next_query_ = Clock::now() + query_period_;
  }

  // squeue was answered, or not.
  void TakeReachability(bool is_answered) {
    is_query_answered_ = is_answered;
    is_asked_since_end_ |= !srun_;
    if (is_answered) {
      no_answer_since_.reset();
    } else if (!no_answer_since_) {
      no_answer_since_ = Clock::now();
    }
  }

  void TakeAnswer() {
    const int code = query_->Reap();
    const std::optional<JobInfo> job = code == 0 ? ParseSqueue(query_->output()) : std::nullopt;
    query_error_ = code == 0 ? "" : LastLine(query_->output());
    TakeReachability(code == 0);
    query_.reset();
    if (!job) {
      if (code == 0 && job_) job_->state.clear();  // a step within an allocation that others own
      return;
    }
    const bool is_new = !job_ || job_->state != job->state || job_->reason != job->reason;
    job_ = job;
    if (channel_ || !is_new || !srun_) return;
    connect_until_.reset();  // time in the queue, for the first time or again, and asleep is not the agent's
    if (!IsPending(job->state)) elsewhere_until_.reset();
    if (IsPending(job->state)) {
      Note(LaunchNote::Kind::kPending, job->reason);
      const std::optional<milliseconds> patience = PatienceElsewhere();
      if (patience && !elsewhere_until_) elsewhere_until_ = Clock::now() + *patience;
    } else if (job->state == "RUNNING") {
      connect_until_ = Clock::now() + options_.connect_patience;
      Note(LaunchNote::Kind::kStarted, "");
    }
  }

  // ---- the agent ----

  void Connected(RelayPort::Agent agent) {
    elsewhere_until_.reset();  // the job runs, whatever squeue said last
    if (agent.rank > 0) {
      links_->Give(agent.rank, std::move(agent.connection));
    } else {
      channel_.emplace(std::move(agent.connection));
    }
  }

  void Hear() {
    const std::optional<LaunchEnd> end = PassEvents(*channel_, [this](const LaunchNote& note) {
      if (!job_) job_.emplace();
      job_->id = note.job;
      job_->node = note.node;
      job_->state = "RUNNING";
      Note(LaunchNote::Kind::kConnected, "");
      is_heard_ = true;
      connect_until_.reset();  // not before: an agent that cannot start its worker says nothing
    });
    if (end) exit_ = end;
    // It has said all there is, or is gone. In either case srun's end is next.
    if (exit_ || channel_->broken()) {
      channel_.reset();
      if (!exit_) cut_off_until_ = Clock::now() + options_.agent_grace;
    }
  }

  // ---- the supervisor ----

  void Note(LaunchNote::Kind kind, const std::string& reason) {
    LaunchNote note;
    note.kind = kind;
    note.reason = reason;
    if (job_) note.job = job_->id;
    if (job_) note.node = job_->node;
    WriteAll(options_.notes_fd, EncodeNote(note));
  }

  // The last note. Returns false, for whom that is an answer.
  bool Give(const std::string& state, const std::string& message) {
    LaunchNote note;
    note.kind = LaunchNote::Kind::kEnded;
    if (job_) note.job = job_->id;
    if (job_) note.node = job_->node;
    if (exit_) note.end = *exit_;
    note.end.state = state;
    note.end.message = message;
    WriteAll(options_.notes_fd, EncodeNote(note));
    if (links_) links_->End(EncodeNote(note));
    done_ = true;
    return false;
  }

  // ---- the end ----

  void BeginEnding() {
    if (ending_ != Ending::kNone) return;
    ending_ = Ending::kAsked;
    if (channel_) {
      channel_->Send(kEndControlFrame, "");
      next_step_ = Clock::now() + options_.agent_grace;
    } else {
      Cancel();
    }
  }

  void Cancel() {
    ending_ = Ending::kCancelled;
    next_step_ = Clock::now() + kSrunGrace;
    launch_at_.reset();
    is_clearing_ = false;
    if (srun_) ::kill(srun_->pid, SIGTERM);  // gives the job back, running or not
    StartCancel();  // should srun be stuck or gone, or its job be requeued behind its back
  }

  void StepEnding(Clock::time_point now) {
    if (ending_ == Ending::kNone || now < next_step_) return;
    if (ending_ == Ending::kAsked) return Cancel();
    if (ending_ == Ending::kCancelled && srun_) ::kill(srun_->pid, SIGKILL);
    ending_ = Ending::kKilled;
    next_step_ = now + std::chrono::hours(1);
  }

  // srun is gone. Decides how it all ended, or waits for another answer of squeue.
  void Conclude(Clock::time_point now) {
    if (LeftByItself(exit_) || ending_ != Ending::kNone) {
      Give("", "");
      return;
    }
    if (!is_asked_since_end_ || (is_query_answered_ && job_ && IsActive(job_->state) && now < last_queries_until_)) return;
    if (!is_heard_ && LaunchAgain()) return;
    if (done_) return;
    const std::string said = LastLine(tail_);
    // Before srun's last line, which says no more than the agent's exit code.
    const std::string agent_said = LastLine(tail_, "hproc-slurm: ");
    constexpr std::array<std::string_view, 3> kSaysNothing = {"", "COMPLETED", "FAILED"};
    const bool is_over = job_ && is_query_answered_ && !IsActive(job_->state) && !(has_given_up_ && job_->state == "CANCELLED") &&
                         std::ranges::find(kSaysNothing, job_->state) == kSaysNothing.end();
    if (is_over) {
      if (IsPending(job_->state)) (void)RunCommand({programs_.scancel, "--quiet", "--name=" + options_.task.job_name}, kSrunGrace);
      Give(job_->state, said);
    } else if (exit_) {
      Give("", agent_said);  // of another rank, which could not start
    } else if (is_heard_) {
      Give(kJobLost, query_error_.empty() ? said : "Slurm does not answer: " + query_error_);
    } else if (job_ && !job_->node.empty()) {
      Give(kJobNotHeard, agent_said.empty() ? said : agent_said);
    } else {
      Give(kJobNotLaunched, said.empty() ? query_error_ : said);
    }
  }

  bool IsAsking() const { return !channel_ && !launch_at_ && !is_clearing_; }
  bool MayAsk() const { return IsAsking() && !query_ && !done_ && !(exit_ && srun_); }

  void Turn() {
    const Clock::time_point before = Clock::now();
    if (before >= next_query_ && MayAsk()) Ask();
    const bool takes_control = ending_ == Ending::kNone && channel_ && channel_->queued_bytes() < kMostQueuedBytes;
    std::vector<pollfd> fds = {
        {ending_ == Ending::kNone ? STDIN_FILENO : -1, static_cast<short>(takes_control ? POLLIN : 0), 0},
        {signals_.get(), POLLIN, 0},
        {srun_ ? srun_->pidfd.get() : -1, POLLIN, 0},
        {srun_ ? srun_->log.get() : -1, POLLIN, 0},
        {query_ ? query_->pidfd() : -1, POLLIN, 0},
        {query_ ? query_->output_fd() : -1, POLLIN, 0},
        {cancel_ ? cancel_->pidfd() : -1, POLLIN, 0},
        {channel_ ? channel_->fd() : -1, static_cast<short>(POLLIN | (channel_ && channel_->has_to_write() ? POLLOUT : 0)), 0},
    };
    enum Source { kStdin, kSignal, kSrun, kLog, kQuery, kQueryOutput, kCancel, kAgent };
    if (port_) port_->AppendTo(fds);
    if (links_) links_->AppendTo(fds);
    Clock::time_point due = before + seconds(10);
    if (MayAsk()) due = std::min(due, next_query_);
    if (query_) due = std::min(due, query_until_);
    if (cancel_) due = std::min(due, cancel_until_);
    if (ending_ != Ending::kNone) due = std::min(due, next_step_);
    for (const auto& at : {launch_at_, connect_until_, elsewhere_until_, cut_off_until_, port_ ? port_->Next() : std::nullopt}) {
      if (at) due = std::min(due, *at);
    }
    const auto timeout = std::max<int64_t>(0, std::chrono::ceil<milliseconds>(due - before).count());
    if (::poll(fds.data(), fds.size(), static_cast<int>(timeout)) < 0) return;
    const Clock::time_point now = Clock::now();

    if (fds[kLog].revents != 0) PassLog();
    if (port_) {
      if (std::optional<RelayPort::Agent> agent = port_->Take(fds)) Connected(*std::move(agent));
    }
    if (links_) links_->Take(fds);
    if (fds[kAgent].revents != 0 && channel_) Hear();
    if (fds[kStdin].revents != 0) {
      if (takes_control && (fds[kStdin].revents & POLLIN) != 0) {
        if (!PassControl(channel_)) BeginEnding();
      } else if ((fds[kStdin].revents & (POLLHUP | POLLERR)) != 0) {
        BeginEnding();
      }
    }
    if (fds[kSignal].revents != 0) {
      signalfd_siginfo info{};
      [[maybe_unused]] const ssize_t n = ::read(signals_.get(), &info, sizeof info);
      BeginEnding();
      if (ending_ == Ending::kAsked) Cancel();
    }
    if (channel_) channel_->Flush();
    if (fds[kQueryOutput].revents != 0 && query_) query_->ReadOutput();
    if (fds[kQuery].revents != 0 && query_) TakeAnswer();
    if (query_ && now >= query_until_) {  // slurmctld does not answer: the same as an error
      query_.reset();
      query_error_ = "squeue gave no answer";
      TakeReachability(false);
    }
    if (cancel_ && (fds[kCancel].revents != 0 || now >= cancel_until_)) {
      const int code = fds[kCancel].revents != 0 ? cancel_->Reap() : 1;
      cancel_.reset();
      if (is_clearing_) Cleared(code);
    }
    if (fds[kSrun].revents != 0 && srun_) ReapSrun();
    // Past, whether it still matters or not: a time that stays would have the next poll return at once.
    const auto is_past = [now](std::optional<Clock::time_point>& at) {
      const bool past = at && now >= *at;
      if (past) at.reset();
      return past;
    };
    if (is_past(connect_until_) && !is_heard_ && ending_ == Ending::kNone) {
      is_not_heard_ = true;
      Cancel();
    }
    if (is_past(elsewhere_until_) && srun_ && !channel_ && !is_heard_ && ending_ == Ending::kNone) {
      is_tired_ = true;
      ::kill(srun_->pid, SIGTERM);
    }
    if (is_past(cut_off_until_) && srun_ && ending_ == Ending::kNone) {  // the node may be gone, and srun waits for it
      has_given_up_ = true;
      ::kill(srun_->pid, SIGTERM);
    }
    StepEnding(now);
    if (launch_at_ && now >= *launch_at_) {
      ClearQueue();
    } else if (!srun_ && !launch_at_ && !is_clearing_ && !done_ && !channel_) {
      if (is_not_heard_) {
        Give(kJobNotHeard, "it did not connect within " + std::to_string(options_.connect_patience.count() / 1000) + " s");
      } else {
        Conclude(now);
      }
    }
  }

  const RelayOptions& options_;
  const SlurmPrograms programs_;
  UniqueFd signals_;

  std::optional<RelayPort> port_;
  std::optional<RankLinks> links_;   // to the programs of the other ranks, where there are any
  std::optional<SpawnedWorker> srun_;
  std::string tail_;                 // of what srun printed
  Avoiding avoiding_ = Avoiding::kAll;
  std::optional<Clock::time_point> elsewhere_until_;  // in the queue
  bool is_tired_ = false;            // of waiting for another node: srun was ended for that
  std::optional<Clock::time_point> launch_at_;  // again
  bool is_clearing_ = false;         // before that, by cancel_

  std::optional<ChildCommand> query_;
  std::optional<ChildCommand> cancel_;
  Clock::time_point next_query_;
  Clock::time_point query_until_;
  Clock::time_point cancel_until_;
  Clock::time_point last_queries_until_;
  milliseconds query_period_{0};
  std::optional<JobInfo> job_;       // as far as known
  bool is_query_answered_ = false;   // the last one
  bool is_asked_since_end_ = false;  // since srun's
  std::string query_error_;
  std::optional<Clock::time_point> no_answer_since_;  // of Slurm; none: the last one was

  std::optional<FrameChannel> channel_;
  bool is_heard_ = false;
  bool is_not_heard_ = false;        // in time
  bool has_given_up_ = false;        // on a job that is no longer heard: it was cancelled by us
  std::optional<Clock::time_point> connect_until_;
  std::optional<Clock::time_point> cut_off_until_;
  std::optional<LaunchEnd> exit_;    // the worker's

  Ending ending_ = Ending::kNone;
  Clock::time_point next_step_;
  bool done_ = false;
};

}  // namespace

int RunRelay(const RelayOptions& options) {
  Result<SlurmPrograms> programs = FindSlurmPrograms();
  if (!programs.ok()) {
    std::fprintf(stderr, "hproc-slurm: %s\n", programs.error().message.c_str());
    return 1;
  }
  UniqueFd signals = EndSignals();
  if (!signals) return 1;
  return Relay(options, *std::move(programs), std::move(signals)).Run();
}

}  // namespace hproc::controller
