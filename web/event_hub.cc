#include "web/event_hub.h"

#include <algorithm>
#include <charconv>

#include "web/random_hex.h"

namespace hproc::web {

EventHub::EventHub(size_t max_events, size_t max_bytes)
    : max_events_(max_events), max_bytes_(max_bytes), boot_(RandomHex(8)) {}

void EventHub::Publish(std::string type, std::string data) {
  const std::scoped_lock lock(mutex_);
  if (closed_) return;
  bytes_ += type.size() + data.size();
  events_.push_back(std::make_shared<HubEvent>(
      HubEvent{.number = ++last_, .type = std::move(type), .data = std::move(data)}));
  while (events_.size() > 1 && (events_.size() > max_events_ || bytes_ > max_bytes_)) {
    bytes_ -= events_.front()->type.size() + events_.front()->data.size();
    events_.pop_front();
  }
  more_.notify_all();
}

void EventHub::MarkRun() {
  const std::scoped_lock lock(mutex_);
  before_run_ = last_;
}

EventHub::Batch EventHub::Await(uint64_t after, std::chrono::milliseconds patience) const {
  std::unique_lock lock(mutex_);
  Batch batch;
  if (after > last_) {  // of a future that is not ours
    batch.lost = true;
    after = last_;
  }
  more_.wait_for(lock, patience, [&] { return closed_ || last_ > after; });
  batch.closed = closed_ && last_ <= after;
  if (last_ <= after) return batch;
  const uint64_t first = events_.front()->number;
  if (after + 1 < first) batch.lost = true;
  const size_t from = after + 1 < first ? 0 : static_cast<size_t>(after + 1 - first);
  const size_t to = std::min(events_.size(), from + kMaxBatch);
  batch.events.assign(events_.begin() + static_cast<ptrdiff_t>(from), events_.begin() + static_cast<ptrdiff_t>(to));
  return batch;
}

uint64_t EventHub::last() const {
  const std::scoped_lock lock(mutex_);
  return last_;
}

uint64_t EventHub::before_run() const {
  const std::scoped_lock lock(mutex_);
  return events_.empty() ? before_run_ : std::max(before_run_, events_.front()->number - 1);
}

std::string EventHub::IdOf(uint64_t number) const { return boot_ + "-" + std::to_string(number); }

std::optional<uint64_t> EventHub::NumberOf(std::string_view id) const {
  if (!id.starts_with(boot_) || id.size() <= boot_.size() + 1 || id[boot_.size()] != '-') return std::nullopt;
  const std::string_view digits = id.substr(boot_.size() + 1);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

void EventHub::Close() {
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  more_.notify_all();
}

}  // namespace hproc::web
