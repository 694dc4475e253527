#include "tests/web/http_client.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace hproc::web {

Socket::Socket(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) fd_.Reset();
}

void Socket::Send(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
}

bool Socket::ReadSome(std::string& text, std::chrono::milliseconds patience) const {
  pollfd wait{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, static_cast<int>(patience.count())) <= 0) return false;
  std::array<char, 16384> buffer{};
  const ssize_t count = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (count <= 0) return false;
  text.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

std::string Socket::ReadAll(std::chrono::milliseconds patience) const {
  std::string text;
  const auto until = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0 || !ReadSome(text, left)) return text;
  }
}

std::vector<StreamEvent> StreamEventsIn(const std::string& text) {
  std::vector<StreamEvent> events;
  for (size_t at = text.find("\nid: "); at != std::string::npos; at = text.find("\nid: ", at + 1)) {
    const size_t end = text.find("\n\n", at);
    if (end == std::string::npos) break;
    // The frames of the chunked coding stand between the events, never within one.
    const std::string event = text.substr(at + 1, end - at - 1);
    const size_t type = event.find("\nevent: ");
    const size_t data = event.find("\ndata: ");
    if (type == std::string::npos || data == std::string::npos) continue;
    events.push_back({.id = event.substr(4, type - 4), .type = event.substr(type + 8, data - type - 8), .data = event.substr(data + 7)});
  }
  return events;
}

std::string StreamRequest(int port, const std::string& headers, const std::string& target) {
  return "GET " + target + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) + "\r\n" + headers + "\r\n";
}

Reply ParseReply(const std::string& text) {
  Reply reply;
  const size_t end = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.1 ") || end == std::string::npos) return reply;
  reply.status = std::atoi(text.c_str() + 9);
  for (size_t from = text.find("\r\n") + 2; from < end + 2;) {
    const size_t stop = text.find("\r\n", from);
    const std::string line = text.substr(from, stop - from);
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (colon != std::string::npos) reply.headers[name] = line.substr(colon + 2);
    from = stop + 2;
  }
  reply.body = text.substr(end + 4);
  return reply;
}

Reply Ask(int port, const std::string& method, const std::string& target, const std::string& headers,
          const std::string& body) {
  const Socket socket(port);
  std::string text = method + " " + target + " HTTP/1.1\r\nConnection: close\r\n";
  if (headers.find("Host:") == std::string::npos) text += "Host: 127.0.0.1:" + std::to_string(port) + "\r\n";
  socket.Send(text + headers + "\r\n" + body);
  return ParseReply(socket.ReadAll());
}

}  // namespace hproc::web
