#include "worker/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/small_checkpoint.h"

namespace hproc::worker {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

json Config() { return SmallCheckpoint().text_config; }

ModelSpec Parse(const json& config, const std::optional<std::string>& generation = {}) {
  Result<ModelSpec> spec = ParseModelSpec(config.dump(), generation);
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  return spec.ok() ? *spec : ModelSpec{};
}

// The message, which must be one line; "accepted" where there is none.
std::string ErrorOf(std::string_view config, const std::optional<std::string>& generation = {}) {
  const Result<ModelSpec> spec = ParseModelSpec(config, generation);
  if (spec.ok()) return "accepted";
  EXPECT_EQ(spec.error().message.find('\n'), std::string::npos) << spec.error().message;
  return spec.error().message;
}
std::string ErrorWith(const std::string& key, const json& value) {
  json config = Config();
  config[key] = value;
  return ErrorOf(config.dump());
}

const AttentionSpec& AttentionOf(const ModelSpec& spec, size_t layer) {
  return std::get<AttentionSpec>(spec.layers[layer].mixer);
}

TEST(ModelSpec, ReadsEveryFieldOfAFlatConfig) {
  json config = Config();
  config["rms_norm_eps"] = 1e-5;
  config["attention_bias"] = true;
  const ModelSpec spec = Parse(config);
  EXPECT_EQ(spec.architecture, "qwen3_5_moe_text");
  EXPECT_EQ(spec.hidden, 36);
  EXPECT_EQ(spec.vocabulary, 70);
  EXPECT_EQ(spec.norm_epsilon, 1e-5f);
  EXPECT_EQ(spec.norm_offset, 1);
  EXPECT_EQ(spec.max_positions, 512);
  EXPECT_FALSE(spec.tied_head);
  EXPECT_THAT(spec.end_tokens, ElementsAre(2));
  ASSERT_EQ(spec.layers.size(), 3u);
  const AttentionSpec& attention = AttentionOf(spec, 1);
  EXPECT_EQ(attention.heads, 6);
  EXPECT_EQ(attention.kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 12);
  EXPECT_TRUE(attention.output_gate && attention.qk_norm && attention.bias);
  EXPECT_EQ(attention.query_columns(), 144);
  const auto& delta = std::get<GatedDeltaSpec>(spec.layers[2].mixer);
  EXPECT_EQ(delta.key_heads, 3);
  EXPECT_EQ(delta.value_heads, 6);
  EXPECT_EQ(delta.key_dim, 10);
  EXPECT_EQ(delta.value_dim, 7);
  EXPECT_EQ(delta.conv_kernel, 4);
  EXPECT_EQ(delta.conv_channels(), 2 * 3 * 10 + 6 * 7);
  const MoeSpec& moe = spec.layers[0].feed_forward;
  EXPECT_EQ(moe.experts, 5);
  EXPECT_EQ(moe.experts_per_token, 2);
  EXPECT_EQ(moe.width, 9);
  EXPECT_EQ(moe.shared_width, 11);
  EXPECT_TRUE(moe.normalize && moe.shared_gate);
}

TEST(ModelSpec, ReadsTheTextConfigOfAVisionLanguageModel) {
  json text = Config();
  json whole = {{"model_type", "qwen3_5_moe"}, {"text_config", text}, {"vision_config", {{"hidden_size", 7}}}, {"hidden_size", 99}};
  EXPECT_EQ(Parse(whole).hidden, 36);
  EXPECT_EQ(Parse(whole).architecture, "qwen3_5_moe_text");
  // Where the inner one has no type, the outer one's counts.
  whole["text_config"].erase("model_type");
  EXPECT_EQ(Parse(whole).architecture, "qwen3_5_moe");
  // Tied embeddings stand in either; the inner one leads.
  whole["text_config"].erase("tie_word_embeddings");
  whole["tie_word_embeddings"] = true;
  EXPECT_TRUE(Parse(whole).tied_head);
  whole["text_config"]["tie_word_embeddings"] = false;
  EXPECT_FALSE(Parse(whole).tied_head);
}

TEST(ModelSpec, TakesLayersFromTheIntervalWhereTheyAreNotNamed) {
  json config = Config();
  config.erase("layer_types");
  config["num_hidden_layers"] = 9;
  const auto full = [](const ModelSpec& spec) {
    std::string kinds;
    for (const LayerSpec& layer : spec.layers) kinds += std::holds_alternative<AttentionSpec>(layer.mixer) ? 'F' : 'L';
    return kinds;
  };
  EXPECT_EQ(full(Parse(config)), "LLLFLLLFL");  // every fourth
  config["full_attention_interval"] = 2;
  EXPECT_EQ(full(Parse(config)), "LFLFLFLFL");
  config["layer_types"] = nullptr;
  EXPECT_EQ(full(Parse(config)), "LFLFLFLFL");
}

TEST(ModelSpec, RotatesTheShareOfTheHeadThatTheConfigNames) {
  // theta^(-2 i / rotated): for 16 of 64 at 10^4, 10^(-i / 2).
  json config = Config();
  config["head_dim"] = 64;
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}, {"partial_rotary_factor", 0.25}};
  const std::vector<float> nested = AttentionOf(Parse(config), 1).inverse_frequencies;
  ASSERT_EQ(nested.size(), 8u);
  for (size_t i = 0; i < nested.size(); ++i) EXPECT_FLOAT_EQ(nested[i], static_cast<float>(std::pow(10.0, -0.5 * static_cast<double>(i))));
  // The older layout keeps them at the top; a quarter is the default.
  config.erase("rope_parameters");
  config["rope_theta"] = 10000;
  EXPECT_EQ(AttentionOf(Parse(config), 1).inverse_frequencies, nested);
  config["partial_rotary_factor"] = 1;
  EXPECT_EQ(AttentionOf(Parse(config), 1).inverse_frequencies.size(), 32u);
  config["partial_rotary_factor"] = 0;
  EXPECT_TRUE(AttentionOf(Parse(config), 1).inverse_frequencies.empty());
}

