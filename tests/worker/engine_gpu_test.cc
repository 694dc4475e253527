// The engine on a CUDA device: against the CPU's, and against the goldens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/file.h"
#include "tests/kernels/cuda/gpu.h"
#include "tests/worker/small_engine.h"
#include "worker/batcher.h"
#include "worker/golden.h"

namespace hproc::worker {
namespace {

using kernels::Backend;
using kernels::SequenceRun;
using kernels::Storage;

// Where the data is; a build that is run on another machine says so in the environment.
std::filesystem::path SourceFolder() {
  const char* folder = std::getenv("HPROC_TEST_SOURCE");
  return folder != nullptr ? folder : HPROC_SOURCE_DIR;
}

using EngineOnCuda = kernels::GpuTest;

// Head counts, rotations, experts and blocks that differ in kind; widths that decode order takes.
std::vector<SmallShape> Shapes() {
  return {{},
          {.layers = "F", .heads = 5, .kv_heads = 1, .head_dim = 20, .rotary = 0.3, .experts = 1, .top = 1, .tied = true, .seed = 2},
          {.layers = "FF", .heads = 3, .kv_heads = 3, .rotary = 1, .bias = true, .fused = false, .seed = 3},
          {.layers = "LL", .key_heads = 1, .value_heads = 5, .key_dim = 33, .value_dim = 20, .conv_kernel = 1, .dtype = "F32", .seed = 4},
          {.layers = "LLFL", .hidden = 65, .rotary = 0, .key_heads = 4, .value_heads = 4, .conv_kernel = 2, .experts = 4, .top = 4,
           .nested = true, .dtype = "F16", .seed = 5},
          {.layers = "LF", .hidden = 64, .head_dim = 32, .rotary = 0.25, .key_dim = 60, .value_dim = 60, .experts = 8, .top = 3,
           .width = 24, .shared_width = 32, .seed = 6},
          // The widest heads and keys that the device is programmed for; rows that fast products take.
          {.layers = "LF", .hidden = 64, .heads = 2, .kv_heads = 1, .head_dim = 256, .rotary = 0.25, .key_heads = 1, .value_heads = 2,
           .key_dim = 256, .value_dim = 128, .experts = 8, .top = 3, .width = 128, .shared_width = 128, .seed = 7},
          {.layers = "LF", .hidden = 1024, .heads = 4, .kv_heads = 2, .head_dim = 64, .rotary = 0.25, .key_heads = 2, .value_heads = 4,
           .key_dim = 64, .value_dim = 64, .experts = 4, .top = 2, .width = 256, .shared_width = 256, .seed = 8}};
}

constexpr EngineShape kShape{.slots = 3, .context = 60, .pass_tokens = 40, .logit_rows = 40, .kv_storage = Storage::kFloat32};
// Both work in float32, in other orders of addition.
constexpr double kFloatTolerance = 2e-5;
// The CPU rounds activations of packed weights to 14 bits and sign (engine_test.cc), the device to 15 and sign.
constexpr double kPackedTolerance = 20e-4;
constexpr quant::Floors kFloors{.strict = 0.98, .lazy = 0.95, .head = 0.99};

TEST_F(EngineOnCuda, AgreesWithTheReference) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    SmallEngine device(folder.path(), kShape, Backend::kDevice);
    SmallEngine reference(folder.path(), kShape, Backend::kReference);
    EXPECT_LT(RelativeError(device.Feed(1, tokens), reference.Feed(1, tokens)), kFloatTolerance) << "seed " << shape.seed;
  }
}

TEST_F(EngineOnCuda, AgreesWithTheReferenceOnPackedWeights) {
  for (const SmallShape& shape : {Shapes()[0], Shapes()[5], Shapes()[6], Shapes()[7]}) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    SmallEngine device(folder.path(), kShape, Backend::kDevice, 2, kFloors);
    ASSERT_TRUE(device.model().has_packed());
    SmallEngine reference(folder.path(), kShape, Backend::kReference, 2, kFloors);
    const std::vector<float> expected = reference.Feed(1, tokens);
    EXPECT_LT(RelativeError(device.Feed(1, tokens), expected), kPackedTolerance) << "seed " << shape.seed;
    // What one token of a sequence is alone, and a few at once.
    for (const size_t piece : {1, 7}) {
      device.engine().ResetSlot(2);
      EXPECT_LT(RelativeError(device.Feed(2, tokens, 0, piece), expected), kPackedTolerance) << "seed " << shape.seed << ", " << piece;
    }
  }
}

