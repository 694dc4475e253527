#include "evals/eval_protocol.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/sha256.h"

namespace hproc::evals {
namespace {

// Counts changes of what a prompt, a stop or the scoring is; any of them makes scores incomparable.
constexpr int kImplementation = 1;

constexpr double kTemperature = 0.6;
constexpr int kTopK = 20;
constexpr double kTopP = 0.95;

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kKnownTasks{{
    {"3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", "gsm8k/3.0"},
    {"e0fc7d9a32547ac5997c989eda61a50414a26522e5b05cabdb232a134896adac", "wordmath/1"},
    {"b967802da397954ae1d401bcb9997a49f53fd7d50b2cd848b9c819762949e49b", "wordmath-dev/1"},
}};

}  // namespace

std::string ProtocolDigest(const EvalProtocol& protocol) {
  nlohmann::json fields{
      {"implementation", kImplementation},
      {"task_id", protocol.task_id},
      {"tasks_sha256", protocol.tasks_sha256},
      {"shots_sha256", protocol.shots_sha256},
      {"shots", protocol.shots},
      {"limit", protocol.limit},
      {"seeds", protocol.seeds},
      {"order_seed", protocol.order_seed},
      {"max_new_tokens", protocol.max_new_tokens},
  };
  if (protocol.seeds > 1) fields["sampling"] = {kTemperature, kTopK, kTopP};
  return Sha256Hex(fields.dump());  // keys in alphabetical order, no white space
}

std::string TaskId(std::string_view tasks_sha256) {
  for (const auto& [sha256, id] : kKnownTasks) {
    if (sha256 == tasks_sha256) return std::string(id);
  }
  return "custom/" + std::string(tasks_sha256.substr(0, 12));
}

SamplingParams SamplingFor(const EvalProtocol& protocol, int seed, int question) {
  if (protocol.seeds <= 1) return {};
  const auto high = static_cast<uint64_t>(static_cast<uint32_t>(seed));
  const auto low = static_cast<uint64_t>(static_cast<uint32_t>(question));
  return {.temperature = kTemperature, .top_k = kTopK, .top_p = kTopP, .seed = (high << 32) | low};
}

}  // namespace hproc::evals