TEST(ModelSpec, RefusesRotationsItDoesNotKnow) {
  json config = Config();
  config["rope_parameters"]["rope_type"] = "yarn";
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("rope_type 'yarn' is not supported"));
  config = Config();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("rope_type 'linear' is not supported"));
  config["rope_scaling"] = {{"rope_type", "mrope"}};  // one position a token: nothing to do for text
  EXPECT_EQ(ErrorOf(config.dump()), "accepted");
  config = Config();
  config["rope_parameters"].erase("rope_theta");
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("rope_theta is missing"));
  config["rope_parameters"]["rope_theta"] = 0;
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("rope_theta is out of range"));
}

// Values go in pairs; writers disagree on what half a pair would mean.
TEST(ModelSpec, RefusesToRotateAnOddNumberOfValues) {
  json config = Config();
  config["rope_parameters"]["partial_rotary_factor"] = 0.25;  // of 12: 3
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("turns 3 of 12 values"));
}

TEST(ModelSpec, CollectsEndTokensFromAllPlacesOnce) {
  json config = Config();
  config["eos_token_id"] = {2, 5};
  EXPECT_THAT(Parse(config, R"({"eos_token_id": [5, 7, null]})").end_tokens, ElementsAre(2, 5, 7));
  EXPECT_THAT(Parse({{"model_type", "qwen3_5_moe"}, {"text_config", config}, {"eos_token_id", 9}}).end_tokens, ElementsAre(2, 5, 9));
  config.erase("eos_token_id");
  EXPECT_THAT(Parse(config).end_tokens, ElementsAre());
  for (const char* bad : {"-1", "70", "1.5", "\"x\"", "[2, 70]", "18446744073709551615"}) {
    EXPECT_THAT(ErrorOf(config.dump(), R"({"eos_token_id": )" + std::string(bad) + "}"), HasSubstr("eos_token_id")) << bad;
  }
}

