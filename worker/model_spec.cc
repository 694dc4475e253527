#include "worker/model_spec.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/printable.h"

namespace hproc::worker {
namespace {

using nlohmann::json;

// Thrown inside this file only.
class BadConfig : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A JSON object whose keys are asked for by name, so that an error names the key with the way to it.
class Section {
 public:
  Section(const json& object, std::string path) : object_(&object), path_(std::move(path)) {
    if (!object.is_object()) throw BadConfig(path_ + " is not an object");
  }

  bool Has(const char* key) const {
    const auto it = object_->find(key);
    return it != object_->end() && !it->is_null();
  }
  Section Child(const char* key) const { return Section(At(key), path_ + "." + key); }

  // A whole number in [least, most].
  int64_t Int(const char* key, int64_t least, int64_t most) const {
    const json& value = At(key);
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{1} << 62)) {
      Fail(key, "is not a whole number");
    }
    const auto number = value.get<int64_t>();
    if (number < least || number > most) {
      Fail(key, "is " + std::to_string(number) + ", not between " + std::to_string(least) + " and " + std::to_string(most));
    }
    return number;
  }
  int64_t Int(const char* key, int64_t least, int64_t most, int64_t otherwise) const {
    return Has(key) ? Int(key, least, most) : otherwise;
  }
  double Number(const char* key, double least, double most) const {
    const json& value = At(key);
    if (!value.is_number()) Fail(key, "is not a number");
    const auto number = value.get<double>();
    if (!(number >= least && number <= most)) Fail(key, "is out of range");
    return number;
  }
  double Number(const char* key, double least, double most, double otherwise) const {
    return Has(key) ? Number(key, least, most) : otherwise;
  }
  bool Bool(const char* key, bool otherwise) const {
    if (!Has(key)) return otherwise;
    if (!At(key).is_boolean()) Fail(key, "is neither true nor false");
    return At(key).get<bool>();
  }
  std::string Text(const char* key, const char* otherwise) const {
    if (!Has(key)) return otherwise;
    if (!At(key).is_string()) Fail(key, "is not a string");
    return At(key).get<std::string>();
  }
  const json& At(const char* key) const {
    const auto it = object_->find(key);
    if (it == object_->end()) Fail(key, "is missing");
    return *it;
  }
  [[noreturn]] void Fail(const char* key, const std::string& what) const {
    throw BadConfig(path_ + "." + key + " " + what);
  }

 private:
  const json* object_;
  std::string path_;
};

constexpr int64_t kMostWidth = int64_t{1} << 24;
constexpr int64_t kMostHeads = int64_t{1} << 16;
constexpr int64_t kMostLayers = 4096;

// An end token is a number or a list of them, in either file.
void AddEndTokens(const json& value, int64_t vocabulary, std::vector<int32_t>& tokens) {
  const json list = value.is_array() ? value : json::array({value});
  for (const json& token : list) {
    if (token.is_null()) continue;
    if (!token.is_number_integer() || token.get<int64_t>() < 0 || token.get<int64_t>() >= vocabulary) {
      throw BadConfig("eos_token_id is not a token of the vocabulary");
    }
    const auto id = token.get<int32_t>();
    if (std::find(tokens.begin(), tokens.end(), id) == tokens.end()) tokens.push_back(id);
  }
}

// 1 / theta^(2 i / rotated), as the models compute it in float32.
std::vector<float> InverseFrequencies(const Section& config, int64_t head_dim, double default_rotated_share) {
  const bool nested = config.Has("rope_parameters");
  const Section rope = nested ? config.Child("rope_parameters") : config;
  std::string type = rope.Text("rope_type", "default");
  if (config.Has("rope_scaling")) {
    const Section scaling = config.Child("rope_scaling");
    type = scaling.Text("rope_type", scaling.Text("type", "default").c_str());
  }
  // "mrope" turns text by one position, as "default" does; it differs for images only.
  if (type != "default" && type != "mrope") throw BadConfig("rope_type '" + Printable(type) + "' is not supported");
  const double theta = rope.Has("rope_theta") ? rope.Number("rope_theta", 1, 1e15) : config.Number("rope_theta", 1, 1e15);
  const double share = rope.Has("partial_rotary_factor")
                           ? rope.Number("partial_rotary_factor", 0, 1)
                           : config.Number("partial_rotary_factor", 0, 1, default_rotated_share);
  const auto rotated = static_cast<int64_t>(static_cast<double>(head_dim) * share);
  if (rotated % 2 != 0) {
    throw BadConfig("partial_rotary_factor turns " + std::to_string(rotated) + " of " + std::to_string(head_dim) +
                    " values, which are not pairs");
  }
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rotated; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(rotated);
    frequencies.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return frequencies;
}

std::vector<std::string> LayerTypes(const Section& config, int64_t layers) {
  std::vector<std::string> types;
  if (config.Has("layer_types")) {
    const json& list = config.At("layer_types");
    if (!list.is_array()) config.Fail("layer_types", "is not a list");
    for (const json& type : list) {
      if (!type.is_string()) config.Fail("layer_types", "holds something that is not a string");
      types.push_back(type.get<std::string>());
    }
    if (static_cast<int64_t>(types.size()) != layers) config.Fail("layer_types", "does not name num_hidden_layers layers");
    return types;
  }
  const int64_t interval = config.Int("full_attention_interval", 1, kMostLayers, 4);
  for (int64_t i = 0; i < layers; ++i) types.emplace_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");
  return types;
}

