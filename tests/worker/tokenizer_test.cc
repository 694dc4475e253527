#include "worker/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/file.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "tests/worker/small_tokenizer.h"

namespace hproc::worker {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;

using Ids = std::vector<int32_t>;

const Tokenizer& Wordmath() {
  static const Tokenizer tokenizer = [] {
    Result<Tokenizer> loaded =
        Tokenizer::FromFile(HPROC_SOURCE_DIR "/evals/wordmath/model/tokenizer.json");
    HPROC_CHECK(loaded.ok(), loaded.error().message);
    return std::move(*loaded);
  }();
  return tokenizer;
}

// As if by bytes: the ids that the bytes of `text` have in a SmallTokenizer.
Ids Bytes(std::string_view text) {
  Ids ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

std::string Streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special = false) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.Push(id);
    EXPECT_TRUE(IsValidUtf8(part));
    text += part;
  }
  return text + decoder.Flush();
}

// wordmath_tokenizer: what the model is for; _scripts: mixed scripts, emoji, marks, blanks, control
// characters, code, added tokens.
void ExpectGoldens(const std::string& name, size_t size) {
  const Result<std::string> file = ReadFile(HPROC_TEST_DATA "/goldens/" + name, 1 << 20);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const nlohmann::json goldens = nlohmann::json::parse(*file);
  ASSERT_EQ(goldens.size(), size);
  for (const nlohmann::json& golden : goldens) {
    const std::string text = golden["text"];
    const Result<Ids> ids = Wordmath().Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    EXPECT_EQ(*ids, golden["ids"].get<Ids>()) << text;
    EXPECT_EQ(Wordmath().Decode(*ids), golden["decoded"].get<std::string>()) << text;
    EXPECT_EQ(Streamed(Wordmath(), *ids), golden["decoded"].get<std::string>()) << text;
  }
}

TEST(TokenizerGoldens, AllTextsEncodeAndDecodeAsInTheTokenizersLibrary) {
  ExpectGoldens("wordmath_tokenizer.json", 250);
  ExpectGoldens("wordmath_tokenizer_scripts.json", 316);
}

// Every code point of the planes that hold letters: in a word, behind a digit, under a mark, doubled
// and behind a blank. The digests, of 4096 code points each, are those of the library's ids.
TEST(TokenizerGoldens, EveryCodePointEncodesAsInTheTokenizersLibrary) {
  const char* const digests[] = {
      "5ecb652fb62674a4", "6cbccb3fb568d7e7", "00cef99a735d7a99", "00dd9328d30986e2",
      "3e4a6e8eca748c36", "3a43f397c4e8f97c", "6434bd89892b1de8", "5a7aeadfbc875aa7",
      "fbdc7efcb7e84ee2", "46a8a2a0283bc3dd", "4dae40d788b67021", "6fa54a424d30e0ba",
      "5c02d96b15806a3d", "3906d11d37bfa195", "fee5db2f9fc92092", "3d3f23642bdd3d78",
      "dd838adc4f90929f", "7fa37374ffe987f7", "b384c26fc5156dde", "de0d21b680760a34",
      "334e500747770872", "ff725816e5f2e78e", "50563ad0be44f815", "f95ad0926d09c3a6",
      "fa9b7c39ec20930d", "4baf92aa5e320e02", "92b5b65c0ed181ca", "77e0145d67fe23ca",
      "e4ca4209eb1fa94e", "a8efc69ccfc4d90b", "41ed58f270f39a05", "61ec4e2861de1392",
  };
  char32_t c = 0;
  for (const char* digest : digests) {
    std::string lines;
    const char32_t first = c;
    do {
      if (c >= 0xD800 && c < 0xE000) continue;
      std::string it;
      AppendUtf8(it, c);
      const Result<Ids> ids =
          Wordmath().Encode("x" + it + "7" + it + "\u0301" + it + it + " " + it + "\n");
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      for (const int32_t id : *ids) lines += std::to_string(id) + ",";
      lines.back() = '\n';
    } while (++c % 0x1000 != 0);
    EXPECT_EQ(Sha256Hex(lines).substr(0, 16), digest) << "from code point " << uint32_t{first};
  }
}

