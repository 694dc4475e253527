// HttpServer: the service on a socket: the page, the API, the event streams, /health and /metrics.
//
//   accept ─▶ a thread a connection (bounded) ─▶ head within its bounds (connection.h) ─▶ RequestGuard ─▶ Api | page | stream
//
// Bounds: kMaxConnections at once, kMaxStreams of them event streams (503 beyond), heads and bodies by size and time,
// replies by the time a write takes. httplib (Debian 12: 0.11) parses requests and writes replies; sockets, threads and
// bounds are ours.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "web/api.h"

namespace hproc::web {

inline constexpr size_t kMaxStreams = 128;
inline constexpr size_t kMaxConnections = kMaxStreams + 64;

struct ConnectionLimits {
  size_t head_bytes = size_t{16} << 10;
  size_t head_lines = 64;
  std::chrono::milliseconds idle{5000};   // between two requests
  std::chrono::milliseconds head{5000};   // from the first byte of a head to its last
  std::chrono::milliseconds body{10000};  // for the whole of it
  std::chrono::milliseconds write{10000};  // for one write to get on
};

struct ServerOptions {
  std::string bind_host = "127.0.0.1";
  int port = 0;                          // 0: any that is free
  std::vector<std::string> extra_hosts;  // request_guard.h
  std::string token;
  ConnectionLimits limits;
};

class HttpServer {
 public:
  // Binds. `api` outlives the server. Beyond loopback everything the API says needs the token. The error names the address.
  static Result<std::unique_ptr<HttpServer>> Create(Api& api, ServerOptions options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;

  // Serves until Stop, then until the requests in progress are answered and the streams have ended.
  void Run();
  // Drains: streams end, /health says 503, then no new connections. Thread-safe; returns when the streams have ended, or
  // after two seconds.
  void Stop();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace hproc::web
