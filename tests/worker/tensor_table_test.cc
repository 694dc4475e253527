#include "worker/tensor_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <set>

#include "tests/worker/small_checkpoint.h"

namespace hproc::worker {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Opened {
  Checkpoint checkpoint;
  ModelSpec spec;
  Result<TensorTable> table;
};

Opened Open(const SmallCheckpoint& small, const TestFolder& folder) {
  small.WriteTo(folder);
  Result<Checkpoint> checkpoint = Checkpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  Result<ModelSpec> spec = ParseModelSpec(checkpoint->config_json(), {});
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  Result<TensorTable> table = BuildTensorTable(*spec, *checkpoint);
  return {std::move(*checkpoint), std::move(*spec), std::move(table)};
}

// The message, which must be one line; "accepted" where there is none.
std::string ErrorOf(const SmallCheckpoint& small) {
  const TestFolder folder;
  const Opened opened = Open(small, folder);
  if (opened.table.ok()) return "accepted";
  EXPECT_EQ(opened.table.error().message.find('\n'), std::string::npos);
  return opened.table.error().message;
}

std::vector<SmallShape> Shapes() {
  return {{}, {.layers = "F", .tied = true, .bias = true}, {.fused = false}, {.fused = false, .nested = true, .dtype = "F16"},
          {.layers = "LL", .nested = true, .dtype = "F32"}};
}

const ModelTensor& Tensor(const TensorTable& table, TensorRole role, int layer) {
  for (const ModelTensor& tensor : table.tensors) {
    if (tensor.role == role && tensor.layer == layer) return tensor;
  }
  ADD_FAILURE() << "no such tensor";
  return table.tensors.front();
}

std::vector<float> Rows(const Checkpoint& checkpoint, const ModelTensor& tensor, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * tensor.spec.columns));
  const Result<void> read = ReadRows(checkpoint, tensor, first, count, values);
  EXPECT_TRUE(read.ok()) << read.error().message;
  return values;
}

TEST(TensorTable, TakesEveryTensorOfTheFileOnceOrHasItOnTheIgnoreList) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    const Opened opened = Open(SmallCheckpoint(shape), folder);
    ASSERT_TRUE(opened.table.ok()) << opened.table.error().message;
    std::multiset<std::string> taken;
    for (const ModelTensor& tensor : opened.table->tensors) {
      int64_t next = 0;
      for (const TensorSource& source : tensor.sources) {
        taken.insert(source.info->name);
        EXPECT_EQ(source.first_row, next) << "gap in " << tensor.spec.name;
        next += source.rows;
        // All of the source's values, no more.
        EXPECT_EQ(source.rows * tensor.spec.columns * tensor.spec.bytes_per_value, source.info->bytes()) << source.info->name;
      }
      EXPECT_EQ(next, tensor.spec.rows) << tensor.spec.name;
    }
    for (const TensorInfo& info : opened.checkpoint.tensors()) {
      const bool ignored = info.name.starts_with("model.visual.") || info.name.starts_with("mtp.");
      EXPECT_EQ(taken.count(info.name), ignored ? 0u : 1u) << info.name;
    }
  }
}

TEST(TensorTable, PutsExpertsTogetherTheSameWhetherFusedOrOneByOne) {
  SmallShape shape{.layers = "F"};
  const TestFolder fused_folder;
  const Opened fused = Open(SmallCheckpoint(shape), fused_folder);
  shape.fused = false;
  const TestFolder folder;
  const Opened single = Open(SmallCheckpoint(shape), folder);
  ASSERT_TRUE(fused.table.ok() && single.table.ok());
  for (TensorRole role : {TensorRole::kExpertsGateUp, TensorRole::kExpertsDown}) {
    const ModelTensor& a = Tensor(*fused.table, role, 0);
    const ModelTensor& b = Tensor(*single.table, role, 0);
    EXPECT_EQ(a.spec, b.spec);
    EXPECT_EQ(a.sources.size(), 1u);
    EXPECT_EQ(b.sources.size(), role == TensorRole::kExpertsGateUp ? 10u : 5u);
    EXPECT_EQ(Rows(fused.checkpoint, a, 0, a.spec.rows), Rows(single.checkpoint, b, 0, b.spec.rows));
    // Ranges that begin and end within a source, and span several.
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {8, 2}, {17, 20}, {a.spec.rows - 1, 1}}) {
      EXPECT_EQ(Rows(fused.checkpoint, a, first, count), Rows(single.checkpoint, b, first, count)) << first;
    }
  }
}

