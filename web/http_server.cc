#include "web/http_server.h"

#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "web/assets.h"
#include "web/connection.h"
#include "web/request_guard.h"

namespace hproc::web {
namespace {

constexpr size_t kMaxWaiting = 256;  // accepted, not yet served; beyond them a connection is closed at once
constexpr std::chrono::seconds kPing{15};
constexpr std::chrono::milliseconds kGather{20};
constexpr std::chrono::seconds kFarewell{2};
constexpr const char* kGzipMark = "Hproc-Takes-Gzip";  // a header of ours; one from outside is dropped

// Set while a connection is to be closed unserved: the queue knows that, the server's callback closes it.
thread_local bool t_shed = false;

// Threads come as connections do, up to a bound, and stay.
class ConnectionThreads final : public httplib::TaskQueue {
 public:
  void enqueue(std::function<void()> serve) override {
    if (Queue(serve)) return;
    t_shed = true;
    serve();
    t_shed = false;
  }

  void shutdown() override {
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    more_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  // False where nobody could come to serve it; it is left alone then.
  bool Queue(std::function<void()>& serve) {
    const std::scoped_lock lock(mutex_);
    if (waiting_.size() >= kMaxWaiting) return false;
    if (idle_ <= waiting_.size() && threads_.size() < kMaxConnections) AddThread();
    if (threads_.empty()) return false;
    waiting_.push_back(std::move(serve));
    more_.notify_one();
    return true;
  }

  void AddThread() {
    try {
      threads_.emplace_back([this] { Serve(); });
    } catch (const std::system_error&) {  // no more to be had: those there are have to do
    }
  }

  void Serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      more_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      --idle_;
      if (waiting_.empty()) return;
      const std::function<void()> serve = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      serve();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<std::function<void()>> waiting_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool ending_ = false;
};

const httplib::Headers& SafeHeaders() {
  static const httplib::Headers headers = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
       "form-action 'none'; frame-ancestors 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"X-Frame-Options", "DENY"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
  };
  return headers;
}

RequestHead HeadOf(const httplib::Request& request) {
  RequestHead head{.method = request.method, .path = request.path, .headers = {}};
  for (const auto& [name, value] : request.headers) head.headers.emplace_back(name, value);
  return head;
}

void Answer(httplib::Response& response, int status, const std::string& message) {
  response.status = status;
  response.set_content(nlohmann::json{{"error", message}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                       "application/json");
}

// One event as it goes over the wire. Types are [a-z_], data is one line (event_hub.h).
std::string Framed(const EventHub& hub, const HubEvent& event) {
  return "id: " + hub.IdOf(event.number) + "\nevent: " + event.type + "\ndata: " + event.data + "\n\n";
}

}  // namespace

class HttpServer::Impl : private httplib::Server {
 public:
  Impl(Api& api, ServerOptions options) : api_(api), options_(std::move(options)) {}

