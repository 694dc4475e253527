// What the server refuses, bounds and promises, asked over a socket.
#include <atomic>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "tests/web/service_fixture.h"

namespace hproc::web {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using std::chrono::milliseconds;

class HttpServerTest : public ServiceTest {};

// ---- what it says of itself ----

TEST_F(HttpServerTest, WorksWithoutAStudyFile) {
  Start();
  EXPECT_EQ(GetJson("/api/v1/studies"), json::array());
  EXPECT_EQ(GetJson("/health")["status"], "ok");
  EXPECT_EQ(GetJson("/api/v1/state")["running"], false);
  EXPECT_EQ(Get("/api/v1/studies/1").status, 404);
  EXPECT_EQ(Get("/").status, 200);
}

TEST_F(HttpServerTest, IsIllWhereTheStudyFileIsNone) {
  std::ofstream(db()) << std::string(4096, 'x');
  Start();
  EXPECT_EQ(Get("/health").status, 503);
  EXPECT_THAT(Get("/health").body, HasSubstr("not a database"));
  EXPECT_EQ(Get("/api/v1/studies").status, 503);
  EXPECT_THAT(Get("/metrics").body, HasSubstr("hproc_study_file_readable 0\n"));
}

TEST_F(HttpServerTest, CountsForPrometheus) {
  WriteExamples(6);
  Start();
  Get("/", "Host: evil.example\r\n");
  const std::string metrics = Get("/metrics").body;
  for (const char* line : {"# TYPE hproc_trials gauge\n", "hproc_trials{state=\"complete\"} 2\n", "hproc_trials{state=\"failed\"} 2\n",
                           "hproc_studies{state=\"running\"} 1\n", "hproc_running 0\n", "hproc_event_streams 0\n",
                           "hproc_http_refused_total{rule=\"host\"} 1\n"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

// The text format 0.0.4: HELP and TYPE once and before the samples of their name, names and labels as they may be, a number
// behind each, no sample twice, a line end at the end.
TEST_F(HttpServerTest, WritesMetricsThatPrometheusReads) {
  WriteExamples(6);
  Start();
  Get("/", "Host: evil.example\r\n");
  Get("/", "Origin: http://evil.example\r\n");
  const Reply reply = Get("/metrics");
  EXPECT_EQ(reply.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  ASSERT_TRUE(reply.body.ends_with('\n'));
  const std::regex comment("# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)");
  const std::regex sample(R"(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*"\})? (\d+))");
  std::map<std::string, std::string> types;
  std::set<std::string> seen;
  std::string current;
  std::istringstream lines(reply.body);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (line.starts_with("#")) {
      ASSERT_TRUE(std::regex_match(line, match, comment)) << line;
      EXPECT_TRUE(seen.insert(match.str(1) + " " + match.str(2)).second) << line;
      current = match.str(2);
      if (match.str(1) == "TYPE") types[current] = match.str(3);
      continue;
    }
    ASSERT_TRUE(std::regex_match(line, match, sample)) << line;
    EXPECT_EQ(match.str(1), current) << "samples of a name stand together, behind its TYPE";
    EXPECT_TRUE(types[current] == "gauge" || types[current] == "counter") << line;
    EXPECT_EQ(current.ends_with("_total"), types[current] == "counter") << line;
    EXPECT_TRUE(seen.insert(match.str(1) + match.str(2)).second) << line;
  }
  EXPECT_GE(types.size(), 8U);
}

TEST_F(HttpServerTest, SendsWhatKeepsAPageHarmlessWithEveryReply) {
  Start();
  for (const Reply& reply : {Get("/"), Get("/api/v1/studies"), Get("/nothing"), Get("/", "Host: evil.example\r\n"), Get("/health")}) {
    EXPECT_THAT(reply.headers.at("content-security-policy"), HasSubstr("default-src 'none'; script-src 'self';"));
    EXPECT_THAT(reply.headers.at("content-security-policy"), Not(HasSubstr("unsafe")));
    EXPECT_THAT(reply.headers.at("content-security-policy"), HasSubstr("frame-ancestors 'none'"));
    EXPECT_EQ(reply.headers.at("x-content-type-options"), "nosniff");
    EXPECT_EQ(reply.headers.at("referrer-policy"), "no-referrer");
    EXPECT_EQ(reply.headers.at("cross-origin-resource-policy"), "same-origin");
    EXPECT_EQ(reply.headers.count("access-control-allow-origin"), 0U);
  }
}

TEST_F(HttpServerTest, KeepsThePageAndAsksWhetherItChanged) {
  Start();
  const Reply first = Get("/");
  ASSERT_EQ(first.status, 200);
  const Reply again = Get("/", "If-None-Match: " + first.headers.at("etag") + "\r\n");
  EXPECT_EQ(again.status, 304);
  EXPECT_EQ(again.body, "");
}

// ---- what it refuses ----

TEST_F(HttpServerTest, RefusesARebindingHost) {
  WriteExamples(1);
  Start();
  for (const char* target : {"/", "/api/v1/studies", "/api/v1/events", "/health", "/metrics"}) {
    const Reply reply = Get(target, "Host: rebind.evil.example:" + std::to_string(port()) + "\r\n");
    EXPECT_EQ(reply.status, 421) << target;
    EXPECT_THAT(reply.body, Not(HasSubstr("demo")));
  }
}

TEST_F(HttpServerTest, RefusesAnotherOriginWhateverTheMethodAndToken) {
  Start();
  EXPECT_EQ(Get("/api/v1/studies", "Origin: http://evil.example\r\n").status, 403);
  EXPECT_EQ(Post("/api/v1/run/pause", "{}", "Origin: http://evil.example\r\n").status, 403);
  EXPECT_EQ(Post("/api/v1/run/pause", "{}", "Origin: null\r\n").status, 403);
  EXPECT_EQ(Ask(port(), "OPTIONS", "/api/v1/studies", "Origin: http://evil.example\r\n").status, 405);
}

TEST_F(HttpServerTest, RefusesChangesWithoutTheToken) {
  Start();
  const std::string head = "Content-Type: application/json\r\nContent-Length: 2\r\n";
  for (const char* target : {"/api/v1/studies", "/api/v1/run/pause", "/api/v1/run/stop", "/api/v1/studies/1/resume",
                             "/api/v1/studies/1/trials/0/rerun", "/api/v1/forecast"}) {
    EXPECT_EQ(Ask(port(), "POST", target, head, "{}").status, 401) << target;
    EXPECT_EQ(Ask(port(), "POST", target, head + "Authorization: Bearer wrong\r\n", "{}").status, 401) << target;
  }
  for (const char* method : {"PUT", "DELETE", "PATCH"}) EXPECT_EQ(Ask(port(), method, "/api/v1/studies", head, "{}").status, 405);
}

TEST_F(HttpServerTest, RefusesPathsThatLeaveItHoweverEscaped) {
  WriteExamples(1);
  Start();
  for (const char* target : {"/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/app.js/../../etc/passwd",
                             "/%5c..%5cetc", "/etc/passwd", "//etc/passwd", "/api/v1/studies/1/trials/0/log/../../../../etc/passwd",
                             "/api/v1/studies/..%2f1", "/api/v1/studies/1/trials/0/log?attempt=../../etc/passwd", "/%00", "/app.js%00"}) {
    const Reply reply = Get(target);
    EXPECT_TRUE(reply.status == 400 || reply.status == 404) << target << ": " << reply.status;
    EXPECT_THAT(reply.body, Not(HasSubstr("root:")));
  }
}

TEST_F(HttpServerTest, ShowsOnlyLogsBesideTheStudyFile) {
  // A study file that somebody sent: its attempts name whatever they like as their log.
  {
    auto store = *OpenSqliteStore(db(), controller::OpenMode::kReadWrite);
    const int64_t study = store->CreateStudy(controller::ExampleSpec("sent"))->id;
    for (const std::string& log : {fake_.File("secret"), db() + ".logs/../secret", db() + ".logs/link", db() + ".logs/good.log"}) {
      const auto trial = store->AddTrial(study, controller::ExamplePlan(static_cast<int>(store->ListTrials(study)->size())));
      ASSERT_TRUE(store->StartAttempt(trial->id, log).ok());
    }
  }
  std::ofstream(fake_.File("secret")) << "secret";
  std::filesystem::create_directory(db() + ".logs");
  std::filesystem::create_symlink(fake_.File("secret"), db() + ".logs/link");
  std::ofstream(db() + ".logs/good.log") << "loaded <script>alert(1)</script>\xFF\n";
  Start();
  for (const char* trial : {"0", "1", "2"}) {
    const Reply reply = Get(std::string("/api/v1/studies/1/trials/") + trial + "/log");
    EXPECT_EQ(reply.status, 404) << trial;
    EXPECT_THAT(reply.body, Not(HasSubstr("secret")));
  }
  const Reply good = Get("/api/v1/studies/1/trials/3/log");
  EXPECT_EQ(good.status, 200);
  EXPECT_EQ(good.headers.at("content-type"), "text/plain; charset=utf-8");
  EXPECT_EQ(good.body, "loaded <script>alert(1)</script>\xEF\xBF\xBD\n");
}

TEST_F(HttpServerTest, GivesScriptInNamesAndAnswersAsJsonThatIsNoPage) {
  {
    auto store = *OpenSqliteStore(db(), controller::OpenMode::kReadWrite);
    const int64_t study = store->CreateStudy(controller::ExampleSpec("<script>alert(1)</script>"))->id;
    ASSERT_TRUE(AddFinishedTrial(*store, study, 0).ok());
  }
  Start();
  const Reply reply = Get("/api/v1/studies");
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(json::parse(reply.body)[0]["study"], "<script>alert(1)</script>");
  const Reply csv = Get("/api/v1/studies/1/trials.csv");
  EXPECT_EQ(csv.headers.at("content-disposition"), "attachment; filename=\"_script_alert_1___script_-trials.csv\"");
}

TEST_F(HttpServerTest, BoundsBodies) {
  Start();
  EXPECT_EQ(Post("/api/v1/studies", std::string(65 << 10, ' ')).status, 413);
  EXPECT_EQ(Post("/api/v1/studies", std::string(64 << 10, ' ')).status, 422) << "as large as allowed, and no JSON";
  const std::string token = std::string("Authorization: Bearer ") + kToken + "\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(Ask(port(), "POST", "/api/v1/studies", token + "Transfer-Encoding: chunked\r\n", "ffffffffff\r\n").status, 411);
  EXPECT_EQ(Ask(port(), "POST", "/api/v1/studies", token + "Content-Length: 999999999999\r\n", "x").status, 413);
  EXPECT_EQ(Ask(port(), "POST", "/api/v1/studies", token, "{}").status, 411);
}

TEST_F(HttpServerTest, BoundsHeads) {
  Start();
  EXPECT_EQ(Get("/", "X-Long: " + std::string(32 << 10, 'a') + "\r\n").status, 431);
  std::string many;
  for (int i = 0; i < 200; ++i) many += "X-" + std::to_string(i) + ": 1\r\n";
  EXPECT_EQ(Get("/", many).status, 431);
  EXPECT_EQ(Get("/" + std::string(1000, 'a')).status, 414);
  EXPECT_NE(Get("/", "Range: bytes=" + std::string(7000, '-') + "\r\n").status, 200) << "no ranges here";
}

TEST_F(HttpServerTest, LeavesNoThreadToASlowClient) {
  Start({.idle = milliseconds(300), .head = milliseconds(300), .body = milliseconds(300)});
  // A byte now and then, as no read timeout would notice.
  const Socket drip(port());
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  drip.Send("GET / HTTP/1.1\r\n");
  for (int i = 0; i < 100 && text.empty(); ++i) {
    drip.Send("X");
    drip.ReadSome(text, milliseconds(50));
  }
  EXPECT_EQ(ParseReply(text).status, 408);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
  // A body that never comes.
  const Socket half(port());
  half.Send(std::string("POST /api/v1/studies HTTP/1.1\r\nHost: 127.0.0.1:") + std::to_string(port()) + "\r\nAuthorization: Bearer " +
            kToken + "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(ParseReply(half.ReadAll(std::chrono::seconds(5))).status, 400);
  // Hundreds that say nothing: others are served meanwhile.
  std::vector<std::unique_ptr<Socket>> silent;
  for (int i = 0; i < 150; ++i) silent.push_back(std::make_unique<Socket>(port()));
  EXPECT_EQ(Get("/health").status, 200);
}

TEST_F(HttpServerTest, SurvivesWhatIsNoHttp) {
  Start({.idle = milliseconds(100)});
  for (const std::string& bytes :
       {std::string("\r\n\r\n"), std::string("GET\r\n\r\n"), std::string("\0\0\0\0\r\n\r\n", 8), std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\n: x\r\n\r\n"), std::string("\x16\x03\x01\x02\x00\r\n\r\n"), std::string(3000, '\xFF') + "\r\n\r\n",
        std::string("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")}) {
    const Socket socket(port());
    socket.Send(bytes);
    EXPECT_NE(ParseReply(socket.ReadAll(std::chrono::seconds(10))).status, 200);
  }
  EXPECT_EQ(Get("/health").status, 200);
}

// ---- streams ----

// The data of the events of a type in what a stream sent so far.
std::vector<std::string> Hear(const std::string& text, const std::string& type) {
  std::vector<std::string> data;
  for (const StreamEvent& event : StreamEventsIn(text)) {
    if (event.type == type) data.push_back(event.data);
  }
  return data;
}

TEST_F(HttpServerTest, SixtyFourStreamsLoseNoEvent) {
  Start();
  constexpr int kClients = 64;
  constexpr int kEvents = 2000;
  std::vector<std::thread> clients;
  std::atomic<int> connected{0};
  std::vector<std::vector<std::string>> heard(kClients);
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      const Socket socket(port());
      socket.Send(StreamRequest(port()));
      std::string text;
      bool counted = false;
      while (socket.ReadSome(text)) {
        if (!counted && text.find("retry:") != std::string::npos) {
          counted = true;
          ++connected;
        }
        if (text.find("\"last\":true", text.size() - std::min(text.size(), size_t{400})) != std::string::npos) break;
      }
      heard[static_cast<size_t>(i)] = Hear(text, "progress");
    });
  }
  ASSERT_TRUE(Eventually([&] { return connected == kClients; }));
  for (int i = 0; i < kEvents; ++i) {
    api_->hub().Publish("progress", json{{"last", i + 1 == kEvents}, {"n", i}}.dump());
  }
  for (std::thread& client : clients) client.join();
  for (const std::vector<std::string>& one : heard) {
    ASSERT_EQ(one.size(), static_cast<size_t>(kEvents));
    for (int i = 0; i < kEvents; ++i) ASSERT_EQ(json::parse(one[static_cast<size_t>(i)])["n"], i);
  }
}