ModelSpec ParseQwen35Moe(const Section& config) {
  ModelSpec spec;
  spec.hidden = config.Int("hidden_size", 1, kMostWidth);
  spec.vocabulary = config.Int("vocab_size", 1, kMostWidth);
  spec.norm_epsilon = static_cast<float>(config.Number("rms_norm_eps", 0, 1, 1e-6));
  spec.norm_offset = 1;  // stored centred on zero
  spec.tied_head = config.Bool("tie_word_embeddings", false);
  spec.max_positions = config.Int("max_position_embeddings", 1, int64_t{1} << 30, 32768);
  if (const std::string act = config.Text("hidden_act", "silu"); act != "silu") {
    config.Fail("hidden_act", "is '" + Printable(act) + "'; only silu is supported");
  }

  AttentionSpec attention;
  attention.heads = config.Int("num_attention_heads", 1, kMostHeads);
  attention.kv_heads = config.Int("num_key_value_heads", 1, kMostHeads);
  attention.head_dim = config.Int("head_dim", 1, 65536, spec.hidden / attention.heads);
  attention.output_gate = true;
  attention.qk_norm = true;
  attention.bias = config.Bool("attention_bias", false);
  if (attention.heads % attention.kv_heads != 0) config.Fail("num_key_value_heads", "does not divide num_attention_heads");
  if (attention.head_dim < 1) config.Fail("head_dim", "is missing and cannot be derived");
  attention.inverse_frequencies = InverseFrequencies(config, attention.head_dim, 0.25);

  GatedDeltaSpec delta;
  delta.key_heads = config.Int("linear_num_key_heads", 1, kMostHeads);
  delta.value_heads = config.Int("linear_num_value_heads", 1, kMostHeads);
  delta.key_dim = config.Int("linear_key_head_dim", 1, 65536);
  delta.value_dim = config.Int("linear_value_head_dim", 1, 65536);
  delta.conv_kernel = config.Int("linear_conv_kernel_dim", 1, 256, 4);
  if (delta.value_heads % delta.key_heads != 0) {
    config.Fail("linear_num_key_heads", "does not divide linear_num_value_heads");
  }

  MoeSpec moe;
  moe.experts = config.Int("num_experts", 1, kMostHeads);
  moe.experts_per_token = config.Int("num_experts_per_tok", 1, moe.experts);
  moe.width = config.Int("moe_intermediate_size", 1, kMostWidth);
  moe.shared_width = config.Int("shared_expert_intermediate_size", 1, kMostWidth);
  moe.shared_gate = true;

  const int64_t layers = config.Int("num_hidden_layers", 1, kMostLayers);
  for (const std::string& type : LayerTypes(config, layers)) {
    LayerSpec layer;
    if (type == "full_attention") {
      layer.mixer = attention;
    } else if (type == "linear_attention") {
      layer.mixer = delta;
    } else {
      config.Fail("layer_types", "names '" + Printable(type) + "', which is neither full_attention nor linear_attention");
    }
    layer.feed_forward = moe;
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

using Parser = ModelSpec (*)(const Section& config);
struct Architecture {
  std::string_view model_type;
  Parser parse;
};
constexpr Architecture kArchitectures[] = {
    {"qwen3_5_moe", &ParseQwen35Moe},  // the whole model's type, where text_config lacks one of its own
    {"qwen3_5_moe_text", &ParseQwen35Moe},
};

}  // namespace

Result<ModelSpec> ParseModelSpec(std::string_view config_json,
                                 const std::optional<std::string>& generation_config_json) {
  const char* file = "config.json";
  try {
    const json document = json::parse(config_json);
    const Section whole(document, "config.json");
    const bool nested = whole.Has("text_config");
    const Section config = nested ? whole.Child("text_config") : whole;
    const std::string model_type = config.Has("model_type") ? config.Text("model_type", "") : whole.Text("model_type", "");
    for (const Architecture& architecture : kArchitectures) {
      if (architecture.model_type != model_type) continue;
      ModelSpec spec = architecture.parse(config);
      spec.architecture = model_type;
      if (nested && !config.Has("tie_word_embeddings")) spec.tied_head = whole.Bool("tie_word_embeddings", false);
      for (const Section& section : {config, whole}) {
        if (section.Has("eos_token_id")) AddEndTokens(section.At("eos_token_id"), spec.vocabulary, spec.end_tokens);
      }
      if (generation_config_json) {
        file = "generation_config.json";
        const json generation = json::parse(*generation_config_json);
        if (generation.is_object() && generation.contains("eos_token_id")) {
          AddEndTokens(generation.at("eos_token_id"), spec.vocabulary, spec.end_tokens);
        }
      }
      return spec;
    }
    std::string known;
    for (const Architecture& architecture : kArchitectures) {
      known += known.empty() ? "" : ", ";
      known += architecture.model_type;
    }
    return Error{"config.json: model_type '" + Printable(model_type) + "' is not supported (known: " + known + ")"};
  } catch (const BadConfig& e) {
    return Error{e.what()};
  } catch (const json::exception& e) {
    return Error{std::string(file) + ": not valid JSON (" + Printable(e.what()) + ")"};
  }
}

}  // namespace hproc::worker