TEST(TensorTable, PutsGateRowsBeforeUpRowsInEveryExpert) {
  const SmallCheckpoint small({.layers = "F", .fused = false, .dtype = "F32"});
  const TestFolder folder;
  const Opened opened = Open(small, folder);
  ASSERT_TRUE(opened.table.ok());
  const ModelTensor& gate_up = Tensor(*opened.table, TensorRole::kExpertsGateUp, 0);
  for (int64_t e : {0, 3}) {
    for (const auto& [name, first] : {std::pair<const char*, int64_t>{"gate_proj", 0}, {"up_proj", 9}}) {
      const StoredTensor& stored = small.tensors.at("model.layers.0.mlp.experts." + std::to_string(e) + "." + name + ".weight");
      std::vector<float> expected(stored.bytes.size() / 4);
      std::memcpy(expected.data(), stored.bytes.data(), stored.bytes.size());
      EXPECT_EQ(Rows(opened.checkpoint, gate_up, e * 18 + first, 9), expected) << name << " of expert " << e;
    }
  }
}

TEST(TensorTable, SortsTensorsIntoFamilies) {
  const TestFolder folder;
  const Opened opened = Open(SmallCheckpoint({.bias = true}), folder);
  ASSERT_TRUE(opened.table.ok());
  const std::set<TensorRole> strict = {
      TensorRole::kQuery, TensorRole::kKey, TensorRole::kValue, TensorRole::kOutput, TensorRole::kDeltaQkv, TensorRole::kDeltaZ,
      TensorRole::kDeltaOut, TensorRole::kSharedGate, TensorRole::kSharedUp, TensorRole::kSharedDown};
  for (const ModelTensor& tensor : opened.table->tensors) {
    quant::Family expected = quant::Family::kKept;
    if (strict.contains(tensor.role)) expected = quant::Family::kStrict;
    if (tensor.role == TensorRole::kExpertsGateUp || tensor.role == TensorRole::kExpertsDown) expected = quant::Family::kLazy;
    if (tensor.role == TensorRole::kHead) expected = quant::Family::kHead;
    EXPECT_EQ(tensor.spec.family, expected) << tensor.spec.name;
  }
}

TEST(TensorTable, NamesEveryTensorThatIsMissing) {
  for (const SmallShape& shape : {SmallShape{.bias = true}, SmallShape{.layers = "F", .fused = false, .nested = true}}) {
    const SmallCheckpoint whole(shape);
    for (const auto& [name, tensor] : whole.tensors) {
      if (name.starts_with("model.visual.") || name.starts_with("mtp.")) continue;
      SmallCheckpoint small = whole;
      small.tensors.erase(name);
      // Without its embedding a nested model cannot be told from a flat one, and without a fused tensor the experts are
      // looked for one by one.
      if (name.ends_with("embed_tokens.weight")) {
        EXPECT_EQ(ErrorOf(small), "tensor 'model.embed_tokens.weight' is missing");
      } else if (name.ends_with("experts.gate_up_proj")) {
        EXPECT_THAT(ErrorOf(small), HasSubstr("mlp.experts.0.gate_proj.weight' is missing"));
      } else {
        EXPECT_EQ(ErrorOf(small), "tensor '" + name + "' is missing");
      }
    }
  }
}