TEST(ModelSpec, NamesTheArchitectureItDoesNotKnowAndThoseItDoes) {
  json config = Config();
  config["model_type"] = "mamba\n\x1b[31m9";
  EXPECT_THAT(ErrorOf(config.dump()), StartsWith("config.json: model_type 'mamba"));
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("known: qwen3_5_moe, qwen3_5_moe_text"));
  EXPECT_EQ(ErrorOf(config.dump()).find('\x1b'), std::string::npos);
  config.erase("model_type");
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("model_type '' is not supported"));
}

TEST(ModelSpec, NamesTheMissingField) {
  for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
                          "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"}) {
    json config = Config();
    config.erase(key);
    EXPECT_EQ(ErrorOf(config.dump()), "config.json." + std::string(key) + " is missing");
    EXPECT_EQ(ErrorOf(json{{"model_type", "qwen3_5_moe"}, {"text_config", config}}.dump()),
              "config.json.text_config." + std::string(key) + " is missing");
  }
}

TEST(ModelSpec, NamesTheAbsurdField) {
  for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                          "head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
                          "linear_value_head_dim", "linear_conv_kernel_dim", "num_experts", "num_experts_per_tok",
                          "moe_intermediate_size", "shared_expert_intermediate_size", "max_position_embeddings"}) {
    for (const json& value : {json(0), json(-1), json(1.5), json("8"), json(true), json::array({1}), json(int64_t{1} << 40),
                              json(INT64_MIN), json(UINT64_MAX), json(1e300)}) {
      EXPECT_THAT(ErrorWith(key, value), StartsWith("config.json." + std::string(key) + " is ")) << value;
    }
  }
  EXPECT_THAT(ErrorWith("rms_norm_eps", -1), HasSubstr("rms_norm_eps is out of range"));
  EXPECT_THAT(ErrorWith("rms_norm_eps", "x"), HasSubstr("rms_norm_eps is not a number"));
  EXPECT_THAT(ErrorWith("attention_bias", 1), HasSubstr("attention_bias is neither true nor false"));
  EXPECT_THAT(ErrorWith("hidden_act", "gelu"), HasSubstr("hidden_act is 'gelu'"));
  EXPECT_THAT(ErrorWith("hidden_act", 3), HasSubstr("hidden_act is not a string"));
  EXPECT_THAT(ErrorWith("layer_types", "full_attention"), HasSubstr("layer_types is not a list"));
  EXPECT_THAT(ErrorWith("layer_types", {"full_attention"}), HasSubstr("layer_types does not name num_hidden_layers layers"));
  EXPECT_THAT(ErrorWith("layer_types", {"full_attention", 1, 2}), HasSubstr("layer_types holds something"));
  EXPECT_THAT(ErrorWith("layer_types", {"full_attention", "full_attention", "sliding"}), HasSubstr("layer_types names 'sliding'"));
}

TEST(ModelSpec, RefusesHeadsAndExpertsThatDoNotDivide) {
  EXPECT_THAT(ErrorWith("num_key_value_heads", 4), HasSubstr("num_key_value_heads does not divide num_attention_heads"));
  EXPECT_THAT(ErrorWith("linear_num_key_heads", 4), HasSubstr("linear_num_key_heads does not divide linear_num_value_heads"));
  EXPECT_THAT(ErrorWith("num_experts_per_tok", 6), HasSubstr("num_experts_per_tok is 6, not between 1 and 5"));
  json config = Config();
  config.erase("head_dim");
  config["rope_parameters"]["partial_rotary_factor"] = 1;
  EXPECT_EQ(AttentionOf(Parse(config), 1).head_dim, 6);  // hidden_size / heads
  config["hidden_size"] = 4;
  EXPECT_THAT(ErrorOf(config.dump()), HasSubstr("head_dim is missing and cannot be derived"));
}

TEST(ModelSpec, RefusesWhatIsNoConfig) {
  for (const char* bad : {"", "[]", "null", "3", "{", "{\"a\": 1e400}", "\"x\"", "{\"text_config\": []}", "\xff", "{\"model_type\": 7}"}) {
    EXPECT_THAT(ErrorOf(bad), StartsWith("config.json")) << bad;
  }
  EXPECT_THAT(ErrorOf(Config().dump(), "{"), HasSubstr("generation_config.json: not valid JSON"));
}

}  // namespace
}  // namespace hproc::worker
