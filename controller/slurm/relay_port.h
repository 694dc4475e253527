// RelayPort: where the agents connect, one for each rank, and only they get through.
#pragma once

#include <poll.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace hproc::controller {

// Thread-compatible. Nothing blocks.
class RelayPort {
 public:
  struct Agent {
    UniqueFd connection;
    int rank = 0;
  };

  // Listens on a free port of all addresses, or of the one IPv4 loopback where there is no other.
  static Result<RelayPort> Open(std::string secret, int ranks = 1);

  int port() const { return port_; }
  // What to poll, appended to `fds`; then what came of it. The connection of an agent that proved itself, each rank's once;
  // after the last the port and all other connections are closed.
  void AppendTo(std::vector<pollfd>& fds) const;
  std::optional<Agent> Take(const std::vector<pollfd>& fds);
  // When the next stranger's patience ends.
  std::optional<std::chrono::steady_clock::time_point> Next() const;

 private:
  struct Stranger {
    UniqueFd fd;
    std::string nonce;
    std::string said;
    std::chrono::steady_clock::time_point until;
  };
  RelayPort(std::vector<std::string> secrets, UniqueFd listener, int port);
  void Accept();

  std::vector<std::string> secrets_;  // by rank; empty once it is connected
  UniqueFd listener_;
  int port_;
  std::vector<Stranger> strangers_;
};

// What this machine may be reached by from others: its name, then its addresses but loopback and link-local ones.
std::vector<std::string> OwnHosts();

}  // namespace hproc::controller
