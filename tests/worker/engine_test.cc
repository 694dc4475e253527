#include "worker/engine.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/worker/small_engine.h"

namespace hproc::worker {
namespace {

using kernels::Backend;
using kernels::SequenceRun;
using kernels::Storage;

// Layer patterns, head counts, rotations and experts that differ in kind.
std::vector<SmallShape> Shapes() {
  return {{},
          {.layers = "F", .heads = 5, .kv_heads = 1, .head_dim = 20, .rotary = 0.3, .experts = 1, .top = 1, .tied = true, .seed = 2},
          {.layers = "FF", .heads = 3, .kv_heads = 3, .rotary = 1, .bias = true, .fused = false, .seed = 3},
          {.layers = "LL", .key_heads = 1, .value_heads = 5, .key_dim = 33, .value_dim = 20, .conv_kernel = 1, .dtype = "F32", .seed = 4},
          {.layers = "LLFL", .hidden = 65, .rotary = 0, .key_heads = 4, .value_heads = 4, .conv_kernel = 2, .experts = 4, .top = 4,
           .nested = true, .dtype = "F16", .seed = 5},
          // Wide enough for every operation to be spread over threads.
          {.layers = "LF", .hidden = 64, .head_dim = 32, .rotary = 0.25, .key_dim = 60, .value_dim = 60, .experts = 8, .top = 3,
           .width = 24, .shared_width = 32, .seed = 6}};
}

constexpr EngineShape kShape{.slots = 3, .context = 60, .pass_tokens = 40, .logit_rows = 40, .kv_storage = Storage::kFloat32};

// Both work in float32; the goldens, which a third engine wrote, allow 1e-4.
constexpr double kFloatTolerance = 2e-5;
// Activations of packed weights are rounded to 14 bits and sign, half a step of 1/16383 of the largest of a row, which is
// four times a usual value: 1e-4 a product. Five products stand behind one another in a layer, and four layers.
constexpr double kPackedTolerance = 20e-4;
constexpr quant::Floors kFloors{.strict = 0.98, .lazy = 0.95, .head = 0.99};

TEST(Engine, FastPathAgreesWithTheReference) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    SmallEngine fast(folder.path(), kShape);
    SmallEngine reference(folder.path(), kShape, Backend::kReference);
    EXPECT_LT(RelativeError(fast.Feed(1, tokens), reference.Feed(1, tokens)), kFloatTolerance) << "seed " << shape.seed;
  }
}

TEST(Engine, FastPathAgreesWithTheReferenceOnPackedWeights) {
  for (const SmallShape& shape : {Shapes()[0], Shapes()[5]}) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    SmallEngine fast(folder.path(), kShape, Backend::kCpu, 2, kFloors);
    ASSERT_TRUE(fast.model().has_packed());
    SmallEngine reference(folder.path(), kShape, Backend::kReference, 2, kFloors);
    EXPECT_LT(RelativeError(fast.Feed(1, tokens), reference.Feed(1, tokens)), kPackedTolerance) << "seed " << shape.seed;
  }
}

// Blocks that no config asks for yet: without a shared expert or its gate, without the output gate and the head norms.
TEST(Engine, RunsBlocksWithoutTheirOptionalParts) {
  struct Option {
    const char* name;
    std::function<void(ModelSpec&)> edit;
    std::vector<std::string> without;  // endings of the tensors that go
  };
  const std::vector<Option> options = {
      {"shared expert", [](ModelSpec& s) { for (LayerSpec& l : s.layers) l.feed_forward.shared_width = 0, l.feed_forward.shared_gate = false; },
       {"shared_expert.gate_proj.weight", "shared_expert.up_proj.weight", "shared_expert.down_proj.weight", "shared_expert_gate.weight"}},
      {"shared gate", [](ModelSpec& s) { for (LayerSpec& l : s.layers) l.feed_forward.shared_gate = false; }, {"shared_expert_gate.weight"}},
      {"normalized routes", [](ModelSpec& s) { for (LayerSpec& l : s.layers) l.feed_forward.normalize = false; }, {}},
      {"head norms", [](ModelSpec& s) { std::get<AttentionSpec>(s.layers[1].mixer).qk_norm = false; }, {"q_norm.weight", "k_norm.weight"}},
      {"output gate", [](ModelSpec& s) { std::get<AttentionSpec>(s.layers[1].mixer).output_gate = false; }, {}}};
  const std::vector<int32_t> tokens = RandomTokens(40, 70, 9);
  std::vector<float> whole;
  for (size_t i = 0; i <= options.size(); ++i) {
    const TestFolder folder;
    SmallCheckpoint small({.layers = "LF"});
    const bool edited = i < options.size();
    if (edited) {
      std::erase_if(small.tensors, [&](const auto& tensor) {
        return std::ranges::any_of(options[i].without, [&](const std::string& end) { return tensor.first.ends_with(end); });
      });
      if (std::string(options[i].name) == "output gate") {
        StoredTensor& query = small.tensors.at("model.layers.1.self_attn.q_proj.weight");
        query.shape[0] /= 2;
        query.bytes.resize(query.bytes.size() / 2);
      }
    }
    small.WriteTo(folder);
    const auto edit = edited ? options[i].edit : [](ModelSpec&) {};
    SmallEngine fast(folder.path(), kShape, Backend::kCpu, 2, {}, edit);
    SmallEngine reference(folder.path(), kShape, Backend::kReference, 2, {}, edit);
    const std::vector<float> logits = fast.Feed(0, tokens);
    EXPECT_LT(RelativeError(logits, reference.Feed(0, tokens)), kFloatTolerance) << (edited ? options[i].name : "whole");
    if (whole.empty()) whole = logits;
    EXPECT_TRUE(i == 0 || RelativeError(logits, whole) > 0.01) << "nothing changed without " << options[i - 1].name;
  }
}

