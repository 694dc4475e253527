#include "web/random_hex.h"

#include <sys/random.h>

#include <vector>

#include "base/check.h"

namespace hproc::web {

std::string RandomHex(size_t bytes) {
  std::vector<unsigned char> raw(bytes);
  HPROC_CHECK(::getrandom(raw.data(), raw.size(), 0) == static_cast<ssize_t>(bytes), "getrandom");
  std::string hex;
  for (const unsigned char byte : raw) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

}  // namespace hproc::web
