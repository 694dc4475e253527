// Input: a text for the embedded model's tokenizer.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "worker/tokenizer.h"

namespace {

using namespace hproc;
using namespace hproc::worker;

Tokenizer Load() {
  Result<Tokenizer> tokenizer =
      Tokenizer::FromFile(HPROC_SOURCE_DIR "/evals/wordmath/model/tokenizer.json");
  HPROC_CHECK(tokenizer.ok(), tokenizer.error().message);
  return std::move(*tokenizer);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer tokenizer = Load();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Result<std::vector<int32_t>> ids = tokenizer.Encode(text);
  HPROC_CHECK(ids.ok(), ids.error().message);
  const std::string decoded = tokenizer.Decode(*ids);
  HPROC_CHECK(IsValidUtf8(decoded), "decoded to broken UTF-8");

  // What was decoded is normalized, so that it encodes to the same again.
  const Result<std::vector<int32_t>> again = tokenizer.Encode(decoded);
  HPROC_CHECK(again.ok() && *again == *ids, "decoded text encodes otherwise");
  StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const int32_t id : *ids) streamed += stream.Push(id);
  HPROC_CHECK(streamed + stream.Flush() == decoded, "streamed otherwise than decoded");
  return 0;
}
