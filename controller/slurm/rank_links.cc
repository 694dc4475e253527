#include "controller/slurm/rank_links.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <utility>

namespace hproc::controller {
namespace {

constexpr std::string_view kPrefix = "hproc-ranks-";

socklen_t AddressOf(const std::string& job_name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  const std::string name = std::string(1, '\0').append(kPrefix).append(job_name).substr(0, sizeof address->sun_path);
  std::memcpy(address->sun_path, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
}

bool IsOfThisUser(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == ::geteuid();
}

bool IsReady(const std::vector<pollfd>& fds, const UniqueFd& fd) {
  return std::ranges::any_of(fds, [&](const pollfd& polled) { return polled.fd == fd.get() && polled.revents != 0; });
}

}  // namespace

Result<RankLinks> RankLinks::Open(const std::string& job_name, int ranks) {
  sockaddr_un address{};
  const socklen_t size = AddressOf(job_name, &address);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 || ::listen(fd.get(), ranks) != 0) {
    return Error{"cannot listen for the other ranks: " + std::generic_category().message(errno)};
  }
  return RankLinks(std::move(fd), ranks);
}

void RankLinks::AppendTo(std::vector<pollfd>& fds) const {
  fds.push_back({listener_.get(), POLLIN, 0});
  for (const UniqueFd& stranger : strangers_) fds.push_back({stranger.get(), POLLIN, 0});
}

void RankLinks::Take(const std::vector<pollfd>& fds) {
  for (UniqueFd& stranger : strangers_) {
    if (!IsReady(fds, stranger)) continue;
    uint32_t rank = 0;
    const bool is_whole = ::recv(stranger.get(), &rank, sizeof rank, 0) == static_cast<ssize_t>(sizeof rank);
    if (is_whole && rank >= 1 && rank < links_.size() && !links_[rank].fd) {
      links_[rank].fd = std::move(stranger);
      HandOver(links_[rank]);
    }
    stranger.Reset();
  }
  std::erase_if(strangers_, [](const UniqueFd& stranger) { return !stranger; });
  if (!IsReady(fds, listener_)) return;
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd && IsOfThisUser(fd.get())) strangers_.push_back(std::move(fd));
}

void RankLinks::Give(int rank, UniqueFd connection) {
  Link& link = links_[static_cast<size_t>(rank)];
  link.connection = std::move(connection);
  if (link.fd) HandOver(link);
}

void RankLinks::HandOver(Link& link) {
  if (!link.connection) return;
  char byte = 'c';
  iovec data{.iov_base = &byte, .iov_len = 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = link.connection.get();
  std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  [[maybe_unused]] const ssize_t n = ::sendmsg(link.fd.get(), &message, MSG_NOSIGNAL);  // a rank that is gone needs none
  link.connection.Reset();
}

void RankLinks::End(const std::string& note) {
  for (Link& link : links_) {
    if (link.fd) [[maybe_unused]] const ssize_t n = ::send(link.fd.get(), note.data(), note.size(), MSG_NOSIGNAL);
    link.fd.Reset();
  }
}

std::optional<UniqueFd> LinkToRelay(const std::string& job_name, int rank) {
  sockaddr_un address{};
  const socklen_t size = AddressOf(job_name, &address);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 || !IsOfThisUser(fd.get())) return std::nullopt;
  const auto number = static_cast<uint32_t>(rank);
  if (::send(fd.get(), &number, sizeof number, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof number)) return std::nullopt;
  return fd;
}

FromRelay ReceiveFromRelay(int link) {
  std::array<char, 4096> chunk{};
  iovec data{.iov_base = chunk.data(), .iov_len = chunk.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(link, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  FromRelay heard;
  heard.is_over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
  if (n <= 0) return heard;
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  const bool has_connection = head != nullptr && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof(int));
  if (has_connection) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
    heard.connection.Reset(fd);
  }
  // The byte that a connection needs to travel with says nothing.
  const size_t first = has_connection ? 1 : 0;
  heard.text.assign(chunk.data() + first, static_cast<size_t>(n) - first);
  return heard;
}

}  // namespace hproc::controller
