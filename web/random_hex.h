// Secrets and ids that nobody can guess.
#pragma once

#include <cstddef>
#include <string>

namespace hproc::web {

// `bytes` bytes from the kernel's generator, as 2 * bytes lower-case digits.
std::string RandomHex(size_t bytes);

}  // namespace hproc::web
