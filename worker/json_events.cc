#include "worker/json_events.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace hproc::worker {
namespace {

// nlohmann's event interface, turned into ours.
class Adapter {
 public:
  using string_t = std::string;
  using binary_t = nlohmann::json::binary_t;

  Adapter(const JsonLimits& limits, JsonHandler& handler) : limits_(limits), handler_(handler) {}

  bool null() { return Scalar({}); }
  bool boolean(bool value) { return Scalar({.kind = JsonScalar::Kind::kBool, .boolean = value}); }
  // Called only where the text has a minus sign.
  bool number_integer(int64_t value) {
    return Scalar({.kind = JsonScalar::Kind::kOtherNumber, .other = static_cast<double>(value)});
  }
  bool number_unsigned(uint64_t value) {
    return Scalar({.kind = JsonScalar::Kind::kUnsigned, .number = value});
  }
  bool number_float(double value, const std::string&) {
    return Scalar({.kind = JsonScalar::Kind::kOtherNumber, .other = value});
  }
  bool string(std::string& value) {
    return Scalar({.kind = JsonScalar::Kind::kString, .text = &value});
  }
  bool binary(binary_t&) { return false; }  // no such thing in JSON text
  bool key(std::string& value) { return Keep(handler_.OnKey(value)); }
  bool start_object(size_t) { return Begin(true); }
  bool start_array(size_t) { return Begin(false); }
  bool end_object() { return End(); }
  bool end_array() { return End(); }
  // The library's own message may quote megabytes of the document; the place is what helps.
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    error_ = Error{"not valid JSON at byte " + std::to_string(position)};
    return false;
  }

  const std::optional<Error>& error() const { return error_; }

 private:
  bool Keep(const Result<void>& result) {
    if (!result.ok()) error_ = result.error();
    return result.ok();
  }
  bool Scalar(const JsonScalar& scalar) { return Keep(handler_.OnScalar(scalar)); }
  bool Begin(bool is_object) {
    if (++depth_ > limits_.max_depth) {
      error_ = Error{"JSON nested more than " + std::to_string(limits_.max_depth) + " deep"};
      return false;
    }
    return Keep(handler_.OnBegin(is_object));
  }
  bool End() {
    --depth_;
    return Keep(handler_.OnEnd());
  }

  const JsonLimits& limits_;
  JsonHandler& handler_;
  int depth_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<void> ParseJson(std::string_view text, const JsonLimits& limits, JsonHandler& handler) {
  // Both would pass the library: it skips the mark, and takes a NUL for the end of the text.
  if (text.starts_with("\xEF\xBB\xBF")) return Error{"not valid JSON at byte 1: a byte order mark"};
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Error{"not valid JSON at byte " + std::to_string(nul + 1) + ": a NUL byte"};
  }
  Adapter adapter(limits, handler);
  const bool read = nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &adapter);
  if (adapter.error()) return *adapter.error();
  if (!read) return Error{"not valid JSON"};
  return Ok();
}

}  // namespace hproc::worker
