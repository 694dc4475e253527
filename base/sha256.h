// SHA-256 as lower-case hexadecimal (OpenSSL behind it).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace hproc {

// Incremental digest. Thread-compatible. Finish() once, then the object is spent.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(const void* data, size_t bytes);
  void Update(std::string_view text) { Update(text.data(), text.size()); }
  std::string FinishHex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string Sha256Hex(std::string_view text);

}  // namespace hproc