// Uniform codebooks with group scales, made by the host: no fast products take them.
TEST_F(EngineOnCuda, RunsTheInt4BaselineAsTheReferenceDoes) {
  const SmallShape small = Shapes()[6];
  const TestFolder folder;
  SmallCheckpoint(small).WriteTo(folder);
  const OpenedCheckpoint opened = OpenedCheckpoint::At(folder.path());
  ThreadPool pool(2);
  const quant::Plan plan = quant::Int4Plan(opened.Rates(pool));
  const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, small.vocabulary, 9);
  std::vector<std::vector<float>> logits;
  std::vector<int64_t> weight_bytes;
  for (const bool on_device : {true, false}) {
    const std::unique_ptr<Runtime> runtime = on_device ? OpenRuntime("cuda", 2, 0) : OpenReferenceRuntime(2);
    Result<LoadedModel> loaded = runtime->Load(opened.spec, opened.checkpoint, opened.table, plan, {}, {});
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    weight_bytes.push_back(loaded->report.weight_bytes);
    EngineShape shape = kShape;
    shape.workspace = runtime->WorkspaceOf(opened.spec, shape);
    Engine engine(loaded->model, runtime->context(), runtime->memory(), shape);
    engine.AllocateCache();
    engine.AllocateActivations();
    const SequenceRun run{.slot = 1, .first_position = 0, .first_row = 0, .tokens = static_cast<int32_t>(tokens.size())};
    std::vector<int32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    const float* out = engine.Pass(tokens, {&run, 1}, rows);
    logits.emplace_back(out, out + tokens.size() * static_cast<size_t>(opened.spec.vocabulary));
  }
  EXPECT_EQ(weight_bytes[0], weight_bytes[1]);
  EXPECT_LT(RelativeError(logits[0], logits[1]), kFloatTolerance);
}

// A pass of one token a sequence is recorded at its second time and replayed from its third on: with other tokens, in other slots,
// at other positions.
TEST_F(EngineOnCuda, DecodesWhatItPrefills) {
  for (const SmallShape& shape : Shapes()) {
    const TestFolder folder;
    SmallCheckpoint(shape).WriteTo(folder);
    const std::vector<int32_t> tokens = RandomTokens(kShape.pass_tokens, shape.vocabulary, 9);
    SmallEngine device(folder.path(), kShape, Backend::kDevice);
    const std::vector<float> whole = device.Feed(0, tokens);
    for (size_t piece : {1, 3, 16}) {
      device.engine().ResetSlot(1);
      EXPECT_LT(RelativeError(device.Feed(1, tokens, 0, piece), whole), kFloatTolerance)
          << "seed " << shape.seed << " pieces of " << piece;
    }
    device.engine().ResetSlot(2);
    std::vector<float> parts = device.Feed(2, std::span(tokens).first(25));
    const std::vector<float> rest = device.Feed(2, std::span(tokens).subspan(25), 25, 1);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_LT(RelativeError(parts, whole), kFloatTolerance) << "seed " << shape.seed;
  }
}

// Passes that hold a few tokens of each of three sequences, as they come; every sequence as if it were alone.
TEST_F(EngineOnCuda, ASequenceDoesNotDependOnItsNeighbours) {
  const TestFolder folder;
  SmallCheckpoint(Shapes()[0]).WriteTo(folder);
  SmallEngine device(folder.path(), kShape, Backend::kDevice);
  SmallEngine reference(folder.path(), kShape, Backend::kReference);
  std::vector<std::vector<int32_t>> sequences;
  for (uint32_t s = 0; s < 3; ++s) sequences.push_back(RandomTokens(40 + 5 * s, 70, 20 + s));
  const std::vector<std::vector<float>> mixed = device.FeedMixed(sequences, 4);
  for (size_t s = 0; s < 3; ++s) {
    reference.engine().ResetSlot(0);
    EXPECT_LT(RelativeError(mixed[s], reference.Feed(0, sequences[s])), kFloatTolerance) << "sequence " << s;
  }
}

