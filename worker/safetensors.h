// The safetensors container: what a file says it holds, checked before a byte of it is used.
//
//   | N: u64 little endian | N bytes of JSON | data buffer, to the end of the file |
//
//   JSON: {"__metadata__": {string: string},
//          "NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …}
//
// Accepted is what the format's reference implementation accepts: offsets relative to the buffer,
// tensors that tile the buffer without hole, overlap or rest in whatever order the header lists
// them, scalars, tensors of no elements (which may share an offset), blanks around the JSON,
// unknown fields of a tensor, any bit pattern as a value. Refused in addition: two tensors of one
// name (there the last wins, elsewhere the first), more than kMaxTensorsPerFile tensors, more than
// kMaxDimensions dimensions, a dimension beyond 2^63 - 1, JSON nested deeper than 16.
//
// Pure functions, no I/O. `label` names the file in messages, as it is to be shown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hproc::worker {

inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the reference's cap on N
inline constexpr size_t kMaxTensorsPerFile = size_t{1} << 20;
inline constexpr size_t kMaxDimensions = 32;

enum class Dtype {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
inline constexpr int kDtypeCount = 22;
std::string_view DtypeName(Dtype dtype);  // as in the header: "BOOL", "F6_E2M3", "BF16", …
int DtypeBits(Dtype dtype);               // bits of one element: 4, 6, 8, 16, 32 or 64

// One tensor: row-major, little endian.
struct TensorInfo {
  std::string name;  // any bytes of UTF-8; see base/printable.h before showing it
  Dtype dtype = Dtype::kU8;
  std::vector<int64_t> shape;  // empty for a scalar
  int64_t begin = 0;           // bytes from the start of the data buffer
  int64_t end = 0;
  int shard = 0;  // which file of the checkpoint (worker/checkpoint.h); 0 from the functions below

  int64_t bytes() const { return end - begin; }
  int64_t elements() const {
    return bytes() / DtypeBits(dtype) * 8 + bytes() % DtypeBits(dtype) * 8 / DtypeBits(dtype);
  }
};

// "[2, 3]", "[]"; at most a few dozen characters.
std::string ShapeText(const std::vector<int64_t>& shape);

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by begin, then end, then name
  int64_t metadata_entries = 0;     // of the __metadata__ object; checked, not kept: nothing here reads them
};

// N, read from the first bytes of a file of `file_bytes`: at most kMaxHeaderBytes, and the file is
// long enough for it. `first_bytes` needs to hold min(8, file_bytes) bytes.
Result<int64_t> SafetensorsHeaderBytes(std::string_view label, std::string_view first_bytes,
                                       int64_t file_bytes);

// `json` is the header's N bytes; the data buffer is what the file has beyond 8 + N.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view label, std::string_view json,
                                                 int64_t file_bytes);

}  // namespace hproc::worker