TEST(TensorTable, NamesEveryTensorOfAnotherShape) {
  const SmallCheckpoint whole({.layers = "LF"});
  for (const auto& [name, tensor] : whole.tensors) {
    SmallCheckpoint small = whole;
    small.tensors.at(name).shape.insert(small.tensors.at(name).shape.begin(), 1);  // the same bytes
    EXPECT_THAT(ErrorOf(small), AllOf(StartsWith("model.safetensors: tensor '" + name + "' has shape [1, "), HasSubstr(", not ["))) << name;
  }
  // Transposed experts, as some writers have them.
  SmallCheckpoint small = whole;
  StoredTensor& down = small.tensors.at("model.layers.0.mlp.experts.down_proj");
  std::swap(down.shape[1], down.shape[2]);
  EXPECT_EQ(ErrorOf(small), "model.safetensors: tensor 'model.layers.0.mlp.experts.down_proj' has shape [5, 9, 36], not [5, 36, 9]");
}

// A channel may have columns / 16 outliers, and their count has two bytes.
TEST(TensorTable, NamesATensorOfLongerRowsThanAContainerTakes) {
  EXPECT_EQ(ErrorOf(SmallCheckpoint({.layers = "L", .hidden = 1, .experts = 1, .top = 1, .width = 1 << 20})),
            "model.safetensors: tensor 'model.layers.0.mlp.experts.down_proj' has rows of 1048576 values, more than the 1048575 "
            "that a quantized matrix can have");
  EXPECT_EQ(ErrorOf(SmallCheckpoint({.layers = "L", .hidden = 1, .experts = 1, .top = 1, .width = (1 << 20) - 1})), "accepted");
}

TEST(TensorTable, NamesEveryTensorOfADtypeItDoesNotTake) {
  const SmallCheckpoint whole({.layers = "LF"});
  for (const auto& [name, tensor] : whole.tensors) {
    SmallCheckpoint small = whole;
    small.tensors.at(name).dtype = "I16";  // two bytes as well
    EXPECT_EQ(ErrorOf(small), "model.safetensors: tensor '" + name + "' is I16, not BF16, F16 or F32");
  }
}

TEST(TensorTable, NamesWhatItDoesNotKnow) {
  for (const char* name : {"model.layers.3.input_layernorm.weight", "model.layers.0.mlp.experts.0.gate_proj.weight", "x",
                           "model.layers.1.self_attn.q_proj.bias", "modelvisual.x", "model.layers.1.mtp.x"}) {
    SmallCheckpoint small;
    small.tensors[name] = StoredTensor::Of({1}, {1}, "BF16");
    EXPECT_EQ(ErrorOf(small), "model.safetensors: tensor '" + std::string(name) + "' is not one of a qwen3_5_moe_text model");
  }
  SmallCheckpoint small;
  small.tensors["bad\x1b[31m\nname"] = StoredTensor::Of({1}, {1}, "BF16");
  EXPECT_EQ(ErrorOf(small).find('\x1b'), std::string::npos);
}

TEST(TensorTable, NamesTheFileOfManyThatATensorIsIn) {
  const SmallCheckpoint small({.layers = "L"});
  const TestFolder folder;
  small.WriteTo(folder);
  std::filesystem::remove(folder / "model.safetensors");
  StoredTensors files[2];
  json index = {{"weight_map", json::object()}};
  for (const auto& [name, tensor] : small.tensors) {
    const bool second = name.find("mlp") != std::string::npos;
    files[second].emplace(name, tensor).first->second.dtype = name.ends_with("mlp.gate.weight") ? "I16" : "BF16";
    index["weight_map"][name] = second ? "two.safetensors" : "one.safetensors";
  }
  folder.Write("one.safetensors", SafetensorsOf(files[0]));
  folder.Write("two.safetensors", SafetensorsOf(files[1]));
  folder.Write("model.safetensors.index.json", index.dump());
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const Result<TensorTable> table = BuildTensorTable(*ParseModelSpec(checkpoint->config_json(), {}), *checkpoint);
  ASSERT_FALSE(table.ok());
  EXPECT_EQ(table.error().message, "two.safetensors: tensor 'model.layers.0.mlp.gate.weight' is I16, not BF16, F16 or F32");
}

