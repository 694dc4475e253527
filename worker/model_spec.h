// ModelSpec: what a model is made of, as a list of blocks. One engine runs any list; an architecture is a reader of
// config.json into this and a table of tensor names (worker/tensor_table.h), nothing more.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace hproc::worker {

// Grouped-query attention. Widths are in values.
struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool output_gate = false;  // q_proj gives [query, gate] a head; the output is multiplied by sigmoid(gate)
  bool qk_norm = false;      // an RMS norm over each query and key head, before the rotation
  bool bias = false;         // on q, k, v and o
  // Of the rotated pairs; 2 * size() <= head_dim. Never null from ParseModelSpec; shared by the layers that turn alike,
  // so that a short config of many layers stays small.
  std::shared_ptr<const std::vector<float>> inverse_frequencies;

  int64_t query_columns() const { return heads * head_dim * (output_gate ? 2 : 1); }
  int64_t kv_columns() const { return kv_heads * head_dim; }
};

struct GatedDeltaSpec {
  int64_t key_heads = 0;
  int64_t value_heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t conv_kernel = 0;

  int64_t value_columns() const { return value_heads * value_dim; }
  int64_t conv_channels() const { return 2 * key_heads * key_dim + value_columns(); }
};

struct MoeSpec {
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t width = 0;         // of a routed expert
  bool normalize = true;     // the chosen experts' probabilities are divided by their sum
  int64_t shared_width = 0;  // of the shared expert; 0: none
  bool shared_gate = false;  // its output is multiplied by sigmoid of a projection to one value
};

struct LayerSpec {
  std::variant<AttentionSpec, GatedDeltaSpec> mixer;
  MoeSpec feed_forward;
};

struct ModelSpec {
  std::string architecture;  // model_type
  int64_t hidden = 0;
  int64_t vocabulary = 0;
  std::vector<LayerSpec> layers;
  float norm_epsilon = 1e-6f;
  float norm_offset = 0;  // added to stored norm weights
  bool tied_head = false;
  int64_t max_positions = 0;  // what the model was made for; a longer context is refused
  std::vector<int32_t> end_tokens;
};

// Reads config.json and generation_config.json. Errors name the file's key; an architecture that is not known names
// those that are.
Result<ModelSpec> ParseModelSpec(std::string_view config_json, const std::optional<std::string>& generation_config_json);

}  // namespace hproc::worker
