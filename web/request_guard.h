// RequestGuard: who may ask what, decided from a request's head before anything else is looked at.
//
// The dashboard listens on this machine, where every web page that its user visits can reach it. Against those pages stand:
//  - Host must name this server. A page that rebinds its own name to 127.0.0.1 sends its own name.
//  - Origin, where a browser sends one, must be this server's, on every method, not only on those that change something;
//    Sec-Fetch-Site must not say that another site asks, except for a plain visit of the page.
//  - Changes need the token, in a header that no form or link can set.
// A body is JSON of a stated length within a bound; nothing else has one. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hproc::web {

inline constexpr int64_t kMaxBodyBytes = int64_t{64} << 10;
inline constexpr size_t kMaxPathBytes = 512;

struct RequestHead {
  std::string method;
  std::string path;  // decoded, without the query
  std::vector<std::pair<std::string, std::string>> headers;  // names in any case
};

struct Refusal {
  int status = 400;
  std::string message;  // one line
  const char* rule = "";  // for the metrics: "host", "origin", "method", "token", "body", "path"
};

struct GuardOptions {
  std::string bind_host = "127.0.0.1";
  int port = 0;
  // Names under which a proxy passes requests on, "host" or "host:port"; their scheme may be https.
  std::vector<std::string> extra_hosts;
  std::string token;
  bool reads_need_token = false;
};

class RequestGuard {
 public:
  explicit RequestGuard(GuardOptions options);

  // None: it may pass.
  std::optional<Refusal> Check(const RequestHead& head) const;
  // Whether the head carries the token.
  bool IsAuthorized(const RequestHead& head) const;

 private:
  bool IsOurHost(std::string_view host) const;

  GuardOptions options_;
  std::vector<std::string> hosts_;  // "127.0.0.1:8377", …, lower case
};

// "127.0.0.1" to "127.255.255.255", "::1", "localhost".
bool IsLoopback(std::string_view host);

}  // namespace hproc::web
