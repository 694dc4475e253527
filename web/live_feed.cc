#include "web/live_feed.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "controller/file_lock.h"

namespace hproc::web {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::milliseconds kChangedPeriod{500};  // between two `changed`, at least

bool IsType(const std::string& text) {
  return !text.empty() && text.size() <= 32 && std::ranges::all_of(text, [](char c) { return c == '_' || (c >= 'a' && c <= 'z'); });
}

}  // namespace

LiveFeed::LiveFeed(const StudyReader& reader, EventHub& hub)
    : reader_(reader), hub_(hub), journal_(controller::EventsFileOf(reader.db())), thread_([this](const std::stop_token& ending) {
        Run(ending);
      }) {}

// The journal is a file that anybody may have written: what is no line of ours is left out.
void LiveFeed::PublishLine(std::string line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("type") || !json["type"].is_string()) return;
  const std::string type = json["type"].get<std::string>();
  if (!IsType(type)) return;
  if (type == "study_start" && json.contains("study_id") && json["study_id"].is_number_integer()) {
    study_id_ = json["study_id"].get<int64_t>();
  }
  hub_.Publish(type, json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void LiveFeed::Run(const std::stop_token& ending) {
  using SteadyClock = std::chrono::steady_clock;
  std::string stamp = reader_.Stamp().text;
  SteadyClock::time_point next_changed{};
  std::optional<pid_t> told;
  bool first = true;
  while (!ending.stop_requested()) {
    const SteadyClock::time_point begin = SteadyClock::now();
    const auto batch = journal_.Read();
    for (size_t i = 0; i < batch.lines.size() || (batch.new_run && i == *batch.new_run); ++i) {
      if (batch.new_run && i == *batch.new_run) {
        study_id_ = 0;
        hub_.MarkRun();
        hub_.Publish("run", "{}");
      }
      if (i < batch.lines.size()) PublishLine(batch.lines[i]);
    }
    const std::optional<controller::LockHolder> holder = controller::HolderOf(reader_.db());
    const std::optional<pid_t> pid = holder ? std::optional<pid_t>(holder->pid) : std::nullopt;
    if (first || pid != told) {
      told = pid;
      first = false;
      hub_.Publish("running", Json{{"running", pid.has_value()}, {"pid", pid ? Json(*pid) : Json(nullptr)}}.dump());
    }
    if (begin >= next_changed) {
      if (const FileStamp now = reader_.Stamp(); now.text != stamp) {
        stamp = now.settled ? now.text : std::string();  // unsettled: told once more
        next_changed = begin + kChangedPeriod;
        hub_.Publish("changed", "{}");
      }
    }
    if (batch.lines.empty()) std::this_thread::sleep_for(kPeriod);
  }
}

}  // namespace hproc::web
