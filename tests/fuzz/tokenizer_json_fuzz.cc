// Input: a tokenizer.json, or parts of one and a text, with a byte FF between them: normalizer,
// pre-tokenizer, added tokens, merges, text. The parts are put around a vocabulary that is whole,
// so that many inputs get as far as encoding.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "worker/byte_level.h"
#include "worker/tokenizer.h"

namespace {

using namespace hproc;
using namespace hproc::worker;

constexpr std::string_view kPlainPreTokenizer =
    R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";

std::string Vocabulary() {
  std::string vocab;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string_view written = ByteLevelChar(static_cast<uint8_t>(byte));
    vocab += (byte > 0 ? ",\"" : "\"") +
             std::string(written == "\"" || written == "\\" ? "\\" : "") + std::string(written) +
             "\":" + std::to_string(byte);
  }
  return vocab + R"(,"ab":256,"aa":257,"abc":258)";
}

std::vector<std::string_view> Parts(std::string_view input) {
  std::vector<std::string_view> parts;
  for (size_t end; parts.size() < 4 && (end = input.find('\xFF')) != std::string_view::npos;) {
    parts.push_back(input.substr(0, end));
    input.remove_prefix(end + 1);
  }
  parts.push_back(input);
  parts.resize(5);
  return parts;
}

void CheckEncoding(const Tokenizer& tokenizer, std::string_view text, bool is_plain) {
  const Result<std::vector<int32_t>> ids = tokenizer.Encode(text);
  if (!ids.ok()) return;  // a pattern that takes too long
  for (const int32_t id : *ids) {
    HPROC_CHECK(id >= 0 && id < tokenizer.vocab_size(), "an id out of range");
  }
  const std::string decoded = tokenizer.Decode(*ids);
  HPROC_CHECK(IsValidUtf8(decoded), "decoded to broken UTF-8");
  if (is_plain) HPROC_CHECK(decoded == ReplaceInvalidUtf8(text), "text changed on the way");
  StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const int32_t id : *ids) streamed += stream.Push(id);
  HPROC_CHECK(streamed + stream.Flush() == decoded, "streamed otherwise than decoded");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string vocabulary = Vocabulary();
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const Result<Tokenizer> whole = Tokenizer::FromJson(input, "file");
  HPROC_CHECK(whole.ok() || whole.error().message.starts_with("file: "),
              "a message without its file");

  const std::vector<std::string_view> parts = Parts(input);
  const auto part = [&](size_t i, std::string_view otherwise) {
    return std::string(parts[i].empty() ? otherwise : parts[i]);
  };
  const std::string json = "{\"normalizer\":" + part(0, "null") +
                           ",\"pre_tokenizer\":" + part(1, kPlainPreTokenizer) +
                           ",\"added_tokens\":" + part(2, "[]") +
                           R"(,"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
                           vocabulary + "},\"merges\":" + part(3, "[]") + "}}";
  const Result<Tokenizer> tokenizer = Tokenizer::FromJson(json, "file");
  if (!tokenizer.ok()) return 0;
  const bool is_plain = parts[0].empty() && parts[1].empty() && parts[2].empty();
  CheckEncoding(*tokenizer, parts[4], is_plain);
  return 0;
}
