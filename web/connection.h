// Connection: one accepted socket as httplib's Stream, within bounds that httplib does not set: how long a request's head
// and a reply may take in all, and how long a head may be. Internal to http_server.cc.
//
// httplib waits for each read anew, so that a client which sends a byte now and then holds a thread for hours, and counts
// neither headers nor their bytes. Here the head is read whole before httplib sees any of it.
#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <string>

#include "web/http_server.h"

namespace hproc::web {

class Connection final : public httplib::Stream {
 public:
  // Does not own the socket. `ending` interrupts the wait for a further request.
  Connection(socket_t socket, const ConnectionLimits& limits, const std::atomic<bool>& ending);

  enum class Head { kRead, kClosed, kTooSlow, kTooLong };
  // The next request's head; from then on reads give it, then the body. kClosed: the client is gone, or was idle too long,
  // or the server ends.
  Head ReadHead();
  // Of the head that was read: its first word.
  std::string method() const { return head_.substr(0, head_.find(' ')); }

  bool is_readable() const override;
  bool is_writable() const override;  // false too where the client has gone
  ssize_t read(char* ptr, size_t size) override;
  ssize_t write(const char* ptr, size_t size) override;
  using Stream::write;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  using SteadyClock = std::chrono::steady_clock;
  // Waits for `events`; false at the deadline.
  bool Await(short events, SteadyClock::time_point deadline) const;
  ssize_t Receive(char* ptr, size_t size) const;

  const socket_t socket_;
  const ConnectionLimits& limits_;
  const std::atomic<bool>& ending_;
  std::string head_;
  size_t given_ = 0;    // of the head, to httplib
  std::string beyond_;  // received behind the head
  SteadyClock::time_point body_deadline_;
};

}  // namespace hproc::web
