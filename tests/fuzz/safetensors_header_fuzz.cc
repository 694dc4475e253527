// Input: two bytes, the size of the data buffer (little endian), then the header's JSON. The whole
// input is also tried as the beginning of a file.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/utf8.h"
#include "worker/safetensors.h"

namespace {

using namespace hproc;
using namespace hproc::worker;

// A message is one short line of plain text that begins with the file.
void CheckMessage(const Error& error) {
  const std::string& message = error.message;
  HPROC_CHECK(message.starts_with("file: ") && message.size() < 1000 && IsValidUtf8(message),
              message);
  for (const char c : message) {
    HPROC_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, message);
  }
}

// What is accepted is consistent: the tensors tile the buffer, and each is as large as its shape
// says.
void CheckHeader(const SafetensorsHeader& header, int64_t buffer_bytes) {
  int64_t covered = 0;
  std::vector<std::string_view> names;
  for (const TensorInfo& tensor : header.tensors) {
    HPROC_CHECK(tensor.begin == covered && tensor.end >= tensor.begin, tensor.name);
    covered = tensor.end;
    names.push_back(tensor.name);
    int64_t elements = 1;
    for (const int64_t dimension : tensor.shape) {
      HPROC_CHECK(dimension >= 0, tensor.name);
      // The buffer is small, so only a tensor without elements can have large dimensions.
      elements = dimension == 0 || elements == 0
                     ? 0
                     : std::min<int64_t>(elements, 1 << 20) * std::min<int64_t>(dimension, 1 << 20);
    }
    if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) elements = 0;
    HPROC_CHECK(tensor.elements() == elements, tensor.name);
    HPROC_CHECK(tensor.bytes() * 8 == elements * DtypeBits(tensor.dtype), tensor.name);
  }
  HPROC_CHECK(covered == buffer_bytes, "bytes of no tensor");
  std::sort(names.begin(), names.end());
  HPROC_CHECK(std::adjacent_find(names.begin(), names.end()) == names.end(),
              "two tensors of one name");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const Result<int64_t> length = SafetensorsHeaderBytes("file", input, static_cast<int64_t>(size));
  if (!length.ok()) CheckMessage(length.error());
  if (length.ok()) {
    HPROC_CHECK(*length >= 0 && *length + 8 <= static_cast<int64_t>(size), "past the end");
  }

  if (size < 2) return 0;
  const int64_t buffer_bytes = data[0] | data[1] << 8;
  const std::string_view json = input.substr(2);
  const Result<SafetensorsHeader> header =
      ParseSafetensorsHeader("file", json, 8 + static_cast<int64_t>(json.size()) + buffer_bytes);
  if (header.ok()) {
    CheckHeader(*header, buffer_bytes);
  } else {
    CheckMessage(header.error());
  }
  return 0;
}