TEST(Engine, PrefillInPiecesGivesTheBitsOfPrefillAtOnce) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    for (const auto& floors : {std::optional<quant::Floors>{}, std::optional(kFloors)}) {
      if (floors && shape.seed != 1 && shape.seed != 6) continue;  // the others hardly pack
      SmallEngine small(folder.path(), kShape, Backend::kCpu, 2, floors);
      const std::vector<float> whole = small.Feed(0, tokens);
      for (size_t piece : {1, 3, 16}) {
        small.engine().ResetSlot(1);
        EXPECT_TRUE(small.Feed(1, tokens, 0, piece) == whole) << "seed " << shape.seed << " pieces of " << piece;
      }
      // Prefill, then decode: two halves by different roads.
      small.engine().ResetSlot(2);
      std::vector<float> parts = small.Feed(2, std::span(tokens).first(25));
      const std::vector<float> rest = small.Feed(2, std::span(tokens).subspan(25), 25, 1);
      parts.insert(parts.end(), rest.begin(), rest.end());
      EXPECT_TRUE(parts == whole) << "seed " << shape.seed;
    }
  }
}

TEST(Engine, ReferencePrefillsInPiecesTheSameValues) {
  const TestFolder folder;
  SmallCheckpoint().WriteTo(folder);
  const std::vector<int32_t> tokens = RandomTokens(40, 70, 9);
  SmallEngine small(folder.path(), kShape, Backend::kReference);
  const std::vector<float> whole = small.Feed(0, tokens);
  EXPECT_LT(RelativeError(small.Feed(1, tokens, 0, 7), whole), 1e-6);
}

// Passes that hold a few tokens of each of three sequences, as they come; every sequence as if it were alone.
TEST(Engine, ASequenceDoesNotDependOnItsNeighbours) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::optional<quant::Floors> floors = shape.seed == 6 ? std::optional(kFloors) : std::nullopt;
    EngineShape engine_shape = kShape;
    engine_shape.kv_storage = shape.seed % 2 == 0 ? Storage::kFloat16 : Storage::kFloat32;
    SmallEngine single(folder.path(), engine_shape, Backend::kCpu, 1, floors);
    SmallEngine small(folder.path(), engine_shape, Backend::kCpu, 3, floors);
    std::vector<std::vector<int32_t>> sequences;
    std::vector<std::vector<float>> alone;
    for (uint32_t s = 0; s < 3; ++s) {
      sequences.push_back(RandomTokens(40 + 5 * s, shape.vocabulary, 20 + s));
      single.engine().ResetSlot(0);
      alone.push_back(single.Feed(0, sequences.back()));
    }
    const std::vector<std::vector<float>> mixed = small.FeedMixed(sequences, shape.seed);
    for (size_t s = 0; s < 3; ++s) EXPECT_TRUE(mixed[s] == alone[s]) << "seed " << shape.seed << " sequence " << s;
  }
}

TEST(Engine, AResetSlotForgetsAndItsNeighboursDoNot) {
  for (const Backend backend : {Backend::kCpu, Backend::kReference}) {
    const TestFolder folder;
    SmallCheckpoint().WriteTo(folder);
    SmallEngine small(folder.path(), kShape, backend);
    const std::vector<int32_t> tokens = RandomTokens(30, 70, 9);
    const std::vector<int32_t> other = RandomTokens(30, 70, 10);
    const std::vector<float> fresh = small.Feed(1, tokens);
    small.Feed(0, std::span(other).first(20));
    small.engine().ResetSlot(1);
    EXPECT_TRUE(small.Feed(1, tokens) == fresh);
    EXPECT_FALSE(small.Feed(1, tokens) == fresh) << "without a reset the state of the last run is carried on";
    small.engine().ResetSlot(1);
    const std::vector<float> rest = small.Feed(0, std::span(other).subspan(20), 20);
    small.engine().ResetSlot(2);
    small.Feed(2, std::span(other).first(20));
    EXPECT_TRUE(small.Feed(2, std::span(other).subspan(20), 20) == rest);
  }
}

