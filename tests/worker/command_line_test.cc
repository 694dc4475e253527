// The worker's two checks as a user runs them: exit codes, one clear line, JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>

#include "base/file.h"
#include "tests/worker/small_engine.h"

namespace hproc::worker {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

struct Ran {
  int exit_code = -1;
  std::string out;
  std::string err;
};

const std::filesystem::path kGoldens = HPROC_TEST_DATA "/goldens/architectures";
const std::string kWordmath = HPROC_SOURCE_DIR "/evals/wordmath/model";

class CommandLineTest : public testing::Test {
 protected:
  // `arguments` are words of a shell; what is in quotes is up to the caller.
  Ran Execute(const std::string& arguments, const std::string& input = "") {
    folder_.Write("in", input);
    const auto file = [&](const char* name) { return " '" + (folder_ / name).string() + "'"; };
    const int status = std::system(("'" HPROC_WORKER "' " + arguments + " <" + file("in") + " >" + file("out") + " 2>" + file("err")).c_str());
    Ran ran;
    ran.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    ran.out = *ReadFile(folder_ / "out", 1 << 26);
    ran.err = *ReadFile(folder_ / "err", 1 << 26);
    return ran;
  }
  Ran Golden(const std::filesystem::path& model, const std::filesystem::path& golden, const std::string& more = "") {
    return Execute("golden --model '" + model.string() + "' --golden '" + golden.string() + "' " + more);
  }
  Ran Tokenize(const std::string& input, const std::string& model = kWordmath) {
    return Execute("tokenize --model '" + model + "'", input);
  }

