#include "tests/fake/script.h"

#include <cstdlib>
#include <filesystem>
#include <set>

#include "base/file.h"

namespace hproc::fake {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxScriptBytes = 1 << 20;

const std::set<std::string>& Steps() {
  static const auto& steps = *new std::set<std::string>{
      "start", "init", "measure", "load", "cache", "warmup", "generate", "throughput", "finish"};
  return steps;
}

const std::set<std::string>& Actions() {
  static const auto& actions = *new std::set<std::string>{"oom",
                                                          "error",
                                                          "exit",
                                                          "segv",
                                                          "abort",
                                                          "sigkill",
                                                          "hang",
                                                          "freeze",
                                                          "no_hello",
                                                          "seq_gap",
                                                          "wrong_version",
                                                          "wrong_result",
                                                          "stray_sample",
                                                          "duplicate_sample",
                                                          "skip_sample",
                                                          "after_exit",
                                                          "babble",
                                                          "torn",
                                                          "long_line",
                                                          "wrong_digest",
                                                          "ignore_sigterm",
                                                          "deaf",
                                                          "ignore_cancel",
                                                          "flood",
                                                          "slow",
                                                          "grandchild",
                                                          "garbage", "sense",
                                                          "nonfinite",
                                                          "print",
                                                          "print_stdout",
                                                          "describe",
                                                          "write_file",
                                                          "wait_file"};
  return actions;
}

Result<Action> ParseAction(const Json& json) {
  Action action;
  action.parameters = json.is_object() ? json : Json::object();
  action.what = json.is_string() ? json.get<std::string>() : action.Text("do");
  action.after = static_cast<int>(action.Int("after", 0));
  action.nth = static_cast<int>(action.Int("nth", 0));
  action.once = action.Text("once");
  action.rank = static_cast<int>(action.Int("rank", -1));
  action.node = action.Text("node");
  if (!Actions().contains(action.what)) return Error{"fake script: no action " + json.dump()};
  return action;
}

}  // namespace

Result<Script> ParseScript(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Error{"fake script: not a JSON object: " + text};
  Script script;
  for (const auto& [key, value] : json.items()) {
    if (key == "heartbeat_ms") {
      script.heartbeat_ms = value.get<int>();
    } else if (key == "model") {
      script.model = value;
    } else if (Steps().contains(key) && value.is_array()) {
      for (const Json& item : value) {
        Result<Action> action = ParseAction(item);
        if (!action.ok()) return action.error();
        script.steps[key].push_back(*std::move(action));
      }
    } else {
      return Error{"fake script: no step " + key + ", or not an array of actions"};
    }
  }
  return script;
}

Result<Script> FindScript(const std::string& model_dir) {
  std::filesystem::path file = std::filesystem::path(model_dir) / "fake_worker.json";
  if (const char* given = std::getenv("HPROC_FAKE")) {
    if (*given == '{') return ParseScript(given);
    file = given;
  } else if (!std::filesystem::exists(file)) {
    return Script{};
  }
  const Result<std::string> text = ReadFile(file, kMaxScriptBytes);
  if (!text.ok()) return text.error();
  return ParseScript(*text);
}

}  // namespace hproc::fake