TEST_F(HttpServerTest, AStreamGoesOnBehindTheEventItNames) {
  Start();
  for (int i = 0; i < 10; ++i) api_->hub().Publish("note", std::to_string(i));
  const uint64_t fifth = api_->hub().last() - 5;
  const Socket socket(port());
  socket.Send(StreamRequest(port(), "Last-Event-ID: " + api_->hub().IdOf(fifth) + "\r\n"));
  std::string text;
  while (Hear(text, "note").size() < 5 && socket.ReadSome(text, std::chrono::seconds(5))) {
  }
  EXPECT_THAT(Hear(text, "note"), testing::ElementsAre("5", "6", "7", "8", "9"));
  EXPECT_THAT(text, Not(HasSubstr("event: reset")));
}

TEST_F(HttpServerTest, AStreamThatMissedSomethingIsTold) {
  Start();
  const Socket socket(port());
  socket.Send(StreamRequest(port(), "Last-Event-ID: 0123456789abcdef-7\r\n"));
  std::string text;
  while (text.find("event: reset") == std::string::npos && socket.ReadSome(text, std::chrono::seconds(5))) {
    api_->hub().Publish("note", "1");
  }
  EXPECT_THAT(text, HasSubstr("event: reset\ndata: {}\n\n"));
}

TEST_F(HttpServerTest, BoundsStreamsAndSetsThemFree) {
  Start();
  std::vector<std::unique_ptr<Socket>> streams;
  for (size_t i = 0; i < kMaxStreams; ++i) {
    streams.push_back(std::make_unique<Socket>(port()));
    streams.back()->Send(StreamRequest(port()));
  }
  ASSERT_TRUE(Eventually([&] {
    return Get("/metrics").body.find("hproc_event_streams " + std::to_string(kMaxStreams) + "\n") != std::string::npos;
  }));
  const Reply refused = Get("/api/v1/events");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "5");
  EXPECT_EQ(Get("/health").status, 200) << "streams take no thread from the rest";
  streams.clear();
  EXPECT_TRUE(Eventually([&] { return Get("/metrics").body.find("hproc_event_streams 0\n") != std::string::npos; }));
}

