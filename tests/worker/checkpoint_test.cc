#include "worker/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <map>
#include <thread>

#include "base/file.h"
#include "worker/tensor_convert.h"

namespace hproc::worker {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

// A file of U8 tensors, one after the other; each tensor's bytes are its value.
std::string Safetensors(const std::map<std::string, std::string>& tensors) {
  std::string json = "{";
  std::string data;
  for (const auto& [name, bytes] : tensors) {
    json += json.size() > 1 ? "," : "";
    json += "\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(bytes.size()) +
            R"(],"data_offsets":[)" + std::to_string(data.size()) + "," +
            std::to_string(data.size() + bytes.size()) + "]}";
    data += bytes;
  }
  json += "}";
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) {
    file[i] = static_cast<char>(static_cast<unsigned char>(json.size() >> (8 * i)));
  }
  return file + json + data;
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("checkpoint_test" + std::to_string(::getpid()));
    folder_ = root_ / "model";
    fs::remove_all(root_);
    fs::create_directories(folder_);
    Write("config.json", "{}");
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, std::string_view content) {
    ASSERT_TRUE(WriteFileAtomically(folder_ / name, content).ok());
  }
  // a: "aaaa", b: "bb" in s1; c: "ccc" in s2.
  void WriteTwoShards(std::string_view index) {
    Write("s1.safetensors", Safetensors({{"a", "aaaa"}, {"b", "bb"}}));
    Write("s2.safetensors", Safetensors({{"c", "ccc"}}));
    Write("model.safetensors.index.json", index);
  }
  // The message, which must be one line naming the folder; "opened" where there is none.
  std::string OpenError() const {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
    if (checkpoint.ok()) return "opened";
    EXPECT_THAT(checkpoint.error().message, HasSubstr(folder_.string()));
    EXPECT_EQ(checkpoint.error().message.find('\n'), std::string::npos);
    return checkpoint.error().message;
  }
  static std::string ReadAll(const Checkpoint& checkpoint, std::string_view name) {
    const TensorInfo* tensor = checkpoint.Find(name);
    if (tensor == nullptr) return "(no such tensor)";
    std::string bytes(static_cast<size_t>(tensor->bytes()), '?');
    const Result<void> read = checkpoint.Read(*tensor, 0, std::as_writable_bytes(std::span(bytes)));
    return read.ok() ? bytes : read.error().message;
  }

  fs::path root_;
  fs::path folder_;
};

constexpr std::string_view kGoodIndex =
    R"({"metadata":{"total_size":9},"weight_map":{"c":"s2.safetensors","a":"s1.safetensors","b":"s1.safetensors"}})";

TEST_F(CheckpointTest, OpensASingleFile) {
  Write("model.safetensors", Safetensors({{"z", "zz"}, {"m.w", "mmm"}}));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  ASSERT_EQ(checkpoint->tensors().size(), 2u);
  EXPECT_EQ(checkpoint->tensors()[0].name, "m.w");
  EXPECT_EQ(checkpoint->tensors()[1].name, "z");
  EXPECT_EQ(checkpoint->total_bytes(), 5);
  EXPECT_EQ(ReadAll(*checkpoint, "m.w"), "mmm");
  EXPECT_EQ(ReadAll(*checkpoint, "z"), "zz");
  EXPECT_EQ(checkpoint->Find("y"), nullptr);
  EXPECT_EQ(checkpoint->config_json(), "{}");
  EXPECT_FALSE(checkpoint->generation_config_json().has_value());
}

TEST_F(CheckpointTest, OpensShardsByTheirIndex) {
  WriteTwoShards(kGoodIndex);
  Write("generation_config.json", R"({"eos_token_id":1})");
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->shard_count(), 2);
  EXPECT_EQ(ReadAll(*checkpoint, "a"), "aaaa");
  EXPECT_EQ(ReadAll(*checkpoint, "b"), "bb");
  EXPECT_EQ(ReadAll(*checkpoint, "c"), "ccc");
  EXPECT_EQ(checkpoint->ShardName(checkpoint->Find("c")->shard), "s2.safetensors");
  EXPECT_EQ(checkpoint->generation_config_json(), R"({"eos_token_id":1})");
}

