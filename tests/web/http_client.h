// A client made of sockets, since what is tested is what no well-behaved client would send.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace hproc::web {

struct Reply {
  int status = 0;  // 0: none came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

class Socket {
 public:
  explicit Socket(int port);

  void Send(std::string_view bytes) const;  // as far as the other side takes it
  // What comes until the other side closes or `patience` is over.
  std::string ReadAll(std::chrono::milliseconds patience = std::chrono::seconds(20)) const;
  // Appends what comes next to `text`; false at the end or when nothing came.
  bool ReadSome(std::string& text, std::chrono::milliseconds patience = std::chrono::seconds(20)) const;
  bool connected() const { return static_cast<bool>(fd_); }

 private:
  UniqueFd fd_;
};

// What a client of /api/v1/events heard.
struct StreamEvent {
  std::string id;
  std::string type;
  std::string data;

  bool operator==(const StreamEvent&) const = default;
};
// The numbered events in what a stream has sent so far, heads and frames of the chunked coding left out.
std::vector<StreamEvent> StreamEventsIn(const std::string& text);
// The request for a stream; `target` may have a query, `headers` whole lines.
std::string StreamRequest(int port, const std::string& headers = {}, const std::string& target = "/api/v1/events");

Reply ParseReply(const std::string& text);

// One request on a connection of its own. Host is the server's own name unless `headers` name one ("Host: …\r\n").
Reply Ask(int port, const std::string& method, const std::string& target, const std::string& headers = {},
          const std::string& body = {});

}  // namespace hproc::web