TEST_F(HttpServerTest, EndsWhenItWasToldToBeforeItServed) {
  for (int i = 0; i < 20; ++i) {  // the stop comes before Run, or anywhere in its beginning
    Api api({.db = db(), .roots = *ModelRoots::Create({fake_.File("")}), .program = HPROC_BINARY, .worker = fake_.setup(),
             .log_folder = db() + ".logs", .table_folder = db() + ".rates"});
    const std::unique_ptr<HttpServer> server = *HttpServer::Create(api, {.token = kToken});
    std::thread runner([&] {
      if (i % 4 == 1) std::this_thread::yield();
      server->Run();
    });
    if (i % 4 == 0) std::this_thread::sleep_for(milliseconds(i / 4));
    server->Stop();
    runner.join();
  }
}

TEST_F(HttpServerTest, DrainsInsteadOfCuttingOff) {
  Start();
  const Socket stream(port());
  stream.Send(StreamRequest(port()));
  std::string text;
  ASSERT_TRUE(stream.ReadSome(text));
  const auto begin = std::chrono::steady_clock::now();
  const int at = port();
  Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  text += stream.ReadAll(std::chrono::seconds(5));
  EXPECT_THAT(text, HasSubstr("event: bye\ndata: {}\n\n"));
  EXPECT_THAT(text, testing::EndsWith("0\r\n\r\n")) << "a whole reply, not a cut one";
  EXPECT_FALSE(Socket(at).connected());
}

}  // namespace
}  // namespace hproc::web
