// JSON from outside, read as events under limits: nothing is kept but what the handler keeps, so
// that a hostile file costs its own size and no more.
//
// The grammar is RFC 8259 in UTF-8. Refused beside what that refuses: a byte order mark and a NUL
// byte anywhere (a reader that stops at one would show another document than the next reader).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hproc::worker {

// A value that is not an object or an array.
struct JsonScalar {
  enum class Kind { kNull, kBool, kUnsigned, kOtherNumber, kString };
  Kind kind = Kind::kNull;
  bool boolean = false;
  uint64_t number = 0;  // kUnsigned: written without sign, fraction and exponent, below 2^64
  double other = 0;     // kOtherNumber: negative (-0 too), fractional or larger
  std::string* text = nullptr;  // kString: the handler may move from it
};

// Told of the document in its own order. An error ends the reading and is what ParseJson returns.
class JsonHandler {
 public:
  virtual ~JsonHandler() = default;
  virtual Result<void> OnScalar(const JsonScalar& scalar) = 0;
  virtual Result<void> OnKey(std::string& key) = 0;  // may be moved from
  virtual Result<void> OnBegin(bool is_object) = 0;
  virtual Result<void> OnEnd() = 0;
};

struct JsonLimits {
  int max_depth = 16;  // arrays and objects inside one another
};

// The messages name the byte, not the file; the caller knows that one.
Result<void> ParseJson(std::string_view text, const JsonLimits& limits, JsonHandler& handler);

}  // namespace hproc::worker
