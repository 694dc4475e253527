#include "worker/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "tests/worker/small_tokenizer.h"

namespace hproc::worker {
namespace {

using testing::HasSubstr;

TEST(TokenizerFile, NamesTheFileThatIsMissingOrTooLarge) {
  const Result<Tokenizer> missing = Tokenizer::FromFile("/no/such/tokenizer.json");
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message, HasSubstr("/no/such/tokenizer.json"));

  const std::filesystem::path huge =
      std::filesystem::path(testing::TempDir()) / "huge_tokenizer.json";
  ASSERT_TRUE(WriteFileAtomically(huge, "{").ok());
  std::filesystem::resize_file(huge, 300'000'000);  // a hole: no disk, no memory
  const Result<Tokenizer> refused = Tokenizer::FromFile(huge);
  std::filesystem::remove(huge);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              HasSubstr("huge_tokenizer.json: 300000000 bytes, more than the 134217728 allowed"));
}

TEST(TokenizerFile, EveryTruncationIsRefusedWithoutACrash) {
  const std::string json = SmallTokenizer{.tokens = {"ab"},
                                          .merges = R"([["a","b"]])",
                                          .added_tokens = "[" + AddedToken(257, "<s>") + "]"}
                               .Json();
  for (size_t size = 0; size < json.size(); ++size) {
    const Result<Tokenizer> tokenizer = Tokenizer::FromJson(json.substr(0, size), "cut.json");
    ASSERT_FALSE(tokenizer.ok()) << size;
    EXPECT_THAT(tokenizer.error().message, testing::StartsWith("cut.json: "));
  }
}

