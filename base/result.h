// Result<T>: a value, or an Error that names what went wrong in one line.
//
// Used for everything that comes from outside (files, child processes, the network, the command line). Bugs are
// HPROC_CHECKs (base/check.h); a broken environment (out of file descriptors, SQLite I/O) is a typed exception of
// the wrapper concerned. std::expected is C++23; this is the small part of it that the project needs.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace hproc {

// One line, no trailing newline or full stop, naming the thing: "model.safetensors: header is 12 bytes past the end".
struct Error {
  std::string message;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    HPROC_CHECK(ok(), error().message);
    return std::get<0>(state_);
  }
  const T& value() const& {
    HPROC_CHECK(ok(), error().message);
    return std::get<0>(state_);
  }
  // By value, so that `for (x : *F())` holds on to what F returned.
  T value() && {
    HPROC_CHECK(ok(), error().message);
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // Only where ok() is false.
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

// A Result with nothing to carry: success is `Result<void>()` or `Ok()`.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

inline Result<void> Ok() { return {}; }

}  // namespace hproc
