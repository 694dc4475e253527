// How the relay of a trial of several ranks hands their connections to the programs that stand for ranks 1, 2, … on this machine
// (controller/slurm/rank_relay.h), and tells them how the job ended. Over a socket in the abstract namespace, whose name is
// made of the job's; only processes of the same user are spoken to.
//
//   rank ▶ relay    its number (4 bytes)
//   relay ▶ rank    a byte, and with it the descriptor of its agent's connection; then, at the end, a note
#pragma once

#include <poll.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace hproc::controller {

// The relay's side. Thread-compatible. Nothing blocks.
class RankLinks {
 public:
  static Result<RankLinks> Open(const std::string& job_name, int ranks);

  void AppendTo(std::vector<pollfd>& fds) const;
  void Take(const std::vector<pollfd>& fds);
  // The connection of `rank` >= 1, which it gets now or once it is there.
  void Give(int rank, UniqueFd connection);
  // What all of them are told before the links are closed.
  void End(const std::string& note);

 private:
  struct Link {
    UniqueFd fd;
    UniqueFd connection;  // to be handed over
  };
  RankLinks(UniqueFd listener, int ranks) : listener_(std::move(listener)), links_(static_cast<size_t>(ranks)) {}
  void HandOver(Link& link);

  UniqueFd listener_;
  std::vector<UniqueFd> strangers_;  // that have not said which rank they are
  std::vector<Link> links_;          // by rank; 0: unused
};

// The rank's side. None where the relay is not there (yet), or is another user's.
std::optional<UniqueFd> LinkToRelay(const std::string& job_name, int rank);
// What a relay has said since it was last asked. Does not block.
struct FromRelay {
  UniqueFd connection;   // empty: it did not come with this
  std::string text;      // of the note of the job's end, which may come in pieces
  bool is_over = false;  // it will say no more
};
FromRelay ReceiveFromRelay(int link);

}  // namespace hproc::controller
