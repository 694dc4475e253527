// Any line is either refused, or decoded into a message that survives being encoded and decoded
// again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "worker/lines.h"
#include "worker/protocol.h"

namespace hproc::worker {
namespace {

template <typename Decode, typename Encode>
void Check(std::string_view line, Decode decode, Encode encode) {
  const auto message = decode(line);
  if (!message.ok()) {
    const std::string& text = message.error().message;
    HPROC_CHECK(!text.empty() && OneLine(text, text.size()) == text, "a message unfit for people");
    return;
  }
  std::string once = encode(*message);
  const auto again = decode(std::string_view(once).substr(0, once.size() - 1));
  HPROC_CHECK(again.ok(), again.error().message);
  HPROC_CHECK(encode(*again) == once, once);
}

}  // namespace
}  // namespace hproc::worker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hproc::worker;  // NOLINT: the one function here
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  Check(input, DecodeEvent, EncodeEvent);
  Check(input, DecodeCommand, EncodeCommand);
  Check(input, DecodeJob, EncodeJob);

  LineSplitter lines(64);
  lines.Append(input);
  while (lines.Next()) {
  }
  return 0;
}
