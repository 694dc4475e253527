// EventHub: what happens, numbered, kept for a while, and handed to any number of streams without a loss that they would
// not hear of.
//
// A stream names the last event it has; it gets those after it in order, or is told that some of them are gone (it was too
// slow, away too long, or had its events from another process): then it has to read the state anew. Ids are
// "BOOT-NUMBER"; BOOT is drawn when the hub is made, so that no id of another process counts here.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hproc::web {

struct HubEvent {
  uint64_t number = 0;  // from 1, without gaps
  std::string type;     // of server-sent events: [a-z_]
  std::string data;     // JSON, one line
};

// Thread-safe.
class EventHub {
 public:
  // Keeps the last events, as many as fit both bounds, and at least one.
  explicit EventHub(size_t max_events = size_t{1} << 16, size_t max_bytes = size_t{16} << 20);

  void Publish(std::string type, std::string data);
  // Streams that begin with the run begin with the next event.
  void MarkRun();

  // Those after number `after`, waiting up to `patience` for the first; at most kMaxBatch of them.
  struct Batch {
    std::vector<std::shared_ptr<const HubEvent>> events;
    bool lost = false;    // there were others before these, or `after` is none of ours
    bool closed = false;  // there will be no more
  };
  static constexpr size_t kMaxBatch = 256;
  Batch Await(uint64_t after, std::chrono::milliseconds patience) const;

  uint64_t last() const;        // 0: none yet
  uint64_t before_run() const;  // the event before the run that was marked last
  std::string IdOf(uint64_t number) const;
  // None where it is no id of this hub.
  std::optional<uint64_t> NumberOf(std::string_view id) const;

  // Wakes and ends all streams.
  void Close();

 private:
  const size_t max_events_;
  const size_t max_bytes_;
  const std::string boot_;
  mutable std::mutex mutex_;
  mutable std::condition_variable more_;
  std::deque<std::shared_ptr<const HubEvent>> events_;
  size_t bytes_ = 0;
  uint64_t last_ = 0;
  uint64_t before_run_ = 0;
  bool closed_ = false;
};

}  // namespace hproc::web
