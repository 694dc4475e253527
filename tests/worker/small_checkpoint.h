// Tiny Qwen3.5-MoE text checkpoints with seeded weights, to be taken apart by a test before they are written.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "quant/half.h"
#include "tests/worker/small_tokenizer.h"

namespace hproc::worker {

// A folder of its own for one test, gone with it.
class TestFolder {
 public:
  TestFolder() {
    std::string name = testing::TempDir() + "/worker_XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  void Write(const std::string& name, std::string_view content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file << content;
    ASSERT_TRUE(file.flush()) << name;
  }

 private:
  std::filesystem::path path_;
};

struct StoredTensor {
  std::string dtype;  // BF16, F16 or F32
  std::vector<int64_t> shape;
  std::string bytes;

  static StoredTensor Of(const std::vector<float>& values, std::vector<int64_t> shape, const std::string& dtype) {
    StoredTensor tensor{dtype, std::move(shape), {}};
    for (float value : values) tensor.Append(value);
    return tensor;
  }
  void Append(float value) {
    char stored[4];
    const size_t size = dtype == "F32" ? 4 : 2;
    const uint16_t half = dtype == "BF16" ? quant::FloatToBfloat16(value) : quant::FloatToHalf(value);
    std::memcpy(stored, size == 4 ? static_cast<const void*>(&value) : &half, size);
    bytes.append(stored, size);
  }
  void Put(size_t index, float value) {
    StoredTensor one{dtype, {}, {}};
    one.Append(value);
    bytes.replace(index * one.bytes.size(), one.bytes.size(), one.bytes);
  }
};

using StoredTensors = std::map<std::string, StoredTensor>;

// A safetensors file of them, in the order of their names.
inline std::string SafetensorsOf(const StoredTensors& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string json = header.dump();
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(static_cast<unsigned char>(json.size() >> (8 * i)));
  return file + json + data;
}

// What a checkpoint is to look like. The defaults are odd on purpose: no extent is a multiple of a register or a block.
struct SmallShape {
  std::string layers = "LFL";  // L: gated delta net, F: full attention
  int64_t hidden = 36;
  int64_t vocabulary = 70;
  int64_t heads = 6;
  int64_t kv_heads = 2;
  int64_t head_dim = 12;
  double rotary = 0.5;
  double theta = 10000;
  int64_t key_heads = 3;
  int64_t value_heads = 6;
  int64_t key_dim = 10;
  int64_t value_dim = 7;
  int64_t conv_kernel = 4;
  int64_t experts = 5;
  int64_t top = 2;
  int64_t width = 9;
  int64_t shared_width = 11;
  bool tied = false;
  bool bias = false;
  bool fused = true;    // experts as [E, 2I, H], not one by one
  bool nested = false;  // inside a vision-language model, with a vision tower and a multi-token prediction head
  std::string dtype = "BF16";
  uint32_t seed = 1;
};

class SmallCheckpoint {
 public:
  explicit SmallCheckpoint(const SmallShape& shape = {}) : shape_(shape), random_(shape.seed) {
    text_config = {{"model_type", "qwen3_5_moe_text"}, {"hidden_size", shape.hidden}, {"vocab_size", shape.vocabulary},
                   {"num_hidden_layers", shape.layers.size()}, {"num_attention_heads", shape.heads},
                   {"num_key_value_heads", shape.kv_heads}, {"head_dim", shape.head_dim},
                   {"linear_num_key_heads", shape.key_heads}, {"linear_num_value_heads", shape.value_heads},
                   {"linear_key_head_dim", shape.key_dim}, {"linear_value_head_dim", shape.value_dim},
                   {"linear_conv_kernel_dim", shape.conv_kernel}, {"num_experts", shape.experts},
                   {"num_experts_per_tok", shape.top}, {"moe_intermediate_size", shape.width},
                   {"shared_expert_intermediate_size", shape.shared_width}, {"max_position_embeddings", 512},
                   {"tie_word_embeddings", shape.tied}, {"attention_bias", shape.bias}, {"eos_token_id", 2},
                   {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", shape.theta},
                                        {"partial_rotary_factor", shape.rotary}}}};
    text_config["layer_types"] = nlohmann::json::array();
    for (char layer : shape.layers) {
      text_config["layer_types"].push_back(layer == 'F' ? "full_attention" : "linear_attention");
    }
    prefix_ = shape.nested ? "model.language_model." : "model.";
    AddTensors();
  }

  nlohmann::json text_config;
  StoredTensors tensors;

  const std::string& prefix() const { return prefix_; }
  std::string ConfigJson() const {
    if (!shape_.nested) return text_config.dump();
    return nlohmann::json{{"model_type", "qwen3_5_moe"}, {"text_config", text_config}, {"vision_config", {{"depth", 1}}}}.dump();
  }
  void WriteTo(const TestFolder& folder) const {
    folder.Write("config.json", ConfigJson());
    folder.Write("model.safetensors", SafetensorsOf(tensors));
    folder.Write("tokenizer.json", SmallTokenizer{}.Json());
  }

