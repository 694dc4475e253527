#include "worker/safetensors.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "base/printable.h"
#include "worker/json_events.h"

namespace hproc::worker {
namespace {

constexpr int64_t kLengthBytes = 8;

struct DtypeRow {
  std::string_view name;
  int bits;
};

// In the order of the enum.
constexpr std::array<DtypeRow, kDtypeCount> kDtypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

std::optional<Dtype> DtypeFromName(std::string_view name) {
  for (size_t i = 0; i < kDtypes.size(); ++i) {
    if (kDtypes[i].name == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

Error TensorError(std::string_view name, std::string_view what) {
  return Error{"tensor '" + Printable(name) + "': " + std::string(what)};
}

// Collects the tensors as the header lists them; whether they fit together is checked when all are
// there.
class HeaderHandler final : public JsonHandler {
 public:
  Result<void> OnScalar(const JsonScalar& scalar) override;
  Result<void> OnKey(std::string& key) override;
  Result<void> OnBegin(bool is_object) override;
  Result<void> OnEnd() override;

  SafetensorsHeader header;

 private:
  // What the next event belongs to. k…Value: the field's value has not begun yet.
  enum class Place {
    kDocument,
    kTop,
    kMetadataValue,
    kMetadata,
    kTensorValue,
    kTensor,
    kDtypeValue,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
    kUnknownField,
  };

  Error Wrong(std::string_view what) const { return TensorError(tensor_.name, what); }
  Result<void> OnDtype(const JsonScalar& scalar);
  Result<void> OnTensorKey(std::string_view key);
  Result<void> FinishTensor();

  Place place_ = Place::kDocument;
  int unknown_depth_ = 0;  // open arrays and objects inside an unknown field
  bool has_metadata_ = false;
  std::string metadata_key_;
  TensorInfo tensor_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::vector<int64_t> offsets_;
};

Result<void> HeaderHandler::OnDtype(const JsonScalar& scalar) {
  if (scalar.kind != JsonScalar::Kind::kString) return Wrong("dtype is not a string");
  const std::optional<Dtype> dtype = DtypeFromName(*scalar.text);
  if (!dtype) return Wrong("unknown dtype '" + Printable(*scalar.text) + "'");
  tensor_.dtype = *dtype;
  place_ = Place::kTensor;
  return Ok();
}

Result<void> HeaderHandler::OnScalar(const JsonScalar& scalar) {
  switch (place_) {
    case Place::kDocument:
      return Error{"the header is not a JSON object"};
    case Place::kMetadataValue:
      if (scalar.kind != JsonScalar::Kind::kNull) return Error{"__metadata__ is not an object"};
      place_ = Place::kTop;
      return Ok();
    case Place::kMetadata:
      if (scalar.kind != JsonScalar::Kind::kString) {
        return Error{"__metadata__ '" + Printable(metadata_key_) + "' is not a string"};
      }
      ++header.metadata_entries;
      return Ok();
    case Place::kTensorValue:
      return Wrong("its entry is not an object");
    case Place::kDtypeValue:
      return OnDtype(scalar);
    case Place::kShapeValue:
      return Wrong("shape is not an array");
    case Place::kShape:
      if (scalar.kind != JsonScalar::Kind::kUnsigned || scalar.number > INT64_MAX) {
        return Wrong("a dimension of its shape is not an integer from 0 to 2^63 - 1");
      }
      if (tensor_.shape.size() == kMaxDimensions) {
        return Wrong("more than " + std::to_string(kMaxDimensions) + " dimensions");
      }
      tensor_.shape.push_back(static_cast<int64_t>(scalar.number));
      return Ok();
    case Place::kOffsetsValue:
      return Wrong("data_offsets is not an array");
    case Place::kOffsets:
      if (scalar.kind != JsonScalar::Kind::kUnsigned || scalar.number > INT64_MAX) {
        return Wrong("an entry of data_offsets is not an integer from 0 to 2^63 - 1");
      }
      if (offsets_.size() == 2) return Wrong("data_offsets has more than two entries");
      offsets_.push_back(static_cast<int64_t>(scalar.number));
      return Ok();
    case Place::kUnknownField:
      if (unknown_depth_ == 0) place_ = Place::kTensor;
      return Ok();
    case Place::kTop:
    case Place::kTensor:
      break;  // a key comes first
  }
  return Error{"the header is not a JSON object"};
}

Result<void> HeaderHandler::OnTensorKey(std::string_view key) {
  const auto field = [&](bool& seen, Place next) -> Result<void> {
    if (seen) return Wrong(std::string(key) + " appears twice");
    seen = true;
    place_ = next;
    return Ok();
  };
  if (key == "dtype") return field(has_dtype_, Place::kDtypeValue);
  if (key == "shape") return field(has_shape_, Place::kShapeValue);
  if (key == "data_offsets") return field(has_offsets_, Place::kOffsetsValue);
  place_ = Place::kUnknownField;
  return Ok();
}

Result<void> HeaderHandler::OnKey(std::string& key) {
  switch (place_) {
    case Place::kTop:
      if (key == "__metadata__") {
        if (has_metadata_) return Error{"__metadata__ appears twice"};
        has_metadata_ = true;
        place_ = Place::kMetadataValue;
        return Ok();
      }
      if (header.tensors.size() == kMaxTensorsPerFile) {
        return Error{"more than " + std::to_string(kMaxTensorsPerFile) + " tensors"};
      }
      tensor_ = TensorInfo{};
      tensor_.name = std::move(key);
      has_dtype_ = has_shape_ = has_offsets_ = false;
      offsets_.clear();
      place_ = Place::kTensorValue;
      return Ok();
    case Place::kMetadata:
      metadata_key_ = std::move(key);
      return Ok();
    case Place::kTensor:
      return OnTensorKey(key);
    default:
      return Ok();  // inside an unknown field
  }
}

Result<void> HeaderHandler::OnBegin(bool is_object) {
  switch (place_) {
    case Place::kDocument:
      if (!is_object) return Error{"the header is not a JSON object"};
      place_ = Place::kTop;
      return Ok();
    case Place::kMetadataValue:
      if (!is_object) return Error{"__metadata__ is not an object"};
      place_ = Place::kMetadata;
      return Ok();
    case Place::kMetadata:
      return Error{"__metadata__ '" + Printable(metadata_key_) + "' is not a string"};
    case Place::kTensorValue:
      if (!is_object) return Wrong("its entry is not an object");
      place_ = Place::kTensor;
      return Ok();
    case Place::kDtypeValue:
      return Wrong("dtype is not a string");
    case Place::kShapeValue:
      if (is_object) return Wrong("shape is not an array");
      place_ = Place::kShape;
      return Ok();
    case Place::kShape:
      return Wrong("a dimension of its shape is not an integer from 0 to 2^63 - 1");
    case Place::kOffsetsValue:
      if (is_object) return Wrong("data_offsets is not an array");
      place_ = Place::kOffsets;
      return Ok();
    case Place::kOffsets:
      return Wrong("an entry of data_offsets is not an integer from 0 to 2^63 - 1");
    case Place::kUnknownField:
      ++unknown_depth_;
      return Ok();
    case Place::kTop:
    case Place::kTensor:
      break;  // a key comes first
  }
  return Error{"the header is not a JSON object"};
}

Result<void> HeaderHandler::OnEnd() {
  switch (place_) {
    case Place::kMetadata:
      place_ = Place::kTop;
      return Ok();
    case Place::kTensor:
      place_ = Place::kTop;
      return FinishTensor();
    case Place::kShape:
      place_ = Place::kTensor;
      return Ok();
    case Place::kOffsets:
      if (offsets_.size() != 2) return Wrong("data_offsets has less than two entries");
      place_ = Place::kTensor;
      return Ok();
    case Place::kUnknownField:
      if (--unknown_depth_ == 0) place_ = Place::kTensor;
      return Ok();
    default:
      place_ = Place::kDocument;  // the end of the top object
      return Ok();
  }
}

Result<void> HeaderHandler::FinishTensor() {
  if (!has_dtype_) return Wrong("no dtype");
  if (!has_shape_) return Wrong("no shape");
  if (!has_offsets_) return Wrong("no data_offsets");
  tensor_.begin = offsets_[0];
  tensor_.end = offsets_[1];
  if (tensor_.end < tensor_.begin) {
    return Wrong("data_offsets [" + std::to_string(tensor_.begin) + ", " +
                 std::to_string(tensor_.end) + "] end before they begin");
  }
  header.tensors.push_back(std::move(tensor_));
  return Ok();
}

Result<void> CheckNamesDiffer(const std::vector<TensorInfo>& tensors) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) return TensorError(*twice, "appears twice in the header");
  return Ok();
}

// Bytes that dtype and shape ask for, computed as the reference does: the product first, left to
// right, then the bits.
Result<void> CheckSize(const TensorInfo& tensor) {
  const std::string what = std::string(DtypeName(tensor.dtype)) + " " + ShapeText(tensor.shape);
  uint64_t bits = 1;
  bool overflow = false;
  for (const int64_t dimension : tensor.shape) {
    overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(dimension), &bits);
  }
  overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(DtypeBits(tensor.dtype)), &bits);
  if (overflow) return TensorError(tensor.name, what + " has more bits than 64 bits can count");
  if (bits % 8 != 0) return TensorError(tensor.name, what + " does not end at a whole byte");
  if (static_cast<uint64_t>(tensor.bytes()) != bits / 8) {
    return TensorError(tensor.name,
                       what + " takes " + std::to_string(bits / 8) + " bytes, but data_offsets [" +
                           std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) +
                           "] hold " + std::to_string(tensor.bytes()));
  }
  return Ok();
}

