#include "worker/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/small_engine.h"
#include "worker/batcher.h"

namespace hproc::worker {
namespace {

using kernels::Backend;
using testing::HasSubstr;

const std::filesystem::path kGoldens = HPROC_TEST_DATA "/goldens/architectures";

class ArchitectureGolden : public testing::TestWithParam<const char*> {};

TEST_P(ArchitectureGolden, LogitsAndEveryGreedyTokenAreThoseOfTransformers) {
  const std::filesystem::path folder = kGoldens / GetParam();
  for (const auto& runtime : {OpenRuntime("cpu", 1, 0), OpenRuntime("cpu", 3, 0), OpenReferenceRuntime(1)}) {
    const Result<GoldenResult> result = RunGolden(folder, folder / "golden.safetensors", *runtime);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_LT(result->logits_rel_err, 1e-4);
    EXPECT_EQ(result->greedy_match, 24);
    EXPECT_EQ(result->greedy_total, 24);
  }
}

// _bias_fused: biases, fused experts, one of six. _tied_full: attention alone, rotated whole, tied, all experts.
INSTANTIATE_TEST_SUITE_P(Qwen35Moe, ArchitectureGolden,
                         testing::Values("qwen3_5_moe", "qwen3_5_moe_vl", "qwen3_5_moe_bias_fused", "qwen3_5_moe_tied_full"),
                         [](const auto& test) { return std::string(test.param); });

// The embedded model, through tokenizer, batcher and float16 cache, as evaluations run it.
TEST(WordmathGolden, AnswersQuestionsWordForWordAsTransformersDoes) {
  constexpr size_t kQuestions = 3;
  const std::filesystem::path folder = HPROC_SOURCE_DIR "/evals/wordmath/model";
  const nlohmann::json goldens = nlohmann::json::parse(*ReadFile(HPROC_TEST_DATA "/goldens/wordmath_greedy.json", 1 << 20));
  ASSERT_GE(goldens.size(), kQuestions);
  SmallEngine small(folder, {.slots = kQuestions, .context = 640, .pass_tokens = 32, .logit_rows = kQuestions,
                             .kv_storage = kernels::Storage::kFloat16});
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

// A small checkpoint with a golden file of its own making, to be spoiled.
class GoldenFileTest : public testing::Test {
 protected:
  void SetUp() override {
    SmallCheckpoint small({.layers = "LF"});
    small.WriteTo(folder_);
    const std::vector<int32_t> prompt = RandomTokens(37, 70, 5);  // longer than a pass
    EngineShape shape{.slots = 1, .context = 60, .pass_tokens = 40, .logit_rows = 40, .kv_storage = kernels::Storage::kFloat32};
    SmallEngine engine(folder_.path(), shape, Backend::kReference);
    logits_ = engine.Feed(0, prompt);
    golden_["prompt_ids"] = Ints(prompt);
    golden_["prompt_logits"] = StoredTensor::Of(logits_, {37, 70}, "F32");
    golden_["greedy_prompt_ids"] = Ints({3, 1, 4});
    engine.engine().ResetSlot(0);
    std::vector<int32_t> greedy;
    std::vector<float> next = engine.Feed(0, std::vector<int32_t>{3, 1, 4});
    for (int i = 0; i < 6; ++i) {
      const auto last = std::span(next).last(70);
      greedy.push_back(static_cast<int32_t>(std::ranges::max_element(last) - last.begin()));
      next = engine.Feed(0, {{greedy.back()}}, 3 + i);
    }
    golden_["greedy_ids"] = Ints(greedy);
    greedy_ = greedy;
  }
  static StoredTensor Ints(const std::vector<int32_t>& values) {
    return {"I32", {static_cast<int64_t>(values.size())}, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
  }
  Result<GoldenResult> Run() {
    folder_.Write("g.safetensors", SafetensorsOf(golden_));
    return RunGolden(folder_.path(), folder_ / "g.safetensors", *OpenRuntime("cpu", 2, 0));
  }
  std::string ErrorOf() {
    const Result<GoldenResult> result = Run();
    if (result.ok()) return "accepted";
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
    EXPECT_THAT(result.error().message, HasSubstr("g.safetensors"));
    return result.error().message;
  }

  TestFolder folder_;
  StoredTensors golden_;
  std::vector<float> logits_;
  std::vector<int32_t> greedy_;
};

TEST_F(GoldenFileTest, AgreesWithItself) {
  const Result<GoldenResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_LT(result->logits_rel_err, 2e-5);
  EXPECT_EQ(result->greedy_match, 6);
}

TEST_F(GoldenFileTest, MeasuresTheErrorOverAllLogits) {
  // Twice the logits: off by half of their norm. One of them wrong: off by that share.
  std::vector<float> twice = logits_;
  for (float& l : twice) l *= 2;
  golden_["prompt_logits"] = StoredTensor::Of(twice, {37, 70}, "F32");
  EXPECT_NEAR(Run()->logits_rel_err, 0.5, 2e-5);
  double norm = 0;
  for (float l : logits_) norm += static_cast<double>(l) * l;
  std::vector<float> one = logits_;
  one.back() += 1000;
  norm += static_cast<double>(one.back()) * one.back() - static_cast<double>(logits_.back()) * logits_.back();
  golden_["prompt_logits"] = StoredTensor::Of(one, {37, 70}, "F32");
  EXPECT_NEAR(Run()->logits_rel_err, 1000 / std::sqrt(norm), 2e-5);
}

TEST_F(GoldenFileTest, CountsGreedyTokensEachBehindTheGoldenOnesBefore) {
  golden_["greedy_ids"] = Ints({greedy_[0], greedy_[1], (greedy_[2] + 1) % 70});
  EXPECT_EQ(Run()->greedy_match, 2);
  EXPECT_EQ(Run()->greedy_total, 3);
  // A wrong first token changes what is continued, not how often it counts.
  golden_["greedy_ids"] = Ints({(greedy_[0] + 1) % 70});
  EXPECT_EQ(Run()->greedy_match, 0);
  EXPECT_EQ(Run()->greedy_total, 1);
  golden_["greedy_ids"] = Ints({});
  EXPECT_EQ(Run()->greedy_total, 0);
  golden_.erase("greedy_ids");
  golden_.erase("greedy_prompt_ids");
  EXPECT_EQ(Run()->greedy_total, 0);
}

TEST_F(GoldenFileTest, NamesWhatIsMissingOrMisshapen) {
  const StoredTensors whole = golden_;
  for (const char* name : {"prompt_ids", "prompt_logits", "greedy_prompt_ids"}) {
    golden_ = whole;
    golden_.erase(name);
    EXPECT_THAT(ErrorOf(), HasSubstr("tensor '" + std::string(name) + "' is missing"));
  }
  for (const auto& [name, dtype] : {std::pair{"prompt_ids", "F32"}, {"prompt_logits", "I32"}, {"greedy_ids", "U32"}, {"greedy_prompt_ids", "F32"}}) {
    golden_ = whole;
    golden_.at(name).dtype = dtype;
    EXPECT_THAT(ErrorOf(), HasSubstr("tensor '" + std::string(name) + "' is " + dtype + ", not "));
  }
  golden_ = whole;
  golden_["prompt_ids"] = Ints({1, 2});
  EXPECT_THAT(ErrorOf(), HasSubstr("prompt_logits is not [tokens of prompt_ids, 70]"));
  golden_["prompt_ids"] = Ints({});
  golden_["prompt_logits"] = StoredTensor::Of({}, {0, 70}, "F32");
  EXPECT_THAT(ErrorOf(), HasSubstr("prompt_logits is not"));
  golden_ = whole;
  golden_["greedy_prompt_ids"] = Ints({});
  EXPECT_THAT(ErrorOf(), HasSubstr("greedy_prompt_ids is empty"));
}

TEST_F(GoldenFileTest, RefusesTokensOutsideTheVocabulary) {
  const StoredTensors whole = golden_;
  for (const char* name : {"prompt_ids", "greedy_prompt_ids", "greedy_ids"}) {
    for (int32_t bad : {-1, 70, INT32_MAX, INT32_MIN}) {
      golden_ = whole;
      golden_.at(name).bytes.replace(4, 4, reinterpret_cast<const char*>(&bad), 4);
      EXPECT_THAT(ErrorOf(), HasSubstr("token " + std::to_string(bad) + " is not in the vocabulary"));
    }
  }
}

TEST_F(GoldenFileTest, NamesAFileThatWasCutShortAnywhere) {
  const std::string whole = SafetensorsOf(golden_);
  for (size_t size : {size_t{0}, size_t{7}, size_t{8}, size_t{100}, whole.size() - 1000, whole.size() - 1}) {
    folder_.Write("g.safetensors", whole.substr(0, size));
    const Result<GoldenResult> result = RunGolden(folder_.path(), folder_ / "g.safetensors", *OpenRuntime("cpu", 1, 0));
    ASSERT_FALSE(result.ok()) << size;
    EXPECT_THAT(result.error().message, HasSubstr("g.safetensors"));
  }
}

}  // namespace
}  // namespace hproc::worker