TEST_F(CheckpointTest, PrefersTheSingleFileAsTransformersDoes) {
  WriteTwoShards("not even JSON");
  Write("model.safetensors", Safetensors({{"only", "1"}}));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->tensors().size(), 1u);
}

TEST_F(CheckpointTest, NamesWhatIsMissing) {
  EXPECT_THAT(OpenError(), EndsWith("neither model.safetensors nor model.safetensors.index.json"));
  fs::remove(folder_ / "config.json");
  EXPECT_THAT(OpenError(), EndsWith("no config.json, so not a checkpoint"));
  fs::remove_all(folder_);
  EXPECT_THAT(OpenError(), EndsWith("no such folder"));
  ASSERT_TRUE(WriteFileAtomically(folder_, "a file").ok());
  EXPECT_THAT(OpenError(), EndsWith("not a folder"));
}

TEST_F(CheckpointTest, RefusesAConfigTooLargeToBeOne) {
  Write("model.safetensors", Safetensors({{"a", "1"}}));
  Write("config.json", std::string(static_cast<size_t>(kMaxConfigBytes) + 1, ' '));
  EXPECT_THAT(OpenError(), HasSubstr("config.json: 4194305 bytes, more than the 4194304 allowed"));
}

TEST_F(CheckpointTest, RefusesAMissingShard) {
  WriteTwoShards(kGoodIndex);
  fs::remove(folder_ / "s2.safetensors");
  EXPECT_THAT(
      OpenError(),
      EndsWith(
          "s2.safetensors: No such file or directory (named by model.safetensors.index.json)"));
}

