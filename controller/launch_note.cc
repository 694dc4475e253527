#include "controller/launch_note.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace hproc::controller {
namespace {

using Json = nlohmann::json;
using Kind = LaunchNote::Kind;

constexpr std::array<std::pair<Kind, const char*>, 5> kKinds = {{{Kind::kPending, "pending"},
                                                                {Kind::kStarted, "started"},
                                                                {Kind::kConnected, "connected"},
                                                                {Kind::kRemark, "remark"},
                                                                {Kind::kEnded, "ended"}}};
constexpr std::array<std::pair<OomKills, const char*>, 3> kOomKills = {
    {{OomKills::kUnknown, "unknown"}, {OomKills::kNone, "none"}, {OomKills::kSome, "some"}}};

template <typename Table, typename Value>
const char* WordOf(const Table& table, Value value) {
  for (const auto& [known, word] : table) {
    if (known == value) return word;
  }
  return "";
}

template <typename Value, typename Table>
std::optional<Value> ValueOf(const Table& table, const std::string& text) {
  for (const auto& [value, word] : table) {
    if (text == word) return value;
  }
  return std::nullopt;
}

}  // namespace

std::string EncodeNote(const LaunchNote& note) {
  Json json = {{"kind", WordOf(kKinds, note.kind)}, {"job", note.job}, {"node", note.node}, {"reason", note.reason}};
  if (note.kind == Kind::kEnded) {
    json["state"] = note.end.state;
    json["message"] = note.end.message;
    json["exit_code"] = note.end.exit_code ? Json(*note.end.exit_code) : Json(nullptr);
    json["signal"] = note.end.signal;
    json["oom_kills"] = WordOf(kOomKills, note.end.oom_kills);
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

std::optional<LaunchNote> DecodeNote(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  try {
    LaunchNote note;
    const std::optional<Kind> kind = ValueOf<Kind>(kKinds, json.at("kind").get<std::string>());
    if (!kind) return std::nullopt;
    note.kind = *kind;
    json.at("job").get_to(note.job);
    json.at("node").get_to(note.node);
    json.at("reason").get_to(note.reason);
    if (note.kind != Kind::kEnded) return note;
    note.end.job = note.job;
    note.end.node = note.node;
    json.at("state").get_to(note.end.state);
    json.at("message").get_to(note.end.message);
    if (!json.at("exit_code").is_null()) note.end.exit_code = json.at("exit_code").get<int>();
    json.at("signal").get_to(note.end.signal);
    note.end.oom_kills = ValueOf<OomKills>(kOomKills, json.at("oom_kills").get<std::string>()).value_or(OomKills::kUnknown);
    return note;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace hproc::controller
