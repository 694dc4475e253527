#include "controller/slurm/rank_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "controller/launch_note.h"
#include "controller/slurm/end_signals.h"
#include "controller/slurm/frame_channel.h"
#include "controller/slurm/pass_on.h"
#include "controller/slurm/rank_links.h"
#include "controller/spawn.h"

namespace hproc::controller {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenTries{50};

class RankRelay {
 public:
  RankRelay(const RankRelayOptions& options, UniqueFd signals) : options_(options), signals_(std::move(signals)) {
    ::fcntl(STDIN_FILENO, F_SETFL, ::fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
  }

  int Run() {
    while (!done_) Turn();
    return 0;
  }

 private:
  void Turn() {
    const Clock::time_point before = Clock::now();
    if (!link_ && !is_alone_ && before >= next_try_) Link(before);
    const bool takes_control = !is_ending_ && channel_ && channel_->queued_bytes() < kMostQueuedBytes;
    enum Source { kStdin, kSignal, kLink, kAgent };
    std::array<pollfd, 4> fds{{
        {is_ending_ ? -1 : STDIN_FILENO, static_cast<short>(takes_control ? POLLIN : 0), 0},
        {signals_.get(), POLLIN, 0},
        {link_ ? link_->get() : -1, POLLIN, 0},
        {channel_ ? channel_->fd() : -1, static_cast<short>(POLLIN | (channel_ && channel_->has_to_write() ? POLLOUT : 0)), 0},
    }};
    Clock::time_point due = before + std::chrono::seconds(10);
    if (!link_ && !is_alone_) due = std::min(due, next_try_);
    if (give_up_at_) due = std::min(due, *give_up_at_);
    const auto timeout = std::max<int64_t>(0, std::chrono::ceil<milliseconds>(due - before).count());
    if (::poll(fds.data(), fds.size(), static_cast<int>(timeout)) < 0) return;
    if (fds[kAgent].revents != 0) Hear();
    if (fds[kLink].revents != 0) HearRelay();
    if (fds[kSignal].revents != 0) {
      signalfd_siginfo info{};
      [[maybe_unused]] const ssize_t n = ::read(signals_.get(), &info, sizeof info);
      BeginEnding();
    } else if (fds[kStdin].revents != 0) {
      const bool has_more = takes_control && (fds[kStdin].revents & POLLIN) != 0 && PassControl(channel_);
      if (!has_more) BeginEnding();
    }
    if (channel_) channel_->Flush();
    Conclude(Clock::now());
  }

  void Link(Clock::time_point now) {
    link_ = LinkToRelay(options_.job_name, options_.rank);
    next_try_ = now + kBetweenTries;
    if (!link_ && now - begun_ >= options_.link_patience) is_alone_ = true;
  }

  // The connection, if there comes to be one, and in the end how the job ended, or nothing more.
  void HearRelay() {
    FromRelay heard = ReceiveFromRelay(link_->get());
    if (heard.connection && !channel_ && !is_heard_) channel_.emplace(std::move(heard.connection));
    said_ += heard.text;
    if (!heard.is_over) return;
    if (const std::optional<LaunchNote> note = DecodeNote(said_.substr(0, said_.find('\n')))) {
      of_job_ = note->end;
      if (hello_.job.empty()) hello_.job = note->job;
      if (hello_.node.empty()) hello_.node = note->node;
    }
    link_.reset();
    is_alone_ = true;
  }

  void Hear() {
    const std::optional<LaunchEnd> end = PassEvents(*channel_, [this](const LaunchNote& note) {
      is_heard_ = true;
      hello_ = note;
      WriteAll(options_.notes_fd, EncodeNote(note));
    });
    if (end) exit_ = end;
    if (!exit_ && !channel_->broken()) return;
    channel_.reset();
    is_over_ = true;
    give_up_at_ = Clock::now() + options_.end_patience;
  }

  void BeginEnding() {
    if (is_ending_) return;
    is_ending_ = true;
    if (channel_) channel_->Send(kEndControlFrame, "");
  }

  void Conclude(Clock::time_point now) {
    // The other ranks should not have to wait for what a worker says itself. One that a signal ended has the job end, too
    // (node_agent.cc), and the relay says why.
    const bool as_reported = LeftByItself(exit_);
    const bool is_asked_for = is_ending_ && !channel_;
    const bool is_unheard = is_alone_ && !channel_ && !is_over_;  // and never will be
    const bool is_known = is_over_ && (is_alone_ || now >= *give_up_at_);
    if (!as_reported && !is_asked_for && !is_unheard && !is_known) return;
    LaunchNote note{.kind = LaunchNote::Kind::kEnded, .job = hello_.job, .node = hello_.node, .reason = {}, .end = {}};
    if (exit_) note.end = *exit_;
    if (!as_reported && !is_asked_for) {
      const char* without_a_word = is_over_ ? kJobLost : hello_.node.empty() ? kJobNotLaunched : kJobNotHeard;
      note.end.state = !of_job_.state.empty() || exit_ ? of_job_.state : without_a_word;
      note.end.message = of_job_.message;
    }
    WriteAll(options_.notes_fd, EncodeNote(note));
    done_ = true;
  }

  const RankRelayOptions& options_;
  UniqueFd signals_;
  const Clock::time_point begun_ = Clock::now();

  std::optional<UniqueFd> link_;
  Clock::time_point next_try_ = begun_;
  std::string said_;         // by the relay
  LaunchEnd of_job_;         // as far as it did
  bool is_alone_ = false;    // the relay is gone, or never was there

  std::optional<FrameChannel> channel_;
  LaunchNote hello_;
  bool is_heard_ = false;
  bool is_over_ = false;     // the connection; it was there
  std::optional<LaunchEnd> exit_;  // the worker's
  std::optional<Clock::time_point> give_up_at_;
  bool is_ending_ = false;
  bool done_ = false;
};

}  // namespace

int RunRankRelay(const RankRelayOptions& options) {
  UniqueFd signals = EndSignals();
  if (!signals) return 1;
  return RankRelay(options, std::move(signals)).Run();
}

}  // namespace hproc::controller