TEST_F(CheckpointTest, RefusesAShardThatIsNotAFile) {
  WriteTwoShards(kGoodIndex);
  fs::remove(folder_ / "s2.safetensors");
  fs::create_directory(folder_ / "s2.safetensors");
  EXPECT_THAT(OpenError(), HasSubstr("s2.safetensors: not a regular file"));
  fs::remove(folder_ / "s2.safetensors");
  ASSERT_EQ(::mkfifo((folder_ / "s2.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(OpenError(), HasSubstr("s2.safetensors: not a regular file"));
}

TEST_F(CheckpointTest, RefusesShardNamesThatLeaveTheFolder) {
  const std::string good = Safetensors({{"a", "1"}});
  ASSERT_TRUE(WriteFileAtomically(root_ / "outside.safetensors", good).ok());
  fs::create_directory(folder_ / "sub");
  Write("sub/in.safetensors", good);
  for (const std::string& name :
       {std::string("../outside.safetensors"), (root_ / "outside.safetensors").string(),
        std::string("sub/in.safetensors"), std::string(".."), std::string("."), std::string(""),
        std::string("./s1.safetensors")}) {
    Write("model.safetensors.index.json", R"({"weight_map":{"a":")" + name + R"("}})");
    EXPECT_THAT(OpenError(), HasSubstr("is not the name of a file in this folder")) << name;
  }
  Write("model.safetensors.index.json", R"({"weight_map":{"a":"x\u0000.safetensors"}})");
  EXPECT_THAT(OpenError(),
              HasSubstr("'x\\u{0000}.safetensors' is not the name of a file in this folder"));
}

TEST_F(CheckpointTest, RefusesLinksOutOfTheFolder) {
  ASSERT_TRUE(WriteFileAtomically(root_ / "outside.safetensors", Safetensors({{"a", "1"}})).ok());
  fs::create_symlink("../outside.safetensors", folder_ / "model.safetensors");
  EXPECT_THAT(OpenError(), EndsWith("model.safetensors: a symbolic link out of the folder"));
  fs::remove(folder_ / "model.safetensors");
  // A neighbour whose name only begins like the folder's is outside, too.
  fs::create_directory(root_ / "model2");
  ASSERT_TRUE(WriteFileAtomically(root_ / "model2" / "x", Safetensors({{"a", "1"}})).ok());
  fs::create_symlink("../model2/x", folder_ / "model.safetensors");
  EXPECT_THAT(OpenError(), EndsWith("a symbolic link out of the folder"));
  fs::remove(folder_ / "config.json");
  fs::create_symlink("/etc/hostname", folder_ / "config.json");
  EXPECT_THAT(OpenError(), EndsWith("config.json: a symbolic link out of the folder"));
}

TEST_F(CheckpointTest, FollowsLinksInsideTheFolder) {
  Write("weights", Safetensors({{"a", "1"}}));
  fs::create_symlink("weights", folder_ / "model.safetensors");
  EXPECT_EQ(OpenError(), "opened");
}

TEST_F(CheckpointTest, FollowsTheLinksOfTheHubsCache) {
  const fs::path repo = root_ / "models--maker--name";
  fs::create_directories(repo / "blobs");
  folder_ = repo / "snapshots" / "0123abcd";
  fs::create_directories(folder_);
  ASSERT_TRUE(WriteFileAtomically(repo / "blobs" / "c0ffee", "{}").ok());
  ASSERT_TRUE(WriteFileAtomically(repo / "blobs" / "beef", Safetensors({{"a", "1"}})).ok());
  fs::create_symlink("../../blobs/c0ffee", folder_ / "config.json");
  fs::create_symlink("../../blobs/beef", folder_ / "model.safetensors");
  EXPECT_EQ(OpenError(), "opened");
  // Only blobs/ of the same repository.
  ASSERT_TRUE(WriteFileAtomically(repo / "stray", "{}").ok());
  fs::remove(folder_ / "config.json");
  fs::create_symlink("../../stray", folder_ / "config.json");
  EXPECT_THAT(OpenError(), EndsWith("config.json: a symbolic link out of the folder"));
}

TEST_F(CheckpointTest, RefusesATensorThatIsNotInItsShard) {
  WriteTwoShards(
      R"({"weight_map":{"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors","d":"s2.safetensors"}})");
  EXPECT_THAT(OpenError(), EndsWith("index.json: tensor 'd' is not in s2.safetensors"));
  WriteTwoShards(
      R"({"weight_map":{"a":"s1.safetensors","aa":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"}})");
  EXPECT_THAT(OpenError(), EndsWith("index.json: tensor 'aa' is not in s1.safetensors"));
  WriteTwoShards(
      R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"}})");
  EXPECT_THAT(
      OpenError(),
      EndsWith("index.json: tensor 'b' should be in s2.safetensors, but is in s1.safetensors"));
}

TEST_F(CheckpointTest, RefusesATensorInTwoShards) {
  WriteTwoShards(kGoodIndex);
  Write("s2.safetensors", Safetensors({{"b", "BB"}, {"c", "ccc"}}));
  EXPECT_THAT(OpenError(), EndsWith("tensor 'b' is in both s1.safetensors and s2.safetensors"));
}

TEST_F(CheckpointTest, RefusesATensorThatTheIndexDoesNotList) {
  WriteTwoShards(R"({"weight_map":{"a":"s1.safetensors","c":"s2.safetensors"}})");
  EXPECT_THAT(OpenError(),
              EndsWith("index.json: tensor 'b' of s1.safetensors is not in the weight_map"));
  WriteTwoShards(R"({"weight_map":{"a":"s1.safetensors","b":"s1.safetensors"}})");
  EXPECT_EQ(OpenError(), "opened");  // s2.safetensors is then no part of the checkpoint
}

TEST_F(CheckpointTest, RefusesAWrongTotalSizeAndDoesWithoutOne) {
  const std::string map =
      R"("weight_map":{"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"}})";
  WriteTwoShards(R"({"metadata":{"total_size":10},)" + map);
  EXPECT_THAT(OpenError(), EndsWith("index.json: total_size is 10, but the tensors add up to 9"));
  WriteTwoShards(R"({"metadata":{"total_size":"9"},)" + map);
  EXPECT_THAT(OpenError(), EndsWith("index.json: total_size is not a number"));
  for (const char* metadata :
       {R"({"metadata":{"total_size":9.0},)", R"({"metadata":{},)", R"({"metadata":null,)", "{"}) {
    WriteTwoShards(metadata + map);
    EXPECT_EQ(OpenError(), "opened") << metadata;
  }
}

TEST_F(CheckpointTest, RefusesABrokenIndex) {
  for (const auto& [index, message] : std::map<std::string, std::string>{
           {"", "not valid JSON at byte"},
           {"{", "not valid JSON at byte"},
           {"[]", "not a JSON object"},
           {"{}", "no weight_map"},
           {R"({"weight_map":[]})", "weight_map is not an object"},
           {R"({"weight_map":"x"})", "weight_map is not an object"},
           {R"({"weight_map":{"a":1}})", "tensor 'a': its file is not a string"},
           {R"({"weight_map":{"a":["s1.safetensors"]}})", "tensor 'a': its file is not a string"},
           {R"({"weight_map":{"a":"s1.safetensors","a":"s1.safetensors"}})",
            "tensor 'a' appears twice"},
           {R"({"weight_map":{},"weight_map":{}})", "weight_map appears twice"},
       }) {
    WriteTwoShards(index);
    EXPECT_THAT(OpenError(), HasSubstr("model.safetensors.index.json: " + message)) << index;
  }
}

TEST_F(CheckpointTest, NamesTheShardWithABrokenHeader) {
  WriteTwoShards(kGoodIndex);
  Write("s2.safetensors", "short");
  EXPECT_THAT(OpenError(), HasSubstr("s2.safetensors: not a safetensors file: 5 bytes"));
  std::string cut = Safetensors({{"c", "ccc"}});
  cut.pop_back();
  Write("s2.safetensors", cut);
  EXPECT_THAT(
      OpenError(),
      HasSubstr("s2.safetensors: tensor 'c': ends at byte 3 of the data, but the file holds 2"));
}

TEST_F(CheckpointTest, ReadsAnyPartOfATensor) {
  Write("model.safetensors", Safetensors({{"a", "0123456789"}, {"b", "abc"}}));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok());
  char out[4] = {};
  ASSERT_TRUE(
      checkpoint->Read(*checkpoint->Find("a"), 6, std::as_writable_bytes(std::span(out))).ok());
  EXPECT_EQ(std::string_view(out, 4), "6789");
  ASSERT_TRUE(checkpoint->Read(*checkpoint->Find("b"), 3, {}).ok());
}