  Result<void> Bind() {
    if (!is_valid()) return Error{"no server to be had"};
    const bool bound = options_.port == 0 ? (port_ = bind_to_any_port(options_.bind_host)) > 0
                                          : bind_to_port(options_.bind_host, port_ = options_.port);
    if (!bound) {
      return Error{options_.bind_host + " port " + std::to_string(options_.port) +
                   ": cannot listen there (in use, or not an address of this machine)"};
    }
    ::listen(svr_sock_, 256);  // the library's backlog of 5 makes clients that come together wait a second
    guard_.emplace(GuardOptions{.bind_host = options_.bind_host,
                                .port = port_,
                                .extra_hosts = options_.extra_hosts,
                                .token = options_.token,
                                .reads_need_token = !IsLoopback(options_.bind_host)});
    set_default_headers(SafeHeaders());
    set_tcp_nodelay(true);
    set_payload_max_length(static_cast<size_t>(kMaxBodyBytes));
    new_task_queue = [] { return new ConnectionThreads; };
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return BeforeBody(request, response);
    });
    Post(".*", [this](const httplib::Request& request, httplib::Response& response) { Call(request, response); });
    set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) Answer(response, response.status, "this cannot be answered");
    });
    return Ok();
  }

  int port() const { return port_; }

  void Run() {
    {
      const std::scoped_lock lock(mutex_);
      if (ending_) return;
      run_ = RunState::kEntered;
    }
    listen_after_bind();
    run_ = RunState::kOver;
  }

  void Stop() {
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    api_.Close();
    // httplib cuts a reply that is under way once its socket is closed: the streams say goodbye first.
    const auto until = std::chrono::steady_clock::now() + kFarewell;
    while (streams_ > 0 && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    // httplib forgets a stop that comes before it listens.
    while (run_ == RunState::kEntered && !is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop();
  }

 private:
  enum class RunState { kNotYet, kEntered, kOver };

  // Instead of httplib's: its reads, deadlines and shutdown are not ours (connection.h).
  bool process_and_close_socket(socket_t socket) override {
    if (!t_shed) {
      Connection connection(socket, options_.limits, ending_);
      bool more = true;
      while (more && !ending_) more = ServeOne(connection);
      ::shutdown(socket, SHUT_WR);
      // What the client is still sending: unread, it would make the kernel drop the reply.
      timeval patience{.tv_sec = 0, .tv_usec = 200'000};
      ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
      std::array<char, 4096> rest{};
      for (int i = 0; i < 32 && ::recv(socket, rest.data(), rest.size(), 0) > 0; ++i) {
      }
    }
    ::close(socket);
    return true;
  }

  bool ServeOne(Connection& connection) {
    switch (connection.ReadHead()) {
      case Connection::Head::kClosed: return false;
      case Connection::Head::kTooSlow: return RefuseRaw(connection, "408 Request Timeout", "time");
      case Connection::Head::kTooLong: return RefuseRaw(connection, "431 Request Header Fields Too Large", "head");
      case Connection::Head::kRead: break;
    }
    ++requests_;
    // A request with a body may be refused with the body unread: nothing can follow it.
    const std::string method = connection.method();
    const bool close = method != "GET" && method != "HEAD";
    bool closed = false;
    const bool good = process_request(connection, close, closed, [](httplib::Request& request) {
      // Ranges are no use here and costly to parse out; what is compressed was compressed when it was built.
      request.ranges.clear();
      request.headers.erase(kGzipMark);
      if (request.get_header_value("Accept-Encoding").find("gzip") != std::string::npos) request.set_header(kGzipMark, "1");
      request.headers.erase("Accept-Encoding");
    });
    return good && !close && !closed;
  }

  bool RefuseRaw(Connection& connection, const std::string& status, const char* rule) {
    Count(rule);
    connection.write("HTTP/1.1 " + status + "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    return false;
  }

  // Everything but what has a body is answered here; so is every refusal.
  HandlerResponse BeforeBody(const httplib::Request& request, httplib::Response& response) {
    const RequestHead head = HeadOf(request);
    if (const std::optional<Refusal> refusal = guard_->Check(head)) {
      Count(refusal->rule);
      Answer(response, refusal->status, refusal->message);
      if (refusal->status == 405) response.set_header("Allow", "GET, HEAD, POST");
      if (refusal->status == 401) response.set_header("WWW-Authenticate", "Bearer");
      return HandlerResponse::Handled;
    }
    if (request.method == "POST") return HandlerResponse::Unhandled;
    if (request.path == "/health") {
      Health(response);
    } else if (request.path == "/metrics") {
      response.set_header("Cache-Control", "no-store");
      response.set_content(api_.Metrics() + OwnMetrics(), "text/plain; version=0.0.4; charset=utf-8");
    } else if (request.path == "/api/v1/events") {
      Stream(request, response);
    } else if (request.path.starts_with("/api/")) {
      Call(request, response);
    } else {
      Page(request, response);
    }
    return HandlerResponse::Handled;
  }

  void Call(const httplib::Request& request, httplib::Response& response) {
    ApiRequest asked{.method = request.method == "HEAD" ? "GET" : request.method,
                     .path = request.path,
                     .query = request.params,
                     .body = request.body,
                     .authorized = guard_->IsAuthorized(HeadOf(request))};
    ApiResponse given = api_.Handle(asked);
    response.status = given.status;
    response.set_header("Cache-Control", "no-store");
    for (const auto& [name, value] : given.headers) response.set_header(name, value);
    response.set_content(given.body, given.type);
  }

  void Health(httplib::Response& response) {
    response.set_header("Cache-Control", "no-store");
    const Result<void> healthy = api_.Health();
    if (ending_) return Answer(response, 503, "the server is about to end");
    if (!healthy.ok()) return Answer(response, 503, healthy.error().message);
    response.set_content("{\"status\":\"ok\"}", "application/json");
  }

  void Page(const httplib::Request& request, httplib::Response& response) {
    const auto assets = Assets();
    const auto asset = std::ranges::find(assets, request.path, &Asset::path);
    if (asset == assets.end()) return Answer(response, 404, "there is nothing of that name");
    const bool gzip = !asset->gzip.empty() && request.has_header(kGzipMark);
    response.set_header("Cache-Control", "no-cache");  // kept, and asked about
    response.set_header("ETag", std::string(asset->etag));
    response.set_header("Vary", "Accept-Encoding");
    if (request.get_header_value("If-None-Match") == asset->etag) {
      response.status = 304;
      return;
    }
    const std::string_view content = gzip ? asset->gzip : asset->plain;
    if (gzip) response.set_header("Content-Encoding", "gzip");
    response.set_content(content.data(), content.size(), std::string(asset->type));
  }

  // Last-Event-ID goes on from there; ?since=run begins with the run that was begun last; otherwise with what comes next.
  void Stream(const httplib::Request& request, httplib::Response& response) {
    if (request.method != "GET") return Answer(response, 405, "a stream is read with GET");
    if (ending_) return Answer(response, 503, "the server is about to end");
    if (streams_.fetch_add(1) >= kMaxStreams) {
      --streams_;
      Count("streams");
      response.set_header("Retry-After", "5");
      return Answer(response, 503, "too many streams at once");
    }
    struct Position {
      uint64_t after = 0;
      bool told = false;   // the client has heard how long to wait before it comes again
      bool reset = false;  // what it had is not what is here
    };
    auto position = std::make_shared<Position>();
    const EventHub& hub = api_.hub();
    position->after = hub.last();
    if (request.get_param_value("since") == "run") position->after = hub.before_run();
    if (request.has_header("Last-Event-ID")) {
      const std::optional<uint64_t> number = hub.NumberOf(request.get_header_value("Last-Event-ID"));
      if (number) position->after = *number;
      position->reset = !number;
    }
    response.set_header("Cache-Control", "no-store");
    response.set_header("X-Accel-Buffering", "no");
    response.set_chunked_content_provider(
        "text/event-stream",
        [this, &hub, position](size_t, httplib::DataSink& sink) {
          std::string out;
          if (!position->told) out += "retry: 1000\n\n";
          position->told = true;
          // A short wait: a client that has gone is noticed, and its thread set free.
          EventHub::Batch batch;
          const auto until = std::chrono::steady_clock::now() + kPing;
          while (out.empty() && batch.events.empty() && !batch.closed && sink.is_writable() &&
                 std::chrono::steady_clock::now() < until) {
            batch = hub.Await(position->after, std::chrono::milliseconds(500));
          }
          if (!sink.is_writable()) return false;
          if (!batch.events.empty() && !batch.closed) {  // what comes together goes together
            std::this_thread::sleep_for(kGather);
            batch = hub.Await(position->after, std::chrono::milliseconds(0));
          }
          if (batch.lost || position->reset) out += "event: reset\ndata: {}\n\n";
          position->reset = false;
          for (const auto& event : batch.events) {
            out += Framed(hub, *event);
            position->after = event->number;
          }
          if (batch.closed) {
            out += "event: bye\ndata: {}\n\n";
            sink.write(out.data(), out.size());
            sink.done();
            return true;
          }
          if (out.empty()) out = ": ping\n\n";
          return sink.write(out.data(), out.size());
        },
        [this](bool) { --streams_; });
  }

  void Count(const char* rule) {
    const std::scoped_lock lock(mutex_);
    ++refused_[rule];
  }

  std::string OwnMetrics() {
    std::string text =
        "# HELP hproc_http_requests_total Requests whose head was read.\n# TYPE hproc_http_requests_total counter\n"
        "hproc_http_requests_total " + std::to_string(requests_) +
        "\n# HELP hproc_event_streams Event streams that are open.\n# TYPE hproc_event_streams gauge\nhproc_event_streams " +
        std::to_string(streams_) +
        "\n# HELP hproc_events_total Events published.\n# TYPE hproc_events_total counter\nhproc_events_total " +
        std::to_string(api_.hub().last()) +
        "\n# HELP hproc_http_refused_total Requests refused, by the rule.\n# TYPE hproc_http_refused_total counter\n";
    const std::scoped_lock lock(mutex_);
    for (const auto& [rule, count] : refused_) {
      text += "hproc_http_refused_total{rule=\"" + rule + "\"} " + std::to_string(count) + "\n";
    }
    return text;
  }

  Api& api_;
  const ServerOptions options_;
  std::optional<RequestGuard> guard_;
  int port_ = 0;
  std::atomic<bool> ending_{false};  // set under mutex_
  std::atomic<RunState> run_{RunState::kNotYet};
  std::atomic<size_t> streams_{0};
  std::atomic<int64_t> requests_{0};
  std::mutex mutex_;  // guards refused_, and the step from kNotYet to kEntered against ending_
  std::map<std::string, int64_t> refused_;
};

Result<std::unique_ptr<HttpServer>> HttpServer::Create(Api& api, ServerOptions options) {
  auto impl = std::make_unique<Impl>(api, std::move(options));
  if (Result<void> bound = impl->Bind(); !bound.ok()) return bound.error();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const { return impl_->port(); }
void HttpServer::Run() { impl_->Run(); }
void HttpServer::Stop() { impl_->Stop(); }

}  // namespace hproc::web
