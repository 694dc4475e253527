// The calibration as JSON. A translation unit of its own because nothing else of the garbage rules
// knows JSON.
#include <nlohmann/json.hpp>
#include <string>

#include "evals/garbage.h"

namespace hproc::evals {
namespace {

constexpr int kVersion = 1;
constexpr int kMaxProbes = 1'000'000;

Error Malformed(const std::string& what) { return Error{"garbage calibration: " + what}; }

// A rate in [0, 1].
bool ReadRate(const nlohmann::json& object, const char* name, double& rate) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_number()) return false;
  rate = it->get<double>();
  return rate >= 0 && rate <= 1;
}

}  // namespace

std::string GarbageCalibrationToJson(const GarbageCalibration& calibration) {
  nlohmann::json disabled = nlohmann::json::object();
  for (int kind = 0; kind < kProbeKindCount; ++kind) {
    nlohmann::json rules = nlohmann::json::array();
    for (int rule = 0; rule < kGarbageRuleCount; ++rule) {
      if (!calibration.disabled[static_cast<size_t>(kind)].test(static_cast<size_t>(rule)))
        continue;
      rules.push_back(std::string(GarbageRuleName(static_cast<GarbageRule>(rule))));
    }
    disabled[std::string(ProbeKindName(static_cast<ProbeKind>(kind)))] = std::move(rules);
  }
  nlohmann::json scripts = nlohmann::json::array();
  for (int script = 0; script < kScriptCount; ++script) {
    if (!calibration.scripts.test(static_cast<size_t>(script))) continue;
    scripts.push_back(std::string(ScriptName(static_cast<Script>(script))));
  }
  return nlohmann::json{{"version", kVersion},
                        {"probes", calibration.probes},
                        {"disabled", std::move(disabled)},
                        {"scripts", std::move(scripts)},
                        {"failing_share", calibration.failing_share},
                        {"stop_rate", calibration.stop_rate},
                        {"number_rate", calibration.number_rate},
                        {"strict_rate", calibration.strict_rate},
                        {"right_rate", calibration.right_rate}}
      .dump();
}

Result<GarbageCalibration> GarbageCalibrationFromJson(std::string_view json) {
  const nlohmann::json object = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Malformed("not a JSON object");
  if (object.value("version", nlohmann::json()) != kVersion) return Malformed("of another version");

  GarbageCalibration calibration;
  const nlohmann::json probes = object.value("probes", nlohmann::json());
  if (!probes.is_number_integer() || probes < 0 || probes > kMaxProbes)
    return Malformed("no number of probes");
  calibration.probes = probes.get<int>();
  const nlohmann::json disabled = object.value("disabled", nlohmann::json());
  if (!disabled.is_object()) return Malformed("no object \"disabled\"");
  for (int kind = 0; kind < kProbeKindCount; ++kind) {
    const std::string name(ProbeKindName(static_cast<ProbeKind>(kind)));
    const nlohmann::json rules = disabled.value(name, nlohmann::json());
    if (!rules.is_array()) return Malformed("no list of disabled rules for \"" + name + "\"");
    for (const nlohmann::json& rule_name : rules) {
      const auto rule =
          rule_name.is_string() ? GarbageRuleFromName(rule_name.get<std::string>()) : std::nullopt;
      if (!rule || *rule == GarbageRule::kNone || *rule == GarbageRule::kNonFinite) {
        return Malformed("a rule that is unknown or always in force");
      }
      calibration.disabled[static_cast<size_t>(kind)].set(static_cast<size_t>(*rule));
    }
  }
  const nlohmann::json scripts = object.value("scripts", nlohmann::json());
  if (!scripts.is_array()) return Malformed("no list \"scripts\"");
  for (const nlohmann::json& script_name : scripts) {
    const auto script =
        script_name.is_string() ? ScriptFromName(script_name.get<std::string>()) : std::nullopt;
    if (!script) return Malformed("an unknown script");
    calibration.scripts.set(static_cast<size_t>(*script));
  }
  for (const auto& [name, rate] : {std::pair{"failing_share", &calibration.failing_share},
                                   std::pair{"stop_rate", &calibration.stop_rate},
                                   std::pair{"number_rate", &calibration.number_rate},
                                   std::pair{"strict_rate", &calibration.strict_rate},
                                   std::pair{"right_rate", &calibration.right_rate}}) {
    if (!ReadRate(object, name, *rate)) return Malformed(std::string("no rate \"") + name + "\"");
  }
  return calibration;
}

}  // namespace hproc::evals
