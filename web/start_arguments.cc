#include "web/start_arguments.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/printable.h"
#include "base/utf8.h"

namespace hproc::web {
namespace {

using Json = nlohmann::json;

enum class Kind { kText, kSize, kWhole, kNumber, kFlag, kModel, kFile };

const std::map<std::string, Kind, std::less<>>& Settings() {
  static const std::map<std::string, Kind, std::less<>> settings = {
      {"model", Kind::kModel},       {"memory", Kind::kSize},         {"headroom", Kind::kSize},
      {"device", Kind::kText},        {"tp", Kind::kWhole},            {"threads", Kind::kWhole},
      {"context", Kind::kWhole},      {"batch", Kind::kWhole},         {"prefill_chunk", Kind::kWhole},
      {"kv_dtype", Kind::kText},      {"mode", Kind::kText},           {"strict_min", Kind::kNumber},
      {"strict_max", Kind::kNumber},  {"lazy_min", Kind::kNumber},     {"lazy_max", Kind::kNumber},
      {"head", Kind::kNumber},        {"min_accuracy", Kind::kNumber}, {"candidates", Kind::kWhole},
      {"garbage_loads", Kind::kWhole}, {"trust_plan", Kind::kFlag},    {"baseline_16bit", Kind::kFlag},
      {"baseline_int4", Kind::kFlag}, {"baseline_int4_pruned", Kind::kFlag}, {"tasks", Kind::kFile},          {"shots", Kind::kWhole},
      {"shots_file", Kind::kFile},    {"seeds", Kind::kWhole},         {"limit", Kind::kWhole},
      {"max_new_tokens", Kind::kWhole}, {"strategy", Kind::kText},     {"study", Kind::kText},
      {"parallel", Kind::kWhole}};
  return settings;
}

// The value as an argument; empty where there is none to pass (a flag that is false).
Result<std::string> ValueOf(const Json& json, Kind kind, const ModelRoots& roots) {
  switch (kind) {
    case Kind::kFlag:
      if (!json.is_boolean()) return Error{"expected true or false"};
      return std::string(json.get<bool>() ? "true" : "");
    case Kind::kWhole:
      if (!json.is_number_integer()) return Error{"expected a whole number"};
      return json.dump();
    case Kind::kNumber:
      if (!json.is_number()) return Error{"expected a number"};
      return json.dump();
    case Kind::kSize: {
      if (json.is_number_integer()) return json.dump();
      if (!json.is_string()) return Error{"expected a size like \"17MiB\""};
      const Result<int64_t> bytes = ParseBytes(json.get_ref<const std::string&>());
      if (!bytes.ok()) return bytes.error();
      return std::to_string(*bytes);
    }
    default: break;
  }
  if (!json.is_string()) return Error{"expected text"};
  const std::string& text = json.get_ref<const std::string&>();
  if (text.empty() || text.size() > 4096 || PrintableLine(text) != text) return Error{"expected one line of printable text"};
  if (kind == Kind::kText) return text;
  if (kind == Kind::kModel) return roots.ModelName(text);
  const Result<std::filesystem::path> path = roots.File(text);
  if (!path.ok()) return path.error();
  return path->string();
}

}  // namespace

Result<std::vector<std::string>> StartArguments(std::string_view body, const ModelRoots& roots) {
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return Error{"expected a JSON object"};
  std::vector<std::string> arguments;
  for (const char* key : {"model", "memory"}) {
    if (!json.contains(key)) return Error{std::string(key) + ": missing"};
  }
  for (const auto& [key, value] : json.items()) {
    const auto setting = Settings().find(key);
    if (setting == Settings().end()) return Error{Printable(key) + ": not known here"};
    const Result<std::string> text = ValueOf(value, setting->second, roots);
    if (!text.ok()) return Error{key + ": " + text.error().message};
    std::string option = "--" + key;
    for (char& c : option) c = c == '_' ? '-' : c;
    if (setting->second == Kind::kFlag) {
      if (!text->empty()) arguments.push_back(option);
    } else {
      arguments.push_back(option + "=" + *text);
    }
  }
  return arguments;
}

}  // namespace hproc::web
