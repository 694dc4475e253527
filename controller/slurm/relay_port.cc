#include "controller/slurm/relay_port.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "controller/slurm/handshake.h"
#include "controller/slurm/relay.h"

namespace hproc::controller {
namespace {

using Clock = std::chrono::steady_clock;

UniqueFd Listen(int family, sockaddr* address, socklen_t size) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int off = 0;
  if (fd && family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (!fd || ::bind(fd.get(), address, size) != 0 || ::listen(fd.get(), static_cast<int>(kMostStrangers)) != 0) fd.Reset();
  return fd;
}

}  // namespace

Result<RelayPort> RelayPort::Open(std::string secret, int ranks) {
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  UniqueFd fd = Listen(AF_INET6, reinterpret_cast<sockaddr*>(&any6), sizeof any6);
  if (!fd) {
    sockaddr_in any4{};
    any4.sin_family = AF_INET;
    fd = Listen(AF_INET, reinterpret_cast<sockaddr*>(&any4), sizeof any4);
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (!fd || ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return Error{"cannot listen for the worker: " + std::generic_category().message(errno)};
  }
  const int port = bound.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port)
                                               : ntohs(reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  std::vector<std::string> secrets;
  for (int rank = 0; rank < ranks; ++rank) secrets.push_back(SecretOfRank(secret, rank));
  return RelayPort(std::move(secrets), std::move(fd), port);
}

RelayPort::RelayPort(std::vector<std::string> secrets, UniqueFd listener, int port)
    : secrets_(std::move(secrets)), listener_(std::move(listener)), port_(port) {}

void RelayPort::AppendTo(std::vector<pollfd>& fds) const {
  if (!listener_) return;
  fds.push_back({listener_.get(), POLLIN, 0});
  for (const Stranger& stranger : strangers_) fds.push_back({stranger.fd.get(), POLLIN, 0});
}

void RelayPort::Accept() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd || strangers_.size() >= kMostStrangers) return;  // an agent of ours tries again
  Stranger stranger{.fd = std::move(fd), .nonce = MakeNonce(), .said = {}, .until = Clock::now() + kStrangerPatience};
  const std::string greeting = RelayGreeting(stranger.nonce);
  if (::send(stranger.fd.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(greeting.size())) {
    strangers_.push_back(std::move(stranger));
  }
}

std::optional<RelayPort::Agent> RelayPort::Take(const std::vector<pollfd>& fds) {
  if (!listener_) return std::nullopt;
  const auto is_ready = [&](int fd) {
    return std::ranges::any_of(fds, [fd](const pollfd& polled) { return polled.fd == fd && polled.revents != 0; });
  };
  for (Stranger& stranger : strangers_) {
    if (!is_ready(stranger.fd.get())) continue;
    std::array<char, kAnswerBytes + 1> chunk{};
    const ssize_t n = ::recv(stranger.fd.get(), chunk.data(), chunk.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n > 0) stranger.said.append(chunk.data(), static_cast<size_t>(n));
    if (n > 0 && stranger.said.size() < kAnswerBytes) continue;
    const auto secret = std::ranges::find_if(secrets_, [&](const std::string& known) {
      return n > 0 && !known.empty() && CheckAgentAnswer(known, stranger.nonce, stranger.said);
    });
    if (secret != secrets_.end()) {
      const std::string proof = RelayProof(*secret, std::string_view(stranger.said).substr(kMagic.size(), kNonceBytes), stranger.nonce);
      if (::send(stranger.fd.get(), proof.data(), proof.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(proof.size())) {
        Agent agent{.connection = std::move(stranger.fd), .rank = static_cast<int>(secret - secrets_.begin())};
        secret->clear();
        if (std::ranges::all_of(secrets_, &std::string::empty)) {
          listener_.Reset();
          strangers_.clear();
        }
        return agent;
      }
    }
    stranger.fd.Reset();
  }
  const Clock::time_point now = Clock::now();
  std::erase_if(strangers_, [&](const Stranger& stranger) { return !stranger.fd || now >= stranger.until; });
  if (is_ready(listener_.get())) Accept();
  return std::nullopt;
}

std::optional<Clock::time_point> RelayPort::Next() const {
  std::optional<Clock::time_point> next;
  for (const Stranger& stranger : strangers_) next = std::min(next.value_or(stranger.until), stranger.until);
  return next;
}

std::vector<std::string> OwnHosts() {
  std::vector<std::string> hosts;
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) == 0) hosts.emplace_back(name.data());
  ifaddrs* interfaces = nullptr;
  if (::getifaddrs(&interfaces) != 0) return hosts;
  bool has_address = false;
  for (const ifaddrs* at = interfaces; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_LOOPBACK) != 0 || (at->ifa_flags & IFF_UP) == 0) continue;
    std::array<char, INET6_ADDRSTRLEN> text{};
    const int family = at->ifa_addr->sa_family;
    if (family == AF_INET) {
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr, text.data(), text.size());
    } else if (family == AF_INET6) {
      const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr;
      if (IN6_IS_ADDR_LINKLOCAL(&address)) continue;
      ::inet_ntop(AF_INET6, &address, text.data(), text.size());
    } else {
      continue;
    }
    hosts.emplace_back(text.data());
    has_address = true;
  }
  ::freeifaddrs(interfaces);
  if (!has_address) hosts.emplace_back("127.0.0.1");  // a machine for itself
  return hosts;
}

}  // namespace hproc::controller
