#include "web/request_guard.h"

#include <gtest/gtest.h>

namespace hproc::web {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

const RequestGuard& Guard() {
  static const RequestGuard guard(
      {.bind_host = "127.0.0.1", .port = 8377, .extra_hosts = {"gpu.example:443"}, .token = "0123456789abcdef", .reads_need_token = false});
  return guard;
}

RequestHead Read(Headers more = {}, const std::string& path = "/api/v1/studies", const std::string& method = "GET") {
  RequestHead head{.method = method, .path = path, .headers = {{"Host", "127.0.0.1:8377"}}};
  for (auto& header : more) head.headers.push_back(std::move(header));
  return head;
}

RequestHead Write(Headers more = {}) {
  RequestHead head = Read(std::move(more), "/api/v1/studies", "POST");
  for (const auto& [name, value] : Headers{{"Authorization", "Bearer 0123456789abcdef"},
                                           {"Content-Type", "application/json"},
                                           {"Content-Length", "2"}}) {
    const bool set = std::any_of(head.headers.begin(), head.headers.end(), [&](const auto& h) { return h.first == name; });
    if (!set) head.headers.emplace_back(name, value);
  }
  return head;
}

int StatusOf(const RequestHead& head) {
  const std::optional<Refusal> refusal = Guard().Check(head);
  return refusal ? refusal->status : 200;
}

TEST(RequestGuard, LetsItsOwnPageReadAndItsUserChange) {
  EXPECT_EQ(StatusOf(Read()), 200);
  EXPECT_EQ(StatusOf(Read({{"Origin", "http://127.0.0.1:8377"}, {"Sec-Fetch-Site", "same-origin"}})), 200);
  EXPECT_EQ(StatusOf(Write()), 200);
  EXPECT_EQ(StatusOf(Write({{"Origin", "http://127.0.0.1:8377"}, {"Content-Type", "application/json; charset=utf-8"}})), 200);
}

TEST(RequestGuard, KnowsTheNamesOfThisMachine) {
  for (const char* host : {"localhost:8377", "LOCALHOST:8377", "[::1]:8377", "gpu.example:443"}) {
    EXPECT_EQ(StatusOf({.method = "GET", .path = "/", .headers = {{"host", host}}}), 200) << host;
  }
}

TEST(RequestGuard, RefusesAHostThatIsNotItsOwnOnEveryMethod) {
  for (const char* method : {"GET", "HEAD", "POST"}) {
    for (const char* host : {"evil.example", "evil.example:8377", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8377.evil.example", ""}) {
      RequestHead head = Write();
      head.method = method;
      head.headers[0].second = host;
      EXPECT_EQ(StatusOf(head), 421) << method << " " << host;
    }
  }
  EXPECT_EQ(StatusOf({.method = "GET", .path = "/", .headers = {}}), 421) << "no Host at all";
  EXPECT_EQ(StatusOf(Read({{"Host", "127.0.0.1:8377"}})), 421) << "two of them";
}

TEST(RequestGuard, RefusesAnotherOriginOnEveryMethod) {
  for (const char* origin : {"http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8377",
                             "http://127.0.0.1:8377.evil.example", "file://"}) {
    EXPECT_EQ(StatusOf(Read({{"Origin", origin}})), 403) << origin;
    EXPECT_EQ(StatusOf(Read({{"Origin", origin}}, "/api/v1/studies", "HEAD")), 403) << origin;
    EXPECT_EQ(StatusOf(Write({{"Origin", origin}})), 403) << origin << ", with the right token";
  }
  EXPECT_EQ(StatusOf(Read({{"Origin", "https://gpu.example:443"}})), 200) << "the proxy's";
}

TEST(RequestGuard, RefusesWhatABrowserSaysComesFromAnotherSite) {
  EXPECT_EQ(StatusOf(Read({{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Mode", "no-cors"}})), 403);
  EXPECT_EQ(StatusOf(Read({{"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Mode", "navigate"}})), 403) << "the API is no page";
  EXPECT_EQ(StatusOf(Write({{"Sec-Fetch-Site", "cross-site"}})), 403);
  EXPECT_EQ(StatusOf(Read({{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Mode", "navigate"}}, "/")), 200)
      << "a link to the page may be followed";
}

TEST(RequestGuard, WantsTheTokenForChanges) {
  for (const char* value : {"", "Bearer ", "Bearer 0123456789abcdeF", "Bearer 0123456789abcdef0", "bearer 0123456789abcdef",
                            "0123456789abcdef"}) {
    EXPECT_EQ(StatusOf(Write({{"Authorization", value}})), 401) << value;
  }
  RequestHead none = Write();
  std::erase_if(none.headers, [](const auto& header) { return header.first == "Authorization"; });
  EXPECT_EQ(StatusOf(none), 401);
}

TEST(RequestGuard, WantsTheTokenForReadsBeyondLoopback) {
  const RequestGuard guard({.bind_host = "10.0.0.5", .port = 80, .extra_hosts = {}, .token = "t", .reads_need_token = true});
  const auto status = [&](const std::string& path, const char* token) {
    const std::optional<Refusal> refusal = guard.Check(
        {.method = "GET", .path = path, .headers = {{"Host", "10.0.0.5:80"}, {"Authorization", token}}});
    return refusal ? refusal->status : 200;
  };
  EXPECT_EQ(status("/api/v1/studies", "Bearer t"), 200);
  EXPECT_EQ(status("/api/v1/studies", "Bearer x"), 401);
  EXPECT_EQ(status("/", ""), 200) << "the page itself holds nothing";
  EXPECT_TRUE(guard.Check({.method = "GET", .path = "/", .headers = {{"Host", "localhost:80"}}})) << "not its name there";
}

TEST(RequestGuard, RefusesOtherMethods) {
  for (const char* method : {"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "GET "}) {
    EXPECT_EQ(StatusOf(Read({}, "/", method)), 405) << method;
  }
}

TEST(RequestGuard, RefusesPathsThatClimb) {
  for (const std::string path : {"/../etc/passwd", "/api/v1/../../x", "/a\\b", "x", "", "/a\nb", "/..", "/....//"}) {
    EXPECT_EQ(StatusOf(Read({}, path)), 400) << path;
  }
  EXPECT_EQ(StatusOf(Read({}, std::string("/a\0b", 4))), 400);
  EXPECT_EQ(StatusOf(Read({}, "/" + std::string(600, 'a'))), 414);
}

TEST(RequestGuard, BoundsBodies) {
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "65536"}})), 200);
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "65537"}})), 413);
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "99999999999999999999"}})), 413);
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "-1"}})), 400);
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "2x"}})), 400);
  EXPECT_EQ(StatusOf(Write({{"Transfer-Encoding", "chunked"}})), 411);
  EXPECT_EQ(StatusOf(Write({{"Content-Length", "2"}, {"Content-Length", "3"}})), 400);
  EXPECT_EQ(StatusOf(Write({{"Content-Type", "text/plain"}})), 415);
  EXPECT_EQ(StatusOf(Write({{"Content-Type", "multipart/form-data; boundary=x"}})), 415);
  EXPECT_EQ(StatusOf(Read({{"Content-Length", "2"}})), 400) << "a read has no body";
}

TEST(IsLoopback, KnowsLoopback) {
  for (const char* host : {"127.0.0.1", "127.1.2.3", "::1", "localhost"}) EXPECT_TRUE(IsLoopback(host)) << host;
  for (const char* host : {"0.0.0.0", "10.0.0.1", "::", "fe80::1", "example.org", "127.0.0.1.example.org", ""}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

}  // namespace
}  // namespace hproc::web