TEST_F(CheckpointTest, ReadsFromSeveralThreadsAtOnce) {
  std::map<std::string, std::string> tensors;
  for (char c = 'a'; c <= 'p'; ++c) tensors[std::string(1, c)] = std::string(10'000, c);
  Write("model.safetensors", Safetensors(tensors));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok());
  std::vector<int> wrong(4, 0);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < 20; ++round) {
          for (const auto& [name, bytes] : tensors) wrong[t] += ReadAll(*checkpoint, name) != bytes;
        }
      });
    }
  }
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST_F(CheckpointTest, ReportsAFileCutShortWhileOpen) {
  Write("model.safetensors",
        Safetensors({{"a", std::string(5000, 'x')}, {"b", std::string(5000, 'y')}}));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok());
  fs::resize_file(folder_ / "model.safetensors",
                  fs::file_size(folder_ / "model.safetensors") - 2000);
  EXPECT_EQ(ReadAll(*checkpoint, "a"), std::string(5000, 'x'));
  const std::string message = ReadAll(*checkpoint, "b");
  EXPECT_THAT(message, HasSubstr("model.safetensors: tensor 'b': the file ends at or before byte"));
  EXPECT_THAT(message, HasSubstr("2000 bytes short"));
  const Result<std::string> fingerprint = checkpoint->Fingerprint();
  ASSERT_FALSE(fingerprint.ok());
  EXPECT_THAT(fingerprint.error().message, HasSubstr("tensor 'b'"));
}

