// Whether JSON is what a schema of web/openapi.json says: the part of JSON Schema that the description uses.
//
// Stricter than the schema in one thing: where properties are listed and additionalProperties is not, no other may be there,
// so that nothing is served that is not described.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

namespace hproc::web {

// The first thing that is not so, with its place; empty where all is.
inline std::string SchemaFault(const nlohmann::json& value, const nlohmann::json& schema, const nlohmann::json& api,
                               const std::string& at = "$") {
  using nlohmann::json;
  if (schema.contains("$ref")) {
    return SchemaFault(value, api.at(json::json_pointer(schema["$ref"].get<std::string>().substr(1))), api, at);
  }
  if (schema.contains("oneOf")) {
    std::string all;
    for (const json& one : schema["oneOf"]) {
      const std::string fault = SchemaFault(value, one, api, at);
      if (fault.empty()) return {};
      all += (all.empty() ? "" : " or ") + fault;
    }
    return all;
  }
  if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end()) {
    return at + ": " + value.dump() + " is not one of them";
  }
  if (schema.contains("type")) {
    const json types = schema["type"].is_array() ? schema["type"] : json::array({schema["type"]});
    const bool is = std::ranges::any_of(types, [&](const json& type) {
      if (type == "null") return value.is_null();
      if (type == "object") return value.is_object();
      if (type == "array") return value.is_array();
      if (type == "string") return value.is_string();
      if (type == "boolean") return value.is_boolean();
      if (type == "integer") return value.is_number_integer();
      return type == "number" && value.is_number();
    });
    if (!is) return at + ": " + value.dump().substr(0, 60) + " is no " + types.dump();
  }
  if (value.is_array() && schema.contains("items")) {
    for (size_t i = 0; i < value.size(); ++i) {
      std::string fault = SchemaFault(value[i], schema["items"], api, at + "[" + std::to_string(i) + "]");
      if (!fault.empty()) return fault;
    }
  }
  if (!value.is_object()) return {};
  for (const json& key : schema.value("required", json::array())) {
    if (!value.contains(key.get<std::string>())) return at + "." + key.get<std::string>() + ": missing";
  }
  const json properties = schema.value("properties", json::object());
  for (const auto& [key, one] : value.items()) {
    const json* of = properties.contains(key)                      ? &properties[key]
                     : schema.contains("additionalProperties") ? &schema["additionalProperties"]
                                                               : nullptr;
    if (of == nullptr && !properties.empty()) return at + "." + key + ": not described";
    if (of == nullptr) continue;
    if (std::string fault = SchemaFault(one, *of, api, at + "." + key); !fault.empty()) return fault;
  }
  return {};
}

}  // namespace hproc::web