TEST(TensorTable, PassesOverVisionTowersPredictionHeadsAndTiedCopies) {
  SmallCheckpoint small({.tied = true});
  for (const char* name : {"model.visual.a", "visual.b", "mtp.c", "model.mtp.d", "model.layers.0.self_attn.rotary_emb.inv_freq",
                           "lm_head.weight"}) {
    small.tensors[name] = StoredTensor::Of({1}, {1}, "BF16");
  }
  EXPECT_EQ(ErrorOf(small), "accepted");
}

TEST(TensorTable, RefusesExpertsOfSeveralDtypes) {
  SmallCheckpoint small({.layers = "L", .fused = false});
  StoredTensor& up = small.tensors.at("model.layers.0.mlp.experts.3.up_proj.weight");
  up.dtype = "F16";
  EXPECT_EQ(ErrorOf(small), "model.safetensors: tensor 'model.layers.0.mlp.experts.3.up_proj.weight' is F16, other experts of its layer BF16");
}

// A config of 60 bytes must not cost minutes: 4096 layers of 65536 experts are 800 million names.
TEST(TensorTable, RefusesAHugeModelOnceItsFirstTensorIsMissing) {
  SmallCheckpoint small;
  small.text_config["num_experts"] = 65536;
  small.text_config["num_hidden_layers"] = 4096;
  small.text_config.erase("layer_types");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(ErrorOf(small), StartsWith("model.safetensors: tensor 'model.layers.0.mlp.gate.weight' has shape [5, 36], not [65536, 36]"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(ReadRows, CountsAndNamesWhatIsNotFinite) {
  SmallCheckpoint small({.layers = "L", .fused = false, .dtype = "F32"});
  StoredTensor& up = small.tensors.at("model.layers.0.mlp.experts.1.up_proj.weight");
  up.Put(0, std::numeric_limits<float>::quiet_NaN());
  up.Put(5, -std::numeric_limits<float>::infinity());
  const TestFolder folder;
  const Opened opened = Open(small, folder);
  ASSERT_TRUE(opened.table.ok());
  const ModelTensor& gate_up = Tensor(*opened.table, TensorRole::kExpertsGateUp, 0);
  std::vector<float> values(static_cast<size_t>(gate_up.spec.weights()));
  const Result<void> read = ReadRows(opened.checkpoint, gate_up, 0, gate_up.spec.rows, values);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().message,
            "model.safetensors: tensor 'model.layers.0.mlp.experts.1.up_proj.weight' holds 2 values that are NaN or infinite");
  // Rows beside it are none the worse.
  Rows(opened.checkpoint, gate_up, 0, 18);
  Rows(opened.checkpoint, gate_up, 36, gate_up.spec.rows - 36);
}

TEST(ReadRows, SaysWhenTheFileWasCutShort) {
  const SmallCheckpoint small({.layers = "L"});
  const TestFolder folder;
  const Opened opened = Open(small, folder);
  ASSERT_TRUE(opened.table.ok());
  std::filesystem::resize_file(folder / "model.safetensors", std::filesystem::file_size(folder / "model.safetensors") - 2);
  const ModelTensor& norm = Tensor(*opened.table, TensorRole::kFinalNorm, -1);  // the last by name
  std::vector<float> values(static_cast<size_t>(norm.spec.weights()));
  const Result<void> read = ReadRows(opened.checkpoint, norm, 0, 1, values);
  ASSERT_FALSE(read.ok());
  EXPECT_THAT(read.error().message, HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace hproc::worker