// The tensors, sorted by offset, tile the buffer from its first byte to its last.
Result<void> CheckTiling(const std::vector<TensorInfo>& tensors, int64_t buffer_bytes) {
  int64_t covered = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    if (tensor.begin < covered) {
      return TensorError(tensor.name, "begins at byte " + std::to_string(tensor.begin) +
                                          ", inside tensor '" + Printable(tensors[i - 1].name) +
                                          "', which ends at " + std::to_string(covered));
    }
    if (tensor.begin > covered) {
      return TensorError(tensor.name, "begins at byte " + std::to_string(tensor.begin) +
                                          ", but no tensor holds bytes " + std::to_string(covered) +
                                          " to " + std::to_string(tensor.begin));
    }
    if (Result<void> size = CheckSize(tensor); !size.ok()) return size;
    if (tensor.end > buffer_bytes) {
      return TensorError(tensor.name, "ends at byte " + std::to_string(tensor.end) +
                                          " of the data, but the file holds " +
                                          std::to_string(buffer_bytes) + ": cut short?");
    }
    covered = tensor.end;
  }
  if (covered != buffer_bytes) {
    return Error{std::to_string(buffer_bytes - covered) +
                 " bytes after the last tensor belong to none"};
  }
  return Ok();
}

Result<SafetensorsHeader> Parse(std::string_view json, int64_t buffer_bytes) {
  HeaderHandler handler;
  if (Result<void> read = ParseJson(json, JsonLimits{}, handler); !read.ok()) {
    return Error{"header: " + read.error().message};
  }
  std::vector<TensorInfo>& tensors = handler.header.tensors;
  if (Result<void> names = CheckNamesDiffer(tensors); !names.ok()) return names.error();
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  if (Result<void> tiling = CheckTiling(tensors, buffer_bytes); !tiling.ok()) return tiling.error();
  return std::move(handler.header);
}

}  // namespace