TEST(TokenizerGoldens, TextsAtTheEdgesEncodeAsInTheReferenceAlgorithm) {
  struct Case {
    std::string text;
    Ids ids;
  };
  const Case cases[] = {
      {"", {}},
      {"<|im_end|>\u0301", {1023, 136, 223}},  // the mark finds nothing to combine with
      {"e<|im_end|>\u0301", {68, 1023, 136, 223}},
      {" <|im_start|> x", {220, 1022, 689}},
      {"<|im_end|><|im_end|>", {1023, 1023}},
      {"<|im_<|im_end|>", {27, 91, 489, 62, 1023}},
      {"<|im_end|", {27, 91, 489, 62, 372, 91}},
      {"\u0301", {136, 223}},
      {"\u1100\u1161\u11a8", {166, 108, 223}},
      {"a\u180eb \u180e c", {64, 157, 254, 236, 65, 220, 157, 254, 236, 279}},
      {"x\u0085\u0085y", {87, 126, 227, 126, 227, 88}},
      {"a\u00a0\u00a0b", {64, 126, 254, 126, 254, 65}},
      {"a\u2028\u2028b", {64, 908, 101, 908, 101, 65}},
      {"\u3000\u3000z", {159, 222, 222, 159, 222, 222, 89}},
      {"\u0661\u0662\u0663", {149, 94, 149, 95, 149, 96}},
      {"\u1e9b\u0323", {157, 118, 249, 136, 96}},
      {"it'\u017f I'LL", {332, 6, 129, 123, 630, 6, 43, 43}},
      {"\r\n\r\n a", {201, 198, 201, 198, 259}},
      {"a\0b"s, {64, 188, 65}},
  };
  for (const Case& c : cases) {
    const Result<Ids> ids = Wordmath().Encode(c.text);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    EXPECT_EQ(*ids, c.ids) << c.text;
  }
}

TEST(Tokenizer, KnowsTokensByNameAndIdsByRange) {
  EXPECT_EQ(Wordmath().TokenId("<|endoftext|>"), 1021);
  EXPECT_EQ(Wordmath().TokenId("<|im_end|>"), 1023);
  EXPECT_EQ(Wordmath().TokenId("!"), 0);
  EXPECT_EQ(Wordmath().TokenId("no such token"), std::nullopt);
  EXPECT_EQ(Wordmath().vocab_size(), 1024);
  EXPECT_TRUE(Wordmath().IsSpecial(1021));
  EXPECT_FALSE(Wordmath().IsSpecial(0));
  EXPECT_FALSE(Wordmath().IsSpecial(-1));
  EXPECT_FALSE(Wordmath().IsSpecial(1024));
  EXPECT_EQ(Wordmath().TokenBytes(*Wordmath().TokenId("\u0120the")), " the");
  EXPECT_EQ(Wordmath().TokenBytes(-1), "");
  EXPECT_EQ(Wordmath().TokenBytes(1024), "");
}

TEST(Tokenizer, ReadsBrokenUtf8AsReplacementCharacters) {
  EXPECT_EQ(*Wordmath().Encode("a\xFF"
                               "b"),
            *Wordmath().Encode("a\uFFFD"
                               "b"));
  EXPECT_EQ(*Wordmath().Encode("\xE6\x97"), *Wordmath().Encode("\uFFFD"));
  EXPECT_EQ(*Wordmath().Encode("\xED\xA0\x80"), *Wordmath().Encode("\uFFFD\uFFFD\uFFFD"));
}

TEST(Tokenizer, TakesAMegabyteOfAnything) {
  std::vector<std::string> texts = {std::string(1'000'000, 'a'),       std::string(1'000'000, ' '),
                                    std::string(1'000'000, '<'),       std::string(1'000'000, '\n'),
                                    std::string(1'000'000, ' ') + "x", "e"s};
  for (int i = 0; i < 250'000; ++i) texts.back() += i % 2 == 0 ? "\u0301" : "\u0316";
  texts.emplace_back();
  for (int i = 0; i < 100'000; ++i) texts.back() += "<|im_end|> <|im";
  for (const std::string& text : texts) {
    const Result<Ids> ids = Wordmath().Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.error().message;
    const Result<Ids> again = Wordmath().Encode(Wordmath().Decode(*ids));
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(*again == *ids, true) << text.substr(0, 20);
  }
}

TEST(Tokenizer, EncodesTheSameFromSeveralThreads) {
  const std::string text =
      "Question: Tom has 12 apples and gives 5 to <|im_end|> Anna's caf\u00e9.\n";
  const Ids expected = *Wordmath().Encode(text);
  std::vector<int> wrong(4, 0);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < wrong.size(); ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 200; ++i) wrong[t] += *Wordmath().Encode(text) != expected;
      });
    }
  }
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(Tokenizer, ForgetsCachedWordsWithoutForgettingHowToEncodeThem) {
  // More different words than the cache holds, twice.
  std::string text;
  for (int i = 0; i < 70'000; ++i) {
    text += " w" + std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i) + "x";
  }
  const SmallTokenizer small{
      .tokens = {"wa", "\u0120wa"},
      .merges = R"([["w","a"],["\u0120","wa"]])",
      .pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})"};
  const Tokenizer tokenizer = small.Load();
  const Ids first = *tokenizer.Encode(text);
  EXPECT_EQ(*tokenizer.Encode(text) == first, true);
  EXPECT_EQ(tokenizer.Decode(first) == text, true);
}