TEST(Engine, GivesTheLogitsOfTheRowsAskedForInTheirOrder) {
  const TestFolder folder;
  SmallCheckpoint().WriteTo(folder);
  SmallEngine small(folder.path(), kShape);
  const std::vector<int32_t> tokens = RandomTokens(10, 70, 9);
  const std::vector<float> all = small.Feed(0, tokens);
  const std::vector<SequenceRun> runs = {{.slot = 1, .first_position = 0, .first_row = 0, .tokens = 10}};
  const std::vector<int32_t> rows = {9, 0, 4};
  const float* some = small.engine().Pass(tokens, runs, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const float* expected = all.data() + static_cast<size_t>(rows[i]) * small.vocabulary();
    EXPECT_TRUE(std::equal(expected, expected + small.vocabulary(), some + i * small.vocabulary())) << rows[i];
  }
  EXPECT_EQ(small.engine().Pass(std::span(tokens).first(1), {{{.slot = 2, .first_position = 0, .first_row = 0, .tokens = 1}}}, {}), nullptr);
}

TEST(Engine, UsesTheLastPositionOfItsContext) {
  const TestFolder folder;
  SmallCheckpoint().WriteTo(folder);
  EngineShape exact = kShape;
  exact.context = 40;
  const std::vector<int32_t> tokens = RandomTokens(40, 70, 9);
  SmallEngine small(folder.path(), exact);
  SmallEngine roomy(folder.path(), kShape);
  EXPECT_TRUE(small.Feed(2, tokens) == roomy.Feed(0, tokens));
}

TEST(Engine, TiedEmbeddingsAreTheHead) {
  SmallCheckpoint untied({.layers = "F"});
  untied.tensors["lm_head.weight"] = untied.tensors.at("model.embed_tokens.weight");
  SmallCheckpoint tied = untied;
  tied.text_config["tie_word_embeddings"] = true;
  tied.tensors.erase("lm_head.weight");
  const TestFolder untied_folder;
  const TestFolder tied_folder;
  untied.WriteTo(untied_folder);
  tied.WriteTo(tied_folder);
  const std::vector<int32_t> tokens = RandomTokens(10, 70, 9);
  SmallEngine a(untied_folder.path(), kShape);
  SmallEngine b(tied_folder.path(), kShape);
  EXPECT_TRUE(a.Feed(0, tokens) == b.Feed(0, tokens));
}

// 11 bits of a key move a score by 2^-11 of its size, of a value the output likewise.
TEST(Engine, Float16CachesCostLittle) {
  const TestFolder folder;
  SmallCheckpoint({.layers = "FF"}).WriteTo(folder);
  EngineShape half = kShape;
  half.kv_storage = Storage::kFloat16;
  const std::vector<int32_t> tokens = RandomTokens(40, 70, 9);
  SmallEngine a(folder.path(), half);
  SmallEngine b(folder.path(), kShape);
  const double error = RelativeError(a.Feed(0, tokens), b.Feed(0, tokens));
  EXPECT_LT(error, 8.0 / 2048);  // two layers, keys and values, twice for what follows
  EXPECT_GT(error, 0);
}

// A step is a 127th of a position's largest magnitude, some three standard deviations of its values here, so that rounding
// leaves 3 / 127 / sqrt(12) = 0.7 % of them: of the scores and of the outputs, in two layers, twice for what follows.
TEST(Engine, Int8CachesCostLittleAndHalfTheBytes) {
  const TestFolder folder;
  SmallCheckpoint({.layers = "FF"}).WriteTo(folder);
  EngineShape bytes = kShape;
  bytes.kv_storage = Storage::kInt8;
  const std::vector<int32_t> tokens = RandomTokens(40, 70, 9);
  SmallEngine a(folder.path(), bytes);
  SmallEngine b(folder.path(), kShape);
  const double error = RelativeError(a.Feed(0, tokens), b.Feed(0, tokens));
  EXPECT_LT(error, 2 * 2 * 2 * 0.007);
  EXPECT_GT(error, 0);
  EXPECT_EQ(kernels::KvRowBytes(Storage::kInt8, 12), 12 + 2);
  EXPECT_LT(EngineBytesOf(b.engine().spec(), bytes).kv_cache, EngineBytesOf(b.engine().spec(), kShape).kv_cache / 2);
}

// A sequence's result does not depend on how it was cut, in 8 bits neither.
TEST(Engine, Int8CachesGiveTheSameBitsHoweverAPromptIsCut) {
  const TestFolder folder;
  SmallCheckpoint({.layers = "LF"}).WriteTo(folder);
  EngineShape shape = kShape;
  shape.kv_storage = Storage::kInt8;
  const std::vector<int32_t> tokens = RandomTokens(30, 70, 5);
  SmallEngine whole(folder.path(), shape);
  SmallEngine cut(folder.path(), shape);
  const std::vector<float> expected = whole.Feed(0, tokens);
  const std::vector<float> first = cut.Feed(0, std::span(tokens).first(11));
  const std::vector<float> rest = cut.Feed(0, std::span(tokens).subspan(11), 11);
  std::vector<float> both = first;
  both.insert(both.end(), rest.begin(), rest.end());
  EXPECT_TRUE(both == expected);
}

}  // namespace
}  // namespace hproc::worker
