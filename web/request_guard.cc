#include "web/request_guard.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

namespace hproc::web {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// The values of a header, whatever the case of its name.
std::vector<std::string_view> Values(const RequestHead& head, std::string_view name) {
  std::vector<std::string_view> values;
  for (const auto& [key, value] : head.headers) {
    if (Lower(key) == name) values.emplace_back(value);
  }
  return values;
}

// As long whatever the two have in common.
bool SameSecret(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

bool IsApi(std::string_view path) { return path.starts_with("/api/"); }

}  // namespace

bool IsLoopback(std::string_view host) {
  const std::string text(host);
  in_addr v4{};
  if (::inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  if (::inet_pton(AF_INET6, text.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  return text == "localhost";
}

RequestGuard::RequestGuard(GuardOptions options) : options_(std::move(options)) {
  const std::string port = ":" + std::to_string(options_.port);
  const bool is_v6 = options_.bind_host.find(':') != std::string::npos;
  hosts_.push_back(Lower(is_v6 ? "[" + options_.bind_host + "]" : options_.bind_host) + port);
  if (IsLoopback(options_.bind_host)) {
    for (const char* name : {"localhost", "127.0.0.1", "[::1]"}) hosts_.push_back(name + port);
  }
  for (const std::string& host : options_.extra_hosts) hosts_.push_back(Lower(host));
}

bool RequestGuard::IsOurHost(std::string_view host) const {
  const std::string lower = Lower(host);
  return std::ranges::find(hosts_, lower) != hosts_.end();
}

bool RequestGuard::IsAuthorized(const RequestHead& head) const {
  const std::vector<std::string_view> values = Values(head, "authorization");
  constexpr std::string_view kBearer = "Bearer ";
  return values.size() == 1 && values[0].starts_with(kBearer) && SameSecret(values[0].substr(kBearer.size()), options_.token);
}

std::optional<Refusal> RequestGuard::Check(const RequestHead& head) const {
  const bool reads = head.method == "GET" || head.method == "HEAD";
  if (!reads && head.method != "POST") return Refusal{405, "only GET, HEAD and POST are known here", "method"};
  if (head.path.size() > kMaxPathBytes) return Refusal{414, "the path is too long", "path"};
  // Escaped twice or not, a path that climbs or is no text is nobody's but an attacker's.
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (!head.path.starts_with('/') || head.path.find("..") != std::string::npos || head.path.find('\\') != std::string::npos ||
      std::ranges::any_of(head.path, is_control)) {
    return Refusal{400, "not a path of this server", "path"};
  }

  const std::vector<std::string_view> host = Values(head, "host");
  if (host.size() != 1 || !IsOurHost(host[0])) {
    return Refusal{421, "this server does not go by that name: use the address that hproc serve printed", "host"};
  }
  for (const std::string_view origin : Values(head, "origin")) {
    const std::string lower = Lower(origin);
    const std::string http = "http://";
    const std::string https = "https://";
    const bool ours = (lower.starts_with(http) && IsOurHost(lower.substr(http.size()))) ||
                      (lower.starts_with(https) && std::ranges::find(options_.extra_hosts, lower.substr(https.size())) !=
                                                       options_.extra_hosts.end());
    if (!ours) return Refusal{403, "another site may not ask here", "origin"};
  }
  for (const std::string_view site : Values(head, "sec-fetch-site")) {
    const std::vector<std::string_view> mode = Values(head, "sec-fetch-mode");
    const bool is_visit = reads && !IsApi(head.path) && mode.size() == 1 && mode[0] == "navigate";
    if (site != "same-origin" && site != "none" && !is_visit) return Refusal{403, "another site may not ask here", "origin"};
  }

  if ((!reads || (options_.reads_need_token && IsApi(head.path))) && !IsAuthorized(head)) {
    return Refusal{401, "this needs the token that hproc serve printed, as \"Authorization: Bearer TOKEN\"", "token"};
  }

  const std::vector<std::string_view> length = Values(head, "content-length");
  if (!Values(head, "transfer-encoding").empty()) return Refusal{411, "a body needs a Content-Length", "body"};
  if (length.size() > 1) return Refusal{400, "two lengths for one body", "body"};
  if (reads) {
    if (!length.empty() && length[0] != "0") return Refusal{400, "a request that reads has no body", "body"};
    return std::nullopt;
  }
  if (length.empty()) return Refusal{411, "a body needs a Content-Length", "body"};
  int64_t bytes = -1;
  const char* end = length[0].data() + length[0].size();
  const auto [at, error] = std::from_chars(length[0].data(), end, bytes);
  if (error == std::errc::result_out_of_range || bytes > kMaxBodyBytes) return Refusal{413, "the body is too large", "body"};
  if (error != std::errc{} || at != end || bytes < 0) return Refusal{400, "no length of a body", "body"};
  const std::vector<std::string_view> type = Values(head, "content-type");
  if (type.size() != 1 || Lower(type[0].substr(0, type[0].find(';'))) != "application/json") {
    return Refusal{415, "a body is application/json", "body"};
  }
  return std::nullopt;
}

}  // namespace hproc::web