// ---- Merging ------------------------------------------------------------------------------------

TEST(Tokenizer, MergesTheLowestRankFirstAndFromTheLeft) {
  const SmallTokenizer small{.tokens = {"ab", "bc", "aa", "aaa"},
                             .merges = R"(["b c","a b",["a","a"],["aa","a"]])"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_THAT(*tokenizer.Encode("abc"), ElementsAre('a', 257));
  EXPECT_THAT(*tokenizer.Encode("abab"), ElementsAre(256, 256));
  EXPECT_THAT(*tokenizer.Encode("aaaaa"), ElementsAre(258, 259));
}

TEST(Tokenizer, IgnoresMergesOnlyWhereTheWholeWordIsAToken) {
  SmallTokenizer small{.tokens = {"ab", "abc"}, .merges = R"(["a b"])"};
  EXPECT_THAT(*small.Load().Encode("abc"), ElementsAre(256, 'c'));
  small.model_fields = R"("ignore_merges":true,)";
  EXPECT_THAT(*small.Load().Encode("abc"), ElementsAre(257));
  EXPECT_THAT(*small.Load().Encode("abcd"), ElementsAre(256, 'c', 'd'));
}

// ---- Added tokens -------------------------------------------------------------------------------

TEST(AddedTokens, LongestAtTheLeftmostPlaceWins) {
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(256, "<a>") + "," +
                                             AddedToken(257, "<a><b>") + "," +
                                             AddedToken(258, "b><") + "]"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_THAT(*tokenizer.Encode("<a><b><a>"), ElementsAre(257, 256));
  EXPECT_THAT(*tokenizer.Encode("<b><a>"), ElementsAre('<', 258, 'a', '>'));
}

TEST(AddedTokens, StripWhiteSpaceOnTheSidesTheyAreToldTo) {
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(256, "<L>", "lstrip") + "," +
                                             AddedToken(257, "<R>", "rstrip") + "]"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_THAT(*tokenizer.Encode("a \u3000\n<L> b"), ElementsAre('a', 256, ' ', 'b'));
  EXPECT_THAT(*tokenizer.Encode("a <R> \u2028\tb"), ElementsAre('a', ' ', 257, 'b'));
  EXPECT_THAT(*tokenizer.Encode("<R>  <L>"), ElementsAre(257, 256));
  EXPECT_THAT(*tokenizer.Encode("<R>\u200b"),
              ElementsAre(257, 0xE2, 0x80, 0x8B));  // no white space
}

TEST(AddedTokens, SingleWordsAreNotFoundInsideWords) {
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(256, "foo", "single_word") + "]"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_THAT(*tokenizer.Encode("foo"), ElementsAre(256));
  EXPECT_THAT(*tokenizer.Encode("(foo)"), ElementsAre('(', 256, ')'));
  EXPECT_EQ(*tokenizer.Encode("foos"), Bytes("foos"));
  EXPECT_EQ(*tokenizer.Encode("_foo"), Bytes("_foo"));
  EXPECT_EQ(*tokenizer.Encode("\u00e9foo"), Bytes("\u00e9foo"));
  EXPECT_EQ(*tokenizer.Encode("foo\u0301"), Bytes("foo\u0301"));
  EXPECT_EQ(tokenizer.Encode("foo\u00b2")->front(), 256);  // a superscript is no word character
}

TEST(AddedTokens, NormalizedOnesAreLookedForInTheNormalizedText) {
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(256, "caf\u00e9", "normalized") +
                                             "," + AddedToken(257, "na\u00efve") + "]",
                             .normalizer = R"({"type":"Sequence","normalizers":[{"type":"NFC"}]})"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_THAT(*tokenizer.Encode("cafe\u0301"), ElementsAre(256));
  EXPECT_THAT(*tokenizer.Encode("caf\u00e9"), ElementsAre(256));
  EXPECT_THAT(*tokenizer.Encode("na\u00efve"), ElementsAre(257));
  EXPECT_EQ(*tokenizer.Encode("nai\u0308ve"), Bytes("na\u00efve"));
}

TEST(AddedTokens, MayBeInTheVocabularyToo) {
  SmallTokenizer small{.tokens = {"ab"},
                       .added_tokens = "[" + AddedToken(256, "ab", "special") + "]"};
  EXPECT_THAT(*small.Load().Encode("xabx"), ElementsAre('x', 256, 'x'));
  small.added_tokens = "[" + AddedToken(257, "ab") + "]";
  EXPECT_EQ(small.Error(), "added token 'ab' has id 257, but the vocabulary says 256");
}

// ---- Decoding -----------------------------------------------------------------------------------

TEST(Decode, LeavesOutSpecialTokensWhereAsked) {
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(256, "<s>", "special") + "," +
                                             AddedToken(257, "<n>") + "]"};
  const Tokenizer tokenizer = small.Load();
  const Ids ids = {256, 'a', 257, 256};
  EXPECT_EQ(tokenizer.Decode(ids), "<s>a<n><s>");
  EXPECT_EQ(tokenizer.Decode(ids, true), "a<n>");
  EXPECT_EQ(Streamed(tokenizer, ids, true), "a<n>");
}