// Long enough for several blocks to share a sequence's positions; heads that tensor cores take where the cache is float16, and others.
TEST_F(EngineOnCuda, AttendsOverLongSequencesInParts) {
  for (const SmallShape& heads : {SmallShape{.layers = "FF"}, SmallShape{.layers = "F", .heads = 17, .kv_heads = 1, .head_dim = 64},
                                  SmallShape{.layers = "F", .heads = 2, .kv_heads = 1, .head_dim = 256}}) {
    const TestFolder folder;
    SmallCheckpoint(heads).WriteTo(folder);
    for (const Storage storage : {Storage::kFloat16, Storage::kFloat32, Storage::kInt8}) {
      EngineShape shape = kShape;
      shape.context = 700;
      shape.pass_tokens = 700;
      shape.logit_rows = 1;
      shape.kv_storage = storage;
      const std::vector<int32_t> tokens = RandomTokens(650, 70, 9);
      const auto last_logits = [&](SmallEngine& small) {
        const SequenceRun prompt{.slot = 1, .first_position = 0, .first_row = 0, .tokens = 649};
        small.engine().Pass(std::span(tokens).first(649), {&prompt, 1}, {});
        return small.Feed(1, std::span(tokens).last(1), 649);
      };
      SmallEngine device(folder.path(), shape, Backend::kDevice);
      SmallEngine reference(folder.path(), shape, Backend::kReference);
      EXPECT_LT(RelativeError(last_logits(device), last_logits(reference)),
                storage == Storage::kFloat32 ? kFloatTolerance : storage == Storage::kFloat16 ? 1e-3 : 1e-2)
          << "storage " << static_cast<int>(storage) << " heads of " << heads.head_dim;
    }
  }
}

TEST_F(EngineOnCuda, GivesTheLogitsOfTheRowsAskedForInTheirOrder) {
  const TestFolder folder;
  SmallCheckpoint().WriteTo(folder);
  SmallEngine small(folder.path(), kShape, Backend::kDevice);
  const std::vector<int32_t> tokens = RandomTokens(10, 70, 9);
  const std::vector<float> all = small.Feed(0, tokens);
  const std::vector<SequenceRun> runs = {{.slot = 1, .first_position = 0, .first_row = 0, .tokens = 10}};
  const std::vector<int32_t> rows = {9, 0, 4};
  const float* some = small.engine().Pass(tokens, runs, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span expected = std::span(all).subspan(static_cast<size_t>(rows[i]) * small.vocabulary(), small.vocabulary());
    EXPECT_LT(RelativeError({some + i * small.vocabulary(), small.vocabulary()}, expected), kFloatTolerance) << rows[i];
  }
}

class GoldenOnCuda : public EngineOnCuda, public testing::WithParamInterface<const char*> {};

TEST_P(GoldenOnCuda, LogitsAndEveryGreedyTokenAreThoseOfTransformers) {
  const std::filesystem::path folder = SourceFolder() / "tests/data/goldens/architectures" / GetParam();
  const auto runtime = OpenRuntime("cuda", 2, 0);
  const Result<GoldenResult> result = RunGolden(folder, folder / "golden.safetensors", *runtime);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_LT(result->logits_rel_err, 1e-4);
  EXPECT_EQ(result->greedy_match, 24);
  EXPECT_EQ(result->greedy_total, 24);
}

INSTANTIATE_TEST_SUITE_P(Qwen35Moe, GoldenOnCuda,
                         testing::Values("qwen3_5_moe", "qwen3_5_moe_vl", "qwen3_5_moe_bias_fused", "qwen3_5_moe_tied_full"),
                         [](const auto& test) { return std::string(test.param); });

TEST_F(EngineOnCuda, AnswersWordmathQuestionsWordForWordAsTransformersDoes) {
  constexpr size_t kQuestions = 3;
  const std::filesystem::path folder = SourceFolder() / "evals/wordmath/model";
  const nlohmann::json goldens = nlohmann::json::parse(*ReadFile(SourceFolder() / "tests/data/goldens/wordmath_greedy.json", 1 << 20));
  SmallEngine small(folder, {.slots = kQuestions, .context = 640, .pass_tokens = 32, .logit_rows = kQuestions,
                             .kv_storage = Storage::kFloat16}, Backend::kDevice);
  const Result<Tokenizer> tokenizer = Tokenizer::FromFile(folder / "tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  std::vector<evals::GenerationRequest> requests;
  for (size_t i = 0; i < kQuestions; ++i) {
    requests.push_back({.id = static_cast<int64_t>(i), .prompt = "Question: " + goldens[i]["question"].get<std::string>() + "\nAnswer:",
                        .max_new_tokens = 420, .stop = {}, .sampling = {}});
  }
  Batcher batcher(small.engine(), *tokenizer, {});
  ASSERT_TRUE(batcher.Generate(requests, [&](evals::Completion completion) {
                       EXPECT_EQ(completion.text, goldens[static_cast<size_t>(completion.id)]["greedy_float32"].get<std::string>());
                       return true;
                     }).ok());
}

}  // namespace
}  // namespace hproc::worker