 private:
  // Gaussian values of the given spread about `mean`.
  void Add(const std::string& name, std::vector<int64_t> shape, double spread, double mean = 0) {
    std::normal_distribution<double> normal(mean, spread);
    int64_t size = 1;
    for (int64_t extent : shape) size *= extent;
    StoredTensor tensor{shape_.dtype, std::move(shape), {}};
    for (int64_t i = 0; i < size; ++i) tensor.Append(static_cast<float>(normal(random_)));
    tensors[name] = std::move(tensor);
  }
  // A product keeps the spread of its input.
  void AddProduct(const std::string& name, std::vector<int64_t> shape) {
    const double spread = 1.2 / std::sqrt(static_cast<double>(shape.back()));
    Add(name, std::move(shape), spread);
  }

  void AddTensors() {
    const SmallShape& s = shape_;
    Add(prefix_ + "embed_tokens.weight", {s.vocabulary, s.hidden}, 1);
    Add(prefix_ + "norm.weight", {s.hidden}, 0.3);
    if (!s.tied) AddProduct("lm_head.weight", {s.vocabulary, s.hidden});
    for (size_t i = 0; i < s.layers.size(); ++i) {
      const std::string at = prefix_ + "layers." + std::to_string(i) + ".";
      Add(at + "input_layernorm.weight", {s.hidden}, 0.3);
      Add(at + "post_attention_layernorm.weight", {s.hidden}, 0.3);
      s.layers[i] == 'F' ? AddAttention(at + "self_attn.") : AddGatedDelta(at + "linear_attn.");
      AddMoe(at + "mlp.");
    }
    if (!s.nested) return;
    Add("model.visual.patch_embed.proj.weight", {3, 2}, 1);
    Add("mtp.fc.weight", {2, 3}, 1);
  }
  void AddAttention(const std::string& at) {
    const SmallShape& s = shape_;
    AddProduct(at + "q_proj.weight", {2 * s.heads * s.head_dim, s.hidden});
    AddProduct(at + "k_proj.weight", {s.kv_heads * s.head_dim, s.hidden});
    AddProduct(at + "v_proj.weight", {s.kv_heads * s.head_dim, s.hidden});
    AddProduct(at + "o_proj.weight", {s.hidden, s.heads * s.head_dim});
    Add(at + "q_norm.weight", {s.head_dim}, 0.3);
    Add(at + "k_norm.weight", {s.head_dim}, 0.3);
    if (!s.bias) return;
    Add(at + "q_proj.bias", {2 * s.heads * s.head_dim}, 0.5);
    Add(at + "k_proj.bias", {s.kv_heads * s.head_dim}, 0.5);
    Add(at + "v_proj.bias", {s.kv_heads * s.head_dim}, 0.5);
    Add(at + "o_proj.bias", {s.hidden}, 0.5);
  }
  void AddGatedDelta(const std::string& at) {
    const SmallShape& s = shape_;
    const int64_t values = s.value_heads * s.value_dim;
    const int64_t channels = 2 * s.key_heads * s.key_dim + values;
    AddProduct(at + "in_proj_qkv.weight", {channels, s.hidden});
    AddProduct(at + "in_proj_z.weight", {values, s.hidden});
    AddProduct(at + "in_proj_a.weight", {s.value_heads, s.hidden});
    AddProduct(at + "in_proj_b.weight", {s.value_heads, s.hidden});
    Add(at + "conv1d.weight", {channels, 1, s.conv_kernel}, 0.5);
    Add(at + "A_log", {s.value_heads}, 0.7, 1);
    Add(at + "dt_bias", {s.value_heads}, 1);
    Add(at + "norm.weight", {s.value_dim}, 0.3, 1);
    AddProduct(at + "out_proj.weight", {s.hidden, values});
  }
  void AddMoe(const std::string& at) {
    const SmallShape& s = shape_;
    AddProduct(at + "gate.weight", {s.experts, s.hidden});
    AddProduct(at + "shared_expert.gate_proj.weight", {s.shared_width, s.hidden});
    AddProduct(at + "shared_expert.up_proj.weight", {s.shared_width, s.hidden});
    AddProduct(at + "shared_expert.down_proj.weight", {s.hidden, s.shared_width});
    AddProduct(at + "shared_expert_gate.weight", {1, s.hidden});
    AddProduct(at + "experts.gate_up_proj", {s.experts, 2 * s.width, s.hidden});
    AddProduct(at + "experts.down_proj", {s.experts, s.hidden, s.width});
    if (s.fused) return;
    const StoredTensor gate_up = tensors.extract(at + "experts.gate_up_proj").mapped();
    const StoredTensor down = tensors.extract(at + "experts.down_proj").mapped();
    // Of expert `e`, part `part` of `parts` equal ones.
    const auto piece = [&](const StoredTensor& fused, int64_t e, size_t part, size_t parts, std::vector<int64_t> shape) {
      const size_t size = fused.bytes.size() / static_cast<size_t>(s.experts) / parts;
      return StoredTensor{s.dtype, std::move(shape), fused.bytes.substr((static_cast<size_t>(e) * parts + part) * size, size)};
    };
    for (int64_t e = 0; e < s.experts; ++e) {
      const std::string expert = at + "experts." + std::to_string(e) + ".";
      tensors[expert + "gate_proj.weight"] = piece(gate_up, e, 0, 2, {s.width, s.hidden});
      tensors[expert + "up_proj.weight"] = piece(gate_up, e, 1, 2, {s.width, s.hidden});
      tensors[expert + "down_proj.weight"] = piece(down, e, 0, 1, {s.hidden, s.width});
    }
  }

  SmallShape shape_;
  std::string prefix_;
  std::mt19937 random_;
};

}  // namespace hproc::worker