std::string_view DtypeName(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }
int DtypeBits(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bits; }

std::string ShapeText(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  std::string text = "[";
  for (size_t i = 0; i < shape.size() && i < kShown; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + (shape.size() > kShown ? ", \u2026]" : "]");
}

Result<int64_t> SafetensorsHeaderBytes(std::string_view label, std::string_view first_bytes,
                                       int64_t file_bytes) {
  const std::string prefix = std::string(label) + ": ";
  if (file_bytes < kLengthBytes) {
    return Error{prefix + "not a safetensors file: " + std::to_string(file_bytes) +
                 " bytes, fewer than the 8 of the header's length"};
  }
  uint64_t length = 0;
  for (size_t i = 0; i < static_cast<size_t>(kLengthBytes); ++i) {
    length |= uint64_t{static_cast<unsigned char>(first_bytes[i])} << (8 * i);
  }
  if (length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return Error{prefix + "not a safetensors file: its header would be " + std::to_string(length) +
                 " bytes, more than the " + std::to_string(kMaxHeaderBytes) + " allowed"};
  }
  const auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file_bytes - kLengthBytes) {
    return Error{prefix + "the header's " + std::to_string(header_bytes) +
                 " bytes reach past the end of the file (" + std::to_string(file_bytes) +
                 " bytes)"};
  }
  return header_bytes;
}

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view label, std::string_view json,
                                                 int64_t file_bytes) {
  Result<SafetensorsHeader> header =
      Parse(json, file_bytes - kLengthBytes - static_cast<int64_t>(json.size()));
  if (!header.ok()) return Error{std::string(label) + ": " + header.error().message};
  return header;
}

}  // namespace hproc::worker