  TestFolder folder_;
};

// Nothing but one line on stderr, under the name of the program, without control characters.
void ExpectOneLine(const Ran& ran, int exit_code) {
  EXPECT_EQ(ran.exit_code, exit_code) << ran.err;
  EXPECT_THAT(ran.err, StartsWith("hproc-worker: "));
  EXPECT_EQ(ran.err.find('\n'), ran.err.size() - 1) << ran.err;
  EXPECT_EQ(ran.err.find('\x1b'), std::string::npos);
}

TEST_F(CommandLineTest, GoldenPrintsOneObjectOfThreeKeys) {
  for (const char* device : {"", "--device cpu --threads 1", "--device reference"}) {
    const std::filesystem::path folder = kGoldens / "qwen3_5_moe_tied_full";
    const Ran ran = Golden(folder, folder / "golden.safetensors", device);
    ASSERT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_EQ(ran.err, "");
    EXPECT_EQ(ran.out.find('\n'), ran.out.size() - 1);
    const json line = json::parse(ran.out);
    EXPECT_EQ(line.size(), 3u);
    EXPECT_LT(line.at("logits_rel_err").get<double>(), 1e-4);
    EXPECT_EQ(line.at("greedy_match"), 24);
    EXPECT_EQ(line.at("greedy_total"), 24);
  }
}

TEST_F(CommandLineTest, GoldenPrintsNullForAnErrorThatIsNoNumber) {
  SmallCheckpoint small({.layers = "F", .dtype = "F32"});
  small.tensors.at("lm_head.weight").Put(0, 3e38f);
  small.tensors.at("lm_head.weight").Put(1, -3e38f);
  small.tensors.at("model.norm.weight").Put(0, 1e10f);
  small.tensors.at("model.norm.weight").Put(1, 1e10f);
  small.WriteTo(folder_);
  const int32_t prompt = 3;
  folder_.Write("g", SafetensorsOf({{"prompt_ids", {"I32", {1}, std::string(reinterpret_cast<const char*>(&prompt), 4)}},
                                    {"prompt_logits", StoredTensor::Of(std::vector<float>(70, 1), {1, 70}, "F32")}}));
  const Ran ran = Golden(folder_.path(), folder_ / "g");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_TRUE(json::parse(ran.out).at("logits_rel_err").is_null()) << ran.out;
  EXPECT_EQ(json::parse(ran.out).at("greedy_total"), 0);
}

TEST_F(CommandLineTest, GoldenNamesTheFileThatIsBroken) {
  const std::filesystem::path folder = kGoldens / "qwen3_5_moe_tied_full";
  const std::string whole = *ReadFile(folder / "golden.safetensors", 1 << 26);
  for (size_t size : {size_t{0}, size_t{5}, size_t{200}, whole.size() - 1}) {
    folder_.Write("cut.safetensors", whole.substr(0, size));
    const Ran ran = Golden(folder, folder_ / "cut.safetensors");
    ExpectOneLine(ran, 4);
    EXPECT_THAT(ran.err, HasSubstr("cut.safetensors"));
    EXPECT_EQ(ran.out, "");
  }
  ExpectOneLine(Golden(folder, "/no/such/file"), 4);
  ExpectOneLine(Golden(folder, folder), 4);  // a folder
  ExpectOneLine(Golden("/no/such/model", folder / "golden.safetensors"), 4);
  SmallCheckpoint small({.layers = "F"});
  small.text_config["model_type"] = "llama\n\x1b[2J";
  small.WriteTo(folder_);
  const Ran ran = Golden(folder_.path(), folder / "golden.safetensors");
  ExpectOneLine(ran, 4);
  EXPECT_THAT(ran.err, AllOf(HasSubstr("config.json: model_type 'llama"), HasSubstr("is not supported (known: qwen3_5_moe")));
}

TEST_F(CommandLineTest, GoldenOfAnotherModelDoesNotFit) {
  const Ran ran = Golden(kGoldens / "qwen3_5_moe_tied_full", kGoldens / "qwen3_5_moe" / "golden.safetensors");
  ExpectOneLine(ran, 4);
  EXPECT_THAT(ran.err, HasSubstr("prompt_logits is not [tokens of prompt_ids, 80]"));
}

TEST_F(CommandLineTest, UsageErrorsExitWithTwo) {
  for (const char* arguments : {"", "golden", "golden --model x", "tokenize", "nonsense", "golden --model x --golden y --threads -1",
                                "golden --model x --golden y --threads many", "session", "session --events-fd -3", "--nonsense",
                                "golden --model x --golden y --device gpu"}) {
    const Ran ran = Execute(arguments);
    EXPECT_EQ(ran.exit_code, 2) << arguments << ": " << ran.err;
    EXPECT_NE(ran.err, "") << arguments;
    EXPECT_EQ(ran.out, "") << arguments;
  }
  for (const char* arguments : {"--help", "golden --help", "tokenize --help", "--version"}) {
    const Ran ran = Execute(arguments);
    EXPECT_EQ(ran.exit_code, 0) << arguments;
    EXPECT_NE(ran.out, "") << arguments;
  }
}

TEST_F(CommandLineTest, TokenizeAnswersEveryLineWithIdsAndText) {
  const Ran ran = Tokenize("{\"text\": \"hello  world\"}\n{\"text\": \"\", \"more\": [1]}\n\n{\"text\":\"<|im_end|>\\u00e9\\ud83d\\ude00\\u0000\"}");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  std::istringstream lines(ran.out);
  std::vector<json> answers;
  for (std::string line; std::getline(lines, line);) {
    answers.push_back(json::parse(line));
    EXPECT_EQ(answers.back().size(), 2u);
  }
  ASSERT_EQ(answers.size(), 3u);  // an empty line asks for nothing
  EXPECT_EQ(answers[0], json({{"ids", {257, 280, 78, 220, 542, 367}}, {"decoded", "hello  world"}}));
  EXPECT_EQ(answers[1], json({{"ids", json::array()}, {"decoded", ""}}));
  EXPECT_EQ(answers[2].at("ids").at(0), 1023);
  EXPECT_EQ(answers[2].at("decoded"), std::string("<|im_end|>\u00e9\U0001F600\0", 17));
}

TEST_F(CommandLineTest, TokenizeNamesTheLineThatIsNoRequest) {
  const std::string good = "{\"text\": \"a\"}\n";
  for (const std::string& bad : {std::string("x"), std::string("{}"), std::string("[\"text\"]"), std::string("{\"text\": 3}"),
                                 std::string("{\"text\": null}"), std::string("{\"Text\": \"a\"}"), std::string("{\"text\": \"a\""),
                                 std::string("{\"text\": \"a\"} {\"text\": \"b\"}"), std::string("{\"text\": \"\xff\"}"),
                                 std::string("{\"text\": \"\xed\xa0\x80\"}"), std::string("{\"text\": \"\\ud800\"}"),
                                 std::string("{\"text\": \"\xc3\"}"), std::string("\0", 1), std::string("null"), std::string("\xef\xbb\xbf"),
                                 std::string(100000, '['), "{\"a\":" + std::string(100000, '{')}) {
    const Ran ran = Tokenize(good + good + bad + "\n" + good);
    ExpectOneLine(ran, 4);
    EXPECT_THAT(ran.err, HasSubstr("standard input, line 3: ")) << bad.substr(0, 40);
    // What was asked before has its answer.
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 2) << bad.substr(0, 40);
  }
}

TEST_F(CommandLineTest, TokenizeTakesLongLines) {
  const Ran ran = Tokenize("{\"text\": \"" + std::string(3'000'000, 'a') + "\"}\n");
  ASSERT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(json::parse(ran.out).at("decoded").get<std::string>().size(), 3'000'000u);
}

TEST_F(CommandLineTest, TokenizeNamesATokenizerItCannotRead) {
  ExpectOneLine(Tokenize("", "/no/such/model"), 4);
  folder_.Write("tokenizer.json", "{\"model\": 3}");
  const Ran ran = Tokenize("", folder_.path());
  ExpectOneLine(ran, 4);
  EXPECT_THAT(ran.err, HasSubstr("tokenizer.json"));
}

TEST_F(CommandLineTest, TokenizeSaysWhenItCannotWrite) {
  std::string lines;
  for (int i = 0; i < 2000; ++i) lines += "{\"text\": \"hello hello hello\"}\n";
  folder_.Write("in", lines);
  const int status = std::system(("'" HPROC_WORKER "' tokenize --model '" + kWordmath + "' <'" + (folder_ / "in").string() +
                                  "' >/dev/full 2>'" + (folder_ / "err").string() + "'").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 4);
  EXPECT_EQ(*ReadFile(folder_ / "err", 1 << 20), "hproc-worker: standard output: cannot write\n");
}

}  // namespace
}  // namespace hproc::worker