TEST_F(CheckpointTest, FingerprintChangesWithEachOfItsParts) {
  std::string a(20'000, 'x');
  const auto fingerprint = [&] {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(folder_);
    return checkpoint.ok() ? *checkpoint->Fingerprint() : checkpoint.error().message;
  };
  Write("model.safetensors", Safetensors({{"a", a}}));
  const std::string original = fingerprint();
  EXPECT_EQ(original.size(), 64u);
  EXPECT_EQ(fingerprint(), original);

  a[10'000] = 'y';  // between the first and the last 4 KiB: not read, by design
  Write("model.safetensors", Safetensors({{"a", a}}));
  EXPECT_EQ(fingerprint(), original);
  a[4095] = 'y';
  Write("model.safetensors", Safetensors({{"a", a}}));
  const std::string first_page = fingerprint();
  EXPECT_NE(first_page, original);
  a[20'000 - 4096] = 'y';
  Write("model.safetensors", Safetensors({{"a", a}}));
  const std::string last_page = fingerprint();
  EXPECT_NE(last_page, first_page);
  Write("model.safetensors", Safetensors({{"b", a}}));
  const std::string renamed = fingerprint();
  EXPECT_NE(renamed, last_page);
  Write("config.json", "{ }");
  EXPECT_NE(fingerprint(), renamed);
}

// ---- Real checkpoints
// --------------------------------------------------------------------------------------------

TEST(RealCheckpoint, WordmathOpensWithItsThreeShards) {
  const Result<Checkpoint> checkpoint = Checkpoint::Open(HPROC_SOURCE_DIR "/evals/wordmath/model");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->shard_count(), 3);
  EXPECT_EQ(checkpoint->ShardName(2), "model-00003-of-00003.safetensors");
  EXPECT_EQ(checkpoint->tensors().size(), 105u);
  EXPECT_EQ(checkpoint->total_bytes(), 42049472);
  EXPECT_EQ(checkpoint->tensors().front().name, "lm_head.weight");
  EXPECT_EQ(checkpoint->tensors().back().name, "model.norm.weight");
  EXPECT_TRUE(checkpoint->generation_config_json().has_value());

  const TensorInfo* a_log = checkpoint->Find("model.layers.0.linear_attn.A_log");
  ASSERT_NE(a_log, nullptr);
  EXPECT_EQ(a_log->dtype, Dtype::kF32);
  EXPECT_THAT(a_log->shape, ElementsAre(8));
  std::vector<float> values(8);
  ASSERT_TRUE(checkpoint->Read(*a_log, 0, std::as_writable_bytes(std::span(values))).ok());
  EXPECT_EQ(values[0], 2.6016154289245605f);
  EXPECT_EQ(values[7], 2.7220218181610107f);

  const TensorInfo* embedding = checkpoint->Find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dtype, Dtype::kBF16);
  EXPECT_THAT(embedding->shape, ElementsAre(1024, 384));
  std::vector<std::byte> bytes(static_cast<size_t>(embedding->bytes()));
  ASSERT_TRUE(checkpoint->Read(*embedding, 0, bytes).ok());
  std::vector<float> weights(static_cast<size_t>(embedding->elements()));
  EXPECT_EQ(ConvertToFloat(embedding->dtype, bytes, weights), 0);
  EXPECT_EQ(weights[0], std::bit_cast<float>(0xBCA10000u));
  EXPECT_EQ(weights[1], std::bit_cast<float>(0x3C480000u));
}

TEST(RealCheckpoint, FingerprintsAreWhatTheHeaderDocuments) {
  // Computed from the header's description by an independent script.
  const std::map<std::string, std::string> expected = {
      {HPROC_SOURCE_DIR "/evals/wordmath/model",
       "8248fca59b4e2eedf7a2080ff363a27e153be308546b19a102430d91c67d25ae"},
      {HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe",
       "19492203425185f25550cacb04619031db23830c36c98fc5f9e11957890d304f"},
      {HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe_vl",
       "f80176a377b333d78ff7238ef6ae3b3b3d455bdb5560a971217819e4d2d41c4a"}};
  for (const auto& [folder, fingerprint] : expected) {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    EXPECT_EQ(*checkpoint->Fingerprint(), fingerprint) << folder;
  }
}

TEST(RealCheckpoint, SmallArchitecturesOpen) {
  const Result<Checkpoint> text =
      Checkpoint::Open(HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe");
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(text->tensors().size(), 120u);
  EXPECT_EQ(text->total_bytes(), 723616);
  ASSERT_NE(text->Find("model.layers.0.linear_attn.conv1d.weight"), nullptr);
  EXPECT_THAT(text->Find("model.layers.0.linear_attn.conv1d.weight")->shape,
              ElementsAre(256, 1, 4));

  const Result<Checkpoint> vision =
      Checkpoint::Open(HPROC_TEST_DATA "/goldens/architectures/qwen3_5_moe_vl");
  ASSERT_TRUE(vision.ok()) << vision.error().message;
  EXPECT_EQ(vision->tensors().size(), 141u);
  EXPECT_NE(vision->Find("model.visual.pos_embed.weight"), nullptr);
  EXPECT_NE(vision->Find("model.language_model.norm.weight"), nullptr);
}

}  // namespace
}  // namespace hproc::worker
