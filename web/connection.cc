#include "web/connection.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace hproc::web {
namespace {

constexpr std::string_view kEndOfHead = "\r\n\r\n";
constexpr std::chrono::milliseconds kSlice{200};  // in which the end of the server is noticed

void AddressOf(const sockaddr_storage& address, socklen_t bytes, std::string& ip, int& port) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> service{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), bytes, host.data(), host.size(), service.data(),
                    service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  ip = host.data();
  port = std::atoi(service.data());
}

}  // namespace

Connection::Connection(socket_t socket, const ConnectionLimits& limits, const std::atomic<bool>& ending)
    : socket_(socket), limits_(limits), ending_(ending) {}

bool Connection::Await(short events, SteadyClock::time_point deadline) const {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now());
    if (left.count() <= 0) return false;
    pollfd wait{.fd = socket_, .events = events, .revents = 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(left.count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

ssize_t Connection::Receive(char* ptr, size_t size) const {
  for (;;) {
    const ssize_t count = ::recv(socket_, ptr, size, 0);
    if (count >= 0 || errno != EINTR) return count;
  }
}

Connection::Head Connection::ReadHead() {
  head_ = std::move(beyond_);
  beyond_.clear();
  given_ = 0;
  const auto idle_until = SteadyClock::now() + limits_.idle;
  while (head_.empty()) {
    if (ending_ || SteadyClock::now() >= idle_until) return Head::kClosed;
    if (!Await(POLLIN, std::min(idle_until, SteadyClock::now() + kSlice))) continue;
    std::array<char, 4096> buffer{};
    const ssize_t count = Receive(buffer.data(), buffer.size());
    if (count <= 0) return Head::kClosed;
    head_.assign(buffer.data(), static_cast<size_t>(count));
  }
  const auto deadline = SteadyClock::now() + limits_.head;
  size_t end = head_.find(kEndOfHead);
  while (end == std::string::npos) {
    if (head_.size() > limits_.head_bytes) return Head::kTooLong;
    if (!Await(POLLIN, deadline)) return Head::kTooSlow;
    std::array<char, 4096> buffer{};
    const ssize_t count = Receive(buffer.data(), buffer.size());
    if (count <= 0) return Head::kClosed;
    const size_t from = head_.size() < kEndOfHead.size() ? 0 : head_.size() - kEndOfHead.size();
    head_.append(buffer.data(), static_cast<size_t>(count));
    end = head_.find(kEndOfHead, from);
  }
  end += kEndOfHead.size();
  if (end > limits_.head_bytes) return Head::kTooLong;
  beyond_ = head_.substr(end);
  head_.resize(end);
  if (static_cast<size_t>(std::ranges::count(head_, '\n')) > limits_.head_lines) return Head::kTooLong;
  body_deadline_ = SteadyClock::now() + limits_.body;
  return Head::kRead;
}

bool Connection::is_readable() const {
  return given_ < head_.size() || !beyond_.empty() || Await(POLLIN, SteadyClock::now() + std::chrono::milliseconds(1));
}

bool Connection::is_writable() const {
  pollfd wait{.fd = socket_, .events = POLLOUT | POLLRDHUP, .revents = 0};
  if (::poll(&wait, 1, 0) < 0) return false;
  if ((wait.revents & (POLLERR | POLLHUP | POLLRDHUP | POLLNVAL)) != 0) return false;
  return true;
}

ssize_t Connection::read(char* ptr, size_t size) {
  if (given_ < head_.size()) {
    const size_t count = std::min(size, head_.size() - given_);
    std::memcpy(ptr, head_.data() + given_, count);
    given_ += count;
    return static_cast<ssize_t>(count);
  }
  if (!beyond_.empty()) {
    const size_t count = std::min(size, beyond_.size());
    std::memcpy(ptr, beyond_.data(), count);
    beyond_.erase(0, count);
    return static_cast<ssize_t>(count);
  }
  if (!Await(POLLIN, body_deadline_)) return -1;
  return Receive(ptr, size);
}

ssize_t Connection::write(const char* ptr, size_t size) {
  if (!Await(POLLOUT, SteadyClock::now() + limits_.write)) return -1;
  for (;;) {
    const ssize_t count = ::send(socket_, ptr, size, MSG_NOSIGNAL);
    if (count >= 0 || errno != EINTR) return count;
  }
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &bytes) == 0) AddressOf(address, bytes, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &bytes) == 0) AddressOf(address, bytes, ip, port);
}

}  // namespace hproc::web