TEST(TokenizerFile, RefusesHostileVocabularies) {
  const auto error = [](const std::string& vocab) {
    const Result<Tokenizer> tokenizer = Tokenizer::FromJson(
        R"({"added_tokens":[],"normalizer":null,"decoder":{"type":"ByteLevel"},)"
        R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"model":{"vocab":)" +
            vocab + R"(,"merges":[]}})",
        "f");
    return tokenizer.ok() ? "accepted" : tokenizer.error().message;
  };
  EXPECT_EQ(error("[]"), "f: model.vocab is not an object");
  EXPECT_EQ(error("1"), "f: model: no vocab");
  EXPECT_EQ(error("{}"), "f: model: no vocab");
  EXPECT_EQ(error(R"({"a":-1})"),
            "f: vocab: the id of token 'a' is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"({"a":1.0})"),
            "f: vocab: the id of token 'a' is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"({"a":4194304})"),
            "f: vocab: the id of token 'a' is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"({"a":99999999999999999999})"),
            "f: vocab: the id of token 'a' is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"({"a":"1"})"),
            "f: vocab: the id of token 'a' is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"({"a":{}})"), "f: vocab: the id of token 'a' is not a number");
  EXPECT_EQ(error(R"({"a":1,"b":1})"), "f: id 1 belongs to both 'a' and 'b'");
  EXPECT_EQ(error(R"({"a":1,"a":2})"), "f: token 'a' is twice in the vocabulary");
  EXPECT_EQ(error(R"({"a":1,"b":2})"),
            "f: the vocabulary has no token for byte 00, so it is not byte-level or not whole");
}

TEST(TokenizerFile, RefusesHostileMerges) {
  const auto error = [](const std::string& merges) {
    return SmallTokenizer{.tokens = {"ab"}, .merges = merges}.Error();
  };
  EXPECT_EQ(error(R"(["a b"])"), "accepted");
  EXPECT_EQ(error(R"(["#version: 0.2","a b"])"), "accepted");
  EXPECT_EQ(error("{}"), "model.merges is not an array");
  EXPECT_EQ(error("true"), "model: no merges");
  EXPECT_EQ(error(R"(["ab"])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"(["a b","a b c"])"), R"(merge 1: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([["a"]])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([["a","b","c"]])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([["a",1]])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([[["a","b"]]])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([{"a":"b"}])"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error("[1]"), R"(merge 0: neither "a b" nor ["a", "b"])");
  EXPECT_EQ(error(R"([["a","b"],["ab","c"]])"), "merge 1: 'abc' is not in the vocabulary");
  EXPECT_EQ(error(R"([["zz","b"]])"), "merge 0: 'zz' is not in the vocabulary");
}

TEST(TokenizerFile, RefusesHostileAddedTokens) {
  const auto error = [](const std::string& added) {
    return SmallTokenizer{.added_tokens = added}.Error();
  };
  EXPECT_EQ(error("null"), "accepted");
  EXPECT_EQ(error("{}"), "added_tokens is not an array");
  EXPECT_EQ(error("[1]"), "added token 0: not an object");
  EXPECT_EQ(error(R"([{"id":256}])"), "added token 0: content is not a string");
  EXPECT_EQ(error("[" + AddedToken(256, "") + "]"), "added token 0 '': empty");
  EXPECT_EQ(error("[" + AddedToken(-1, "x") + "]"),
            "added token 0 'x': id is not an integer from 0 to 4194303");
  EXPECT_EQ(error("[" + AddedToken(4194304, "<x>") + "]"),
            "added token 0 '<x>': id is not an integer from 0 to 4194303");
  EXPECT_EQ(error(R"([{"id":256,"content":"x","single_word":1}])"),
            "added token 0 'x': single_word is not true or false");
  EXPECT_EQ(error("[" + AddedToken(256, "<x>") + "," + AddedToken(257, "<x>") + "]"),
            "added token '<x>' appears twice");
  EXPECT_EQ(error("[" + AddedToken(256, "<x>") + "," + AddedToken(256, "<y>") + "]"),
            "id 256 belongs to both '<x>' and '<y>'");
  EXPECT_EQ(error("[" + AddedToken(97, "<x>") + "]"), "id 97 belongs to both '<x>' and 'a'");
  EXPECT_EQ(error("[" + AddedToken(256, std::string(4097, 'x')) + "]"),
            "added token 0 '" + std::string(60, 'x') + "\u2026" + std::string(24, 'x') +
                " (4097 bytes)': longer than 4096 bytes");
}

TEST(TokenizerFile, RefusesWhatItDoesNotSupportByName) {
  const auto with = [](auto set) {
    SmallTokenizer small;
    set(small);
    return small.Error();
  };
  EXPECT_EQ(with([](auto& s) { s.normalizer = R"({"type":"NFKC"})"; }),
            "normalizer 'NFKC' is not supported");
  EXPECT_EQ(with([](auto& s) {
              s.normalizer = R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})";
            }),
            "normalizer 'Lowercase' is not supported");
  EXPECT_EQ(with([](auto& s) { s.normalizer = "[]"; }), "normalizer '' is not supported");
  EXPECT_EQ(with([](auto& s) { s.normalizer = "\"NFC\""; }), "normalizer '' is not supported");
  EXPECT_EQ(with([](auto& s) { s.pre_tokenizer = "null"; }),
            "pre-tokenizer 'null' is not supported");
  EXPECT_EQ(with([](auto& s) { s.pre_tokenizer = R"({"type":"Whitespace"})"; }),
            "pre-tokenizer 'Whitespace' is not supported");
  EXPECT_EQ(with([](auto& s) { s.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[]})"; }),
            "pre-tokenizer: no ByteLevel, and only byte-level vocabularies are supported");
  EXPECT_EQ(
      with([](auto& s) {
        s.pre_tokenizer =
            R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"MergedWithNext","invert":false})";
      }),
      "pre-tokenizer Split: behavior 'MergedWithNext' is not supported");
  EXPECT_EQ(with([](auto& s) {
              s.pre_tokenizer =
                  R"({"type":"Split","pattern":"a","behavior":"Isolated","invert":false})";
            }),
            "pre-tokenizer Split: pattern is not an object");
  EXPECT_EQ(with([](auto& s) { s.pre_tokenizer = R"({"type":"ByteLevel"})"; }),
            "pre-tokenizer ByteLevel: add_prefix_space is not true or false");
  EXPECT_EQ(
      with([](auto& s) {
        s.pre_tokenizer =
            R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},)"
            R"({"type":"Split","pattern":{"String":"a"},"behavior":"Isolated","invert":false}]})";
      }),
      "behind ByteLevel, a pre-tokenizer 'Split' is not supported");
  EXPECT_EQ(with([](auto& s) { s.decoder = "null"; }), "decoder 'null' is not supported");
  EXPECT_EQ(with([](auto& s) { s.decoder = R"({"type":"Metaspace"})"; }),
            "decoder 'Metaspace' is not supported");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("byte_fallback":true,)"; }),
            "model: byte_fallback is not supported");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("dropout":0.1,)"; }),
            "model: dropout is not supported");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("dropout":0.0,)"; }), "accepted");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("end_of_word_suffix":"</w>",)"; }),
            "model: end_of_word_suffix is not supported");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("end_of_word_suffix":"",)"; }), "accepted");
  EXPECT_EQ(with([](auto& s) { s.model_fields = R"("ignore_merges":1,)"; }),
            "model: ignore_merges is not true or false");
  EXPECT_EQ(with([](auto& s) { s.extra = R"("version":"1.0",)"; }), "'version' appears twice");
  EXPECT_EQ(with([](auto& s) { s.extra = R"("x":)" + std::string(1'000'000, '['); }),
            "JSON nested more than 16 deep");

  const Result<Tokenizer> unigram =
      Tokenizer::FromJson(R"({"model":{"type":"Unigram","vocab":[["a",0.5]]}})", "f");
  ASSERT_FALSE(unigram.ok());
  EXPECT_EQ(unigram.error().message, "f: model 'Unigram' is not supported");
  const Result<Tokenizer> word_piece =
      Tokenizer::FromJson(R"({"model":{"type":"WordPiece","vocab":{"a":0}}})", "f");
  ASSERT_FALSE(word_piece.ok());
  EXPECT_EQ(word_piece.error().message, "f: model 'WordPiece' is not supported");
  for (const char* json : {"[]", "1", "null", "\"x\""}) {
    const Result<Tokenizer> tokenizer = Tokenizer::FromJson(json, "f");
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_EQ(tokenizer.error().message, "f: not a JSON object");
  }
  const Result<Tokenizer> empty = Tokenizer::FromJson("{}", "f");
  ASSERT_FALSE(empty.ok());
  EXPECT_EQ(empty.error().message, "f: no model");
}

TEST(TokenizerFile, RefusesPatternsThatCouldMeanSomethingElse) {
  SmallTokenizer small;
  small.pre_tokenizer =
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"a$"},)"
      R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false}]})";
  EXPECT_EQ(small.Error(), "regular expression 'a$': the anchor $ is not supported");
}

}  // namespace
}  // namespace hproc::worker