TEST(Decode, PassesOverIdsThatNoTokenHas) {
  const Tokenizer tokenizer = SmallTokenizer{}.Load();
  EXPECT_EQ(tokenizer.Decode(Ids{'a', -1, 256, 1'000'000, 'b'}), "ab");
}

TEST(Decode, TakesAddedTokensForByteLevelTextWhereTheyCanBe) {
  // As the library's decoder: é is a byte-level character (E9), 語 and the blank are not.
  const SmallTokenizer small{.added_tokens = "[" + AddedToken(0xE9, "\u00e9") + "," +
                                             AddedToken(256, "\u8a9e \u00e9") + "]"};
  const Tokenizer tokenizer = small.Load();
  EXPECT_EQ(tokenizer.Decode(Ids{0xE9}), "\uFFFD");
  EXPECT_EQ(tokenizer.Decode(Ids{256}), "\u8a9e \u00e9");
}

TEST(Decode, ReplacesBrokenSequences) {
  const Tokenizer tokenizer = SmallTokenizer{}.Load();
  EXPECT_EQ(tokenizer.Decode(Ids{0xE6, 0x97, 0xA5}), "\u65e5");
  EXPECT_EQ(tokenizer.Decode(Ids{0xE6, 0x97, 'x', 0xA5}), "\uFFFDx\uFFFD");
  EXPECT_EQ(tokenizer.Decode(Ids{0xE6, 0x97}), "\uFFFD");
}

TEST(StreamDecoder, HoldsBackOnlyUnfinishedCharacters) {
  const Tokenizer tokenizer = SmallTokenizer{}.Load();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "\U0001F600");
  EXPECT_EQ(decoder.Push(0xE6), "");
  EXPECT_EQ(decoder.Push('b'),
            "\uFFFD"
            "b");
  EXPECT_EQ(decoder.Push(0xC0), "\uFFFD");  // begins nothing
  EXPECT_EQ(decoder.Push(0xE6), "");
  EXPECT_EQ(decoder.Push(0x97), "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(decoder.Push('c'), "c");
}

TEST(StreamDecoder, AddsUpToDecodeForAnyIds) {
  const Tokenizer tokenizer = SmallTokenizer{}.Load();
  std::mt19937 random(1);
  // Mostly lead and continuation bytes, so that whole, broken and unfinished characters all occur.
  const Ids pool = {'a', 0x80, 0x97, 0x9F, 0xA5, 0xBF, 0xC3, 0xE6, 0xED, 0xF0, 0xF4, 0xFF, 300};
  for (int round = 0; round < 2000; ++round) {
    Ids ids(random() % 12);
    for (int32_t& id : ids) id = pool[random() % pool.size()];
    EXPECT_EQ(Streamed(tokenizer, ids), tokenizer.Decode(ids));
  }
}

}  // namespace
}  // namespace hproc::worker
